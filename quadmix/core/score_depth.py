"""How deep in the pool a score lies: the share of the pool's tokens that score at least as well, 0 for the best.

The pool's score classes (`core.normalise`) give the share exactly at every class; within a class of several scores it
grows in proportion to the order key, so a better score is never deeper. Equal scores that many documents have (ratings,
say) are as deep as their draws: otherwise all of them would come as late as the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.core.normalise import ScoreLookup, ScoreMap, fit_score_map, heavy_bins
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT


@dataclass(frozen=True)
class ScoreDepth:
    """Of k classes, the worst first. keys: (k,) int64 order key at which each begins; span: (k,) order keys that it
    spans; tokens: (k,) in it; reaching: (k,) tokens from its first score on."""

    lookup: ScoreLookup
    keys: NDArray[np.int64]
    span: NDArray[np.int64]
    tokens: NDArray[np.int64]
    reaching: NDArray[np.int64]

    @staticmethod
    def of(sketch: TokenHistogram, fine: TokenHistogram) -> ScoreDepth:
        """sketch: coarse histogram of the whole pool; fine: exact one of its heavy bins (`core.normalise`)."""
        classes = fit_score_map("depth", sketch, fine)
        coarse = ~np.isin(sketch.bins, heavy_bins(sketch))
        keys = np.concatenate([sketch.bins[coarse] << COARSE_SHIFT, fine.bins])
        span = np.concatenate([np.full(int(coarse.sum()), 1 << COARSE_SHIFT), np.ones(fine.bins.size, dtype=np.int64)])
        tokens = np.concatenate([sketch.tokens[coarse], fine.tokens])
        order = np.argsort(keys, kind="stable")
        keys, span, tokens = keys[order], span[order], tokens[order]
        place = np.arange(keys.size, dtype=np.int64)
        lookup = ScoreMap("depth", classes.keys, classes.normalised, place, classes.resolution).lookup()
        return ScoreDepth(lookup, keys, span, tokens, np.cumsum(tokens[::-1])[::-1])

    def depth(self, scores: NDArray[np.float32], u: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) in (0, 1]; of scores of the pool. u: (n,) the documents' draws; the smaller, the less deep."""
        at = self.lookup.sigma(scores)
        offset = np.clip(order_key(scores).astype(np.int64) - self.keys[at], 0, self.span[at] - 1)
        part = np.where(self.span[at] == 1, 1.0 - u, offset / self.span[at])
        passed = self.tokens[at].astype(np.float64) * part
        found: NDArray[np.float64] = (self.reaching[at] - passed) / float(self.reaching[0])
        return found
