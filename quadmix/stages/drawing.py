"""The thetas of a search's first round: Algorithm 1's draws, of which a counting proxy may choose.

With `search.counting` every trial has a few draws of its own (the first is the one that it would have without), and the
one whose mixture has the lowest counted loss is trained. A choice among a trial's own draws keeps a longer swarm
beginning with the shorter one, and leaves bad mixtures in, fewer of them: a regressor needs both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace, params_from_cube
from quadmix.engine.base import Engine, Shared
from quadmix.search.features import QualitySample, closed_form, expected_copies
from quadmix.search.objective import Objective
from quadmix.search.trials import Drawn, draw_thetas

Floats = NDArray[np.float64]

_PER_TASK = 64


@dataclass(frozen=True)
class CountThetas:
    """Task: cube points (k, dim) that can meet the budget -> (k, n_targets) counted losses, nats per token."""

    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    sample: Shared[QualitySample]  # with counts

    def __call__(self, cube: Floats) -> Floats:
        sample = self.sample.get()
        if sample.counts is None:
            raise ValueError("counted losses asked of a sample without a counting proxy")
        found = closed_form(params_from_cube(self.space, cube), self.domain_tokens, self.mixture)
        return sample.counts.losses(np.stack(list(expected_copies(found, sample, self.mixture.max_copies))))


@dataclass(frozen=True)
class Drawing:
    """What thetas are drawn for. mixture: with a trial's budget; domain_tokens: (n_domains,) of the proxy pool;
    sample: with a counting proxy or without."""

    engine: Engine
    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    seed: int
    sample: QualitySample

    def choose(self, trials: Sequence[int], draws: int, objective: Objective) -> tuple[list[Drawn], Floats | None]:
        """One theta a trial, of its first `draws` that can meet the budget, and their (trials, n_targets) counted
        losses; the first draw and None without a counting proxy. trials: their indices."""
        every = [draw_thetas(self.space, index, self.seed, self.domain_tokens, self.mixture, draws) for index in trials]
        if self.sample.counts is None:
            return [drawn[0] for drawn in every], None
        counted = self.counted(np.concatenate([_cube(one) for drawn in every for one in drawn]))
        # which target matters is the objective's to say, except the worst case, which is told of no natural loss here
        weights = np.array([objective.weights[name] for name in self.sample.counts.targets])
        joint, chosen, rows, first = counted @ weights, [], [], 0
        for drawn in every:
            best = int(np.argmin(joint[first : first + len(drawn)]))
            chosen.append(drawn[best])
            rows.append(first + best)
            first += len(drawn)
        return chosen, counted[rows]

    def counted(self, cube: Floats) -> Floats:
        """(k, dim) points that can meet the budget -> (k, n_targets) counted losses."""
        task = CountThetas(self.space, self.mixture, self.domain_tokens, self.engine.share(self.sample))
        blocks: Sequence[Floats] = [cube[start : start + _PER_TASK] for start in range(0, len(cube), _PER_TASK)]
        done = dict(self.engine.map(task, blocks, label="search: counted losses of draws"))
        return np.concatenate([done[index] for index in range(len(blocks))])


def _cube(drawn: Drawn) -> Floats:
    if drawn.params.cube is None:
        raise ValueError("a draw without its point of the cube")
    return drawn.params.cube
