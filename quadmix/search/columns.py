"""What the columns of a feature matrix mean to a smooth model: shares on a log scale, every column standardised.

Losses follow the logarithm of a share far better than the share itself. A share below 1e-3 is all but absent from a
proxy's data, so the logarithm is of share + 1e-3. Shares are known by name (`share:web`, see FeatureSet.names).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARE = "share:"
REPEATS = "repeats:"
COUNTED = "counted:"
SMALLEST_SHARE = 1e-3


def share_mask(columns: Sequence[str]) -> NDArray[np.bool_]:
    """(f,) which columns are token shares of domains."""
    return np.array([name.startswith(SHARE) for name in columns], dtype=bool)


def without_qualities(columns: Sequence[str]) -> bool:
    """Whether the features are shares and what follows from them, repeats, alone."""
    return all(name.startswith((SHARE, REPEATS)) for name in columns)


def by_rows(values: Floats) -> Floats:
    """The same values laid out by rows: the order of a product's additions depends on how its arrays lie in memory."""
    return np.ascontiguousarray(values, dtype=np.float64)


def check_columns(features: Floats, columns: Sequence[str]) -> None:
    """Raises ValueError where the names are not one a column."""
    if features.ndim != 2 or features.shape[1] != len(columns):
        raise ValueError(f"found features of shape {features.shape}, wanted {len(columns)} named columns: {columns}")


@dataclass(frozen=True)
class Scaling:
    """Learned from the training rows. shares: (f,) bool; centre, scale: (f,), after the logarithm."""

    shares: NDArray[np.bool_]
    centre: Floats
    scale: Floats

    @staticmethod
    def of(features: Floats, columns: Sequence[str]) -> Scaling:
        """features: (n, f). A column that never varies becomes 0."""
        check_columns(features, columns)
        shares = share_mask(columns)
        logged = _logged(features, shares)
        spread = logged.std(axis=0)
        centre = logged.mean(axis=0)
        varies = spread > 1e-12 * np.maximum(1.0, np.abs(centre))
        # a huge scale sends a constant column to 0, also where a candidate leaves the constant: nothing is known there
        return Scaling(shares, centre, np.where(varies, spread, np.inf))

    def __call__(self, features: Floats) -> Floats:
        """(k, f) -> (k, f)"""
        return np.asarray((_logged(features, self.shares) - self.centre) / self.scale)


def _logged(features: Floats, shares: NDArray[np.bool_]) -> Floats:
    logged = np.array(features, dtype=np.float64)
    logged[:, shares] = np.log(logged[:, shares] + SMALLEST_SHARE)
    return logged
