"""Trials that somebody else trained under several seeds: what is fitted of them, and what their spread says.

A trial's loss is the mean over its finished runs. Runs of one seed share what that seed does to all mixtures alike; a
mean over other seeds than the neighbours' would carry it into the fit. So where the repeated trials share their seeds,
the effect of each is estimated (two-way layout, `search.noise`) and taken off: the means stay what they are, and trials
of a single run come to the level of the means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quadmix.search.noise import measure_noise
from quadmix.search.objective import Objective
from quadmix.search.result import Noise

Losses = Mapping[str, float]  # nats by target
Runs = Mapping[str, Losses | None]  # by seed; None = failed


@dataclass(frozen=True)
class Repeats:
    """table: one row a trial of several finished runs, one entry a seed; effects: seed -> target -> nats by which it
    lies above the mean of the seeds, empty where the rows do not share their seeds."""

    table: list[list[Losses]]
    effects: dict[str, dict[str, float]]

    @staticmethod
    def of(trials: Sequence[Runs], targets: Sequence[str]) -> Repeats:
        """Rows hold the seeds that all repeated trials share. Where these are fewer than two, each row holds its own
        runs in the order of their seeds, as many as all have: nothing then is alike in a column, and the spread of the
        residuals is that between any two runs."""
        repeated = [runs for trial in trials if len(runs := finished(trial)) > 1]
        if len(repeated) < 2:
            return Repeats([], {})
        shared = sorted(set.intersection(*(set(runs) for runs in repeated)))
        if len(shared) < 2:
            count = min(len(runs) for runs in repeated)
            return Repeats([[runs[seed] for seed in sorted(runs)[:count]] for runs in repeated], {})
        table = [[runs[seed] for seed in shared] for runs in repeated]
        effects: dict[str, dict[str, float]] = {seed: {} for seed in shared}
        for target in targets:
            values = np.array([[one[target] for one in row] for row in table])
            for seed, mean in zip(shared, values.mean(axis=0) - values.mean(), strict=True):
                effects[seed][target] = float(mean)
        return Repeats(table, effects)

    def fitted(self, trial: Runs) -> dict[str, float]:
        """The mean loss of a trial with at least one finished run, without its seeds' effects."""
        level = {
            seed: {target: loss - self.effects.get(seed, {}).get(target, 0.0) for target, loss in losses.items()}
            for seed, losses in finished(trial).items()
        }
        found = mean_loss(level)
        assert found is not None
        return found

    def noise(self, objective: Objective) -> Noise | None:
        """Of a single run; None with fewer than two repeated trials."""
        return measure_noise(self.table, objective) if self.table else None


def finished(trial: Runs) -> dict[str, Losses]:
    """The runs of a trial that have losses."""
    return {seed: losses for seed, losses in trial.items() if losses is not None}


def mean_loss(trial: Runs) -> dict[str, float] | None:
    """The mean over finished runs by target; None where there is none. One run keeps its bits."""
    runs = list(finished(trial).values())
    if not runs:
        return None
    return {target: runs[0][target] if len(runs) == 1 else _mean(runs, target) for target in runs[0]}


def _mean(runs: Sequence[Losses], target: str) -> float:
    return float(np.mean([one[target] for one in runs]))


def noise_of_means(noise: Noise | None, trials: Sequence[Runs]) -> Noise | None:
    """Of losses that are means over as many runs as those of `trials`: what a fit sees, beside what one run has."""
    if noise is None:
        return None
    factor = float(np.sqrt(np.mean([1.0 / len(finished(trial)) for trial in trials])))
    return replace(noise, paired={name: sd * factor for name, sd in noise.paired.items()})
