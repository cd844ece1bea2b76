"""Texts as sparse rows of hashed word n-grams: no vocabulary to fit, ship or agree on.

Words are those of `text_layout`, in lower case; an n-gram of n neighbouring words of a document falls into the bucket
hash modulo `buckets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.scorers.text_layout import MAX_CHARS, Layout, layouts, mix

Csr = Any  # scipy.sparse.csr_matrix, which has no types


def hashed_ngrams(texts: Sequence[str], ngrams: int, buckets: int, max_chars: int = MAX_CHARS) -> Csr:
    """(n, buckets) float32 CSR: sqrt(count / all) of every 1..`ngrams`-gram bucket, so rows of length 1 (or empty).

    Columns ascend within a row, so that sums over a row do not depend on the batch it came in.
    """
    from scipy.sparse import csr_matrix, vstack

    order: list[int] = []
    parts: list[Csr] = []
    for rows, layout in layouts([text.lower() for text in texts], max_chars):
        row, bucket, count = layout_counts(layout, ngrams, buckets)
        totals = np.bincount(row, weights=count, minlength=len(rows))
        # square roots and quotients are exact to the bit everywhere, unlike logarithms
        values = np.sqrt(count / totals[row])
        first = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=len(rows)), out=first[1:])
        parts.append(csr_matrix((values.astype(np.float32), bucket, first), shape=(len(rows), buckets)))
        order += rows
    if not parts:
        return csr_matrix((0, buckets), dtype=np.float32)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return vstack(parts, format="csr")[back]


def layout_counts(
    layout: Layout, ngrams: int, buckets: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """(row, bucket, occurrences), by row and then bucket, of all n-grams of a layout."""
    words = layout.words
    word_hash = layout.hash(words)
    gram = word_hash.copy()
    position = np.arange(len(word_hash))
    behind = words.first[1:][words.document]
    shift = np.uint64(int(buckets - 1).bit_length())
    keys = []
    for n in range(1, ngrams + 1):
        if n > 1:
            position = position[position + n <= behind[position]]
            gram[position] = mix(gram[position] * np.uint64(0x2545F4914F6CDD1D) + word_hash[position + n - 1])
        keys.append((words.document[position].astype(np.uint64) << shift) | (gram[position] % np.uint64(buckets)))
    packed = np.concatenate(keys)
    packed.sort()
    starts = np.ones(len(packed), dtype=bool)
    starts[1:] = packed[1:] != packed[:-1]
    first = np.flatnonzero(starts)
    unique = packed[first]
    count = np.diff(np.append(first, len(packed)))
    mask = (np.uint64(1) << shift) - np.uint64(1)
    return (unique >> shift).astype(np.int64), (unique & mask).astype(np.int32), count
