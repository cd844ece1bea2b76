"""The scorers of the baselines give the same bits on Spark as in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pool.building import write_jsonl
from tests.stages.inline_engine import InlineEngine
from tests.stages.test_annotate_baseline_scorers import SCORERS, annotated, rows, scores_of, split


@pytest.mark.long
@pytest.mark.spark
def test_spark_and_one_process_agree(spark_engine: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "one" / "pool" / "a.jsonl", rows())
    one = annotated(tmp_path / "one" / "pool", InlineEngine(), SCORERS)
    many = annotated(split(tmp_path / "many" / "pool"), spark_engine, SCORERS, "8KiB")
    assert scores_of(many) == scores_of(one)
