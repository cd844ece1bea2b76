"""Fitting a plan on annotation files: score maps, the quality histogram, and the plan that the config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config import MixtureConfig, Theta
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import ScoreMap, fit_score_map, heavy_bins
from quadmix.core.sketch import TokenHistogram
from quadmix.core.summary import PoolSummary
from quadmix.engine.base import Engine, Shared
from quadmix.errors import ConfigError
from quadmix.selectors.quadmix import QuadmixPlan, QualityBinning, fit_quadmix, params_by_name
from quadmix.stages.rows import RowReader

H = TypeVar("H", TokenHistogram, FineHistogram)
Histograms = tuple[TokenHistogram, ...]
FineHistograms = tuple[FineHistogram, ...]


@dataclass(frozen=True)
class FineTask:
    """Counts the documents of over-full score bins by their exact score. heavy: one array a criterion."""

    reader: RowReader
    heavy: Shared[tuple[NDArray[np.int64], ...]]

    def __call__(self, paths: Sequence[str]) -> FineHistograms:
        found = tuple(FineHistogram.empty(bins) for bins in self.heavy.get())
        for path in paths:
            for batch, _ in self.reader.batches(path):
                for column, histogram in enumerate(found):
                    histogram.add(batch.scores[:, column], batch.n_tokens)
        return found


@dataclass(frozen=True)
class QualityTask:
    """The cell histogram of a group of files."""

    reader: RowReader
    binning: Shared[QualityBinning]

    def __call__(self, paths: Sequence[str]) -> TokenHistogram:
        total = TokenHistogram.empty()
        for path in paths:
            for batch, _ in self.reader.batches(path):
                total = total.merge(self.binning.get().histogram(batch))
        return total


def merge_histogram(first: TokenHistogram, second: TokenHistogram) -> TokenHistogram:
    return first.merge(second)


def merge_histograms(first: tuple[H, ...], second: tuple[H, ...]) -> tuple[H, ...]:
    return tuple(one.merge(other) for one, other in zip(first, second, strict=True))


def score_histograms(
    engine: Engine, packs: Sequence[Sequence[str]], summary: PoolSummary, criteria: Sequence[str]
) -> tuple[Histograms, FineHistograms]:
    """(coarse, exact in over-full bins) histogram of each score of the pool; a pass only where bins are over-full."""
    sketches = tuple(summary.sketches[summary.criteria.index(name)] for name in criteria)
    heavy = tuple(heavy_bins(sketch) for sketch in sketches)
    fine = [FineHistogram.empty() for _ in sketches]
    split = [index for index, bins in enumerate(heavy) if bins.size]
    if split:
        reader = RowReader(summary.domains, tuple(criteria[index] for index in split), hashes=False)
        task = FineTask(reader, engine.share(tuple(heavy[index] for index in split)))
        found = engine.reduce(task, packs, merge_histograms, label="score maps")
        for index, histogram in zip(split, found, strict=True):
            fine[index] = histogram
    return sketches, tuple(fine)


def fit_score_maps(
    engine: Engine, packs: Sequence[Sequence[str]], summary: PoolSummary, mixture: MixtureConfig
) -> tuple[ScoreMap, ...]:
    """The frozen map of every criterion of the mixture; a second pass only where a sketch's bins are over-full."""
    missing = [name for name in mixture.criteria if name not in summary.criteria]
    if missing:
        raise ConfigError(
            f"mixture.criteria: {', '.join(missing)} not among the annotated scores ({', '.join(summary.criteria)})"
        )
    sketches, fine = score_histograms(engine, packs, summary, mixture.criteria)
    maps = tuple(
        fit_score_map(name, sketch, exact, mixture.normalise)
        for name, sketch, exact in zip(mixture.criteria, sketches, fine, strict=True)
    )
    del fine
    give_back()
    return maps


def give_back() -> None:
    """Return freed memory to the system: glibc keeps freed blocks of up to 32 MiB, several times what a fit leaves."""
    pa.system_memory_pool().release_unused()


def fit_theta(
    engine: Engine,
    packs: Sequence[Sequence[str]],
    summary: PoolSummary,
    mixture: MixtureConfig,
    theta: Theta,
    maps: tuple[ScoreMap, ...] | None = None,
) -> QuadmixPlan:
    """The plan of one explicit theta on the whole pool. maps: of its scores, fitted here when None."""
    _check_names(theta, summary.domains, mixture.criteria)
    params = params_by_name(theta.model_dump(), summary.domains, mixture.criteria)
    maps = maps or fit_score_maps(engine, packs, summary, mixture)
    binning = QualityBinning.of(maps, params.merge_weights[0], summary.docs)
    task = QualityTask(RowReader(summary.domains, mixture.criteria, hashes=False), engine.share(binning))
    cells = engine.reduce(task, packs, merge_histogram, label="quality ranks")
    return fit_quadmix(
        params,
        domains=summary.domains,
        domain_tokens=summary.tokens,
        criteria=mixture.criteria,
        binning=binning,
        cells=cells,
        budget=mixture.budget,
        max_copies=mixture.max_copies,
        rule=mixture.meet_budget,
        rank_rule=mixture.rank,
        normalise=mixture.normalise,
    )


def _check_names(theta: Theta, domains: tuple[str, ...], criteria: tuple[str, ...]) -> None:
    """Every domain of the pool needs its five parameters, under its own name; nothing else is allowed."""
    problems = []
    for field in ("merge_weights", "steepness", "cutoff", "exponent", "floor"):
        given = set(getattr(theta, field))
        if absent := sorted(set(domains) - given):
            problems.append(f"select.theta.{field}: no value for the pool's domains {', '.join(absent)}")
        if extra := sorted(given - set(domains)):
            problems.append(
                f"select.theta.{field}: domains {', '.join(extra)} have no documents in the pool "
                f"(it has {', '.join(domains)})"
            )
    for domain, weights in theta.merge_weights.items():
        if unknown := sorted(set(weights) - set(criteria)):
            problems.append(
                f"select.theta.merge_weights.{domain}: {', '.join(unknown)} not in mixture.criteria "
                f"({', '.join(criteria)})"
            )
        elif not sum(weights.values()) > 0:
            problems.append(f"select.theta.merge_weights.{domain}: the weights sum to 0, wanted a positive sum")
    if problems:
        raise ConfigError(problems)
