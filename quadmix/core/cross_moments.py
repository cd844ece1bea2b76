"""Sums and cross-products of score columns, exactly: any split of the documents and any order give the same integers.

A score is rounded once, to a multiple of 2**(E - 40), E being its column's exponent (every size in it is below 2**E); a
float32 of the column's own order of magnitude keeps all its 24 bits. That fixed-point number is two limbs of 20 bits. A
matrix product of limbs over 4,096 rows only has sums below 2**53, so float64 holds each of them exactly and it does
not matter in which order a BLAS adds. What leaves a batch is Python integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.sketch import TokenHistogram, key_score
from quadmix.core.summary import COARSE_SHIFT

LIMB = 20
_UNIT = 2 * LIMB  # a fixed-point number counts 2**(E - 40)
_BLOCK = 4096  # limbs are at most 2**20: their products sum to at most 2**52

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CrossMoments:
    """n documents of D columns. sums: D integers in units of 2**(E_d - 40); products: D x D integers, those of two
    columns in the product of their units; the upper triangle is there as well."""

    exponents: tuple[int, ...]
    n: int
    sums: tuple[int, ...]
    products: tuple[tuple[int, ...], ...]

    @staticmethod
    def empty(exponents: tuple[int, ...]) -> CrossMoments:
        zeros = (0,) * len(exponents)
        return CrossMoments(exponents, 0, zeros, (zeros,) * len(exponents))

    @staticmethod
    def of(scores: NDArray[np.float32], exponents: tuple[int, ...]) -> CrossMoments:
        """scores: (n, D) finite, |scores[:, d]| < 2**exponents[d]. Raises ValueError for one that is not
        finite or too large."""
        total = CrossMoments.empty(exponents)
        for start in range(0, len(scores), _BLOCK):
            total = total.merge(_of_block(scores[start : start + _BLOCK], exponents))
        return total

    def merge(self, other: CrossMoments) -> CrossMoments:
        """The sums over both sets of documents; the exponents must be the same."""
        if self.exponents != other.exponents:
            raise ValueError(f"moments of different exponents: {self.exponents} and {other.exponents}")
        rows = zip(self.products, other.products, strict=True)
        return CrossMoments(
            self.exponents,
            self.n + other.n,
            _added(self.sums, other.sums),
            tuple(_added(mine, theirs) for mine, theirs in rows),
        )

    def means(self) -> Floats:
        """(D,), each correctly rounded. Needs a document."""
        return np.array([math.ldexp(s / self.n, e - _UNIT) for s, e in zip(self.sums, self.exponents, strict=True)])

    def deviations(self) -> Floats:
        """(D,) standard deviations of the population (divided by n)."""
        roots = self._roots()
        return np.array([math.ldexp(r / self.n, e - _UNIT) for r, e in zip(roots, self.exponents, strict=True)])

    def correlation(self) -> Floats:
        """(D, D) symmetric, 1 on the diagonal; NaN in the rows and columns of a column that never varies."""
        roots = self._roots()
        size = len(self.sums)
        found = np.eye(size)
        for i in range(size):
            for j in range(i + 1):
                scale = roots[i] * roots[j]
                ratio = self._spread(i, j) / scale if scale else math.nan
                if i != j or not scale:
                    found[i, j] = found[j, i] = min(max(ratio, -1.0), 1.0) if scale else math.nan
        return found

    def constant(self) -> NDArray[np.bool_]:
        """(D,) whether all documents have one value."""
        return np.array([not self._spread(d, d) for d in range(len(self.sums))])

    def _spread(self, i: int, j: int) -> int:
        """n * sum((x_i - mean_i) * (x_j - mean_j)), an integer."""
        return self.n * self.products[i][j] - self.sums[i] * self.sums[j]

    def _roots(self) -> list[float]:
        return [math.sqrt(self._spread(d, d)) for d in range(len(self.sums))]


def exponent_of(sketch: TokenHistogram) -> int:
    """E for a column of which only the coarse sketch of a pool summary is known: every size is below 2**E."""
    if not sketch.bins.size:
        return 0
    ends = np.array([sketch.bins[0] << COARSE_SHIFT, ((sketch.bins[-1] + 1) << COARSE_SHIFT) - 1], dtype=np.uint32)
    largest = float(np.abs(key_score(ends).astype(np.float64)).max())
    return math.frexp(largest)[1] if largest else 0


def _of_block(scores: NDArray[np.float32], exponents: tuple[int, ...]) -> CrossMoments:
    if not np.isfinite(scores).all():
        column = int(np.flatnonzero(~np.isfinite(scores).all(axis=0))[0])
        raise ValueError(f"column {column} of the scores has a value that is not finite; annotate again")
    whole = np.ldexp(scores.astype(np.float64), LIMB - np.array(exponents))
    if whole.size and np.abs(whole).max() >= 1 << LIMB:
        column = int(np.argmax(np.abs(whole).max(axis=0)))
        raise ValueError(f"column {column} has a value of 2**{exponents[column]} or more")
    high = np.rint(whole)
    low = np.rint(np.ldexp(whole - high, LIMB))
    limbs = np.concatenate([high, low], axis=1)
    product = (limbs.T @ limbs).astype(np.int64).astype(object)
    sums = limbs.sum(axis=0).astype(np.int64).astype(object)  # integers below 2**53: exact in any order
    size = len(exponents)
    cross = product[:size, size:]
    joined = (product[:size, :size] << _UNIT) + ((cross + cross.T) << LIMB) + product[size:, size:]
    return CrossMoments(exponents, len(scores), _ints((sums[:size] << LIMB) + sums[size:]), tuple(map(_ints, joined)))


def _ints(values: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _added(mine: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(one + other for one, other in zip(mine, theirs, strict=True))
