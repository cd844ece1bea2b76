"""Documents as sets of hashed word 5-grams, for near-duplicates: case and white space do not count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quadmix.core.near_duplicates import signatures
from quadmix.scorers.text_layout import Int, Layout, layouts, mix

WORDS = 5
_NOTHING = np.uint64(0)  # the one shingle of a text without words
_FACTOR = np.uint64(0x2545F4914F6CDD1D)


def text_signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """(n, 128) MinHash signatures; a text of less than five words is one shingle."""
    rows: list[int] = []
    hashes: list[NDArray[np.uint64]] = [np.zeros(0, dtype=np.uint64)]
    counts: list[Int] = [np.zeros(0, dtype=np.int64)]
    for members, layout in layouts([text.lower() for text in texts]):
        found, count = shingles(layout)
        rows += members
        hashes.append(found)
        counts.append(count)
    first = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(np.concatenate(counts), out=first[1:])
    signed = signatures(np.concatenate(hashes), first)
    ordered = np.empty_like(signed)
    ordered[rows] = signed
    return ordered


def shingles(layout: Layout) -> tuple[NDArray[np.uint64], Int]:
    """(hashes of all shingles, document after document; (documents,) how many each has, one at least)."""
    words = layout.words
    word_hash = layout.hash(words)
    length = words.count
    count = np.maximum(length - WORDS + 1, 1)
    owner = np.repeat(np.arange(len(length)), count)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    start = words.first[:-1][owner] + place
    found = np.full(len(owner), _NOTHING)
    for step in range(WORDS):
        inside = np.flatnonzero(step < np.minimum(length, WORDS)[owner])
        found[inside] = mix(found[inside] * _FACTOR + word_hash[start[inside] + step])
    return found, count
