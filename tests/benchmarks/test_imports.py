"""Every benchmark can at least be started: what it takes from the library is there."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.measuring import ROOT


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
