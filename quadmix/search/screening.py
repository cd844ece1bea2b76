"""A hundred thousand candidates down to a few finalists: draw, meet the budget, predict; microseconds each.

A chunk is a task: it draws its own candidates from a seed, so nothing but the chunk's number and its best candidates
travels. Candidates that cannot meet the budget under the cap on copies are counted and dropped. The first stage
predicts from shares and repeats alone; finalists get mean qualities and the full models.
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
from quadmix.search.features import ClosedForm, FeatureSet, Mixtures, QualitySample, closed_form, with_quality
from quadmix.search.regressors import TargetModels

Floats = NDArray[np.float64]

CHUNK = 5_000
_BATCH = 2_500  # candidates at once: 30 us each against 43 at 500, and still a few megabytes


@dataclass(frozen=True)
class SearchModels:
    """What predicts a mixture's losses. screening: over `screening_features`; full: over `full_features`;
    weights: (n_targets,), the joint objective's, summing to 1."""

    screening: TargetModels
    full: TargetModels
    screening_features: FeatureSet
    full_features: FeatureSet
    weights: Floats
    quality: QualitySample


class SharedModels(Protocol):
    """A handle on `SearchModels` (an engine's shared value)."""

    def get(self) -> SearchModels: ...


@dataclass(frozen=True)
class Screened:
    """The best of one chunk: row in the chunk (f,) int64, predicted joint loss (f,); counts of the whole chunk."""

    chunk: int
    drawn: int
    infeasible: int
    rows: NDArray[np.int64]
    joint: Floats


@dataclass(frozen=True)
class ScreenChunk:
    """Task: chunk number and size -> its best `keep` candidates by predicted joint loss."""

    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    seed: int
    keep: int
    models: SharedModels

    def __call__(self, item: tuple[int, int]) -> Screened:
        chunk, size = item
        models = self.models.get()
        params = chunk_params(self.space, self.seed, chunk, size)
        feasible, matrix = screen(params, self.domain_tokens, self.mixture, models.screening_features)
        rows = np.flatnonzero(feasible)
        joint = models.screening.predict(matrix[rows]) @ models.weights if rows.size else np.zeros(0)
        best = np.argsort(joint, kind="stable")[: self.keep]
        return Screened(chunk, size, size - rows.size, rows[best], joint[best])


def screen(
    params: Params, domain_tokens: NDArray[np.int64], mixture: MixtureConfig, features: FeatureSet
) -> tuple[NDArray[np.bool_], Floats]:
    """(k,) whether each candidate can meet the budget, and (k, n_features) its closed-form features."""
    feasible, rows = [], []
    for start in range(0, len(params), _BATCH):
        part = params[slice(start, start + _BATCH)]
        found = closed_form(part, domain_tokens, mixture)
        feasible.append(found.feasible)
        rows.append(features.matrix(found.mixtures, part))
    return np.concatenate(feasible), np.concatenate(rows)


def chunk_params(space: ParamSpace, seed: int, chunk: int, size: int) -> Params:
    """The candidates of one chunk."""
    return params_from_cube(space, draw_cube(space, size, seed_for(seed, "candidates", chunk)))


def chunks(candidates: int) -> list[tuple[int, int]]:
    """(number, size) of every chunk, fixed by the number of candidates alone."""
    return [(index, min(CHUNK, candidates - start)) for index, start in enumerate(range(0, candidates, CHUNK))]


def finalists(screened: Sequence[Screened], keep: int) -> list[tuple[int, int]]:
    """(chunk, row) of the best `keep` candidates of all chunks, best first; ties by chunk and row."""
    ordered = sorted(
        (joint, part.chunk, row)
        for part in screened
        for joint, row in zip(part.joint.tolist(), part.rows.tolist(), strict=True)
    )
    return [(chunk, row) for _, chunk, row in ordered[:keep]]


@dataclass(frozen=True)
class PredictFinalists:
    """Task: cube points (k, dim) -> predicted losses (k, n_targets) by the full models."""

    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    models: SharedModels

    def __call__(self, cube: Floats) -> Floats:
        return predict(params_from_cube(self.space, cube), self.domain_tokens, self.mixture, self.models.get()).losses


@dataclass(frozen=True)
class Predicted:
    """losses: (k, n_targets); the mixtures that they were predicted for, mean qualities included."""

    losses: Floats
    mixtures: Mixtures


def predict(
    params: Params, domain_tokens: NDArray[np.int64], mixture: MixtureConfig, models: SearchModels
) -> Predicted:
    """Expected mixtures and predicted losses of feasible thetas."""
    found: ClosedForm = closed_form(params, domain_tokens, mixture)
    mixtures = with_quality(found, models.quality, mixture.max_copies)
    return Predicted(models.full.predict(models.full_features.matrix(mixtures, params)), mixtures)
