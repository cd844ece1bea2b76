"""A model of what a counting proxy leaves over: loss = slope x counted loss + rest, the rest by any regressor.

The autoregressive form of co-kriging (Kennedy and O'Hagan, Biometrika 87, 2000): a cheap fidelity that ranks well takes
most of the variance, and what is left is smoother and smaller. The slope is that of least squares, at least 0.
Whether the counts help at all is asked of the trials: held out, they must be predicted better with them (`judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.search.columns import COUNTED, by_rows
from quadmix.search.folds import folds
from quadmix.search.stacking import Model

Floats = NDArray[np.float64]

FOLDS = 5
Fit = Callable[[Floats, Sequence[str], Floats], Model]


def split_columns(columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The features' own columns, then those of counted losses, which stand at their end."""
    counted = tuple(name for name in columns if name.startswith(COUNTED))
    return tuple(columns[: len(columns) - len(counted)]), counted


def told_of(columns: Sequence[str], target: str) -> list[int]:
    """Which columns tell of a target: its own counted losses; all of them for what is none (the joint objective)."""
    every = [index for index, name in enumerate(columns) if name.startswith(COUNTED)]
    return [index for index in every if columns[index] == f"{COUNTED}{target}"] or every


@dataclass
class BesideCounts:
    """make: an unfitted model of the first `own` columns; counted: columns whose mean is the counted loss."""

    make: Callable[[], Model]
    own: int
    counted: list[int]
    slope: float = 0.0
    rest: Model | None = None

    def fit(self, features: Floats, losses: Floats) -> BesideCounts:
        told = self.told(features)
        self.slope = slope_of(told, losses)
        self.rest = self.make().fit(by_rows(features[:, : self.own]), by_rows(losses - self.slope * told))
        return self

    def predict(self, features: Floats) -> Floats:
        return np.asarray(self._fitted().predict(by_rows(features[:, : self.own])) + self.slope * self.told(features))

    def predict_std(self, features: Floats) -> Floats:
        return self._fitted().predict_std(by_rows(features[:, : self.own]))

    def told(self, features: Floats) -> Floats:
        """(k,) counted losses."""
        return np.asarray(features[:, self.counted].mean(axis=1))

    def _fitted(self) -> Model:
        if self.rest is None:
            raise ValueError("this regressor was asked to predict before it was fitted")
        return self.rest


def slope_of(told: Floats, losses: Floats) -> float:
    """Nats of loss a nat of counted loss, by least squares, at least 0; 0 where the counts do not vary."""
    spread = told - told.mean()
    total = float(spread @ spread)
    return max(float(spread @ (losses - losses.mean())) / total, 0.0) if total > 0 else 0.0


@dataclass(frozen=True)
class Verdict:
    """alone, together: root mean square error of held-out losses without and with counted ones."""

    alone: float
    together: float

    @property
    def helps(self) -> bool:
        return self.together < self.alone


def judge(features: Floats, columns: Sequence[str], losses: Floats, fit: Fit, seed: int) -> Verdict:
    """Do the counted losses help to predict these trials? features: (n, f), losses: (n,); fit: a model of named
    columns."""
    own, _ = split_columns(columns)
    fold = folds(len(losses), FOLDS, seed, "counted")
    alone, together = np.empty_like(losses), np.empty_like(losses)
    for index in np.unique(fold):
        out = fold == index
        for guess, names in ((alone, own), (together, tuple(columns))):
            rows = by_rows(features[:, : len(names)])
            guess[out] = fit(rows[~out], names, losses[~out]).predict(rows[out])
    return Verdict(*(float(np.sqrt(np.mean((guess - losses) ** 2))) for guess in (alone, together)))
