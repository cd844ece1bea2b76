"""Constraints in a search: refused before any proxy is trained, priced after the proposal, told of the rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig, RunConfig
from quadmix.core.mixture import meet_budget
from quadmix.core.param_space import ParamSpace
from quadmix.core.portable import FAST
from quadmix.core.quotas import reach
from quadmix.core.summary import PoolSummary
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError
from quadmix.search.constraints import Bound, Limits, limits_of, violations
from quadmix.search.feasibility import check
from quadmix.search.features import SCREENING_TOLERANCE, closed_form
from quadmix.search.proposals import params_of
from quadmix.search.result import ConstraintFact, KlFact, Proposal
from quadmix.search.screening import CHUNK, ScreenChunk, Screened, SharedModels, chunk_params, chunks, finalists
from quadmix.search.trials import param_space
from quadmix.selectors.baselines import uniform_plan
from quadmix.stages.confirming import Contestant

Floats = NDArray[np.float64]
_STEP = 0.01  # of the budget: one percentage point
# a mixture that was drawn at a proxy's size shows its shares up to a document or so
_DRAWN = 0.005


@dataclass(frozen=True)
class ScreenAgain:
    """How a search screened its candidates, to do it again under other limits. top: how many of the best are averaged;
    around: points of the cube that the candidates were drawn around."""

    engine: Engine
    models: SharedModels
    seed: int
    candidates: int
    top: int
    around: Floats | None = None


@dataclass(frozen=True)
class Constraints:
    """The constraints of one search over one pool."""

    bounds: list[Bound]
    limits: Limits
    domains: tuple[str, ...]
    domain_tokens: NDArray[np.int64]
    mixture: MixtureConfig
    space: ParamSpace

    @staticmethod
    def of(
        mixture: MixtureConfig, space: ParamSpace, domains: tuple[str, ...], domain_tokens: NDArray[np.int64], seed: int
    ) -> Constraints:
        """Raises ConfigError for names that the pool does not have, BudgetError when no candidate can keep them all."""
        bounds, limits = limits_of(mixture, domains, domain_tokens)
        found = Constraints(bounds, limits, domains, domain_tokens, mixture, space)
        if bounds:
            check(bounds, domains, domain_tokens, space, mixture)
            found._check_draws(seed)
        return found

    @property
    def active(self) -> Limits | None:
        """What candidates are held to; None where nothing is asked of them."""
        return self.limits if self.bounds or self.limits.kl else None

    def _check_draws(self, seed: int) -> None:
        """What some theta of the space can do, the candidates' draws must hit as well."""
        params = chunk_params(self.space, seed, 0, CHUNK)
        if closed_form(params, self.domain_tokens, self.mixture, self.limits).feasible.any():
            return
        cap = float(self.mixture.max_copies)
        met = meet_budget(
            params, self.domain_tokens, self.mixture.budget, cap, "omega", FAST, SCREENING_TOLERANCE
        ).multiplier
        most = reach(params, self.domain_tokens, cap, FAST)[np.isfinite(met)]
        tight = []
        for bound in self.bounds:
            if bound.is_floor and len(most):
                reached = most[:, self.domains.index(bound.domain)]
                hit = float((reached >= bound.tokens).mean())
                tight.append((hit, bound.name, bound.tokens, float(np.median(reached))))
        hardest = [
            f"{name} asks for {tokens:,.0f} tokens, {hit:.1%} of the draws reach that (the median {middle:,.0f})"
            for hit, name, tokens, middle in sorted(tight)[:3]
        ]
        raise BudgetError(
            f"mixture.constraints: {CHUNK:,} draws of Algorithm 1, {len(most):,} of which can meet mixture.budget, and "
            f"none keeps all constraints ({'; '.join(hardest) or 'the ceilings leave too little'}). Loosen them, lower "
            "the budget, or raise mixture.space.exponent, with which the best documents of a domain come more often"
        )

    def binding(self, share: dict[str, float]) -> list[Bound]:
        """Those at which a mixture stands."""
        budget = self.mixture.budget
        return [bound for bound in self.bounds if bound.holds_tight(share[bound.domain] * budget, budget)]

    def facts(
        self, again: ScreenAgain, proposal: Proposal, screened: Sequence[Screened]
    ) -> tuple[list[ConstraintFact], str]:
        """Every constraint of the proposal with its price, and how that was found.

        screened: what the candidates gave under all constraints.
        """
        if not self.bounds:
            return [], ""
        budget = self.mixture.budget
        tight = self.binding(proposal.mixture.share)
        parts = self._screened(again, [self._limits_without(bound) for bound in tight])
        base = _best(screened, again.top)
        prices = {bound.name: base - _best(part, again.top) for bound, part in zip(tight, parts, strict=True)}
        found = [
            ConstraintFact(
                name=bound.name,
                domain=bound.domain,
                value=bound.value,
                tokens=bound.tokens,
                share=proposal.mixture.share[bound.domain],
                binding=bound.name in prices,
                price=prices.get(bound.name),
            )
            for bound in self.bounds
        ]
        how = (
            f"all {again.candidates:,} candidates screened again with one constraint given way by 1 percentage point "
            f"of the budget ({_STEP * budget:,.0f} tokens), the others as they are; the price is the fall of the mean "
            f"predicted objective of the best {again.top}, by the models that screen (shares and repeats). The "
            "predictor is not linear: a price holds for that step"
        )
        return found, how

    def kl_fact(self, again: ScreenAgain, proposal: Proposal, screened: Sequence[Screened]) -> KlFact | None:
        """What the penalty for shares far from the natural ones costs: all candidates screened again without it.
        screened: what they gave with it."""
        if self.limits.kl == 0.0:
            return None
        (parts,) = self._screened(again, [replace(self.limits, kl=0.0)])
        share = np.array([[proposal.mixture.share[name] for name in self.domains]])
        penalty = float(self.limits.penalty(share)[0])
        price = None
        if any(part.rows.size for part in screened):
            price = _best(screened, again.top, with_penalty=False) - _best(parts, again.top)
        return KlFact(self.limits.kl, penalty / self.limits.kl, penalty, price)

    def _screened(self, again: ScreenAgain, limits: Sequence[Limits]) -> list[list[Screened]]:
        """What all candidates give under each of these limits."""
        relaxed = tuple(
            ScreenChunk(
                self.space, self.mixture, self.domain_tokens, again.seed, again.top, again.models, one,
                around=again.around,
            )
            for one in limits
        )  # fmt: skip
        items = [(which, *item) for which in range(len(relaxed)) for item in chunks(again.candidates)]
        parts: list[list[Screened]] = [[] for _ in relaxed]
        if items:
            for position, part in again.engine.map(_ScreenRelaxed(relaxed), items, label="search: pricing constraints"):
                parts[items[position][0]].append(part)
        return parts

    def _limits_without(self, given_way: Bound) -> Limits:
        """All bounds, one of them looser by a step."""
        bounds: list[Bound] = []
        for bound in self.bounds:
            bounds += bound.loosened(_STEP * self.mixture.budget) if bound is given_way else [bound]
        return Limits.of(bounds, self.domains, self.domain_tokens, self.limits.kl)

    def broken_by(self, mixture: Contestant, drawn: dict[str, float] | None) -> list[str]:
        """Which constraints a contestant breaks, in words.

        Shares are those of the whole budget where they are known without drawing (thetas, natural, uniform); of a
        top-k those of the proxy's data, `drawn`, with half a percentage point of leeway.
        """
        if not self.bounds:
            return []
        budget, tokens = self.mixture.budget, self.domain_tokens
        slack: dict[str, float] = {}
        if mixture.theta is not None:
            criteria = self.mixture.criteria
            share = closed_form(params_of(mixture.theta, self.domains, criteria), tokens, self.mixture).mixtures.share[
                0
            ]
        elif mixture.kind == "natural":
            share = tokens / tokens.sum()
        elif mixture.kind == "uniform":
            quotas = uniform_plan(self.domains, tokens, budget, self.mixture.max_copies).stratum_quotas
            share = np.array(quotas) / budget
        elif drawn is None:
            return []
        else:
            share = np.array([drawn[name] for name in self.domains])
            slack = dict.fromkeys(self.domains, _DRAWN * budget)
        return violations(self.bounds, dict(zip(self.domains, share.tolist(), strict=True)), budget, slack)


def constraints_of(config: RunConfig, summary: PoolSummary) -> Constraints:
    """The constraints of a run over its annotated pool. Raises ConfigError and BudgetError, see `Constraints.of`."""
    space = param_space(config.mixture.space, len(summary.domains), len(config.mixture.criteria))
    return Constraints.of(config.mixture, space, summary.domains, summary.tokens, config.seed)


@dataclass(frozen=True)
class _ScreenRelaxed:
    """Task: (which of the relaxed screenings, chunk, size) -> its best candidates."""

    relaxed: tuple[ScreenChunk, ...]

    def __call__(self, item: tuple[int, int, int]) -> Screened:
        which, chunk, size = item
        return self.relaxed[which]((chunk, size))


def _best(screened: Sequence[Screened], top: int, with_penalty: bool = True) -> float:
    """Mean predicted objective of the best `top` candidates of all chunks; they are the best with the penalty, whether
    or not it is counted."""
    chosen = finalists(screened, top)
    by_chunk = {}
    for part in screened:
        counted = part.joint if with_penalty else part.joint - part.penalty
        by_chunk[part.chunk] = dict(zip(part.rows.tolist(), counted.tolist(), strict=True))
    return float(np.mean([by_chunk[chunk][row] for chunk, row in chosen]))
