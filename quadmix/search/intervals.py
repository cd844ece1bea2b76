"""Uncertainty that is calibrated on errors made out of fold, by the training rows alone.

A model's own standard deviation has the right shape but seldom the right size. `Calibration` adds the variance that
the model does not account for, scales the rest, and takes the half width of an interval from the ordered ratios of
|error| to standard deviation: the split-conformal quantile (ceil((n + 1) level) of n), applied to cross-fitted errors
as in CV+ (Barber et al., arXiv 1905.02928). So an interval holds its level whatever the distribution of the errors is,
up to the dependence between folds; below 1 / (1 - level) rows the largest ratio stands in, which holds less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """residuals, stds: (n,) measured minus predicted, out of fold, and the calibrated standard deviation beside it;
    floor: standard deviation that the model does not account for; factor: what its own variance is multiplied with."""

    residuals: Floats
    stds: Floats
    floor: float
    factor: float

    @staticmethod
    def of(residuals: Floats, own: Floats) -> Calibration:
        """own: (n,) the model's standard deviations of the same out-of-fold predictions; zeros are allowed."""
        error, claimed = float(np.mean(residuals**2)), float(np.mean(own**2))
        missing = max(error - claimed, 0.0)
        factor = min(error / claimed, 1.0) if claimed > 0 else 1.0
        floor = float(np.sqrt(missing)) or _SMALLEST
        return Calibration(residuals, np.sqrt(floor**2 + factor * own**2), floor, factor)

    def std(self, own: Floats) -> Floats:
        """(k,) calibrated standard deviations from the model's own."""
        return np.asarray(np.sqrt(self.floor**2 + self.factor * own**2))

    def half_width(self, own: Floats, level: float) -> Floats:
        """(k,) half widths of intervals that hold with probability `level`."""
        return self.std(own) * conformal(np.abs(self.residuals) / self.stds, level)

    @property
    def scores(self) -> Floats:
        """(n,) residuals over their standard deviations."""
        return self.residuals / self.stds


# nats: below what any loss is measured to; keeps a perfect fit from dividing by 0
_SMALLEST = 1e-9


def conformal(scores: Floats, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores, or the largest where that is beyond them. 0 < level < 1."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: found {level}, wanted a probability between 0 and 1")
    rank = int(np.ceil((len(scores) + 1) * level - 1e-9))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


@dataclass(frozen=True)
class JointCalibration:
    """Of a weighted sum of targets, whose errors are correlated. correlation: (n_targets, n_targets) of the scores."""

    weights: Floats
    correlation: Floats
    scores: Floats
    factor: float

    @staticmethod
    def of(parts: tuple[Calibration, ...], weights: Floats) -> JointCalibration:
        """weights: (n_targets,) of the sum. All targets were cross-fitted on the same folds, so errors pair by row."""
        scores = np.stack([part.scores for part in parts], axis=1)
        correlation = scores.T @ scores / len(scores)
        residual = np.stack([part.residuals for part in parts], axis=1) @ weights
        std = _joint_std(np.stack([part.stds for part in parts], axis=1), weights, correlation)
        factor = float(np.sqrt(np.mean((residual / std) ** 2))) or 1.0
        return JointCalibration(weights, correlation, residual / (factor * std), factor)

    def std(self, stds: Floats) -> Floats:
        """(k,) of the sum from (k, n_targets) of its parts."""
        return self.factor * _joint_std(stds, self.weights, self.correlation)

    def half_width(self, stds: Floats, level: float) -> Floats:
        """(k,) half widths of intervals of the sum that hold with probability `level`."""
        return self.std(stds) * conformal(np.abs(self.scores), level)


def _joint_std(stds: Floats, weights: Floats, correlation: Floats) -> Floats:
    scaled = stds * weights
    return np.asarray(np.sqrt(np.maximum(np.sum((scaled @ correlation) * scaled, axis=1), _SMALLEST**2)))
