"""What the losses of asked trials say: which trials to ask for next, and what to propose for the whole pool.

The steps are those of the search stage (`stages.search`), on losses that somebody else measured: the same fit, noise,
prices, front and worst case. Two things differ. Half of the candidates are steps away from the best trials, and the
best observed theta is held to the constraints too, since no fresh proxies will judge it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.config import LEAST_TRIALS, MixtureConfig, RunConfig, SearchConfig
from quadmix.core.param_space import ParamSpace, params_from_cube
from quadmix.engine.base import Engine
from quadmix.hashing import seed_for
from quadmix.progress import Progress
from quadmix.search.features import Mixtures, QualitySample
from quadmix.search.learning import Trained, feature_sets, learn
from quadmix.search.noise import prior_of
from quadmix.search.objective import Objective
from quadmix.search.proposals import theta_by_name
from quadmix.search.repeated_runs import Repeats, noise_of_means
from quadmix.search.result import JOINT, CrossValidation, Noise, ThetaByName, Trial, Worth
from quadmix.search.rounds import CANDIDATES, NextRound, Tried, best_points
from quadmix.search.stopping import MORE, worth_of_more
from quadmix.search.trials import draw_theta, param_space
from quadmix.stages.asked_trials import NATURAL, AskedTrial, AskedTrials, Study
from quadmix.stages.constraining import Constraints
from quadmix.stages.proposing import Proposed, Proposing
from quadmix.stages.search_inputs import objective_weights

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Learned:
    """What finished trials gave. reference: losses of the natural mixture by target, for the worst case alone."""

    validation: CrossValidation
    proposed: Proposed
    noise: Noise | None
    more: Worth
    reference: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """JSON values; the names are those of the search stage's result."""
        found = self.proposed
        return {
            "reference": dict(self.reference),
            "cross_validation": self.validation.facts(),
            "noise": None if self.noise is None else asdict(self.noise),
            "tally": asdict(found.tally),
            "proposals": [asdict(one) for one in found.proposals],
            "constraints": [asdict(one) for one in found.constraints],
            "prices": found.prices,
            "kl": None if found.kl is None else asdict(found.kl),
            "pareto": [asdict(one) for one in found.front],
            "more": asdict(self.more),
        }


