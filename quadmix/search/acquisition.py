"""Which mixtures to try next: expected improvement under a belief with uncertainty, a whole batch at a time.

Beside fresh draws of Algorithm 1 stand steps away from good points in the unit cube of the draws (in two hundred
dimensions fresh draws alone never come near them again) and averages of good draws. The belief is a Gaussian process
whatever the regressor is that proposes: of all kinds it alone knows where it has not been. A batch is chosen one by
one; each choice lowers the worth of what lies near it, since its loss will tell about them (local penalisation,
González et al., arXiv 1505.08052, with a Gaussian in place of their cone). Trials that still run count as chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quadmix.core.param_space import ParamSpace, draw_cube
from quadmix.hashing import hash_words, purpose_key, seed_for
from quadmix.search.noise import NoisePrior
from quadmix.search.regressors import TargetModels, fit_targets

Floats = NDArray[np.float64]

# of a step away from a trial, in the unit cube: near, middling and far, in turn
_STEPS = (0.05, 0.15, 0.4)
# reach of a chosen point, in standard deviations of the candidates' features (root mean square over features)
_REACH = 0.5
_INSIDE = 1e-9
_AVERAGED, _AVERAGED_FROM = 10, 40


def fit_belief(
    features: Floats, joint: Floats, columns: Sequence[str], noise: NoisePrior | None = None
) -> TargetModels:
    """What is thought of the joint loss, mean and standard deviation. features: (n, f) with named columns; joint: (n,)
    finite; noise: its prior, where repeated seeds told it."""
    return fit_targets(["joint"], features, joint[:, None], "gaussian_process", columns=columns, noise=[noise])


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """(k,) E[max(best - loss, 0)] of a normal belief; lower losses are better. Without doubt: the plain difference."""
    from scipy.special import ndtr

    gain = best - mean
    sure = deviation <= 0
    scale = np.where(sure, 1.0, deviation)
    z = gain / scale
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    return np.asarray(np.where(sure, np.maximum(gain, 0.0), gain * ndtr(z) + scale * density))


def candidates(space: ParamSpace, n: int, seed: int, around: Floats) -> Floats:
    """(n, dim) points of the open unit cube: half of them fresh draws, the others steps away from `around` (p, dim)."""
    fresh = n - n // 2 if len(around) else n
    points = draw_cube(space, fresh, seed_for(seed, "fresh"))
    return points if fresh == n else np.concatenate([points, steps(space, n - fresh, seed, around)])


def steps(space: ParamSpace, moves: int, seed: int, around: Floats) -> Floats:
    """(moves, dim) points of the open unit cube, each a step away from one of `around` (p, dim), in turn.

    A step moves about half of the coordinates, by a triangular draw of the step's size; the cube's walls reflect.
    """
    parents = around[np.arange(moves) % len(around)]
    size = np.array(_STEPS)[(np.arange(moves) // len(around)) % len(_STEPS)][:, None]
    first, second, chosen = (draw_cube(space, moves, seed_for(seed, "step", part)) for part in range(3))
    moved = parents + size * (first + second - 1.0) * (chosen < 0.5)
    moved = np.abs(moved)
    moved = 1.0 - np.abs(1.0 - moved)
    return np.asarray(np.clip(moved, _INSIDE, 1.0 - _INSIDE))


def averages_of_best(ordered: Floats, n: int, seed: int) -> Floats:
    """(n, dim) means of ten random points among the forty best. ordered: (k, dim), best first."""
    best = ordered[:_AVERAGED_FROM]
    words = hash_words(np.arange(n * len(best), dtype=np.uint64), purpose_key(seed, "averages"))
    members = np.argsort(words.reshape(n, len(best)), axis=1, kind="stable")[:, :_AVERAGED]
    return np.asarray(best[members].mean(axis=1))


def choose_batch(features: Floats, worth: Floats, mean: Floats, n: int, running: Floats) -> list[int]:
    """`n` different rows of `features` (k, f), best first: by `worth` (k,) >= 0 where any is left, else by `mean` (k,).

    running: (r, f) features of trials whose losses are not known yet.
    """
    centre, scale = features.mean(axis=0), features.std(axis=0)
    use = scale > 0
    points = (features[:, use] - centre[use]) / scale[use]
    free = np.ones(len(features), dtype=bool)
    left = worth.astype(np.float64)

    def lower(point: Floats) -> Floats:
        distance = np.mean((points - point) ** 2, axis=1) if points.shape[1] else np.zeros(len(points))
        return np.asarray(1.0 - np.exp(-0.5 * distance / _REACH**2))

    for row in running:
        left = left * lower((row[use] - centre[use]) / scale[use])
    chosen: list[int] = []
    while len(chosen) < min(n, len(features)):
        rows = np.flatnonzero(free)
        # np.argmax takes the first of equals, so the order of the candidates settles ties
        some = left[rows] > 0
        pick = int(rows[np.argmax(left[rows])] if some.any() else rows[np.argmin(mean[rows])])
        chosen.append(pick)
        free[pick] = False
        left = left * lower(points[pick])
    return chosen
