"""Mergeable token histograms: the only thing about scores, qualities and keys that leaves a worker.

A histogram maps integer bins to (documents, tokens), both int64, kept sparse and sorted by bin. Merging adds, so
it is exact, associative and commutative, and no partitioning can change it. Float scores become bins through
`order_key`, which preserves their order; bins that are too heavy are split exactly in a second pass
(`quadmix.core.normalise`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# dense counting is used up to this many bins; above it, sorting is cheaper than touching them all
_DENSE_BINS = 1 << 21


@dataclass(frozen=True)
class TokenHistogram:
    """bins (k,) int64 ascending and unique; docs (k,) int64 > 0; tokens (k,) int64."""

    bins: NDArray[np.int64]
    docs: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @staticmethod
    def empty() -> TokenHistogram:
        zero = np.zeros(0, dtype=np.int64)
        return TokenHistogram(zero, zero, zero)

    @staticmethod
    def of(bins: NDArray[np.integer], tokens: NDArray[np.int64]) -> TokenHistogram:
        """Count documents: bins (n,) integers >= 0, tokens (n,) int64 >= 0 with a sum below 2**53."""
        if bins.size == 0:
            return TokenHistogram.empty()
        top = int(bins.max()) + 1
        if top <= max(_DENSE_BINS, 4 * bins.size):
            docs = np.bincount(bins, minlength=top)
            # float64 adds integers exactly up to 2**53, far above the tokens of one unit
            sums = np.bincount(bins, weights=tokens, minlength=top)
            used = np.flatnonzero(docs)
            return TokenHistogram(used.astype(np.int64), docs[used].astype(np.int64), sums[used].astype(np.int64))
        return _group(bins.astype(np.int64), np.ones(bins.size, dtype=np.int64), tokens.astype(np.int64))

    def merge(self, other: TokenHistogram) -> TokenHistogram:
        """The histogram of both sets of documents."""
        if not other.bins.size:
            return self
        if not self.bins.size:
            return other
        return _group(
            np.concatenate([self.bins, other.bins]),
            np.concatenate([self.docs, other.docs]),
            np.concatenate([self.tokens, other.tokens]),
        )

    @property
    def total_tokens(self) -> int:
        return int(self.tokens.sum())

    @property
    def total_docs(self) -> int:
        return int(self.docs.sum())


def order_key(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """(n,) uint32 that order as the float32 scores do; -0.0 equals 0.0. Scores must be finite."""
    bits = (scores.astype(np.float32, copy=False) + np.float32(0.0)).view(np.uint32)
    # a set sign bit turns to all-ones and flips every bit; a clear one flips the sign bit only
    mask = (bits.view(np.int32) >> np.int32(31)).view(np.uint32) | np.uint32(0x80000000)
    return bits ^ mask


def key_score(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The scores whose `order_key` is given: the inverse."""
    keys = keys.astype(np.uint32, copy=False)
    mask = np.where(keys & np.uint32(0x80000000), np.uint32(0x80000000), np.uint32(0xFFFFFFFF)).astype(np.uint32)
    return (keys ^ mask).view(np.float32)


def _group(bins: NDArray[np.int64], docs: NDArray[np.int64], tokens: NDArray[np.int64]) -> TokenHistogram:
    order = np.argsort(bins, kind="stable")
    bins = bins[order]
    starts = np.flatnonzero(np.concatenate([[True], bins[1:] != bins[:-1]]))
    return TokenHistogram(bins[starts], np.add.reduceat(docs[order], starts), np.add.reduceat(tokens[order], starts))
