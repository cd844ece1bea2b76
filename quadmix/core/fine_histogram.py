"""Tokens by exact score inside the coarse bins that hold too many of the pool's tokens.

Dense, 4,096 scores a bin: which bins are crowded is a property of the pool's distribution and not of its size, so a
pool of a billion documents takes the memory of one of a million. On the wire, what is empty is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.sketch import order_key
from quadmix.core.summary import COARSE_SHIFT

_FINE = 1 << COARSE_SHIFT


@dataclass(frozen=True)
class FineHistogram:
    """heavy: (h,) int64 coarse bins, ascending; seen: (h, 4096) bool, scores that documents have; tokens: (h, 4096)
    int64 of those documents."""

    heavy: NDArray[np.int64]
    seen: NDArray[np.bool_]
    tokens: NDArray[np.int64]

    @staticmethod
    def empty(heavy: NDArray[np.int64] | None = None) -> FineHistogram:
        """Of no documents. heavy: (h,) coarse bins to count in, ascending; none when None."""
        bins = np.zeros(0, dtype=np.int64) if heavy is None else heavy
        shape = bins.size, _FINE
        return FineHistogram(bins, np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.int64))

    @staticmethod
    def of(scores: NDArray[np.float32], n_tokens: NDArray[np.int64], heavy: NDArray[np.int64]) -> FineHistogram:
        """Count the documents whose coarse bin is in `heavy`. scores, n_tokens: (n,)."""
        found = FineHistogram.empty(heavy)
        found.add(scores, n_tokens)
        return found

    def add(self, scores: NDArray[np.float32], n_tokens: NDArray[np.int64]) -> None:
        """Count further documents, in place. scores, n_tokens: (n,)."""
        if not self.heavy.size:
            return
        keys = order_key(scores).astype(np.int64)
        coarse = keys >> COARSE_SHIFT
        row = np.minimum(np.searchsorted(self.heavy, coarse), self.heavy.size - 1)
        inside = self.heavy[row] == coarse
        place = row[inside] * _FINE + (keys[inside] & (_FINE - 1))
        self.seen.reshape(-1)[place] = True
        np.add.at(self.tokens.reshape(-1), place, n_tokens[inside])

    def merge(self, other: FineHistogram) -> FineHistogram:
        """The histogram of both sets of documents: this one, changed in place. ValueError unless both count in the same
        bins."""
        if not np.array_equal(self.heavy, other.heavy):
            raise ValueError("fine histograms of other bins: found two lists of crowded bins, wanted one for the pool")
        np.logical_or(self.seen, other.seen, out=self.seen)
        np.add(self.tokens, other.tokens, out=self.tokens)
        return self

    @property
    def keys(self) -> NDArray[np.uint32]:
        """(k,) order key of every score that is there, ascending."""
        first = (self.heavy << COARSE_SHIFT).astype(np.uint32)
        keys: NDArray[np.uint32] = first[:, None] | np.arange(_FINE, dtype=np.uint32)
        return keys[self.seen]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(k,) tokens of every score that is there."""
        return self.tokens[self.seen]

    def __getstate__(self) -> dict[str, Any]:
        used = np.flatnonzero(self.seen)
        if 4 * used.size > 3 * self.seen.size:  # 12 bytes a used score against 9 of every score
            return dict(vars(self))
        return {"heavy": self.heavy, "used": used.astype(np.int32), "counts": self.tokens.reshape(-1)[used]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "used" in state:
            whole = FineHistogram.empty(state["heavy"])
            whole.seen.reshape(-1)[state["used"]] = True
            whole.tokens.reshape(-1)[state["used"]] = state["counts"]
            state = vars(whole)
        vars(self).update(state)
