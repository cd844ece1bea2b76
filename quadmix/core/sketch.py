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

# counting is used where there are at most this many bins a row; beyond, sorting is cheaper than touching them all
_DENSE = 8
# float64, in which bincount adds weights, holds all integers up to here
_EXACT = 1 << 53


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
        """Count documents: bins (n,) integers >= 0 below 2**63, tokens (n,) int64 >= 0 with a sum
        below 2**53, far above the tokens of one unit."""
        if bins.size == 0:
            return TokenHistogram.empty()
        low, high = int(bins.min()), int(bins.max())
        if high - low < _DENSE * bins.size:
            return _count(bins.astype(np.int64) - low, None, tokens, low)
        if high >> 32 == 0 and int(tokens.max()) >> 32 == 0:
            return _sort_packed(bins, tokens)
        return _sort(bins.astype(np.int64), np.ones(bins.size, dtype=np.int64), tokens.astype(np.int64))

    def merge(self, other: TokenHistogram) -> TokenHistogram:
        """The histogram of both sets of documents."""
        if not other.bins.size:
            return self
        if not self.bins.size:
            return other
        bins = np.concatenate([self.bins, other.bins])
        docs = np.concatenate([self.docs, other.docs])
        tokens = np.concatenate([self.tokens, other.tokens])
        low = int(min(self.bins[0], other.bins[0]))
        span = int(max(self.bins[-1], other.bins[-1])) - low
        if span < _DENSE * bins.size and max(int(docs.sum()), int(tokens.sum())) < _EXACT:
            return _count(bins - low, docs, tokens, low)
        return _sort(bins, docs, tokens)

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


def _count(
    places: NDArray[np.int64], docs: NDArray[np.int64] | None, tokens: NDArray[np.int64], low: int
) -> TokenHistogram:
    """Histogram of rows in bins low + places; docs None: one document a row."""
    many, sums = np.bincount(places, weights=docs), np.bincount(places, weights=tokens)
    used = np.flatnonzero(many > 0)
    return TokenHistogram(used + low, many[used].astype(np.int64), sums[used].astype(np.int64))


def _sort_packed(bins: NDArray[np.integer], tokens: NDArray[np.int64]) -> TokenHistogram:
    """Both halves of one 64-bit word: sorting values is several times as fast as sorting places."""
    packed = bins.astype(np.uint64) << np.uint64(32) | tokens.astype(np.uint64)
    packed.sort()
    ordered = (packed >> np.uint64(32)).astype(np.int64)
    starts = _starts(ordered)
    sums = np.add.reduceat((packed & np.uint64(0xFFFFFFFF)).astype(np.int64), starts)
    return TokenHistogram(ordered[starts], np.diff(starts, append=ordered.size), sums)


def _sort(bins: NDArray[np.int64], docs: NDArray[np.int64], tokens: NDArray[np.int64]) -> TokenHistogram:
    order = np.argsort(bins, kind="stable")
    bins = bins[order]
    starts = _starts(bins)
    return TokenHistogram(bins[starts], np.add.reduceat(docs[order], starts), np.add.reduceat(tokens[order], starts))


def _starts(ordered: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
