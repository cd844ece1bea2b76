"""The searches that the results page compares: what each draws, learns from, and proposes.

`quadmix` is the shipped search itself, the stage that users run, without its repeats under fresh seeds: they would be
trials more than the others have. `quadmix_no_counts` is that without its counting proxy (`search.counting: null`);
`quadmix_rounds` is this with `rounds: 3`: half of the trials are its first draws, the rest chosen where losses promise
most. `paper` is that of QuaDMix's authors (arXiv 2504.16511): the ranges of Algorithm 1 as printed, LightGBM on raw
theta, the average of the best ten of 100,000 candidates. Two are ablations of ours (the paper has both):
`uniform_alpha` merges the criteria with equal weights in all domains, `global_beta` gives all domains one sampling
function; the rest is searched. `regmix` (arXiv 2407.01492) draws shares of domains, learns from them with its own
LightGBM and averages its best hundred. Each trains as many proxies of its own as the others, under the same draws of
documents, initialisation and order; all meet the same budget with at most the same copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_jobs import WEIGHTS, WeightsJob
from quadmix.config import MixtureConfig, ParamSpaceConfig, RegressorConfig, SearchConfig
from quadmix.core.mixture import meet_budget
from quadmix.core.param_space import ParamSpace, draw_cube, params_from_cube
from quadmix.hashing import seed_for
from quadmix.search.cross_validation import cross_validate
from quadmix.search.domain_weights import Repetition, capped, draw_weights, propose_weights
from quadmix.search.features import Mixtures, QualitySample
from quadmix.search.learning import Trained, feature_sets, learn
from quadmix.search.objective import Objective
from quadmix.search.proposals import propose, theta_by_name
from quadmix.search.regressors import fit_targets
from quadmix.search.result import JOINT, MixtureByName, SearchResult, ThetaByName
from quadmix.search.rounds import NextRound, Tried, round_sizes
from quadmix.search.screening import chunk_params, chunks, predict, screen
from quadmix.search.trials import param_space
from quadmix.stages.swarm import Outcome, ProxyJob

Floats = NDArray[np.float64]
Tie = Literal["none", "uniform_alpha", "global_beta"]

SHIPPED = "quadmix"
REGMIX = "regmix"
_REGMIX_TOP = 100  # RegMix averages its best hundred
_DRAWS = 32  # of one trial, until one can meet the budget


@dataclass(frozen=True)
class Scheme:
    """A search over thetas. tie: which coordinates of the cube of draws are one; rounds: of a sequential search."""

    name: str
    space: ParamSpaceConfig
    regressor: RegressorConfig
    tie: Tie = "none"
    rounds: int = 1


SCHEMES = (
    Scheme("quadmix_no_counts", ParamSpaceConfig(), RegressorConfig()),
    Scheme(
        "paper", ParamSpaceConfig(preset="paper"), RegressorConfig(kind="lightgbm", preset="regmix", features="theta")
    ),
    Scheme("uniform_alpha", ParamSpaceConfig(), RegressorConfig(), "uniform_alpha"),
    Scheme("global_beta", ParamSpaceConfig(), RegressorConfig(), "global_beta"),
    Scheme("quadmix_rounds", ParamSpaceConfig(), RegressorConfig(), rounds=3),
)


@dataclass(frozen=True)
class Setting:
    """What all searches share. domain_tokens: (n_domains,) of the pool; mixture: with the budget."""

    domains: tuple[str, ...]
    domain_tokens: NDArray[np.int64]
    mixture: MixtureConfig
    search: SearchConfig
    objective: Objective
    quality: QualitySample
    seed: int

    @property
    def prior(self) -> Floats:
        """The natural shares."""
        return np.asarray(self.domain_tokens / self.domain_tokens.sum())

    @property
    def repetition(self) -> Repetition:
        tokens = self.domain_tokens.astype(np.float64)
        return Repetition(tokens, self.mixture.budget, float(self.mixture.max_copies))

    def space(self, scheme: Scheme) -> ParamSpace:
        return param_space(scheme.space, len(self.domains), len(self.mixture.criteria))


def tied(space: ParamSpace, tie: Tie, cube: Floats) -> Floats:
    """(k, dim) cube points with what an ablation shares made equal; means of such points are such points again."""
    found = cube.copy()
    weights = space.n_criteria * (1 + space.n_domains)
    if tie == "uniform_alpha":
        found[:, :weights] = 0.5
    elif tie == "global_beta":
        sampling = found[:, weights:].reshape(len(found), 4, space.n_domains)
        found[:, weights:] = np.broadcast_to(sampling[:, :, :1], sampling.shape).reshape(len(found), -1)
    return found


def draw_points(setting: Setting, scheme: Scheme) -> Floats:
    """(trials of the first round, dim): for each trial the first draw of its own sequence that can meet the budget, as
    the shipped search draws its trials. SystemExit where none can."""
    first = round_sizes(setting.search.trials, scheme.rounds)[0]
    return np.stack([_draw_point(setting, scheme, index) for index in range(first)])


def _draw_point(setting: Setting, scheme: Scheme, index: int) -> Floats:
    space, mixture = setting.space(scheme), setting.mixture
    for draws in (1, _DRAWS):  # a longer draw begins with the shorter one
        cube = tied(space, scheme.tie, draw_cube(space, draws, seed_for(setting.seed, "theta", index)))
        met = meet_budget(
            params_from_cube(space, cube), setting.domain_tokens, mixture.budget, float(mixture.max_copies),
            mixture.meet_budget,
        )  # fmt: skip
        feasible = np.flatnonzero(np.isfinite(met.multiplier))
        if feasible.size:
            return np.asarray(cube[feasible[0]])
    raise SystemExit(f"{scheme.name}: none of {_DRAWS} draws of trial {index} can meet the budget")


def theta_jobs(setting: Setting, scheme: Scheme, points: Floats, first: int = 0) -> list[ProxyJob]:
    """Trials of a search over thetas, numbered from `first`. points: (n, dim) of the cube of draws."""
    criteria, base = setting.mixture.criteria, seed_for(setting.seed, "swarm")
    params = params_from_cube(setting.space(scheme), points)
    return [
        ProxyJob(
            first + row, f"{scheme.name}-{first + row:05d}", "theta", "search", base,
            theta=theta_by_name(params.one(row), setting.domains, criteria),
        )
        for row in range(len(params))
    ]  # fmt: skip


def next_points(setting: Setting, scheme: Scheme, points: Floats, outcomes: Sequence[Outcome], number: int) -> Floats:
    """(n, dim) points of round `number` (from 2) of a sequential search, as the shipped one chooses them.

    points: (k, dim) of the trials so far; outcomes: theirs.
    """
    kept = [row for row, outcome in enumerate(outcomes) if outcome.losses is not None]
    mixtures = [mixture for row in kept if (mixture := outcomes[row].mixture) is not None]
    joint = [setting.objective.of(losses) for row in kept if (losses := outcomes[row].losses) is not None]
    full, cheap = feature_sets(scheme.regressor.features, setting.domains, setting.mixture.criteria)
    asking = NextRound(setting.space(scheme), setting.mixture, setting.domain_tokens, cheap, full, setting.quality)
    tried = Tried(points[kept], Mixtures.of_names(mixtures, setting.domains, setting.mixture.criteria), np.array(joint))
    size = round_sizes(setting.search.trials, scheme.rounds)[number - 1]
    return asking.choose(tried, size, seed_for(setting.seed, "round", number))[0]


def regmix_jobs(setting: Setting) -> list[WeightsJob]:
    """RegMix's trials, each brought under the cap on copies: beyond it the data do not exist."""
    drawn = draw_weights(setting.prior, setting.search.trials, seed_for(setting.seed, "regmix"))
    weights = capped(drawn, setting.repetition.cap, setting.prior)
    base = seed_for(setting.seed, "swarm")
    return [
        WeightsJob(index, f"{REGMIX}-{index:05d}", WEIGHTS, "search", base, weights=named(setting, row))
        for index, row in enumerate(weights)
    ]


