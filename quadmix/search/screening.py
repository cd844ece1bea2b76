"""A hundred thousand candidates down to a few finalists: draw, meet the budget, predict; microseconds each.

A chunk is a task: it draws its own candidates from a seed, so nothing but the chunk's number and its best candidates
travels. Candidates that cannot meet the budget under the cap on copies, or the constraints, are counted and dropped.
The first stage predicts from shares and repeats alone; finalists get mean qualities and the full models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import Params, ParamSpace, draw_cube, params_from_cube
from quadmix.hashing import seed_for
from quadmix.search.acquisition import candidates
from quadmix.search.constraints import Limits
from quadmix.search.features import ClosedForm, FeatureSet, Mixtures, QualitySample, closed_form, with_quality
from quadmix.search.objective import Objective
from quadmix.search.pareto import non_dominated, spread_out
from quadmix.search.regressors import TargetModels

Floats = NDArray[np.float64]

CHUNK = 5_000
_BATCH = 2_500  # candidates at once: 30 us each against 43 at 500, and still a few megabytes


@dataclass(frozen=True)
class SearchModels:
    """What predicts a mixture's losses and judges them. screening: over `screening_features`; full: over
    `full_features`; the columns of all are those of the objective."""

    screening: TargetModels
    full: TargetModels
    screening_features: FeatureSet
    full_features: FeatureSet
    objective: Objective
    quality: QualitySample


class SharedModels(Protocol):
    """A handle on `SearchModels` (an engine's shared value)."""

    def get(self) -> SearchModels: ...


@dataclass(frozen=True)
class Screened:
    """The best of one chunk: row in the chunk (f,) int64, predicted joint loss with its penalty (f,), the penalty alone
    (f,); counts of the whole chunk. front: (g,) rows that no other of the chunk beats on every target, with
    front_losses (g, n_targets); empty with one target or when none were asked for."""

    chunk: int
    drawn: int
    infeasible: int
    rows: NDArray[np.int64]
    joint: Floats
    penalty: Floats
    front: NDArray[np.int64]
    front_losses: Floats


@dataclass(frozen=True)
class ScreenChunk:
    """Task: chunk number and size -> its best `keep` candidates by predicted joint loss."""

    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    seed: int
    keep: int
    models: SharedModels
    limits: Limits | None = None
    front: int = 0  # points of the front over targets that are kept, at most
    around: Floats | None = None  # see `chunk_params`

    def __call__(self, item: tuple[int, int]) -> Screened:
        chunk, size = item
        models, limits = self.models.get(), self.limits
        params = chunk_params(self.space, self.seed, chunk, size, self.around)
        feasible, matrix, share = screen(params, self.domain_tokens, self.mixture, models.screening_features, limits)
        rows = np.flatnonzero(feasible)
        targets = len(models.screening.targets)
        losses = models.screening.predict(matrix[rows]) if rows.size else np.zeros((0, targets))
        penalty = penalties(share[rows], limits)
        joint = models.objective.joint(losses) + penalty
        best = np.argsort(joint, kind="stable")[: self.keep]
        front = np.zeros(0, dtype=np.int64)
        if self.front and targets > 1 and rows.size:
            front = non_dominated(losses)
            front = front[spread_out(losses[front], self.front)]
        return Screened(
            chunk, size, size - rows.size, rows[best], joint[best], penalty[best], rows[front], losses[front]
        )


def screen(
    params: Params,
    domain_tokens: NDArray[np.int64],
    mixture: MixtureConfig,
    features: FeatureSet,
    limits: Limits | None = None,
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """(k,) whether each candidate can meet the budget within the limits, (k, n_features) its closed-form features and
    (k, n_domains) its shares."""
    feasible, rows, shares = [], [], []
    for start in range(0, len(params), _BATCH):
        part = params[slice(start, start + _BATCH)]
        found = closed_form(part, domain_tokens, mixture, limits)
        feasible.append(found.feasible)
        rows.append(features.matrix(found.mixtures, part))
        shares.append(found.mixtures.share)
    return np.concatenate(feasible), np.concatenate(rows), np.concatenate(shares)


def penalised(joint: Floats, share: Floats, limits: Limits | None) -> Floats:
    """What is minimised: (k,) joint losses with the penalty for shares (k, n_domains) far from the natural ones."""
    return joint + penalties(share, limits)


def penalties(share: Floats, limits: Limits | None) -> Floats:
    """(k,) nats, 0 without limits."""
    return np.zeros(len(share)) if limits is None else limits.penalty(share)


def chunk_params(space: ParamSpace, seed: int, chunk: int, size: int, around: Floats | None = None) -> Params:
    """The candidates of one chunk: fresh draws, or half of them steps away from `around` (p, dim)."""
    own = seed_for(seed, "candidates", chunk)
    cube = draw_cube(space, size, own) if around is None else candidates(space, size, own, around)
    return params_from_cube(space, cube)


def chunks(total: int) -> list[tuple[int, int]]:
    """(number, size) of every chunk, fixed by the number of candidates alone."""
    return [(index, min(CHUNK, total - start)) for index, start in enumerate(range(0, total, CHUNK))]


def finalists(screened: Sequence[Screened], keep: int) -> list[tuple[int, int]]:
    """(chunk, row) of the best `keep` candidates of all chunks, best first; ties by chunk and row."""
    ordered = sorted(
        (joint, part.chunk, row)
        for part in screened
        for joint, row in zip(part.joint.tolist(), part.rows.tolist(), strict=True)
    )
    return [(chunk, row) for _, chunk, row in ordered[:keep]]


def fronts(screened: Sequence[Screened], keep: int) -> list[tuple[int, int]]:
    """(chunk, row) of at most `keep` candidates of all chunks that no other one beats on every target."""
    ordered = sorted(screened, key=lambda part: part.chunk)
    places = [(part.chunk, row) for part in ordered for row in part.front.tolist()]
    if not places:
        return []
    losses = np.concatenate([part.front_losses for part in ordered])
    front = non_dominated(losses)
    return [places[row] for row in front[spread_out(losses[front], keep)].tolist()]


@dataclass(frozen=True)
class PredictFinalists:
    """Task: cube points (k, dim) -> (k, n_targets + 1): losses predicted by the full models, then what is minimised,
    their joint objective with the penalty."""

    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    models: SharedModels
    limits: Limits | None = None

    def __call__(self, cube: Floats) -> Floats:
        models = self.models.get()
        params = params_from_cube(self.space, cube)
        found = predict(params, self.domain_tokens, self.mixture, models, self.limits)
        joint = penalised(models.objective.joint(found.losses), found.mixtures.share, self.limits)
        return np.concatenate([found.losses, joint[:, None]], axis=1)


@dataclass(frozen=True)
class Predicted:
    """losses: (k, n_targets); the mixtures that they were predicted for, mean qualities included."""

    losses: Floats
    mixtures: Mixtures


def predict(
    params: Params,
    domain_tokens: NDArray[np.int64],
    mixture: MixtureConfig,
    models: SearchModels,
    limits: Limits | None = None,
) -> Predicted:
    """Expected mixtures and predicted losses of feasible thetas."""
    found: ClosedForm = closed_form(params, domain_tokens, mixture, limits)
    mixtures = with_quality(found, models.quality, mixture.max_copies)
    return Predicted(models.full.predict(models.full_features.matrix(mixtures, params)), mixtures)
