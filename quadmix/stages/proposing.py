"""From fitted models to proposals: candidates are screened, finalists predicted, the best of them averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig, SearchConfig
from quadmix.core.param_space import ParamSpace, params_from_cube
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError
from quadmix.progress import Progress
from quadmix.search.constraints import Limits
from quadmix.search.features import closed_form
from quadmix.search.pareto import non_dominated, spread_out
from quadmix.search.proposals import buildable, params_of, predicted_by_name, proposal, propose, theta_by_name
from quadmix.search.result import ConstraintFact, FrontPoint, KlFact, Proposal, Tally, Trial
from quadmix.search.screening import (
    PredictFinalists,
    ScreenChunk,
    SearchModels,
    chunk_params,
    chunks,
    finalists,
    fronts,
)
from quadmix.stages.constraining import Constraints, ScreenAgain

_FINALISTS_PER_TASK = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Proposed:
    """proposals: the one to be confirmed first; front: over targets; prices: how the constraints' were found."""

    proposals: list[Proposal]
    tally: Tally
    front: list[FrontPoint]
    constraints: list[ConstraintFact]
    prices: str
    kl: KlFact | None = None


@dataclass(frozen=True)
class Proposing:
    """What is proposed for: a whole pool of domain_tokens (n_domains,), its budget and its constraints.

    around: (p, dim) points of the cube that half of the candidates are steps away from; None: all are fresh draws.
    confirms: whether fresh proxies judge what is proposed. Where none do, the best observed theta is held to the
    constraints like the others. speaker: who says so in the log.
    """

    settings: SearchConfig
    engine: Engine
    progress: Progress
    space: ParamSpace
    mixture: MixtureConfig
    domain_tokens: NDArray[np.int64]
    constraints: Constraints
    seed: int
    around: Floats | None = None
    confirms: bool = True
    speaker: str = "search"

    @property
    def limits(self) -> Limits | None:
        return self.constraints.active

    def propose(self, models: SearchModels, usable: Sequence[Trial]) -> Proposed:
        """The average of the best finalists; the argmin and the best observed theta stand beside it.

        Raises BudgetError where no candidate keeps the constraints.
        """
        settings, tokens, limits = self.settings, self.domain_tokens, self.limits
        shared = self.engine.share(models)
        keep = min(settings.finalists, settings.candidates)
        task = ScreenChunk(
            self.space, self.mixture, tokens, self.seed, keep, shared, limits, settings.pareto_points, self.around
        )
        items = chunks(settings.candidates)
        screened = [part for _, part in self.engine.map(task, items, label="search: screening candidates")]
        chosen, edge = finalists(screened, keep), fronts(screened, settings.pareto_points)
        cube = self._cube_of([*chosen, *edge], dict(items))
        blocks = [cube[start : start + _FINALISTS_PER_TASK] for start in range(0, len(cube), _FINALISTS_PER_TASK)]
        predict = PredictFinalists(self.space, self.mixture, tokens, shared, limits)
        predicted = dict(self.engine.map(predict, blocks, label="search: predicting finalists"))
        infeasible = sum(part.infeasible for part in screened)
        found: list[Proposal] = []
        front: list[FrontPoint] = []
        if blocks:
            judged = np.concatenate([predicted[index] for index in range(len(blocks))])
            joint = judged[: len(chosen), -1]
            top = min(settings.average_top, len(joint))
            found = propose(self.space, cube[: len(chosen)], joint, top, tokens, self.mixture, models, limits)
            front = self._front(cube, judged[:, :-1], models)
        elif limits is not None and limits.bounded:
            raise BudgetError(
                f"mixture.constraints: not one of {settings.candidates:,} candidates keeps them all; loosen them or "
                "raise search.candidates (finished trials are kept)"
            )
        found += self._best_observed(models, usable)
        if not found:
            raise BudgetError(
                f"mixture.budget: not one of {settings.candidates:,} candidates can meet {self.mixture.budget:,} "
                "tokens; lower it, raise mixture.max_copies or search.candidates (finished trials are kept)"
            )
        tally = Tally(
            drawn=settings.candidates,
            infeasible=infeasible,
            screened=settings.candidates - infeasible,
            finalists=len(chosen),
            averaged=min(settings.average_top, len(chosen)) if found[0].origin == "average" else 1,
        )
        again = ScreenAgain(self.engine, shared, self.seed, settings.candidates, settings.average_top, self.around)
        facts, how = self.constraints.facts(again, found[0], screened)
        for fact in facts:
            if fact.price is not None:
                self.progress.say(
                    f"{self.speaker}: {fact.name} {fact.value:g} binds ({fact.domain} has {fact.share:.2%}); one "
                    f"percentage point looser, the predicted objective changes by {-fact.price:+.4f} nats"
                )
        kl = self.constraints.kl_fact(again, found[0], screened)
        if kl is not None and kl.price is not None:
            self.progress.say(
                f"{self.speaker}: the proposal's shares are {kl.divergence:.3f} nats from the natural ones; without "
                f"mixture.constraints.kl ({kl.weight:g}) the predicted objective changes by {-kl.price:+.4f} nats"
            )
        return Proposed(found, tally, front, facts, how, kl)

    def _best_observed(self, models: SearchModels, usable: Sequence[Trial]) -> list[Proposal]:
        best = min(usable, key=lambda trial: (trial.joint, trial.name))
        if best.theta is None:
            return []
        params = params_of(best.theta, models.full_features.domains, models.full_features.criteria)
        limits = None if self.confirms else self.limits
        if not self.confirms and not closed_form(params, self.domain_tokens, self.mixture, limits).feasible[0]:
            return []
        return [proposal("best_observed", params, self.domain_tokens, self.mixture, models, limits)]

    def _front(self, cube: Floats, losses: Floats, models: SearchModels) -> list[FrontPoint]:
        """The Pareto front over targets of what the full models predicted, at most `pareto_points` of it."""
        if losses.shape[1] < 2:
            return []
        domains, criteria = models.full_features.domains, models.full_features.criteria
        rows = non_dominated(losses)
        rows = rows[spread_out(losses[rows], self.settings.pareto_points)]
        params = params_from_cube(self.space, cube[rows])
        shares = closed_form(params, self.domain_tokens, self.mixture, self.limits).mixtures.share
        points = []
        for place, row in enumerate(rows.tolist()):
            theta = buildable(params.one(place), self.domain_tokens, self.mixture, self.limits)
            points.append(
                FrontPoint(
                    theta=theta_by_name(theta, domains, criteria),
                    share=dict(zip(domains, shares[place].tolist(), strict=True)),
                    predicted=predicted_by_name(losses[row], models),
                )
            )
        return points

    def _cube_of(self, chosen: Sequence[tuple[int, int]], sizes: Mapping[int, int]) -> Floats:
        """(k, dim) cube points of (chunk, row) pairs: each chunk is drawn again from its seed."""
        cube = np.empty((len(chosen), self.space.dim))
        for chunk in sorted({chunk for chunk, _ in chosen}):
            points = chunk_params(self.space, self.seed, chunk, sizes[chunk], self.around).cube
            for position, (owner, row) in enumerate(chosen):
                if owner == chunk and points is not None:
                    cube[position] = points[row]
        return cube
