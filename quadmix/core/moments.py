"""Count, mean and sum of squared deviations: what is kept of any number of measurements.

Parts merge by the formula of Chan, Golub and LeVeque (1979). Sums inside a part are correctly rounded, so a part has
the same bits on every machine; parts are merged in a fixed order by whoever holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """n measurements, their mean, and m2 = the sum of (value - mean)**2. mean is 0 where n is."""

    n: int
    mean: float
    m2: float

    @staticmethod
    def of(values: NDArray[np.float64]) -> Moments:
        """values: (n,) finite, below 1e150 in size (their squares are summed)."""
        if not values.size:
            return Moments(0, 0.0, 0.0)
        mean = math.fsum(values) / values.size
        return Moments(int(values.size), mean, math.fsum((values - mean) ** 2))

    def merge(self, later: Moments) -> Moments:
        """The moments of both together."""
        if not self.n or not later.n:
            return later if not self.n else self
        n = self.n + later.n
        apart = later.mean - self.mean
        mean = self.mean + apart * (later.n / n)
        return Moments(n, mean, self.m2 + later.m2 + apart * apart * (self.n * (later.n / n)))
