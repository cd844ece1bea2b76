"""The counting proxy through a search: what mixtures are measured on, and what it said of the trained ones."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quadmix.config import RunConfig, SearchConfig
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError
from quadmix.progress import Progress
from quadmix.search.beside_counts import slope_of
from quadmix.search.counting import Counts
from quadmix.search.cross_validation import scores
from quadmix.search.features import QualitySample
from quadmix.search.learning import QUALITY_DOCS
from quadmix.search.result import FirstFidelityFacts, Trial
from quadmix.stages.counting import counting_proxy
from quadmix.stages.search_inputs import Prepared
from quadmix.stages.swarm import Outcome, ProxyJob

Floats = NDArray[np.float64]


class FirstFidelity:
    """sample: documents on which mixtures are measured, with the counting proxy over some of them where there is one.

    in_features: whether the regressors see counted losses; trials of earlier searches that were made without
    (`search.warm_start`) could not stand beside them.
    """

    def __init__(
        self,
        config: RunConfig,
        settings: SearchConfig,
        engine: Engine,
        progress: Progress,
        prepared: Prepared,
        end_id: int | None,
        in_features: bool,
    ) -> None:
        self._progress, self._prepared = progress, prepared
        sample, asked = prepared.sample, settings.counting
        rows = np.sort(sample.drawn_rows(QUALITY_DOCS, config.seed))
        self._found = None if asked is None else counting_proxy(config, asked, engine, progress, prepared, end_id)
        if self._found is not None:  # both are the documents of smallest draws
            rows = np.union1d(rows, self._found.rows)
        self._rows = rows
        self.sample: QualitySample = sample.quality_sample(rows)
        self.draws = 1
        if self._found is not None and asked is not None:
            places = np.searchsorted(rows, self._found.rows)
            self.sample = replace(self.sample, counts=Counts(self._found.path, self._found.targets, places))
            self.draws = asked.draws
        self.in_features = in_features and self._found is not None
        if self._found is not None and not in_features:
            progress.say(
                "search: counts choose among draws only: earlier trials in search.warm_start were made without them"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """Those whose counted losses the regressors see."""
        return self._found.targets if self._found is not None and self.in_features else ()

    @property
    def measuring(self) -> QualitySample:
        """What the regressors' candidates are measured on."""
        return self.sample if self.in_features else replace(self.sample, counts=None)

    def told(self, outcomes: Sequence[Outcome], counted: Floats | None) -> list[Outcome]:
        """Outcomes whose mixtures know their counted losses, (n, n_targets)."""
        if counted is None or self._found is None:
            return list(outcomes)
        losses = [dict(zip(self._found.targets, row, strict=True)) for row in counted.tolist()]
        return [
            replace(one, mixture=one.mixture and replace(one.mixture, counted=known))
            for one, known in zip(outcomes, losses, strict=True)
        ]

    def of_baselines(self, jobs: Sequence[ProxyJob]) -> Floats | None:
        """(n, n_targets) counted losses of what baselines select; NaN where they cannot meet the budget."""
        counts, task = self.sample.counts, self._prepared.task
        if counts is None:
            return None
        whole = replace(task, tokens=task.budget)
        found = np.full((len(jobs), len(counts.targets)), np.nan)
        for place, job in enumerate(jobs):
            with contextlib.suppress(BudgetError):  # its proxy failed for that reason, and said so
                copies = whole.draw(job, self._prepared.sample)[self._rows]
                found[place] = counts.losses(copies[None].astype(np.float64))[0]
        return found

    def facts(self, usable: Sequence[Trial]) -> FirstFidelityFacts | None:
        """How the counts rank the trained thetas, by target; None without counts."""
        if self._found is None:
            return None
        ranks, slopes = {}, {}
        for target in self._found.targets:
            pairs = [
                (trial.mixture.counted[target], trial.losses[target])
                for trial in usable
                if trial.losses is not None and trial.mixture is not None and trial.mixture.counted is not None
            ]
            told, measured = (np.array(values) for values in zip(*pairs, strict=True))
            ranks[target] = scores(measured, told).spearman
            slopes[target] = slope_of(told, measured) if self.in_features else 0.0
        found = FirstFidelityFacts(len(self._found.rows), self._found.tokens, self.draws, ranks, slopes)
        self._progress.say(f"search: {counts_in_words(found)}")
        return found


def counts_in_words(facts: FirstFidelityFacts) -> str:
    """One sentence for the log and the report."""
    ranks = ", ".join(f"{target} {rank:.3f}" for target, rank in facts.spearman.items())
    slopes = ", ".join(f"{slope:.2f}" for slope in facts.slopes.values())
    weak = min(facts.spearman.values()) < _WEAK
    return (
        f"counted n-grams of {facts.documents:,} documents chose each trial of the first round among {facts.draws} "
        f"draws and rank the trained ones with Spearman {ranks}; the regressors lean on them with slopes {slopes}"
        + ("; where they rank so badly, a search with `counting: null` may do better" if weak else "")
    )


_WEAK = 0.3