def named(setting: Setting, row: Floats) -> dict[str, float]:
    return {name: float(value) for name, value in zip(setting.domains, row, strict=True)}


@dataclass(frozen=True)
class Found:
    """What a search proposes (a theta or domain weights) and how far its predictions can be trusted.

    regressor: its kind; predicted, best_seen: joint losses, nats per token; spearman, shuffled: held out, of the joint
    loss and of its control.
    """

    scheme: str
    regressor: str
    trials: int
    theta: dict[str, Any] | None
    weights: dict[str, float] | None
    predicted: float
    best_seen: float
    spearman: float
    shuffled: float

    def by_name(self) -> ThetaByName | None:
        return None if self.theta is None else ThetaByName(**self.theta)


def found_by(result: SearchResult, regressor: str) -> Found:
    """What the search stage found: its proposal, whatever its confirmation says afterwards."""
    best, check = result.proposals[0], result.cross_validation
    joint = [trial.joint for trial in result.trials if trial.kind == "theta" and trial.joint is not None]
    return Found(
        SHIPPED, regressor, len(joint), asdict(best.theta), None, best.predicted[JOINT], min(joint),
        check.scores[JOINT].spearman, check.permuted[JOINT].spearman,
    )  # fmt: skip


@dataclass(frozen=True)
class Propose:
    """Task: (scheme or None for RegMix, its jobs, their outcomes) -> Found as a dictionary."""

    setting: Setting

    def __call__(self, item: tuple[Scheme | None, Sequence[ProxyJob], Sequence[Outcome]]) -> dict[str, Any]:
        scheme, jobs, outcomes = item
        rows = [
            (job, outcome.mixture, outcome.losses)
            for job, outcome in zip(jobs, outcomes, strict=True)
            if outcome.losses is not None and outcome.mixture is not None
        ]
        losses = np.array([[found[name] for name in self.setting.objective.targets] for _, _, found in rows])
        mixtures = [mixture for _, mixture, _ in rows]
        if scheme is None:
            return asdict(self._weights(mixtures, losses))
        return asdict(self._theta(scheme, mixtures, [job.theta for job, _, _ in rows if job.theta], losses))

    def _theta(
        self, scheme: Scheme, mixtures: Sequence[MixtureByName], thetas: Sequence[ThetaByName], losses: Floats
    ) -> Found:
        """As the search stage proposes: all candidates by the screening models, the best ones by the full models,
        the average of the best of these."""
        setting, search = self.setting, self.setting.search
        space, mixture, tokens = setting.space(scheme), setting.mixture, setting.domain_tokens
        sets = feature_sets(scheme.regressor.features, setting.domains, mixture.criteria)
        trained = Trained(mixtures, thetas, losses)
        models, check = learn(scheme.regressor, setting.objective, sets, trained, setting.quality, setting.seed)
        points, guesses = [], []
        for chunk, size in chunks(search.candidates):
            drawn = chunk_params(space, setting.seed, chunk, size).cube
            assert drawn is not None
            cube = tied(space, scheme.tie, drawn)
            feasible, features, _ = screen(params_from_cube(space, cube), tokens, mixture, models.screening_features)
            guess = setting.objective.joint(models.screening.predict(features[feasible]))
            best = np.argsort(guess, kind="stable")[: search.finalists]
            points.append(cube[feasible][best])
            guesses.append(guess[best])
        order = np.argsort(np.concatenate(guesses), kind="stable")[: search.finalists]
        cube = np.concatenate(points)[order]
        judged = predict(params_from_cube(space, cube), tokens, mixture, models)
        joint = setting.objective.joint(judged.losses)
        proposal = propose(space, cube, joint, search.average_top, tokens, mixture, models)[0]
        scores, control = check.scores[JOINT], check.permuted[JOINT]
        return Found(
            scheme.name, scheme.regressor.kind, len(losses), asdict(proposal.theta), None, proposal.predicted[JOINT],
            float(setting.objective.joint(losses).min()), scores.spearman, control.spearman,
        )  # fmt: skip

    def _weights(self, mixtures: Sequence[MixtureByName], losses: Floats) -> Found:
        setting = self.setting
        targets = setting.objective.targets
        columns = [f"share:{domain}" for domain in setting.domains]
        shares = np.array([[mixture.share[domain] for domain in setting.domains] for mixture in mixtures])
        check = cross_validate(
            targets, setting.objective, shares, losses, folds=RegressorConfig().folds, seed=setting.seed,
            kind="lightgbm", preset="regmix", columns=columns,
        )  # fmt: skip
        models = fit_targets(targets, shares, losses, "lightgbm", "regmix", columns, calibrate=False)
        objective = setting.objective
        average = propose_weights(
            models, objective, setting.prior, setting.repetition, n=setting.search.candidates, top=_REGMIX_TOP,
            seed=seed_for(setting.seed, "regmix-candidates"),
        )[0]  # fmt: skip
        scores, control = check.scores[JOINT], check.permuted[JOINT]
        return Found(
            REGMIX, "lightgbm", len(losses), None, named(setting, average.weights),
            float(objective.joint(average.losses[None])[0]), float(objective.joint(losses).min()),
            scores.spearman, control.spearman,
        )  # fmt: skip
