"""The arms of Quad's bandit: clusters of documents, in the order of their names.

What decides never depends on the order in which clusters are given: arms are sorted by name, ties go to the first
name. Distances are summed one coordinate after the other, by additions and multiplications alone, so who is whose
neighbour does not depend on a matrix library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import InputError

NEIGHBOURS = 8  # as many as tell a mean about three times as well as one does
_BLOCK = 512  # arms whose distances to all others are held at once


@dataclass(frozen=True)
class Arms:
    """K clusters, sorted by name. Build with `Arms.of`.

    codes: (K,) int32, the cluster's value in the annotations' column; documents, tokens: (K,) int64 of the whole
    cluster; pullable: (K,) int64, how many of its documents can be scored, the first ones in hash order; neighbours:
    (K, k) int32 arms by distance of centroids, the nearest first; k = 0 without centroids; centroids: (K, d) or None.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int32]
    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    pullable: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    centroids: NDArray[np.float64] | None

    @staticmethod
    def of(
        names: Sequence[str],
        codes: NDArray[np.int32],
        documents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        pullable: NDArray[np.int64],
        centroids: NDArray[np.floating] | None = None,
        neighbours: int = NEIGHBOURS,
    ) -> Arms:
        """Arms from columns in any order; centroids: (K, d) finite. InputError naming the cluster that cannot be."""
        order = np.array(sorted(range(len(names)), key=lambda index: names[index]), dtype=np.int64)
        ordered = tuple(names[index] for index in order)
        code = np.asarray(codes)[order].astype(np.int32)
        docs, held, stored = (np.asarray(values)[order].astype(np.int64) for values in (documents, tokens, pullable))
        points = None if centroids is None else np.asarray(centroids, dtype=np.float64)[order]
        _check(ordered, code, docs, held, stored, points)
        near = np.zeros((len(ordered), 0), dtype=np.int32) if points is None else nearest(points, neighbours)
        return Arms(ordered, code, docs, held, stored, near, points)

    def __len__(self) -> int:
        return len(self.names)

    def covering_order(self) -> NDArray[np.int64]:
        """(K,) arms so that the first few stand for all: the largest first, then each time the one farthest from
        those before it; without centroids by size."""
        if self.centroids is None:
            return np.argsort(-self.tokens, kind="stable")
        order = np.zeros(len(self), dtype=np.int64)
        distance = np.full(len(self), np.inf)
        chosen = int(self.tokens.argmax())
        for place in range(len(self)):
            order[place] = chosen
            distance = np.minimum(distance, _squared_distances(self.centroids[chosen : chosen + 1], self.centroids)[0])
            distance[chosen] = -1.0
            chosen = int(distance.argmax())
        return order


def nearest(points: NDArray[np.float64], count: int) -> NDArray[np.int32]:
    """(K, min(count, K - 1)) the other points by distance, the nearest first, ties to the lower index."""
    size = points.shape[0]
    found = np.zeros((size, min(count, max(size - 1, 0))), dtype=np.int32)
    for start in range(0, size, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, size))
        distance = _squared_distances(points[block], points)
        distance[np.arange(block.size), block] = np.inf
        found[block] = np.argsort(distance, axis=1, kind="stable")[:, : found.shape[1]]
    return found


def _squared_distances(some: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros((some.shape[0], points.shape[0]))
    for axis in range(points.shape[1]):
        total += (some[:, axis, None] - points[None, :, axis]) ** 2
    return total


def _check(
    names: tuple[str, ...],
    codes: NDArray[np.int32],
    documents: NDArray[np.int64],
    tokens: NDArray[np.int64],
    pullable: NDArray[np.int64],
    centroids: NDArray[np.float64] | None,
) -> None:
    if not names or len(set(names)) < len(names) or np.unique(codes).size < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(
            f"quad: found {len(names)} clusters (names used twice: {twice}; {np.unique(codes).size} codes), wanted at "
            "least one, each with a name and a code of its own; look at the cluster column"
        )
    bad = (documents < 0) | (tokens < documents) | (pullable < 0) | (pullable > documents)
    if centroids is not None:
        bad |= ~np.isfinite(centroids).all(axis=1)
    for arm in np.flatnonzero(bad)[:1]:
        raise InputError(
            f"quad: cluster {names[arm]!r} has {documents[arm]:,} documents, {tokens[arm]:,} tokens and "
            f"{pullable[arm]:,} documents to score; wanted at least a token a document, no more documents to score "
            "than there are, and a finite centroid. Annotate again"
        )
