"""One round of a sequential search: what was tried so far says which mixtures to try next.

Fresh draws of Algorithm 1 are screened by shares and repeats; the best of them then stand by the full features. What is
offered to the acquisition are the best of those, averages of ten of them, and steps away from the best trials and from
averages. An average is what a search proposes in the end, and better than any draw that went into it: whatever a loss
does not depend on comes to rest in the middle of its range. So rounds try mixtures of the kind that will be proposed.
Both beliefs are about the joint objective itself, so that the worst case needs no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace, draw_cube, params_from_cube
from quadmix.hashing import seed_for
from quadmix.search.acquisition import averages_of_best, choose_batch, expected_improvement, fit_belief, steps
from quadmix.search.constraints import Limits
from quadmix.search.features import FeatureSet, Mixtures, QualitySample, closed_form, with_quality
from quadmix.search.noise import NoisePrior
from quadmix.search.regressors import TargetModels
from quadmix.search.result import JOINT
from quadmix.search.screening import screen

Floats = NDArray[np.float64]

CANDIDATES = 50_000
_FINALISTS = 300  # mean qualities cost milliseconds each
_FRESH, _AVERAGES, _STEPS = 100, 150, 150  # offered to the acquisition
_BEST_TRIALS = 10  # that steps lead away from


@dataclass(frozen=True)
class Tried:
    """Trials: points of the cube of draws (n, dim) and the mixtures that came out; joint: (n,) their losses."""

    cube: Floats
    mixtures: Mixtures
    joint: Floats


@dataclass(frozen=True)
class Known:
    """Mixtures whose joint losses (n,) are known from elsewhere, on the scale of the trials."""

    mixtures: Mixtures
    joint: Floats


@dataclass(frozen=True)
class NextRound:
    """What a round is chosen for. domain_tokens: (n_domains,) of the pool that trials are drawn from, mixture: with a
    trial's budget; quality: documents on which mixtures are measured; noise: of the joint loss, where repeated seeds
    told it; weights: of the targets whose counted losses `full` knows."""

    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    cheap: FeatureSet
    full: FeatureSet
    quality: QualitySample
    candidates: int = CANDIDATES
    noise: NoisePrior | None = None
    weights: tuple[float, ...] = ()

    @property
    def columns(self) -> FeatureSet:
        """What the belief about the joint loss sees: of counted losses their weighted mean."""
        return replace(self.full, counted=(JOINT,)) if self.full.counted else self.full

    def choose(
        self, tried: Tried, n: int, seed: int, running: Tried | None = None, earlier: Known | None = None
    ) -> tuple[Floats, Floats]:
        """(n, dim) points of the cube, best first, and the (n,) joint losses that are expected of them.

        running: trials whose losses are not known yet (their `joint` is not read); earlier: of another search.
        """
        finalists = self._finalists(tried, max(_FINALISTS, 4 * n), seed, earlier)
        belief, best = self._belief(self.columns, tried, earlier)
        order = np.argsort(belief.predict(self.features(finalists))[:, 0], kind="stable")
        averages = averages_of_best(finalists[order], max(_AVERAGES, 2 * n), seed_for(seed, "averages"))
        known = belief.predict(self.matrix(self.columns, tried))[:, 0]
        parents = np.concatenate([tried.cube[np.argsort(known, kind="stable")[:_BEST_TRIALS]], averages[:_AVERAGES]])
        moved = steps(self.space, max(_STEPS, 2 * n), seed, parents)
        cube = np.concatenate([finalists[order[: max(_FRESH, 2 * n)]], averages, moved])
        cube = cube[self.screened(cube)[0]]
        features = self.features(cube)
        mean, deviation = belief.predict(features)[:, 0], belief.predict_std(features)[:, 0]
        waiting = np.zeros((0, features.shape[1])) if running is None else self.matrix(self.columns, running)
        chosen = choose_batch(features, expected_improvement(mean, deviation, best), mean, n, waiting)
        return cube[chosen], mean[chosen]

    def _finalists(self, tried: Tried, n: int, seed: int, earlier: Known | None) -> Floats:
        """(n, dim) of the fresh draws that can meet the budget: those of lowest loss by shares and repeats."""
        cube = draw_cube(self.space, max(self.candidates, n), seed_for(seed, "fresh"))
        feasible, features = self.screened(cube)
        belief, _ = self._belief(self.cheap, tried, earlier)
        mean = np.where(feasible, belief.predict(np.where(feasible[:, None], features, 0.0))[:, 0], np.inf)
        return cube[np.argsort(mean, kind="stable")[: min(n, int(feasible.sum()))]]

    def screened(self, cube: Floats, limits: Limits | None = None) -> tuple[NDArray[np.bool_], Floats]:
        """(k,) whether each can meet the budget within the limits, and (k, f) what screening sees of it."""
        params = params_from_cube(self.space, cube)
        return screen(params, self.domain_tokens, self.mixture, self.cheap, limits)[:2]

    def features(self, cube: Floats, limits: Limits | None = None) -> Floats:
        """(k, dim) points that can meet the budget within the limits -> (k, f) full features."""
        params = params_from_cube(self.space, cube)
        found = closed_form(params, self.domain_tokens, self.mixture, limits)
        return self.columns.matrix(self._joined(with_quality(found, self.quality, self.mixture.max_copies)), params)

    def _belief(self, columns: FeatureSet, tried: Tried, earlier: Known | None) -> tuple[TargetModels, float]:
        """What is thought of the joint loss, and the lowest that is expected of any trial."""
        known, joint = self.matrix(columns, tried), tried.joint
        if earlier is not None:
            known = np.concatenate([known, columns.matrix(self._joined(earlier.mixtures), None)])
            joint = np.concatenate([joint, earlier.joint])
        belief = fit_belief(known, joint, columns.names, self.noise)
        return belief, float(belief.predict(known).min())

    def matrix(self, columns: FeatureSet, tried: Tried) -> Floats:
        """(n, f) features of the mixtures that came out."""
        return columns.matrix(self._joined(tried.mixtures), params_from_cube(self.space, tried.cube))

    def _joined(self, mixtures: Mixtures) -> Mixtures:
        if mixtures.counted is None:
            return mixtures
        # not a product: its additions would depend on the threads that it gets
        return replace(mixtures, counted=(mixtures.counted * np.array(self.weights)).sum(axis=1, keepdims=True))


def round_sizes(trials: int, rounds: int) -> list[int]:
    """Trials of every round: half of them are drawn blindly, the later rounds share the rest."""
    if rounds == 1:
        return [trials]
    rest = np.array_split(np.arange(trials // 2), rounds - 1)
    return [trials - trials // 2, *(len(part) for part in rest)]


def best_points(tried: Tried) -> Floats:
    """Cube points of the best fifth of the trials, at least 3."""
    return tried.cube[np.argsort(tried.joint, kind="stable")[: max(3, len(tried.joint) // 5)]]
