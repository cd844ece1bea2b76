"""Diversity is the same number, to the bit, wherever samples are drawn and read."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from quadmix.config_reader import check_config
from quadmix.progress import Progress
from quadmix.stages.pipeline import Pipeline
from tests.e2e.small_pool import config, documents, write_shards
from tests.stages.inline_engine import InlineEngine


@pytest.mark.parametrize("name", ["local", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.long])])
def test_an_engine_measures_what_one_process_does(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    write_shards(tmp_path / "pool", list(itertools.islice(documents(), 0, 12_000, 100)), 4)
    found = []
    for engine in (InlineEngine(), request.getfixturevalue(f"{name}_engine")):
        output = tmp_path / engine.name
        values: dict[str, Any] = config(tmp_path / "pool", output)
        del values["search"]
        values["annotate"] = {"scorers": [{"kind": "heuristics"}]}
        values["mixture"] = {"criteria": ["heuristic_quality"], "budget": 30_000}
        values["select"] = {"mixture": "natural"}
        values["diversity"] = {"sample_docs": 30, "repeats": 3}
        Pipeline(check_config(values), engine, Progress.silent(), "diversity").run()
        found.append(next(output.glob("stages/diversity-*/diversity.json")).read_bytes())
    assert found[0] == found[1]
