"""One loss predicted by the best of several models, or by their average: whichever the training rows themselves prefer.

Every candidate predicts every training row out of fold. Candidates whose error there is more than a quarter above the
best one's are left out: their weight would be noise. The stack's weights are those, at least 0 and summing to 1, whose
average has the smallest squared error; weights below a twentieth are dropped, and what is left is fitted on all rows.
The out-of-fold errors of the average then say how far its predictions can be trusted (quadmix.search.intervals). A
single candidate goes through the same steps and has weight 1.

The errors of a fold are those of the average with the weights that the other folds ask for: weights that a row
helped to choose would make its own error look small, which among fifty rows is enough to lose a tenth of a 90 %
interval's coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quadmix.search.estimator import Estimator
from quadmix.search.folds import folds
from quadmix.search.intervals import Calibration

Floats = NDArray[np.float64]

FOLDS = 5
_LEAST_WEIGHT = 0.05
_WORST_ERROR = 1.25  # root mean square, of the best candidate's


class Model(Protocol):
    """One way from features to a loss. features: (n, f) float64, NaN not allowed; losses: (n,) finite."""

    def fit(self, features: Floats, losses: Floats) -> Model: ...

    def predict(self, features: Floats) -> Floats:
        """(k, f) -> (k,)"""
        ...

    def predict_std(self, features: Floats) -> Floats:
        """(k, f) -> (k,), of a new proxy's loss; zeros where the model has no notion of its own uncertainty."""
        ...


@dataclass
class Stack(Estimator):
    """candidates: name -> unfitted model; least: nats, the standard deviation that a new proxy's loss has whatever the
    models think. After `fit`: models and weights by name, and, unless it was fitted without (`calibrate=False`), the
    calibration of its uncertainty."""

    candidates: Mapping[str, Callable[[], Model]]
    least: float = 0.0
    models: dict[str, Model] = field(default_factory=dict, init=False)
    weights: dict[str, float] = field(default_factory=dict, init=False)
    calibration: Calibration | None = field(default=None, init=False)

    def fit(self, features: Floats, losses: Floats, *, calibrate: bool = True) -> Stack:
        """features: (n, f) without NaN; losses: (n,) finite. Without calibration a single candidate needs no folds."""
        names = list(self.candidates)
        weights = np.ones(1)
        if calibrate or len(names) > 1:
            fold = folds(len(losses), FOLDS, 0, "stack")
            predicted, spread = self._out_of_fold(features, losses, fold)
            weights = stack_weights(predicted, losses)
            if calibrate:
                mean, own = _combine(predicted, spread, weights_by_fold(predicted, losses, fold)[fold])
                self.calibration = Calibration.of(losses - mean, own)
        self.weights = {name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}
        self.models = {name: self.candidates[name]().fit(features, losses) for name in self.weights}
        return self

    def predict(self, features: Floats) -> Floats:
        """(k, f) -> (k,)"""
        if not self.models:
            raise ValueError("this regressor was asked to predict before it was fitted")
        parts = [weight * self.models[name].predict(features) for name, weight in self.weights.items()]
        return np.asarray(np.sum(parts, axis=0))

    def predict_std(self, features: Floats) -> Floats:
        """(k, f) -> (k,): standard deviation of a new proxy's loss about the prediction, its noise included."""
        return np.maximum(self._calibrated().std(self._own_spread(features)[1]), self.least)

    def predict_interval(self, features: Floats, level: float = 0.9) -> tuple[Floats, Floats]:
        """(low, high), each (k,): a new proxy's loss lies between them with probability `level`."""
        mean, own = self._own_spread(features)
        half = np.maximum(self._calibrated().half_width(own, level), self.least * NormalDist().inv_cdf(0.5 + level / 2))
        return mean - half, mean + half

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return bool(self.models)

    def _own_spread(self, features: Floats) -> tuple[Floats, Floats]:
        if not self.models:
            raise ValueError("this regressor was asked to predict before it was fitted")
        fitted = [self.models[name] for name in self.weights]
        predicted = np.stack([model.predict(features) for model in fitted], axis=1)
        spread = np.stack([model.predict_std(features) for model in fitted], axis=1)
        return _combine(predicted, spread, np.array(list(self.weights.values())))

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise ValueError("this regressor was fitted without calibration and knows no uncertainty")
        return self.calibration

    def _out_of_fold(self, features: Floats, losses: Floats, fold: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """(n, n_candidates) predictions and spreads of rows that the predicting model was not fitted on."""
        shape = (len(losses), len(self.candidates))
        predicted, spread = np.empty(shape), np.empty(shape)
        for index in np.unique(fold):
            out = fold == index
            for column, make in enumerate(self.candidates.values()):
                model = make().fit(features[~out], losses[~out])
                predicted[out, column] = model.predict(features[out])
                spread[out, column] = model.predict_std(features[out])
        return predicted, spread


def stack_weights(predicted: Floats, losses: Floats) -> Floats:
    """(n_candidates,) at least 0, summing to 1: the average of smallest squared error among the candidates that are
    nearly as good as the best. predicted: (n, n_candidates)."""
    from scipy.optimize import nnls

    errors = predicted - losses[:, None]
    rms = np.sqrt(np.mean(errors**2, axis=0))
    near = np.flatnonzero(rms <= _WORST_ERROR * rms.min())
    found = np.zeros(predicted.shape[1])
    if near.size == 1:
        found[near] = 1.0
        return found
    count, error = near.size, errors[:, near]
    scale = float(rms.min()) or 1.0
    # sum w = 1 as one heavy row: minimise |E w|² + heavy² (sum w - 1)², E the candidates' errors
    heavy = 1e3 * np.sqrt(len(losses))
    rows = np.vstack([error / scale, np.full((1, count), heavy)])
    weights = nnls(rows, np.append(np.zeros(len(losses)), heavy))[0]
    weights = weights / weights.sum()
    weights[weights < _LEAST_WEIGHT] = 0.0
    found[near] = weights / weights.sum()
    return found


def weights_by_fold(predicted: Floats, losses: Floats, fold: NDArray[np.int64]) -> Floats:
    """(n_folds, n_candidates): for every fold the weights that the rows outside of it ask for."""
    return np.stack([stack_weights(predicted[fold != index], losses[fold != index]) for index in np.unique(fold)])


def _combine(predicted: Floats, spread: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean (k,) and sd (k,) of a mixture of the candidates: their own variances and their disagreement. weights:
    (n_candidates,) or one row each."""
    mean = (predicted * weights).sum(axis=1)
    return mean, np.sqrt(np.maximum(((spread**2 + (predicted - mean[:, None]) ** 2) * weights).sum(axis=1), 0.0))
