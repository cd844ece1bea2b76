"""ODiS fitted on documents that fit in memory, for tests; `parts` deals them over parts that are merged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from quadmix.core.components import principal_components
from quadmix.core.cross_moments import CrossMoments
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import ScoreMap, fit_score_map, heavy_bins
from quadmix.core.sketch import TokenHistogram
from quadmix.hashing import hash_words
from quadmix.selectors.base import DocBatch
from quadmix.selectors.odis import (
    Census,
    Membership,
    OdisPlan,
    Rules,
    asked_tokens,
    component_histograms,
    odis_plan,
    odis_plan_within,
    outcome_of,
    top_quantiles,
)

DOMAINS = ("books", "code", "web")


def made_up(seed: int, n: int = 300, size: int = 5, ties: bool = False, domains: int = 3) -> DocBatch:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 3)) @ rng.normal(size=(3, size)) + 0.5 * rng.normal(size=(n, size))
    if ties:
        scores = np.round(scores)
    return DocBatch(
        hash_words(np.arange(n, dtype=np.uint64), seed), rng.integers(0, domains, n).astype(np.int32),
        rng.integers(1, 300, n), np.asfortranarray(scores.astype(np.float32)),
    )  # fmt: skip


def rules(size: int = 5, **changes: object) -> Rules:
    names = tuple(f"d{d}" for d in range(size))
    return Rules(names, (None,) * size, (True,) * size, **changes)  # type: ignore[arg-type]


def rows_of(batch: DocBatch, rows: np.ndarray) -> DocBatch:
    return DocBatch(
        batch.doc_hash[rows], batch.domain[rows], batch.n_tokens[rows], np.asfortranarray(batch.scores[rows])
    )


def fit(
    batch: DocBatch, asked: Rules, budget: int, parts: Sequence[np.ndarray] | None = None,
    domain_quotas: Sequence[int] | None = None,
) -> OdisPlan:  # fmt: skip
    pieces = [rows_of(batch, rows) for rows in parts or [np.arange(len(batch))]]
    exponents = tuple(int(np.frexp(np.nanmax(np.abs(column)))[1]) for column in batch.scores.T)
    moments = CrossMoments.empty(exponents)
    for piece in pieces:
        moments = moments.merge(CrossMoments.of(piece.scores, exponents))
    fitted = principal_components(moments, asked.names, asked.quality, asked.explained_variance, asked.most_components)
    values = [fitted.projection.apply(piece.scores) for piece in pieces]
    maps = tuple(component_map(k, values, pieces) for k in range(fitted.kept))
    membership = Membership.of(fitted.projection, maps, asked.floor)
    weights = asked.weights(fitted)
    wanted = asked_tokens(weights, budget)
    tops = top_quantiles(wanted, int(batch.n_tokens.sum()))
    found = [
        Census.of(membership, piece, value, len(DOMAINS), tops) for piece, value in zip(pieces, values, strict=True)
    ]
    census = reduce(Census.merge, found)
    outcome = outcome_of(asked, fitted, wanted, weights, census)
    if domain_quotas is None:
        return odis_plan(membership, outcome)
    return odis_plan_within(membership, outcome, DOMAINS, domain_quotas, census.tokens)


def component_map(k: int, values: Sequence[np.ndarray], pieces: Sequence[DocBatch]) -> ScoreMap:
    sketch = TokenHistogram.empty()
    for value, piece in zip(values, pieces, strict=True):
        sketch = sketch.merge(component_histograms(value, piece.n_tokens)[k])
    fine = FineHistogram.empty(heavy_bins(sketch))
    for value, piece in zip(values, pieces, strict=True):
        fine.add(value[:, k], piece.n_tokens)
    return fit_score_map(f"PC{k + 1}", sketch, fine)
