"""Kernel density of points on a sphere from counts of hash collisions: RACE sketches (arXiv 1912.02283).

Each row of a sketch cuts space by `bits` random planes through the origin. Two points at angle t lie on the same side
of all of them with probability (1 - t/pi)^bits, which is the kernel; so the number of points of a set that share a
query's cell, averaged over the rows, is an unbiased estimate of the set's kernel sum at the query. A sketch is integer
counts alone: those of two parts add up to that of the whole.

Signs are exact: points and planes are rounded to integers whose products and sums float64 holds, so a matrix product
may add them in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POINT_UNITS = 2.0**14  # per unit of length
PLANE_UNITS = 2.0**10  # per standard deviation
_PLANE_LIMIT = 2**13
_BLOCK = 1024  # points whose products are held at once


def random_planes(dimensions: int, rows: int, bits: int, seed: int) -> NDArray[np.int16]:
    """(rows * bits, dimensions) normals of planes, in units of 1 / PLANE_UNITS."""
    draws = np.random.Generator(np.random.PCG64(seed)).standard_normal((rows * bits, dimensions))
    return np.clip(np.rint(draws * PLANE_UNITS), -_PLANE_LIMIT, _PLANE_LIMIT).astype(np.int16)


def cells(points: NDArray[np.float32], planes: NDArray[np.int16], bits: int) -> NDArray[np.int32]:
    """(n, rows) the cell, 0..2^bits - 1, of each point in each row. points: (n, d), of length 1 or zero."""
    normals = np.ascontiguousarray(planes.T.astype(np.float64))
    weights = np.int32(1) << np.arange(bits, dtype=np.int32)
    found = np.empty((len(points), len(planes) // bits), dtype=np.int32)
    for start in range(0, len(points), _BLOCK):
        block = np.rint(points[start : start + _BLOCK].astype(np.float64) * POINT_UNITS)
        beyond = (block @ normals >= 0.0).reshape(len(block), -1, bits)
        found[start : start + _BLOCK] = beyond @ weights
    return found


@dataclass(frozen=True, eq=False)
class CollisionCounts:
    """counts: (rows, 2^bits) int64, points of a set in each cell; size: points of the set."""

    counts: NDArray[np.int64]
    size: int

    @classmethod
    def of(cls, cell: NDArray[np.int32], bits: int) -> CollisionCounts:
        """cell: (n, rows)."""
        rows = cell.shape[1]
        flat = cell.astype(np.int64) + (np.arange(rows, dtype=np.int64) << bits)
        counts = np.bincount(flat.ravel(), minlength=rows << bits).reshape(rows, 1 << bits)
        return cls(counts.astype(np.int64), len(cell))

    def merge(self, other: CollisionCounts) -> CollisionCounts:
        """The counts of both sets together."""
        return CollisionCounts(self.counts + other.counts, self.size + other.size)

    def collisions(self, cell: NDArray[np.int32]) -> NDArray[np.int64]:
        """(n,) points of the set in the cells of each query, over all rows; by rows: an estimate of the kernel sum."""
        found: NDArray[np.int64] = self.counts[np.arange(cell.shape[1]), cell].sum(axis=1)
        return found
