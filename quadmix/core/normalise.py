"""Score maps: from a raw score to its normalised value and to the integer that decides.

A map is fitted once on the pool's sketch and then frozen (algorithms.md, section 1, step 1). `quantile`: the
token-weighted mid-rank, (tokens scoring lower + half of the tie) / all tokens; `zscore` and `minmax`: from the
sketch's bins. Then sigma(q) of eq. 1, rounded to a multiple of 2**-30: from there on qualities are integers, so
no processor's last bit can move a document.

A coarse bin that holds more than 1/2048 of the tokens in several documents is split by the 12 bits that the coarse
key drops, that is, exactly: `heavy_bins` names them, a second pass counts them (`fine_histogram.FineHistogram`),
`fit_score_map` joins both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.portable import sigmoid
from quadmix.core.sketch import TokenHistogram, key_score, order_key
from quadmix.core.summary import COARSE_SHIFT

SIGMA_BITS = 30
HEAVY_SHARE = 2048
_FINE = 1 << COARSE_SHIFT
_BLOCK = 1 << 18  # classes whose logistic is computed at once
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
        return ScoreLookup.of(self.keys, self.sigma)


@dataclass(frozen=True)
class ScoreLookup:
    """Scores to what belongs to their class by table: one gather a score, a second one in the coarse bins that were
    split."""

    first: NDArray[np.int32]  # (2**20,) the value of the coarse bin's scores; -1 - h for the h-th split bin
    fine: NDArray[np.int32]  # (h, 4096)

    @staticmethod
    def of(keys: NDArray[np.uint32], values: NDArray[np.integer]) -> ScoreLookup:
        """keys: (k,) ascending, the first order key of every class; values: (k,) from 0 to 2**31 - 1."""
        narrow = values.astype(np.int32, copy=False)
        coarse = keys >> np.uint32(COARSE_SHIFT)
        # the last class that starts in or before each coarse bin; bins with classes inside are split below
        first = narrow[np.maximum(np.cumsum(np.bincount(coarse, minlength=_COARSE)) - 1, 0)]
        # a bin is split where a class starts anywhere but at the bin's first key
        inner = np.unique(coarse[(keys & np.uint32(_FINE - 1)) != 0])
        fine = np.empty((inner.size, _FINE), dtype=np.int32)
        offsets = np.arange(_FINE, dtype=np.uint32)
        for row, bin_ in enumerate(inner):
            inside = (bin_ << np.uint32(COARSE_SHIFT)) + offsets
            fine[row] = narrow[np.maximum(np.searchsorted(keys, inside, side="right") - 1, 0)]
            first[bin_] = -1 - row
        return ScoreLookup(first, fine)

    def find(self, scores: NDArray[np.float32]) -> NDArray[np.int32]:
        """(n,) int32 the value of every score's class."""
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


def fit_score_map(
    criterion: str, sketch: TokenHistogram, fine: FineHistogram, normalisation: Normalisation = "quantile"
) -> ScoreMap:
    """Freeze the map of one criterion. sketch: coarse, of the whole pool; fine: of its `heavy_bins`."""
    if not sketch.bins.size:
        raise ValueError(f"criterion {criterion!r} has no document to be fitted on")
    classes = score_classes(sketch, fine)
    normalised = _normalise(classes, normalisation)
    sigma = np.empty(normalised.size, dtype=np.int64)
    for start in range(0, sigma.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        sigma[part] = np.rint(sigmoid(normalised[part]) * float(1 << SIGMA_BITS))
    return ScoreMap(criterion, classes.keys, normalised, sigma, classes.resolution)


@dataclass(frozen=True)
class ScoreClasses:
    """The classes of a pool's scores. keys: (k,) uint32, ascending, the first order key of each; tokens: (k,) int64 in
    it; single: (k,) bool, it is one score, of a split bin; resolution: see `ScoreMap`."""

    keys: NDArray[np.uint32]
    tokens: NDArray[np.int64]
    single: NDArray[np.bool_]
    resolution: float


def score_classes(sketch: TokenHistogram, fine: FineHistogram) -> ScoreClasses:
    """The coarse bins that are not split and the single scores of those that are. ValueError without a document, or
    where `fine` is of other bins than the sketch's crowded ones."""
    if not sketch.bins.size:
        raise ValueError("scores without a document have no classes")
    if not np.array_equal(fine.heavy, heavy_bins(sketch)):
        raise ValueError("a fine histogram of other bins: wanted that of the sketch's `heavy_bins`")
    whole = ~np.isin(sketch.bins, fine.heavy)
    coarse, tokens = (sketch.bins[whole] << COARSE_SHIFT).astype(np.uint32), sketch.tokens[whole]
    keys = fine.keys
    place = np.searchsorted(keys, coarse)
    several = sketch.docs[whole] > 1
    total = sketch.total_tokens
    resolution = float(tokens[several].max()) / total if several.any() and total else 0.0
    single = np.insert(np.ones(keys.size, dtype=np.bool_), place, False)
    return ScoreClasses(np.insert(keys, place, coarse), np.insert(fine.counts, place, tokens), single, resolution)


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


def _normalise(classes: ScoreClasses, normalisation: Normalisation) -> NDArray[np.float64]:
    tokens = classes.tokens
    total = int(tokens.sum())
    if normalisation == "quantile":
        rank = np.cumsum(tokens)  # 2 * below + tokens, from integers: one rounding, the same everywhere
        rank *= 2
        rank -= tokens
        return rank / float(2 * max(total, 1))
    # a coarse class stands for its middle score, a single score for itself
    middle = classes.keys + np.where(classes.single, np.uint32(0), np.uint32(_FINE >> 1))
    scores = key_score(middle).astype(np.float64)
    if normalisation == "minmax":
        low, high = scores[0], scores[-1]
        return (scores - low) / (high - low) if high > low else np.full_like(scores, 0.5)
    weights = tokens.astype(np.float64) / float(max(total, 1))
    # cumsum adds left to right, so the same bits everywhere; pairwise sums need not be
    mean = np.cumsum(scores * weights)[-1]
    variance = np.cumsum((scores - mean) ** 2 * weights)[-1]
    return (scores - mean) / np.sqrt(variance) if variance > 0 else np.zeros_like(scores)
