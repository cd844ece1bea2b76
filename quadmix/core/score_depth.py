"""How deep in the pool a score lies: the share of the pool's tokens that score at least as well, 0 for the best.

The pool's score classes (`core.normalise`) give the share exactly at every class; within a class of several scores it
grows in proportion to the order key, so a better score is never deeper. Equal scores that many documents have (ratings,
say) are as deep as their draws: otherwise all of them would come as late as the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import ScoreLookup, score_classes
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT

_SPAN = 1 << COARSE_SHIFT  # order keys of a class of several scores


@dataclass(frozen=True)
class ScoreDepth:
    """Of k classes, the worst first. single: (k,) bool, it is one score (otherwise a whole coarse bin); reaching:
    (k + 1,) int64 tokens of the pool from its first score on, and 0."""

    lookup: ScoreLookup
    single: NDArray[np.bool_]
    reaching: NDArray[np.int64]

    @staticmethod
    def of(sketch: TokenHistogram, fine: FineHistogram) -> ScoreDepth:
        """sketch: coarse histogram of the whole pool; fine: exact one of its heavy bins (`core.normalise`)."""
        classes = score_classes(sketch, fine)
        lookup = ScoreLookup.of(classes.keys, np.arange(classes.keys.size, dtype=np.int32))
        reaching = np.zeros(classes.keys.size + 1, dtype=np.int64)
        np.cumsum(classes.tokens[::-1], out=reaching[-2::-1])
        return ScoreDepth(lookup, classes.single, reaching)

    def depth(self, scores: NDArray[np.float32], u: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) in (0, 1]; of scores of the pool. u: (n,) the documents' draws; the smaller, the less deep."""
        at = self.lookup.find(scores)
        part = np.where(self.single[at], 1.0 - u, (order_key(scores) & np.uint32(_SPAN - 1)) / _SPAN)
        tokens = self.reaching[at] - self.reaching[at + 1]
        found: NDArray[np.float64] = (self.reaching[at] - tokens.astype(np.float64) * part) / float(self.reaching[0])
        return found
