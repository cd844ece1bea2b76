"""Score maps: from a raw score to its normalised value and to the integer that decides.

A map is fitted once on the pool's sketch and then frozen (algorithms.md, section 1, step 1). `quantile`: the
token-weighted mid-rank, (tokens scoring lower + half of the tie) / all tokens; `zscore` and `minmax`: from the
sketch's bins. Then sigma(q) of eq. 1, rounded to a multiple of 2**-30: from there on qualities are integers, so
no processor's last bit can move a document.

A coarse bin that holds more than 1/2048 of the tokens in several documents is split by the 12 bits that the coarse
key drops, that is, exactly: `heavy_bins` names them, a second pass counts them (`fine_histogram`), `fit_score_map`
joins both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.core.portable import sigmoid
from quadmix.core.sketch import TokenHistogram, key_score, order_key
from quadmix.core.summary import COARSE_SHIFT

SIGMA_BITS = 30
HEAVY_SHARE = 2048
_FINE = 1 << COARSE_SHIFT
_COARSE = 1 << (32 - COARSE_SHIFT)

Normalisation = Literal["quantile", "zscore", "minmax"]


@dataclass(frozen=True)
class ScoreMap:
    """One criterion's frozen map.

    keys: (k,) uint32, ascending: the first order key of every class of scores; normalised: (k,) float64, the q_n of
    the class; sigma: (k,) int64, round(sigma(q_n) * 2**30). `resolution`: the largest share of the pool's tokens
    that falls into one class that is not a single score.
    """

    criterion: str
    keys: NDArray[np.uint32]
    normalised: NDArray[np.float64]
    sigma: NDArray[np.int64]
    resolution: float

    def classes(self, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        """(n,) index of every score's class. A score between two classes belongs to the lower one."""
        found = np.searchsorted(self.keys, order_key(scores), side="right") - 1
        return np.maximum(found, 0)

    def lookup(self) -> ScoreLookup:
        """A table for millions of scores."""
        return ScoreLookup.of(self)


@dataclass(frozen=True)
class ScoreLookup:
    """Scores to sigma by table: one gather a score, a second one in the coarse bins that were split."""

    first: NDArray[np.int32]  # (2**20,) sigma of the coarse bin's scores; -1 - h for the h-th split bin
    fine: NDArray[np.int32]  # (h, 4096)

    @staticmethod
    def of(score_map: ScoreMap) -> ScoreLookup:
        sigma = score_map.sigma.astype(np.int32)  # at most 2**30
        coarse = score_map.keys >> np.uint32(COARSE_SHIFT)
        # the last class that starts in or before each coarse bin; bins with classes inside are split below
        first = sigma[np.maximum(np.cumsum(np.bincount(coarse, minlength=_COARSE)) - 1, 0)]
        # a bin is split where a class starts anywhere but at the bin's first key
        inner = np.unique(coarse[(score_map.keys & np.uint32(_FINE - 1)) != 0])
        fine = np.empty((inner.size, _FINE), dtype=np.int32)
        offsets = np.arange(_FINE, dtype=np.uint32)
        for row, bin_ in enumerate(inner):
            keys = (bin_ << np.uint32(COARSE_SHIFT)) + offsets
            fine[row] = sigma[np.maximum(np.searchsorted(score_map.keys, keys, side="right") - 1, 0)]
            first[bin_] = -1 - row
        return ScoreLookup(first, fine)

    def sigma(self, scores: NDArray[np.float32]) -> NDArray[np.int32]:
        """(n,) int32 sigma of every score's class, in units of 2**-30."""
        keys = order_key(scores)
        found: NDArray[np.int32] = self.first[keys >> np.uint32(COARSE_SHIFT)]
        split = np.flatnonzero(found < 0)
        if split.size:
            found[split] = self.fine[-1 - found[split], keys[split] & np.uint32(_FINE - 1)]
        return found


def heavy_bins(sketch: TokenHistogram) -> NDArray[np.int64]:
    """Coarse bins with more than 1/2048 of the tokens in more than one document."""
    heavy = (sketch.tokens * HEAVY_SHARE > sketch.total_tokens) & (sketch.docs > 1)
    return sketch.bins[heavy]


