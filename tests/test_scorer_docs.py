"""docs/scorers.md names every kind of scorer, and its examples are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from quadmix.config_annotate import AnnotateConfig
from quadmix.scorers.registry import SCORERS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "scorers.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_table_has_a_line_for_every_kind() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == list(SCORERS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split(",")[0][9:])
def test_every_example_is_a_list_of_scorers(example: str) -> None:
    scorers = AnnotateConfig.model_validate({"scorers": yaml.safe_load(example)}).scorers
    assert len(scorers) >= 1
