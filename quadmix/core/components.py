"""Principal components of correlated scores (ODiS, arXiv 2510.18909; algorithms.md, section 4).

Eigenvectors come from cyclic Jacobi rotations: additions, products, quotients and square roots in a fixed order. The
last bits of a LAPACK differ between processors, and what is selected must not. Equal eigenvalues leave a basis open: it
is built from the axes nearest to their space. Every eigenvector leaves its sign open: the loadings of the quality
dimensions have a positive sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.core.cross_moments import CrossMoments

Floats = NDArray[np.float64]

# eigenvalues of a correlation matrix sum to D: below this they are rounding, nearer than this they are equal
TOLERANCE = 1e-9
_SWEEPS = 60


@dataclass(frozen=True)
class Projection:
    """Whitened components of documents: sum over d of (x_d - mean_d) * weights[k, d]. mean: (D,), weights: (K, D)."""

    mean: Floats
    weights: Floats

    def __len__(self) -> int:
        return len(self.weights)

    def apply(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, K) float32 of (n, D) scores: mean 0 and deviation 1 over the documents that were fitted on.

        Added in the order of the dimensions, in float64, then rounded: this sequence is part of the manifest's form.
        """
        found = np.empty((len(scores), len(self)), dtype=np.float32, order="F")
        apart = [scores[:, d].astype(np.float64) - self.mean[d] for d in range(len(self.mean))]
        for k, weights in enumerate(self.weights):
            total = np.zeros(len(scores))
            for column, weight in zip(apart, weights, strict=True):
                total += column * weight
            found[:, k] = total
        return found


@dataclass(frozen=True)
class Components:
    """The correlation matrix taken apart. mean, deviation: (D,) of the scores; correlation: (D, D); eigenvalues: (D,)
    descending; vectors: (D, D), one a row, of length 1; kept: K."""

    mean: Floats
    deviation: Floats
    correlation: Floats
    eigenvalues: Floats
    vectors: Floats
    kept: int

    @property
    def explained(self) -> Floats:
        """(D,) share of the variance of each component."""
        return self.eigenvalues / float(len(self.eigenvalues))

    @property
    def loadings(self) -> Floats:
        """(D, D): correlation of each component (row) with each dimension."""
        return self.vectors * np.sqrt(self.eigenvalues)[:, None]

    @property
    def projection(self) -> Projection:
        """The first K components, whitened."""
        weights = self.vectors[: self.kept] / np.sqrt(self.eigenvalues[: self.kept])[:, None]
        return Projection(self.mean, weights / self.deviation)


def principal_components(
    moments: CrossMoments,
    names: Sequence[str],
    quality: Sequence[bool],
    explained_variance: float = 0.8,
    most: int = 4,
) -> Components:
    """Fit. names: of the D columns; quality: which of them decide signs; K is the first number of components that
    explain `explained_variance`, at most `most` and at most the rank.

    Raises ValueError for columns that never vary and for no more documents than columns. Collinear columns are fine:
    they lower the rank.
    """
    size = len(names)
    if moments.n <= size:
        raise ValueError(f"{moments.n} documents for {size} dimensions, wanted more documents than dimensions")
    constant = [name for name, fixed in zip(names, moments.constant(), strict=True) if fixed]
    if constant:
        raise ValueError(
            f"{', '.join(constant)}: the same score on all {moments.n:,} documents, so it has no correlations; take "
            "the dimension out"
        )
    correlation = moments.correlation()
    values, vectors = eigen(correlation)
    vectors = np.stack([vector * _sign(vector, np.asarray(quality)) for vector in vectors])
    cumulative = np.cumsum(values) / float(size)
    enough = int(np.searchsorted(cumulative, explained_variance - TOLERANCE)) + 1
    rank = int((values > TOLERANCE * size).sum())
    return Components(moments.means(), moments.deviations(), correlation, values, vectors, min(enough, most, rank))


def eigen(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues (D,) >= 0, descending, and vectors (D, D), one a row. matrix: symmetric, positive semidefinite."""
    size = len(matrix)
    rest, basis = matrix.copy(), np.eye(size)
    scale = float(np.abs(matrix).max())
    for _ in range(_SWEEPS):
        if size < 2 or float(np.abs(rest - np.diag(np.diag(rest))).max()) <= 1e-16 * scale:
            break
        for i in range(size - 1):
            for j in range(i + 1, size):
                _rotate(rest, basis, i, j)
    values = np.maximum(np.diag(rest), 0.0)
    order = np.argsort(-values, kind="stable")
    values, vectors = values[order], basis[order]
    groups = np.flatnonzero(-np.diff(values) > TOLERANCE * size) + 1
    return values, np.concatenate([_canonical(group) for group in np.split(vectors, groups)])


def _rotate(matrix: Floats, basis: Floats, i: int, j: int) -> None:
    """One Jacobi rotation in place: afterwards matrix[i, j] is 0. basis: rows are the vectors so far."""
    if matrix[i, j] == 0.0:
        return
    ratio = float((matrix[j, j] - matrix[i, i]) / (2.0 * matrix[i, j]))
    tangent = math.copysign(1.0, ratio) / (abs(ratio) + math.sqrt(ratio * ratio + 1.0))
    cosine = 1.0 / math.sqrt(tangent * tangent + 1.0)
    sine = tangent * cosine
    for target in (matrix, matrix.T, basis):
        first, second = target[i].copy(), target[j].copy()
        target[i], target[j] = cosine * first - sine * second, sine * first + cosine * second
    matrix[i, j] = matrix[j, i] = 0.0


def _canonical(vectors: Floats) -> Floats:
    """A basis of the space of (m, D) orthonormal rows that depends on the space alone."""
    if len(vectors) == 1:
        return vectors
    projector = np.zeros((vectors.shape[1],) * 2)
    for vector in vectors:
        projector += vector[:, None] * vector
    found = []
    for _ in vectors:
        near = np.diag(projector)
        axis = int(np.flatnonzero(near >= near.max() - TOLERANCE)[0])
        vector = projector[axis] / math.sqrt(near[axis])
        found.append(vector)
        projector = projector - vector[:, None] * vector
    return np.stack(found)


def _sign(vector: Floats, quality: NDArray[np.bool_]) -> float:
    """1 or -1: with it the quality dimensions sum to more than 0, or, where they cancel, the first largest entry is."""
    total = math.fsum(vector[quality])
    if abs(total) <= TOLERANCE:
        size = np.abs(vector)
        total = float(vector[np.flatnonzero(size >= size.max() - TOLERANCE)[0]])
    return 1.0 if total > 0 else -1.0
