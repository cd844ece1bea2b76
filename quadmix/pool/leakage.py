"""The leakage guard: no document of a target set, nor an exact duplicate of one, may be trained on.

Compared by content hash (white space ignored), because ids of targets and pool need not come from one name space.
A pool document that has a target's id and another text is only reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TargetIndex:
    """names: target sets. content: (n,) sorted content hashes; owner: (n,) index into names. ids: sorted id hashes."""

    names: tuple[str, ...]
    content: NDArray[np.uint64]
    owner: NDArray[np.int64]
    ids: NDArray[np.uint64]

    @classmethod
    def of(cls, sets: Sequence[tuple[str, NDArray[np.uint64], NDArray[np.uint64]]]) -> TargetIndex:
        """From (name, content hashes, document hashes) of every target set."""
        contents = [np.zeros(0, dtype=np.uint64), *(content for _, content, _ in sets)]
        ids = [np.zeros(0, dtype=np.uint64), *(doc_hash for _, _, doc_hash in sets)]
        owners = [np.zeros(0, dtype=np.int64)]
        owners += [np.full(len(content), index, dtype=np.int64) for index, (_, content, _) in enumerate(sets)]
        content, owner = np.concatenate(contents), np.concatenate(owners)
        order = np.lexsort((owner, content))
        return cls(tuple(name for name, _, _ in sets), content[order], owner[order], np.sort(np.concatenate(ids)))

    def leaks(self, content: NDArray[np.uint64]) -> NDArray[np.int64]:
        """(n,) index of the target set that holds the same text, -1 for none."""
        return _find(self.content, content, self.owner)

    def shares_id(self, doc_hash: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(n,) whether a target document has the same id."""
        return _find(self.ids, doc_hash, np.zeros(len(self.ids), dtype=np.int64)) >= 0


def _find(known: NDArray[np.uint64], wanted: NDArray[np.uint64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, values[place], -1)