class Learner:
    """The told trials of a study, and how they are judged. Raises as `Constraints.of` does."""

    def __init__(self, config: RunConfig, study: Study, trials: AskedTrials, quality: QualitySample) -> None:
        self.seed, self.study, self.trials, self.quality = config.seed, study, trials, quality
        self.settings = config.search or SearchConfig()
        self.mixture = config.mixture
        self.domains, self.criteria = tuple(study.domains), tuple(study.criteria)
        self.space: ParamSpace = param_space(config.mixture.space, len(self.domains), len(self.criteria))
        self.constraints = constraints_of_study(config, study)
        self.targets = tuple(study.targets)
        self.full, self.cheap = feature_sets(self.settings.regressor.features, self.domains, self.criteria)
        self.usable = trials.usable
        self.repeats = Repeats.of([trials.runs[name] for name in sorted(trials.runs)], self.targets)
        self.objective = Objective(
            objective_weights(self.settings, self.targets), self.settings.objective_rule, self._reference()
        )

    @property
    def waits_for_natural(self) -> bool:
        """Whether losses cannot be judged: the worst case is an excess over the natural mixture's."""
        return self.objective.rule == "worst" and not self.objective.reference

    def _reference(self) -> dict[str, float]:
        told = self.trials.told.get(NATURAL)
        if self.settings.objective_rule != "worst" or told is None:
            return {}
        return self.repeats.fitted(self.trials.runs[NATURAL])

    # ------------------------------------------------------------------------------------------ the next trials

    def next_trials(self, n: int, mixture: MixtureConfig) -> list[AskedTrial]:
        """Algorithm 1's draws until enough losses are there, then the acquisition's choice. mixture: of a trial."""
        tokens = np.array([self.study.trial_tokens[name] for name in self.domains], dtype=np.int64)
        first, round_ = len(self.trials.thetas), self.trials.round + 1
        if len(self.usable) < LEAST_TRIALS:
            return [self._drawn(index, round_, tokens, mixture) for index in range(first, first + n)]
        cube, mean = self._acquire(n, tokens, mixture)
        return [
            AskedTrial(
                name=_name(first + place),
                round=round_,
                origin="acquisition",
                theta=theta_by_name(params_from_cube(self.space, point[None]), self.domains, self.criteria),
                cube=point.tolist(),
                attempts=1,
                predicted=float(guess),
            )
            for place, (point, guess) in enumerate(zip(cube, mean, strict=True))
        ]

    def _drawn(self, index: int, round_: int, tokens: NDArray[np.int64], mixture: MixtureConfig) -> AskedTrial:
        drawn = draw_theta(self.space, index, self.seed, tokens, mixture)
        assert drawn.params.cube is not None
        theta = theta_by_name(drawn.params, self.domains, self.criteria)
        return AskedTrial(_name(index), round_, "prior", theta, drawn.params.cube[0].tolist(), drawn.attempts, None)

    def _acquire(self, n: int, tokens: NDArray[np.int64], mixture: MixtureConfig) -> tuple[Floats, Floats]:
        """(n, dim) cube points and (n,) joint losses expected of them."""
        waiting = [trial for trial in self.trials.open if trial.theta and trial.name in self.trials.made]
        running = self._tried(waiting, np.full(len(waiting), np.nan)) if waiting else None
        seed = seed_for(self.seed, "acquisition", self.trials.round)
        return self._asking(mixture, tokens).choose(self._told(), n, seed, running)

    def _asking(self, mixture: MixtureConfig, tokens: NDArray[np.int64]) -> NextRound:
        at_most = min(CANDIDATES, self.settings.candidates)
        noise = prior_of(self.fitted_noise, JOINT)
        return NextRound(self.space, mixture, tokens, self.cheap, self.full, self.quality, at_most, noise)

    # ------------------------------------------------------------------------------------------ what was told

    @property
    def noise(self) -> Noise | None:
        """Of one run, where trials were told under several seeds."""
        return self.repeats.noise(self.objective)

    @property
    def fitted_noise(self) -> Noise | None:
        """Of the losses that are fitted: means over a trial's runs."""
        return noise_of_means(self.noise, [self.trials.runs[trial.name] for trial in self.usable])

    def _losses(self) -> Floats:
        """(n, n_targets) of the usable trials."""
        fitted = [self.repeats.fitted(self.trials.runs[trial.name]) for trial in self.usable]
        return np.array([[losses[name] for name in self.targets] for losses in fitted])

    def _told(self) -> Tried:
        return self._tried(self.usable, self.objective.joint(self._losses()))

    def _tried(self, trials: Sequence[AskedTrial], joint: Floats) -> Tried:
        made = [self.trials.made[trial.name].mixture for trial in trials]
        cube = np.array([trial.cube for trial in trials])
        return Tried(cube, Mixtures.of_names(made, self.domains, self.criteria), joint)

    # ------------------------------------------------------------------------------------------ the proposal

    def learned(self, engine: Engine, progress: Progress) -> Learned:
        """Fit, and propose for the whole pool at the config's budget. Raises BudgetError where no candidate can be."""
        losses, tried, tokens = self._losses(), self._told(), _tokens(self.study.pool_tokens, self.domains)
        made = [self.trials.made[trial.name].mixture for trial in self.usable]
        thetas = [theta for trial in self.usable if (theta := trial.theta) is not None]
        models, validation = learn(
            self.settings.regressor, self.objective, (self.full, self.cheap), Trained(made, thetas, losses),
            self.quality, self.seed, self.fitted_noise,
        )  # fmt: skip
        proposing = Proposing(
            self.settings, engine, progress, self.space, self.mixture, tokens, self.constraints, self.seed,
            around=best_points(tried), confirms=False, speaker="tell",
        )  # fmt: skip
        rows = zip(self.usable, thetas, losses.tolist(), tried.joint.tolist(), strict=True)
        found = proposing.propose(models, [self._trial(*row) for row in rows])
        asking, seed = self._asking(self.mixture, tokens), seed_for(self.seed, "more")
        cube = asking.choose(tried, MORE, seed)[0]
        more = worth_of_more(asking, tried, cube, seed, limits=self.constraints.active)
        return Learned(validation, found, self.noise, more, self.objective.reference)

    def _trial(self, trial: AskedTrial, theta: ThetaByName, losses: list[float], joint: float) -> Trial:
        return Trial(
            name=trial.name,
            kind="theta",
            criterion=None,
            theta=theta,
            attempts=trial.attempts,
            mixture=self.trials.made[trial.name].mixture,
            losses=dict(zip(self.targets, losses, strict=True)),
            bits_per_byte=None,
            joint=joint,
            predicted=None,
            error=None,
        )


def constraints_of_study(config: RunConfig, study: Study) -> Constraints:
    """Of proposals for the whole pool. Raises as `Constraints.of` does."""
    domains = tuple(study.domains)
    space = param_space(config.mixture.space, len(domains), len(study.criteria))
    return Constraints.of(config.mixture, space, domains, _tokens(study.pool_tokens, domains), config.seed)


def _tokens(by_domain: Mapping[str, int], domains: Sequence[str]) -> NDArray[np.int64]:
    return np.array([by_domain[name] for name in domains], dtype=np.int64)


def _name(index: int) -> str:
    return f"trial-{index:05d}"
