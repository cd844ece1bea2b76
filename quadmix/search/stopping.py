"""What more trials would be worth: by how much the proposal's true loss is expected to fall, and how sure that is.

A Gaussian process on the joint loss says what is believed now. The next trials' thetas are known (they are drawn or
chosen like those before), so their losses can be imagined from the belief, noise included; each imagined outcome moves
the belief, and the mixture that is then believed best replaces the one that is believed best now. The gain is the
true loss of the old one minus that of the new one, drawn from what is still unknown after the outcome. Its mean is the
knowledge gradient of the batch (Frazier et al., INFORMS J. Computing 21(4), 2009, for normal beliefs that are
correlated); its quantiles say that a batch may also mislead.

The update is linear in the outcome: with S the belief's covariance of offered and asked mixtures and L the Cholesky
factor of the asked ones' with noise, means move by S L^-T z, z standard normal. So an imagined outcome costs one
product; lengthscales are not fitted again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quadmix.hashing import hash_words, uniform
from quadmix.one_thread import one_blas_thread
from quadmix.search.acquisition import candidates
from quadmix.search.beside_counts import slope_of, split_columns
from quadmix.search.columns import by_rows
from quadmix.search.constraints import Limits
from quadmix.search.gaussian_process import Fitted, GaussianProcess
from quadmix.search.noise import NoisePrior
from quadmix.search.result import Worth
from quadmix.search.rounds import NextRound, Tried, best_points

Floats = NDArray[np.float64]

MORE = 16  # trials that the worth is told for
_IMAGINED = 4_000
_OFFERED = 300  # mixtures that may become the proposal: mean qualities cost milliseconds each
_DIGITS = 6  # of nats: far below what any of this is known to


def worth_of_more(
    asking: NextRound,
    tried: Tried,
    more: Floats,
    seed: int,
    *,
    limits: Limits | None = None,
) -> Worth:
    """Of trials at the points `more` (m, dim) of the cube, given those in `tried`. asking: the pool, the features and
    the noise; limits: that a proposal has to keep."""
    with one_blas_thread():
        cube = _offered(asking, tried, seed, limits)
        if not len(cube):  # no candidate keeps the limits: there is nothing that a trial could improve
            return Worth(len(more), 0.0, 0.0, 0.0)
        own, counted = split_columns(asking.columns.names)
        known, offered, asked = (
            asking.matrix(asking.columns, tried),
            asking.features(cube, limits),
            asking.features(more),
        )
        told = [part[:, -1] if counted else np.zeros(len(part)) for part in (known, offered)]
        slope = slope_of(told[0], tried.joint)
        belief = _fit(known[:, : len(own)], tried.joint - slope * told[0], own, asking.noise)
        offered, asked = by_rows(offered[:, : len(own)]), by_rows(asked[:, : len(own)])
        gains = imagined_gains(belief, offered, asked, seed, slope * told[1])
    low, high = np.quantile(gains, (0.05, 0.95))
    return Worth(len(more), *(round(float(value), _DIGITS) for value in (gains.mean(), low, high)))


def worth_in_words(worth: Worth) -> str:
    """One sentence for the log and the report."""
    return (
        f"{worth.trials} more trials would be worth a joint loss of the proposal lower by {worth.mean:.4f} (90 %: "
        f"{worth.low:+.4f} to {worth.high:+.4f})"
    )


def imagined_gains(belief: Fitted, offered: Floats, asked: Floats, seed: int, told: Floats | float = 0.0) -> Floats:
    """(4000,) nats by which imagined outcomes of `asked` (m, f) lower the true loss of the best of `offered` (k, f).

    told: (k,) nats that are known without the belief and stand beside it.
    """
    from scipy.linalg import solve_triangular

    mean = belief.predict(offered) + told
    shared = posterior(belief, offered, asked)
    outcome = posterior(belief, asked, asked)
    outcome[np.diag_indices_from(outcome)] += belief.noise * belief.scale**2 + 1e-12
    factor = np.linalg.cholesky(outcome)
    moves = solve_triangular(factor, shared.T, lower=True).T  # (k, m)
    now = int(np.argmin(mean))
    draws = normal((_IMAGINED, len(asked) + 1), seed)
    after = mean + draws[:, :-1] @ moves.T
    then = after.argmin(axis=1)
    told = after[:, now] - after[np.arange(_IMAGINED), then]
    # what stays unknown of the difference between the old and the new mixture
    own = posterior(belief, offered, offered[now : now + 1])[:, 0] - moves @ moves[now]
    left = posterior_variance(belief, offered) - np.sum(moves**2, axis=1) + own[now] - 2.0 * own
    unknown = np.sqrt(np.maximum(left[then], 0.0)) * (then != now)
    return np.asarray(told + unknown * draws[:, -1])


def posterior(belief: Fitted, left: Floats, right: Floats) -> Floats:
    """(k, m) covariance of the true losses of mixtures (k, f) and (m, f), in squared nats."""
    from scipy.linalg import solve_triangular

    first, second = (solve_triangular(belief.factor, belief.covariance(rows), lower=True) for rows in (left, right))
    return np.asarray((belief.covariance(left, right) - first.T @ second) * belief.scale**2)


def posterior_variance(belief: Fitted, features: Floats) -> Floats:
    """(k,) variance of the true losses, in squared nats."""
    return np.asarray(np.maximum(belief.predict_std(features) ** 2 - belief.noise * belief.scale**2, 0.0))


def normal(shape: tuple[int, int], seed: int) -> Floats:
    """Standard normal draws that are a function of the seed alone."""
    from scipy.special import ndtri

    words = hash_words(np.arange(shape[0] * shape[1], dtype=np.uint64), seed)
    return np.asarray(ndtri(uniform(words, seed, "imagined"))).reshape(shape)


def _offered(asking: NextRound, tried: Tried, seed: int, limits: Limits | None) -> Floats:
    """(k, dim) points that are, or may turn out to be, best: by shares and repeats, mean minus one deviation."""
    cube = candidates(asking.space, asking.candidates, seed, best_points(tried))
    feasible, features = asking.screened(cube, limits)
    rows = np.flatnonzero(feasible)
    if not rows.size:
        return cube[rows]
    belief = _fit(asking.matrix(asking.cheap, tried), tried.joint, asking.cheap.names, asking.noise)
    hope = belief.predict(features[rows]) - np.sqrt(posterior_variance(belief, features[rows]))
    return np.asarray(cube[np.sort(rows[np.argsort(hope, kind="stable")[:_OFFERED]])])


def _fit(features: Floats, joint: Floats, columns: Sequence[str], noise: NoisePrior | None) -> Fitted:
    fitted = GaussianProcess(tuple(columns), noise=noise).fit(by_rows(features), by_rows(joint)).fitted
    assert fitted is not None
    return fitted
