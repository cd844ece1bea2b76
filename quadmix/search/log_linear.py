"""The log-linear law of data mixing, loss = c + exp(a · shares), by a Huber fit (arXiv 2403.16952, arXiv 2602.12237).

It has one number a domain and one more, so it transfers to larger models better than trees do and extrapolates, and it
knows nothing of how domains interact. It sees the shares alone: repeats and mean qualities have no place in the law.

The offset c is what makes the fit non-convex, so the fit starts from several: each start solves for a on
the logarithm, and all parameters are then refined together; twice more with the Huber loss at the scale of the
residuals. A weak ridge keeps a swarm smaller than three times the
number of domains from sending a coefficient away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quadmix.search.columns import check_columns, share_mask
from quadmix.search.estimator import Estimator

Floats = NDArray[np.float64]

_HUBER = 1.35  # sds of the residual: 95 % efficient under a normal
_RIDGE = 1e-5  # per row, on a, for losses scaled to variance 1
_REWEIGHTINGS = 2
_LEAST_SCALE = 1e-3  # of the residuals, for losses scaled to variance 1: a perfect fit has none
_STARTS = (0.2, 2.0)  # how far the offset lies below the lowest loss, in ranges of the losses


@dataclass
class LogLinearLaw(Estimator):
    """One loss by the law. columns: names of the features, of which at least two are shares."""

    columns: tuple[str, ...]
    fitted: Fitted | None = field(default=None, init=False)

    def fit(self, features: Floats, losses: Floats) -> LogLinearLaw:
        """features: (n, f); losses: (n,) finite. Raises ValueError without shares among the columns."""
        check_columns(features, self.columns)
        mask = share_mask(self.columns)
        if not mask.any():
            raise ValueError("the log-linear law needs token shares among its features, and found none")
        shares = features[:, mask]
        centre, scale = float(losses.mean()), float(losses.std()) or 1.0
        parameters = _best_fit(shares, (losses - centre) / scale)
        residual = (losses - centre) / scale - _law(parameters, shares)
        jacobian = _jacobian(parameters, shares)
        freedom = max(len(losses) - len(parameters), len(losses) / 4.0)
        variance = float(residual @ residual) / freedom
        curvature = jacobian.T @ jacobian + len(losses) * _RIDGE * np.eye(len(parameters))
        covariance = np.asarray(np.linalg.inv(curvature), dtype=np.float64)
        self.fitted = Fitted(mask, parameters, covariance, variance, centre, scale)
        return self

    def predict(self, features: Floats) -> Floats:
        """(k, f) -> (k,)"""
        found = self._fitted()
        return found.centre + found.scale * _law(found.parameters, features[:, found.shares])

    def predict_std(self, features: Floats) -> Floats:
        """(k, f) -> (k,): of a new proxy's loss, by the law linearised about its fit (Gauss-Newton)."""
        found = self._fitted()
        jacobian = _jacobian(found.parameters, features[:, found.shares])
        leverage = np.sum((jacobian @ found.covariance) * jacobian, axis=1)
        return np.asarray(found.scale * np.sqrt(found.variance * (1.0 + leverage)))

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self.fitted is not None

    def _fitted(self) -> Fitted:
        if self.fitted is None:
            raise ValueError("this log-linear law was asked to predict before it was fitted")
        return self.fitted


@dataclass(frozen=True)
class Fitted:
    """shares: (f,) bool; parameters: (1 + m,), c and a, of the scaled loss; covariance: (1 + m, 1 + m) over the
    residual variance."""

    shares: NDArray[np.bool_]
    parameters: Floats
    covariance: Floats
    variance: float
    centre: float
    scale: float


def _best_fit(shares: Floats, losses: Floats) -> Floats:
    extent = float(np.ptp(losses)) or 1.0
    found = []
    for below in _STARTS:
        offset = float(losses.min()) - below * extent
        start = np.append(offset, _ridge(shares, np.log(losses - offset)))
        found.append(_descend(start, shares, losses, _HUBER))
    parameters = min(found, key=lambda one: one[0])[1]
    for _ in range(_REWEIGHTINGS):
        # the residuals' own scale, by their median: a wild trial has no part in it
        scale = float(np.median(np.abs(losses - _law(parameters, shares)))) / 0.6745
        parameters = _descend(parameters, shares, losses, _HUBER * max(scale, _LEAST_SCALE))[1]
    return parameters


def _descend(start: Floats, shares: Floats, losses: Floats, clip: float) -> tuple[float, Floats]:
    from scipy.optimize import minimize

    bounds = [(None, None)] + [(-30.0, 30.0)] * shares.shape[1]
    fit = minimize(
        objective, start, args=(shares, losses, clip), jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 300},
    )  # fmt: skip
    return float(fit.fun), np.asarray(fit.x, dtype=np.float64)


def objective(parameters: Floats, shares: Floats, losses: Floats, clip: float) -> tuple[float, Floats]:
    """(mean Huber loss of the residuals, linear beyond `clip` and in units of clip², plus ridge; its gradient)."""
    residual = (_law(parameters, shares) - losses) / clip
    clipped = np.clip(residual, -1.0, 1.0)
    penalty = 0.5 * _RIDGE * float(parameters[1:] @ parameters[1:])
    value = float(np.mean(clipped * residual - 0.5 * clipped**2)) + penalty
    gradient = _jacobian(parameters, shares).T @ clipped / (clip * len(losses))
    gradient[1:] += _RIDGE * parameters[1:]
    return value, gradient


def _law(parameters: Floats, shares: Floats) -> Floats:
    return np.asarray(parameters[0] + np.exp(shares @ parameters[1:]))


def _jacobian(parameters: Floats, shares: Floats) -> Floats:
    rise = np.exp(shares @ parameters[1:])
    return np.concatenate([np.ones((len(shares), 1)), shares * rise[:, None]], axis=1)


def _ridge(shares: Floats, values: Floats) -> Floats:
    gram = shares.T @ shares + 1e-3 * np.eye(shares.shape[1])
    return np.asarray(np.linalg.solve(gram, shares.T @ values))
