"""The fit context of these tests: a hundred documents of two kinds, in a list."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scorers.list_context import ListContext, notices, speech


@pytest.fixture
def context(tmp_path: Path) -> ListContext:
    return ListContext(
        tmp_path,
        pool=[*speech(50), *notices(50)],
        targets={"speech": speech(40, seed=1)},
        paths={"labelled": [*speech(40, seed=2), *notices(40, seed=2)], "notices": notices(40, seed=3)},
    )
