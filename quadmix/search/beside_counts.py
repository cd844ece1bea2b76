"""A model of what a counting proxy leaves over: loss = slope x counted loss + rest, the rest by any regressor.

The autoregressive form of co-kriging (Kennedy and O'Hagan, Biometrika 87, 2000): a cheap fidelity that ranks well takes
most of the variance, and what is left is smoother and smaller. The slope is that of least squares, shrunk by how sure
it is (positive part of 1 - 1/F, as in James and Stein's estimator) and at least 0: counts that rank mixtures no better
than chance are left alone. It is at most 1 as well: a slope above 1 says that counts understate what mixtures differ
by, and carrying that beyond the trials promises losses that no proxy reaches (docs/decisions.md). It is fitted on
training rows like everything else, so held-out scores stay honest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quadmix.search.columns import COUNTED, by_rows
from quadmix.search.estimator import Estimator
from quadmix.search.stacking import Model

Floats = NDArray[np.float64]


def split_columns(columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The features' own columns, then those of counted losses, which stand at their end."""
    counted = tuple(name for name in columns if name.startswith(COUNTED))
    return tuple(columns[: len(columns) - len(counted)]), counted


@dataclass
class BesideCounts(Estimator):
    """make: an unfitted model of the first `own` columns; counted: the column of the target's counted loss."""

    make: Callable[[], Model]
    own: int
    counted: int
    slope: float = field(default=0.0, init=False)
    rest: Model | None = field(default=None, init=False)

    def fit(self, features: Floats, losses: Floats) -> BesideCounts:
        told = features[:, self.counted]
        self.slope = slope_of(told, losses)
        self.rest = self.make().fit(by_rows(features[:, : self.own]), by_rows(losses - self.slope * told))
        return self

    def predict(self, features: Floats) -> Floats:
        rest = self._fitted().predict(by_rows(features[:, : self.own]))
        return np.asarray(rest + self.slope * features[:, self.counted])

    def predict_std(self, features: Floats) -> Floats:
        return self._fitted().predict_std(by_rows(features[:, : self.own]))

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self.rest is not None

    def _fitted(self) -> Model:
        if self.rest is None:
            raise ValueError("this regressor was asked to predict before it was fitted")
        return self.rest


def slope_of(told: Floats, losses: Floats) -> float:
    """Nats of loss a nat of counted loss, 0 to 1. told, losses: (n,); 0 below three rows or where either is
    constant."""
    rows, spread, centred = len(told), told - told.mean(), losses - losses.mean()
    within, across, total = float(spread @ spread), float(spread @ centred), float(centred @ centred)
    if rows < 3 or within <= 0 or total <= 0 or across <= 0:
        return 0.0
    explained = across**2 / within
    left = max(total - explained, 0.0) / (rows - 2)
    return min(across / within * max(1.0 - left / explained, 0.0), 1.0)
