"""Trials that somebody else trained under several seeds: what is fitted of them, and what their spread says.

A trial's loss is the mean over its finished runs. Runs of one seed share what that seed does to all mixtures alike; a
mean over other seeds than the neighbours' would carry it into the fit. So the effects of seeds are estimated and taken
off: least squares on L_ij = m_i + s_j + e_ij over all finished runs, whichever of them are missing (`search.noise` has
the layout). Trials of a single run come to the level of the means then, and where every trial has all seeds the means
stay what they are. Runs told without a seed share nothing with each other, and have no effect.

Trials that are joined by no seed cannot be compared under one: the effects are centred among the trials that are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quadmix.search.noise import factors, measure_noise
from quadmix.search.objective import Objective
from quadmix.search.result import JOINT, Noise

Floats = NDArray[np.float64]
Losses = Mapping[str, float]  # nats by target
Runs = Mapping[str, Losses | None]  # by seed; None = failed
Finished = Mapping[str, Losses]


@dataclass(frozen=True)
class Repeats:
    """repeated: trials of several finished runs; joined: groups of them that share seeds, with the runs that have one;
    effects: seed -> target -> nats by which it lies above the mean of its group's seeds, empty where none is shared."""

    repeated: Sequence[Finished]
    joined: Sequence[Sequence[Finished]]
    effects: dict[str, dict[str, float]]

    @staticmethod
    def of(trials: Sequence[Runs], targets: Sequence[str]) -> Repeats:
        repeated = [runs for trial in trials if len(runs := finished(trial)) > 1]
        joined = _joined(repeated)
        effects: dict[str, dict[str, float]] = {}
        for group in joined:
            layout = _Layout.of(group)
            effects |= {seed: {} for seed in layout.seeds}
            for target in targets:
                found = layout.effects(_values(group, target))
                for seed, effect in zip(layout.seeds, found.tolist(), strict=True):
                    effects[seed][target] = effect
        return Repeats(repeated, joined, effects)

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
        """Of a single run; None with fewer than two repeated trials.

        Of the residuals of the groups whose runs are more than their trials and seeds take up; the other trials would
        add to them what seeds do. Where there is no such group, it is the spread of the runs about their own trial's
        mean, which holds that too: it is in every difference between those trials.
        """
        if len(self.repeated) < 2:
            return None
        layouts = [(group, layout) for group in self.joined if (layout := _Layout.of(group)).freedom > 0]
        if len(layouts) == 1 and layouts[0][1].complete:
            group, layout = layouts[0]
            return measure_noise([[runs[seed] for seed in layout.seeds] for runs in group], objective)
        taken = [runs for group, _ in layouts for runs in group] if layouts else self.repeated
        within = sum(len(runs) - 1 for runs in taken)
        freedom = sum(layout.freedom for _, layout in layouts) if layouts else within
        paired, alone = {}, {}
        for name in (*objective.targets, JOINT):
            spread = sum(float((_about_mean(values) ** 2).sum()) for values in _values(taken, name, objective))
            alone[name] = float(np.sqrt(spread / within))
            left = sum(layout.squares(_values(group, name, objective)) for group, layout in layouts)
            paired[name] = float(np.sqrt(left / freedom)) if layouts else alone[name]
        low, high = factors(freedom)
        return Noise(
            mixtures=len(taken),
            seeds=sum(len(layout.seeds) for _, layout in layouts) if layouts else max(map(len, taken)),
            freedom=freedom,
            paired=paired,
            low={name: sd * low for name, sd in paired.items()},
            high={name: sd * high for name, sd in paired.items()},
            alone=alone,
        )


def _joined(repeated: Sequence[Finished]) -> list[list[Finished]]:
    """Groups of at least two trials that are joined by seeds, each trial with its runs under a seed. A trial with one
    such run joins nothing: it has a level of its own."""
    groups: list[tuple[set[str], list[Finished]]] = []
    for trial in repeated:
        runs = {seed: losses for seed, losses in trial.items() if seed}
        if len(runs) < 2:
            continue
        apart = [group for group in groups if not group[0] & runs.keys()]
        met = [group for group in groups if group[0] & runs.keys()]
        seeds = set(runs).union(*(group[0] for group in met))
        groups = [*apart, (seeds, [*(one for group in met for one in group[1]), runs])]
    return [group for _, group in groups if len(group) > 1]


@dataclass(frozen=True)
class _Layout:
    """A joined group's trials and seeds. design: (runs, seeds) which seed a run has, less its trial's mean: so the
    trials' levels are out of the system, and what is left has one rank less than it has seeds."""

    seeds: list[str]
    trials: int
    design: Floats

    @staticmethod
    def of(group: Sequence[Finished]) -> _Layout:
        seeds = sorted({seed for runs in group for seed in runs})
        place = {seed: index for index, seed in enumerate(seeds)}
        rows = [np.eye(len(seeds))[[place[seed] for seed in sorted(runs)]] for runs in group]
        return _Layout(seeds, len(group), np.concatenate([_about_mean(one) for one in rows]))

    @property
    def complete(self) -> bool:
        return len(self.design) == self.trials * len(self.seeds)

    @property
    def freedom(self) -> int:
        return len(self.design) - self.trials - (len(self.seeds) - 1)

    def effects(self, values: Sequence[Floats]) -> Floats:
        """(n_seeds,) that sum to 0. values: of each trial, its runs' losses in the order of their seeds."""
        found = np.linalg.lstsq(self.design, np.concatenate([_about_mean(one) for one in values]), rcond=None)[0]
        return np.asarray(found - found.mean())

    def squares(self, values: Sequence[Floats]) -> float:
        """The sum of the squared residuals."""
        left = np.concatenate([_about_mean(one) for one in values]) - self.design @ self.effects(values)
        return float((left**2).sum())


def _values(group: Sequence[Finished], name: str, objective: Objective | None = None) -> list[Floats]:
    """Of each trial, the losses of its runs on one target, or JOINT by an objective, in the order of their seeds."""
    if objective is not None and name == JOINT:
        return [np.array([objective.of(runs[seed]) for seed in sorted(runs)]) for runs in group]
    return [np.array([runs[seed][name] for seed in sorted(runs)]) for runs in group]


def _about_mean(values: Floats) -> Floats:
    return np.asarray(values - values.mean(axis=0))


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

    def of_means(by_name: Mapping[str, float]) -> dict[str, float]:
        return {name: sd * factor for name, sd in by_name.items()}

    return replace(
        noise,
        paired=of_means(noise.paired),
        low=of_means(noise.low),
        high=of_means(noise.high),
        alone=of_means(noise.alone),
    )
