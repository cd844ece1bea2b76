"""The counting proxy through a search: what it says of trained mixtures, and whether it is believed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quadmix.config import LEAST_TRIALS, RunConfig, SearchConfig
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError
from quadmix.progress import Progress
from quadmix.search.cross_validation import scores
from quadmix.search.features import FeatureSet, QualitySample
from quadmix.search.learning import QUALITY_DOCS, Trained, counts_help
from quadmix.search.objective import Objective
from quadmix.search.result import Noise
from quadmix.stages.counting import counting_proxy
from quadmix.stages.search_inputs import Prepared
from quadmix.stages.swarm import Outcome, ProxyJob

Floats = NDArray[np.float64]


class FirstFidelity:
    """sample: the documents on which mixtures are measured, with counts while these are believed."""

    def __init__(
        self,
        config: RunConfig,
        settings: SearchConfig,
        engine: Engine,
        progress: Progress,
        prepared: Prepared,
        end_id: int | None,
    ) -> None:
        self._progress, self._prepared, self._seed = progress, prepared, config.seed
        self._rows = prepared.sample.quality_rows(QUALITY_DOCS, config.seed)
        self.sample: QualitySample = prepared.sample.quality_sample(QUALITY_DOCS, config.seed)
        self.draws = 1
        if settings.counting is not None:
            counts = counting_proxy(config, settings.counting, engine, progress, prepared, end_id, self._rows)
            self.sample = replace(self.sample, counts=counts)
            self.draws = settings.counting.draws

    @property
    def targets(self) -> tuple[str, ...]:
        """Those whose counted losses the regressors see."""
        return () if self.sample.counts is None else self.sample.counts.targets

    def told(self, outcomes: Sequence[Outcome], counted: Floats | None) -> list[Outcome]:
        """Outcomes whose mixtures know their counted losses, (n, n_targets)."""
        if counted is None:
            return list(outcomes)
        losses = [dict(zip(self.targets, row, strict=True)) for row in counted.tolist()]
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

    def ask(self, outcomes: Sequence[Outcome], full: FeatureSet, objective: Objective, noise: Noise | None) -> None:
        """Go on without the counts where they do not help to predict the first round's trials, held out.

        full: what the regressors would see of them.
        """
        done = [(one.mixture, one.losses) for one in outcomes if one.mixture is not None and one.losses is not None]
        if self.sample.counts is None or len(done) < LEAST_TRIALS:
            return
        losses, told = (
            np.array([[(values or {})[name] for name in objective.targets] for values in column])
            for column in ([measured for _, measured in done], [mixture.counted for mixture, _ in done])
        )
        trained = Trained([mixture for mixture, _ in done], [], losses)
        verdict = counts_help(trained, replace(full, kind="realised"), objective, noise, self._seed)
        agreement = scores(objective.joint(losses), objective.joint(told)).spearman
        self._progress.say(
            f"search: counted n-grams rank the trained mixtures with Spearman {agreement:.3f}; held-out error "
            f"{verdict.together:.3f} with them, {verdict.alone:.3f} without: {'used' if verdict.helps else 'left out'}"
        )
        if not verdict.helps:
            self.sample = replace(self.sample, counts=None)
