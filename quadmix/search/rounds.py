"""One round of a sequential search: what was tried so far says which mixtures to try next.

Candidates are screened in two steps, as those of a proposal are: all of them by shares and repeats, the most promising
by the full features. Both beliefs are about the joint objective itself, so that the worst case needs no weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace, params_from_cube
from quadmix.search.acquisition import candidates, choose_batch, expected_improvement, fit_belief
from quadmix.search.features import FeatureSet, Mixtures, QualitySample, closed_form, with_quality
from quadmix.search.screening import screen

Floats = NDArray[np.float64]

CANDIDATES = 10_000
_FINALISTS = 300  # mean qualities cost milliseconds each


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
    trial's budget; quality: documents on which mean qualities are computed."""

    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    cheap: FeatureSet
    full: FeatureSet
    quality: QualitySample
    candidates: int = CANDIDATES

    def choose(
        self, tried: Tried, n: int, seed: int, running: Tried | None = None, earlier: Known | None = None
    ) -> tuple[Floats, Floats]:
        """(n, dim) points of the cube, best first, and the (n,) joint losses that are expected of them.

        running: trials whose losses are not known yet (their `joint` is not read); earlier: of another search.
        """
        cube = candidates(self.space, max(self.candidates, 4 * n), seed, best_points(tried))
        params = params_from_cube(self.space, cube)
        feasible, features, _ = screen(params, self.domain_tokens, self.mixture, self.cheap)
        rows = np.flatnonzero(feasible)
        _, worth = self._worth(self.cheap, tried, features[rows], earlier)
        kept = np.sort(rows[np.argsort(-worth, kind="stable")[: max(_FINALISTS, 4 * n)]])
        params = params_from_cube(self.space, cube[kept])
        found = closed_form(params, self.domain_tokens, self.mixture)
        features = self.full.matrix(with_quality(found, self.quality, self.mixture.max_copies), params)
        mean, worth = self._worth(self.full, tried, features, earlier)
        waiting = np.zeros((0, features.shape[1])) if running is None else self._matrix(self.full, running)
        chosen = choose_batch(features, worth, mean, n, waiting)
        return cube[kept[chosen]], mean[chosen]

    def _worth(
        self, columns: FeatureSet, tried: Tried, features: Floats, earlier: Known | None
    ) -> tuple[Floats, Floats]:
        """(k, f) -> expected joint losses and expected improvements over the best expected one of the trials, (k,)."""
        known, joint = self._matrix(columns, tried), tried.joint
        if earlier is not None:
            known = np.concatenate([known, columns.matrix(earlier.mixtures, None)])
            joint = np.concatenate([joint, earlier.joint])
        belief = fit_belief(known, joint, columns.names)
        mean, deviation = belief.predict(features), belief.predict_std(features)
        best = float(belief.predict(known).min())
        return mean[:, 0], expected_improvement(mean[:, 0], deviation[:, 0], best)

    def _matrix(self, columns: FeatureSet, tried: Tried) -> Floats:
        return columns.matrix(tried.mixtures, params_from_cube(self.space, tried.cube))


def best_points(tried: Tried) -> Floats:
    """Cube points of the best fifth of the trials, at least 3."""
    return tried.cube[np.argsort(tried.joint, kind="stable")[: max(3, len(tried.joint) // 5)]]
