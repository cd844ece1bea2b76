"""The passes over the annotations that a fit of ODiS needs, each one reduction: any engine and partition gives one
result.

Moments give the components; coarse histograms of the components and, where a bin holds too much, exact ones give their
token-weighted quantiles; with these a census says what belongs to each component and how much top sets share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.core.components import Components, Projection, principal_components
from quadmix.core.cross_moments import CrossMoments, exponent_of
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import ScoreMap, fit_score_map, heavy_bins
from quadmix.core.sketch import TokenHistogram
from quadmix.core.summary import PoolSummary
from quadmix.engine.base import Engine, Shared
from quadmix.errors import InputError
from quadmix.selectors.odis import Census, Membership, Rules, component_histograms
from quadmix.selectors.odis_outcome import component_name
from quadmix.stages.fitting import FineHistograms, Histograms, merge_histograms
from quadmix.stages.odis.examples import Ends
from quadmix.stages.rows import RowReader

Packs = Sequence[Sequence[str]]  # annotation files, a task each


@dataclass(frozen=True)
class SumMoments:
    """Task: annotation files -> the moments of their usable documents."""

    reader: RowReader
    exponents: tuple[int, ...]

    def __call__(self, paths: Sequence[str]) -> CrossMoments:
        total = CrossMoments.empty(self.exponents)
        for path in paths:
            for batch, _ in self.reader.batches(path):
                total = total.merge(CrossMoments.of(batch.scores, self.exponents))
        return total


@dataclass(frozen=True)
class CountComponents:
    """Task: annotation files -> the coarse histogram of each component."""

    reader: RowReader
    projection: Projection

    def __call__(self, paths: Sequence[str]) -> Histograms:
        total: Histograms = (TokenHistogram.empty(),) * len(self.projection)
        for path in paths:
            for batch, _ in self.reader.batches(path):
                values = self.projection.apply(batch.scores)
                total = merge_histograms(total, component_histograms(values, batch.n_tokens))
        return total


@dataclass(frozen=True)
class CountFine:
    """Task: annotation files -> exact histograms of the documents in over-full bins. heavy: one array a component."""

    reader: RowReader
    projection: Projection
    heavy: Shared[tuple[NDArray[np.int64], ...]]

    def __call__(self, paths: Sequence[str]) -> FineHistograms:
        found = tuple(FineHistogram.empty(bins) for bins in self.heavy.get())
        for path in paths:
            for batch, _ in self.reader.batches(path):
                values = self.projection.apply(batch.scores)
                for k, histogram in enumerate(found):
                    histogram.add(values[:, k], batch.n_tokens)
        return found


@dataclass(frozen=True)
class TakeCensus:
    """Task: annotation files -> what belongs to each component, and the documents at its ends."""

    reader: RowReader
    membership: Shared[Membership]
    tops: tuple[int, ...]
    examples: int

    def __call__(self, paths: Sequence[str]) -> tuple[Census, Ends]:
        membership = self.membership.get()
        size, domains = len(membership.lookups), len(self.reader.domains)
        total = Census.empty(domains, size), Ends.empty(size, self.examples)
        tops = np.array(self.tops, dtype=np.int64)
        for path in paths:
            for batch, _ in self.reader.batches(path):
                values = membership.projection.apply(batch.scores)
                ends = Ends.of(values, batch.doc_hash, path, self.examples)
                total = merge_census(total, (Census.of(membership, batch, values, domains, tops), ends))
        return total


def merge_moments(first: CrossMoments, second: CrossMoments) -> CrossMoments:
    return first.merge(second)


def merge_census(first: tuple[Census, Ends], second: tuple[Census, Ends]) -> tuple[Census, Ends]:
    return first[0].merge(second[0]), first[1].merge(second[1])


def fit_components(engine: Engine, packs: Packs, summary: PoolSummary, rules: Rules) -> Components:
    """The components of the whole pool's scores. Raises InputError for scores that have none
    (`principal_components`)."""
    sketches = [summary.sketches[summary.criteria.index(name)] for name in rules.names]
    exponents = tuple(exponent_of(sketch) for sketch in sketches)
    reader = RowReader(summary.domains, rules.names, hashes=False)
    moments = engine.reduce(SumMoments(reader, exponents), packs, merge_moments, label="odis: moments of the scores")
    try:
        return principal_components(
            moments, rules.names, rules.quality, rules.explained_variance, rules.most_components
        )
    except ValueError as error:
        raise InputError(f"odis.dimensions: {error}") from error


def fit_quantiles(
    engine: Engine, packs: Packs, summary: PoolSummary, rules: Rules, projection: Projection
) -> tuple[ScoreMap, ...]:
    """The frozen token-weighted quantile of every component; a second pass only where bins are over-full."""
    reader = RowReader(summary.domains, rules.names, hashes=False)
    coarse = engine.reduce(
        CountComponents(reader, projection), packs, merge_histograms, label="odis: histograms of the components"
    )
    heavy = tuple(heavy_bins(sketch) for sketch in coarse)
    fine: FineHistograms = (FineHistogram.empty(),) * len(projection)
    if any(bins.size for bins in heavy):
        task = CountFine(reader, projection, engine.share(heavy))
        fine = engine.reduce(task, packs, merge_histograms, label="odis: quantiles of the components")
    return tuple(
        fit_score_map(component_name(k), sketch, exact)
        for k, (sketch, exact) in enumerate(zip(coarse, fine, strict=True))
    )


def take_census(
    engine: Engine,
    packs: Packs,
    summary: PoolSummary,
    rules: Rules,
    membership: Membership,
    tops: NDArray[np.int64],
    examples: int,
) -> tuple[Census, Ends]:
    """What belongs to each component in each domain. tops: (K,), see `Census.of`."""
    reader = RowReader(summary.domains, rules.names)
    task = TakeCensus(reader, engine.share(membership), tuple(map(int, tops)), examples)
    return engine.reduce(task, packs, merge_census, label="odis: what belongs to each component")
