"""Contestants and their selections: each entry is a run of its own that shares the annotations and the search.

An entry's folder, `compare/<name>` below the output, is a run directory: its manifests verify where they lie. The
annotations that they were selected from are linked into it, not copied, where the file system can.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadmix.config import CompareEntry, RunConfig
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError, ConfigError, InputError, QuadmixError
from quadmix.hashing import seed_for
from quadmix.manifest.durable import copy_durably, resource_errors
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.search.result import SearchResult
from quadmix.stages.annotate import Annotated
from quadmix.stages.select import select

FOLDER = "compare"
_SEARCHED = ("winner", "proposal")


@dataclass(frozen=True)
class Contender:
    """An entry as a run: `config` has its sections, its folder as output, and no comparison."""

    index: int
    entry: CompareEntry
    config: RunConfig

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def output(self) -> Path:
        return Path(self.config.output)

    @property
    def asks_search(self) -> bool:
        """Whether its mixture comes from the search."""
        return self.config.select.mixture in _SEARCHED or self.entry.charge_search

    @property
    def trains(self) -> bool:
        """Whether its selector, or one that it is made of, trains a model: then it selects once, for all seeds."""
        return mentions(self.config.select.model_dump(), "selector", ("quad",))

    def seeds(self, seeds: Sequence[int]) -> list[int]:
        """Of its selections: one for each of the target models', or the run's own."""
        return [self.config.seed] * len(seeds) if self.trains else list(seeds)


def contenders(config: RunConfig) -> list[Contender]:
    """The entries of a config that has a comparison, in their order."""
    assert config.compare is not None
    found = []
    for index, entry in enumerate(config.compare.entries):
        own = {**entry.sections(dict(config)), "compare": None}
        folder = Path(config.output) / FOLDER / entry.name
        found.append(Contender(index, entry, config.model_copy(update={**own, "output": str(folder)})))
    return found


def base_seeds(config: RunConfig) -> list[int]:
    """One a target model of each entry: of the selection's draw, the initialisation and the order."""
    assert config.compare is not None
    return [seed_for(config.seed, "compare", number) for number in range(config.compare.seeds)]


def mentions(values: Any, key: str, wanted: Sequence[str]) -> bool:
    """Whether any mapping within plain values has one of the wanted texts under `key`."""
    if isinstance(values, dict):
        return values.get(key) in wanted or any(mentions(value, key, wanted) for value in values.values())
    return isinstance(values, list | tuple) and any(mentions(value, key, wanted) for value in values)


def select_all(
    chosen: Sequence[Contender],
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    search: SearchResult | None,
    seeds: Sequence[int],
) -> tuple[dict[str, list[Manifest]], dict[str, str]]:
    """Manifests of every contender, one a seed; and by name, why one cannot be built from what the search found (no
    winner, or shares that it cannot have): nobody could know that before, and the others are compared all the same.

    ConfigError with a line for each of the rest that cannot be built.
    """
    found: dict[str, list[Manifest]] = {}
    unmet: dict[str, str] = {}
    problems: list[str] = []
    for one in chosen:
        try:
            found[one.name] = _selections(one, engine, progress, annotated, search, seeds)
        except (ConfigError, InputError) as error:
            told = list(_named(one, error))
            if one.config.select.mixture in _SEARCHED:
                unmet[one.name] = str(error)
                progress.say(f"compare: {' '.join(told)}; the other entries go on")
            else:
                problems += told
    if problems:
        raise ConfigError(problems)
    return found, unmet


def refuse_early(chosen: Sequence[Contender], annotated: Annotated) -> None:
    """ConfigError for contenders whose selection needs training and could not give the budget after it."""
    held = annotated.summary.total_tokens
    problems: list[str] = []
    for one in chosen:
        budget = one.config.mixture.budget
        if one.trains and budget > held:
            text = f"mixture.budget: asked {budget:,} tokens, the pool holds {held:,} and it takes each document once"
            problems += _named(one, BudgetError(f"{text}. Lower the budget"))
    if problems:
        raise ConfigError(problems)


def _named(one: Contender, error: QuadmixError) -> Iterator[str]:
    lines = error.problems if isinstance(error, ConfigError) else [str(error)]
    yield from (f"compare.entries.{one.index} ({one.name!r}) cannot be built: {line}" for line in lines)


def _selections(
    one: Contender,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    search: SearchResult | None,
    seeds: Sequence[int],
) -> list[Manifest]:
    """One a seed; the first seed's is published last, so that it is the folder's current one."""
    done: dict[int, Manifest] = {}
    for seed in reversed(dict.fromkeys(one.seeds(seeds))):
        config = one.config.model_copy(update={"seed": seed})
        done[seed] = select(config, engine, progress if one.trains else Progress.silent(), annotated, search)
        lend_annotations(annotated, done[seed])
    first = done[one.seeds(seeds)[0]]
    progress.say(
        f"compare: {one.name}: {len(done)} selection(s) of {first.selector}; the first has {first.documents:,} "
        f"documents, {first.realised_tokens:,} tokens"
    )
    return [done[seed] for seed in one.seeds(seeds)]


def lend_annotations(annotated: Annotated, manifest: Manifest) -> None:
    """Put the annotation files of a manifest into its run directory: links, or copies where links cannot be made."""
    for entry in manifest.annotations.files:
        source = annotated.directory / entry.path
        target = manifest.run_directory / manifest.annotations.folder / entry.path
        with resource_errors(f"cannot put annotations beside the manifests of {manifest.run_directory}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and target.samefile(source):
                continue
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system, or one without links
                copy_durably(source, target)
