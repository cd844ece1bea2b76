"""How diverse a sample of documents is: over labels (domains, clusters) and over embeddings (Vendi score, NovelSum).

Entropies are in nats; their exponential, the effective number, is how many equally large classes would be as diverse.
The q-Vendi score (Friedman and Dieng, arXiv 2210.02410; Pasarkar and Dieng, arXiv 2310.12952) is the effective number
of the eigenvalues of the sample's similarity matrix. Of a linear kernel they are those of the d x d matrix of second
moments, which adds up over parts of a sample: coordinates are rounded to a grid first, so sums are integers and parts
merge to the same bits in any order. NovelSum (arXiv 2502.17184) is computed as its authors' released code does.

Documents without words have an embedding of length 0. They are alike and like nothing else: an axis of their own.
All depend on the sample's size: compare samples of one size only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Reals = NDArray[np.float32] | NDArray[np.float64]

_GRID_BITS = 22  # of a coordinate: products have 44, so float64 holds sums of 512 of them exactly
_EXACT_ROWS = 1 << (53 - 2 * _GRID_BITS)
_MOST_ROWS = 1 << (62 - 2 * _GRID_BITS)  # int64 holds sums of so many
NEIGHBOURS = 10
DENSITY_POWER = 0.5
_REGULAR = 1e-9  # added to a mean squared distance, as in the released code
_SAME = 1e-12  # squared distance of one point to itself, at most
_BLOCK_VALUES = 1 << 22  # distances held at once


def entropy(weights: NDArray[np.number]) -> float:
    """Shannon entropy in nats of what weights (K,) >= 0 sum to 1 as; between 0 and ln K. ValueError for no weight."""
    shares = _shares(weights)
    held = shares[shares > 0]
    return max(-math.fsum(held * np.log(held)), 0.0)


def effective_number(weights: NDArray[np.number]) -> float:
    """e to the entropy: classes of equal size that would be as diverse, between 1 and K."""
    return math.exp(entropy(weights))


def kl_divergence(weights: NDArray[np.number], pool: NDArray[np.number]) -> float:
    """KL(sample || pool) in nats of two sets of weights (K,): 0 where their shares agree.

    Raises ValueError where the sample has a class that the pool has not.
    """
    shares, expected = _shares(weights), _shares(pool)
    held = shares > 0
    if (expected[held] == 0).any():
        raise ValueError("the sample has a class that the pool has not, so its divergence is infinite")
    return max(math.fsum(shares[held] * np.log(shares[held] / expected[held])), 0.0)


def unit_points(points: Reals) -> Floats:
    """(n, d + 1) float64 of length 1 from (n, d) embeddings; the last coordinate is 1 for those of length 0."""
    wide = points.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1))
    empty = length == 0
    unit = wide / np.where(empty, 1.0, length)[:, None]
    return np.concatenate([unit, empty[:, None].astype(np.float64)], axis=1)


@dataclass(frozen=True)
class SecondMoments:
    """n points and the sum of their outer products, (d + 1, d + 1) int64 in units of 2**-44."""

    n: int
    sums: NDArray[np.int64]

    @staticmethod
    def of(points: Reals) -> SecondMoments:
        """points: (n, d) embeddings of any length."""
        grid = np.rint(unit_points(points) * float(1 << _GRID_BITS))
        total = np.zeros((grid.shape[1],) * 2, dtype=np.int64)
        for start in range(0, len(grid), _EXACT_ROWS):
            block = grid[start : start + _EXACT_ROWS]
            total += (block.T @ block).astype(np.int64)
        return SecondMoments(len(points), total)

    def merge(self, other: SecondMoments) -> SecondMoments:
        """Of both sets of points. Raises ValueError where the sums could overflow."""
        if self.n + other.n > _MOST_ROWS:
            raise ValueError(f"{self.n + other.n:,} points, wanted at most {_MOST_ROWS:,}: take a sample")
        return SecondMoments(self.n + other.n, self.sums + other.sums)

    def vendi(self, order: float = 1.0) -> float:
        """The q-Vendi score of order q >= 1 (`math.inf`: 1 / the largest eigenvalue); between 1 and min(n, d + 1).

        Orders below 1 count directions that hold next to nothing, which rounding decides: ValueError, as for no point.
        """
        if not order >= 1.0:
            raise ValueError(f"order: found {order}, wanted at least 1")
        if not self.n:
            raise ValueError("no point: nothing has no diversity")
        values = np.maximum(np.linalg.eigvalsh(self.sums / float(np.trace(self.sums))), 0.0)
        if order == math.inf:
            return float(1.0 / values.max())
        if order == 1.0:
            return effective_number(values)
        return float(math.fsum(_shares(values) ** order) ** (1.0 / (1.0 - order)))


def novelsum(points: Reals, reference: Reals | None = None) -> float:
    """NovelSum of (n, d) embeddings; reference: (m, d) a sample of the space they come from, themselves if None.

    Row i averages the cosine distances of point i to all n points, itself included, the r-th nearest with weight 1 / r,
    times the point's density: (mean squared Euclidean distance, at length 1, to its 10 nearest different points of the
    reference) ** -0.5. The score is the mean over rows. Raises ValueError for less than two points and for a reference
    without two different points.
    """
    if len(points) < 2:
        raise ValueError(f"NovelSum of {len(points)} points, wanted two at least: novelty is distance to other points")
    unit = unit_points(points)
    density = _densities(unit, np.unique(unit if reference is None else unit_points(reference), axis=0))
    weight = 1.0 / np.arange(1, len(unit) + 1)
    weight /= weight.sum()
    total = 0.0
    for rows in _blocks(len(unit), len(unit)):
        distance = np.maximum(1.0 - unit[rows] @ unit.T, 0.0)
        distance.sort(axis=1)
        total += float((density[rows] * (distance @ weight)).sum())
    return total / len(unit)


def _densities(unit: Floats, reference: Floats) -> Floats:
    """(n,) of points of length 1; reference: (m, d + 1), all different."""
    if len(reference) < 2:
        raise ValueError("the reference has one point only, wanted two different ones at least: no density is known")
    most = min(NEIGHBOURS, len(reference))
    density = np.empty(len(unit))
    for rows in _blocks(len(unit), len(reference)):
        squared = np.maximum(2.0 - 2.0 * (unit[rows] @ reference.T), 0.0)
        # a point of the reference is no neighbour of itself
        squared[squared <= _SAME] = np.inf
        nearest = np.partition(squared, most - 1, axis=1)[:, :most]
        known = np.isfinite(nearest)  # all, but for a point of a reference of no more than ten
        mean = np.where(known, nearest, 0.0).sum(axis=1) / known.sum(axis=1)
        density[rows] = (mean + _REGULAR) ** -DENSITY_POWER
    return density


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, _BLOCK_VALUES // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _shares(weights: NDArray[np.number]) -> Floats:
    wide = np.asarray(weights, dtype=np.float64)
    total = math.fsum(wide)
    if not total > 0 or (wide < 0).any():
        raise ValueError("wanted weights of at least 0, one of them above: shares of nothing are not known")
    return wide / total
