"""Small ODiS runs over real text, for the tests of the stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.small_pool import config

SIGNALS = [
    "heuristic_quality",
    "mean_word_length",
    "alpha_word_fraction",
    "stop_word_count",
    "terminal_line_fraction",
    "duplicate_5gram_char_fraction",
]
GROUPS = {"form": ["heuristic_quality", "terminal_line_fraction"], "words": ["mean_word_length", "stop_word_count"]}


def odis_values(pool: Path, output: Path, mixture: str = "free", **odis: Any) -> dict[str, Any]:
    """The whole run config as plain values."""
    values = config(pool, output)
    del values["search"]
    values["pool"]["unit_bytes"] = "128KiB"
    values["annotate"] = {"scorers": [{"kind": "heuristics", "outputs": SIGNALS}]}
    values["mixture"] = {"criteria": ["heuristic_quality"], "budget": 60_000, "max_copies": 1}
    values["odis"] = {"dimensions": SIGNALS, "groups": GROUPS, **odis}
    values["select"] = {"selector": "odis", "mixture": mixture}
    return values
