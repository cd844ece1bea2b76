"""Rows dealt out by hash: which fold a row is held out in, and shuffles for controls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quadmix.hashing import hash_words, purpose_key


def folds(rows: int, count: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """(rows,) fold of every row, sizes level; `count` of them, or one a row where there are fewer rows."""
    fold = np.empty(rows, dtype=np.int64)
    fold[shuffled(rows, seed, purpose)] = np.arange(rows) % min(count, rows)
    return fold


def shuffled(rows: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """A permutation of 0..rows-1 that is a function of the seed and the purpose alone."""
    return np.argsort(hash_words(np.arange(rows, dtype=np.uint64), purpose_key(seed, purpose)), kind="stable")
