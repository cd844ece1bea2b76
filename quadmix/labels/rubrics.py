"""Rubrics: what each dimension means, in the words that a rater is given; shipped, from a file, or in the config."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from quadmix.config_labels import LabelsConfig, RubricConfig
from quadmix.config_values import Name
from quadmix.errors import ConfigError
from quadmix.strict_yaml import dotted, parse

_RUBRICS = TypeAdapter(dict[Name, RubricConfig])
_WHERE = "labels.rubric_file"


def rubrics_of(config: LabelsConfig) -> dict[str, RubricConfig]:
    """Dimension -> rubric, in the order in which they are asked. Raises ConfigError for a file that is none, and for a
    dimension without a rubric."""
    known = {**(_from_file(config.rubric_file) if config.rubric_file else shipped_rubrics()), **config.rubrics}
    names = config.dimensions or tuple(known)
    problems = [
        f"labels.dimensions: no rubric for {name!r}; give it in labels.rubrics, or take one of {', '.join(known)}"
        for name in names
        if name not in known
    ]
    problems += [
        f"labels.dimensions: found {name!r} a second time" for place, name in enumerate(names) if name in names[:place]
    ]
    if problems:
        raise ConfigError(problems)
    return {name: known[name] for name in names}


@lru_cache(maxsize=1)
def shipped_rubrics() -> dict[str, RubricConfig]:
    """Those of the dimensions of configs/odis.yaml."""
    return _read((files("quadmix.labels") / "rubrics.yaml").read_text(encoding="utf-8"), "rubrics.yaml")


def _from_file(path: str) -> dict[str, RubricConfig]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_WHERE}: cannot read {path}: {error}") from error
    return _read(text, path)


def _read(text: str, where: str) -> dict[str, RubricConfig]:
    document = parse(text, where)
    problems = list(document.problems)
    try:
        found = _RUBRICS.validate_python(document.value)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            problems.append(f"{where}: {dotted(tuple(error['loc']))}: {error['msg']}")  # noqa: PERF401, read in order
    if problems:
        raise ConfigError([f"{_WHERE}: {line}" for line in problems])
    return found
