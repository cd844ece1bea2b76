"""Rounds of the bandit: each one job on the engine, its pulls cut into tasks of about equal tokens.

A document's benefit moves by rounding with the documents in its batch, so tasks follow from the round alone, never from
the engine or its cores. The driver tells the bandit the benefits in their order and appends the round to the journal:
a run that was killed replays it and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.engine.base import Engine
from quadmix.progress import Progress
from quadmix.search.journal import Journal
from quadmix.selectors.quad import Bandit, BanditSettings, Round
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_outcome import Outcome
from quadmix.stages.quad.model import ModelRef
from quadmix.stages.quad.store import Place, Store, read_places

if TYPE_CHECKING:
    from proxy_models.influence import Group, Vector

_TASK_TOKENS = 32_768


@dataclass(frozen=True)
class ScoreDocuments:
    """Task: documents of the store -> their benefits, in their order. vectors: files, one a reference; rule: how a
    document's benefits to several references become one."""

    store: Store
    model: ModelRef
    layers: Group
    vectors: tuple[str, ...]
    rule: Literal["mean", "max"]
    max_tokens: int
    uses_gpu: ClassVar[bool] = True

    def __call__(self, places: Sequence[Place]) -> list[float]:
        from proxy_models.influence import Layers, score

        model = self.model.load()
        docs, _ = read_places(self.store, places)
        vectors = [_vector(path) for path in self.vectors]
        layers = Layers.of(model, self.layers)
        found: list[float] = score(model, layers, vectors, docs, combine=self.rule, max_tokens=self.max_tokens).tolist()
        return found


@lru_cache(maxsize=64)
def _vector(path: str) -> Vector:
    from proxy_models.influence import Vector

    return Vector.load(Path(path))


def run_rounds(
    engine: Engine,
    progress: Progress,
    arms: Arms,
    settings: BanditSettings,
    store: Store,
    task: ScoreDocuments,
    journal: Journal,
) -> Outcome:
    """Pull until the bandit stops; rounds of an earlier attempt are found in the journal."""
    bandit = Bandit.replay(arms, settings, journal.entries)
    if bandit.scored:
        progress.say(f"quad: {bandit.scored:,} documents were scored before and are found in the journal")
    lengths = store.lengths()
    while (asked := bandit.ask()) is not None:
        benefits = _scored(engine, task, store, lengths, asked)
        journal.append(asked.key, bandit.tell(asked.number, benefits))
        progress.say(
            f"quad: round {asked.number}: {len(asked.pulls)} pulls, {bandit.scored:,} of at most "
            f"{settings.max_scored:,} documents scored, {bandit.granted_tokens / settings.budget:.1%} of the budget"
        )
    return bandit.outcome()


def _scored(
    engine: Engine, task: ScoreDocuments, store: Store, lengths: Sequence[NDArray[np.int64]], asked: Round
) -> NDArray[np.float64]:
    places = [place for pull in asked.pulls for place in store.places(pull.cluster, pull.first, pull.count)]
    items = list(_tasks(places, lengths))
    done = dict(engine.map(task, items, label=f"quad: round {asked.number}"))
    return np.array([benefit for index in range(len(items)) for benefit in done[index]], dtype=np.float64)


def _tasks(places: Sequence[Place], lengths: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Place, ...]]:
    """The documents in their order, cut where a task has enough tokens."""
    group: list[Place] = []
    held = 0
    for bucket, row in places:
        group.append((bucket, row))
        held += int(lengths[bucket][row])
        if held >= _TASK_TOKENS:
            yield tuple(group)
            group, held = [], 0
    if group:
        yield tuple(group)
