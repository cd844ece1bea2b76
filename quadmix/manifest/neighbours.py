"""The copies around each stratum's cut: enough to tell whether the prefix taken is the one nearest to its quota."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.manifest.recompute import Floats, Ints


@dataclass(frozen=True)
class NearCopies:
    """Copies on one side of a cut, ascending by (key, hash); complete: there are no others on that side."""

    key: Floats
    tokens: Ints
    complete: bool


class NearestCopies:
    """The copies nearest to each stratum's cut on one side of it, at most `kept` a stratum."""

    def __init__(self, kept: int, side: str) -> None:
        self.kept, self.below = kept, side == "below"
        self.stratum, self.key = np.zeros(0, np.int64), np.zeros(0)
        self.hash, self.tokens = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self.dropped: set[int] = set()

    def add(self, stratum: Ints, key: Floats, hashes: NDArray[np.uint64], tokens: Ints) -> None:
        stratum, key = np.concatenate([self.stratum, stratum]), np.concatenate([self.key, key])
        hashes, tokens = np.concatenate([self.hash, hashes]), np.concatenate([self.tokens, tokens])
        order = np.lexsort((hashes, key, stratum))
        ordered = stratum[order]
        first = np.searchsorted(ordered, ordered, side="left")
        last = np.searchsorted(ordered, ordered, side="right")
        place = np.arange(ordered.size)
        rank = last - 1 - place if self.below else place - first
        stay = rank < self.kept
        self.dropped.update(np.unique(ordered[~stay]).tolist())
        order = order[stay]
        self.stratum, self.key, self.hash, self.tokens = stratum[order], key[order], hashes[order], tokens[order]

    def of(self, stratum: int) -> NearCopies:
        first, last = np.searchsorted(self.stratum, [stratum, stratum + 1])
        return NearCopies(self.key[first:last], self.tokens[first:last], stratum not in self.dropped)
