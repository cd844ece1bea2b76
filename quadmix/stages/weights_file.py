"""Domain weights of `mixture: weights`: of the config, or in a JSON file that it names.

A file holds the weights themselves, by domain, or is what `quadmix search --from-trials` wrote (trials_search.json): of
that its proposal is taken, the average of the best candidates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quadmix.errors import ConfigError

_ORIGIN = "average"


def read_weights(asked: str | Mapping[str, float]) -> tuple[dict[str, float], str]:
    """(weight by domain, where they come from in words). Raises ConfigError for a file that says something else."""
    if not isinstance(asked, str):
        return dict(asked), "the domain weights of the config"
    path = Path(asked)
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"select.weights: {path}: {error.strerror}; wanted a JSON file of domain weights") from error
    except ValueError as error:
        raise ConfigError(f"select.weights: {path}: not JSON: {error}") from error
    found, source = content, f"the domain weights of {path.name}"
    if isinstance(content, dict) and isinstance(content.get("proposals"), list):
        rows = [row for row in content["proposals"] if isinstance(row, dict) and row.get("origin") == _ORIGIN]
        if not rows:
            raise ConfigError(f"select.weights: {path}: found no proposal of origin {_ORIGIN!r} among its proposals")
        found, source = rows[0].get("weights"), f"{source}, a search's proposal that no fresh run has confirmed"
    if not isinstance(found, dict) or not found or not all(map(_is_weight, found.values())):
        raise ConfigError(f"select.weights: {path}: wanted one number of at least 0 for each domain, by name")
    if not sum(found.values()) > 0:
        raise ConfigError(f"select.weights: {path}: found no weight above 0")
    return {name: float(value) for name, value in found.items()}, source


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < float("inf")