def fine_histogram(
    scores: NDArray[np.float32], n_tokens: NDArray[np.int64], heavy: NDArray[np.int64]
) -> TokenHistogram:
    """Histogram over full order keys of the documents whose coarse bin is in `heavy`."""
    keys = order_key(scores)
    chosen = np.zeros(_COARSE, dtype=bool)
    chosen[heavy] = True
    inside = chosen[keys >> np.uint32(COARSE_SHIFT)]
    return TokenHistogram.of(keys[inside].astype(np.int64), n_tokens[inside])


def fit_score_map(
    criterion: str, sketch: TokenHistogram, fine: TokenHistogram, normalisation: Normalisation = "quantile"
) -> ScoreMap:
    """Freeze the map of one criterion. sketch: coarse, of the whole pool; fine: of its `heavy_bins`."""
    if not sketch.bins.size:
        raise ValueError(f"criterion {criterion!r} has no document to be fitted on")
    heavy = np.isin(sketch.bins, heavy_bins(sketch))
    coarse = sketch.bins[~heavy] << COARSE_SHIFT
    keys = np.concatenate([coarse, fine.bins])
    docs = np.concatenate([sketch.docs[~heavy], fine.docs])
    tokens = np.concatenate([sketch.tokens[~heavy], fine.tokens])
    # a coarse class stands for its middle score, a fine one for its only score
    middle = np.concatenate([coarse + (_FINE >> 1), fine.bins])
    exact = np.concatenate([np.zeros(coarse.size, dtype=bool), np.ones(fine.bins.size, dtype=bool)])
    order = np.argsort(keys, kind="stable")
    keys, docs, tokens, middle, exact = keys[order], docs[order], tokens[order], middle[order], exact[order]
    scores = key_score(middle.astype(np.uint32)).astype(np.float64)
    normalised = _normalise(scores, tokens, normalisation)
    sigma = np.rint(sigmoid(normalised) * float(1 << SIGMA_BITS)).astype(np.int64)
    mixed = ~exact & (docs > 1)
    total = int(tokens.sum())
    resolution = float(tokens[mixed].max()) / total if mixed.any() and total else 0.0
    return ScoreMap(criterion, keys.astype(np.uint32), normalised, sigma, resolution)


def save_score_maps(path: str, maps: tuple[ScoreMap, ...]) -> None:
    """Write an .npz without pickled objects."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for score_map in maps:
        for field in ("keys", "normalised", "sigma"):
            arrays[f"{score_map.criterion}.{field}"] = getattr(score_map, field)
        arrays[f"{score_map.criterion}.resolution"] = np.array([score_map.resolution])
    with open(path, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def load_score_maps(path: str, criteria: tuple[str, ...]) -> tuple[ScoreMap, ...]:
    """Read what `save_score_maps` wrote, in the order of `criteria`."""
    with np.load(path, allow_pickle=False) as stored:
        return tuple(_from_arrays(name, stored) for name in criteria)


def _from_arrays(name: str, stored: Mapping[str, NDArray[np.generic]]) -> ScoreMap:
    keys, normalised, sigma = (stored[f"{name}.{field}"] for field in ("keys", "normalised", "sigma"))
    return ScoreMap(
        name,
        keys.astype(np.uint32),
        normalised.astype(np.float64),
        sigma.astype(np.int64),
        float(stored[f"{name}.resolution"][0]),
    )


def _normalise(
    scores: NDArray[np.float64], tokens: NDArray[np.int64], normalisation: Normalisation
) -> NDArray[np.float64]:
    total = int(tokens.sum())
    if normalisation == "quantile":
        below = np.cumsum(tokens) - tokens
        # (2 * below + tokens) / (2 * total) from integers: one rounding, the same everywhere
        return (2 * below + tokens).astype(np.float64) / float(2 * max(total, 1))
    if normalisation == "minmax":
        low, high = scores[0], scores[-1]
        return (scores - low) / (high - low) if high > low else np.full_like(scores, 0.5)
    weights = tokens.astype(np.float64) / float(max(total, 1))
    # cumsum adds left to right, so the same bits everywhere; pairwise sums need not be
    mean = np.cumsum(scores * weights)[-1]
    variance = np.cumsum((scores - mean) ** 2 * weights)[-1]
    return (scores - mean) / np.sqrt(variance) if variance > 0 else np.zeros_like(scores)
