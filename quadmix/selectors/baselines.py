"""Mixtures that need no search, as plans: natural, uniform domains, given domain weights, top-k by one score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import capped_shares, whole_shares
from quadmix.errors import BudgetError, ConfigError
from quadmix.selectors.base import DocBatch, OneDraw, Window
from quadmix.selectors.rules import WHOLE_POOL, RulePlan, TopK, rule_plan

_SHOWN = 20  # domains that a message lists


@dataclass(frozen=True)
class RandomPlan(OneDraw):
    """Documents in the order of their draws: over the whole pool (`natural`), to equal quotas a domain (`uniform`) or
    to quotas by given domain weights (`weights`).

    A copy's key is u + k, so every document is taken once before any is taken twice. weights: of the strata.
    """

    selector: str
    strata: tuple[str, ...]
    stratum_quotas: tuple[int, ...]
    max_copies: int
    criteria: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def clusters(self) -> tuple[str, ...]:
        return ()

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.stratum_quotas))

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        if self.strata == WHOLE_POOL and self.selector == "natural":
            return np.zeros(len(batch), dtype=np.int32)
        return batch.domain.astype(np.int32, copy=False)

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        return u

    def step(self, batch: DocBatch) -> NDArray[np.float64]:
        return np.ones(len(batch))

    def columns(self, batch: DocBatch) -> dict[str, NDArray[np.float64]]:
        return {}

    def window(self, stratum: int) -> Window | None:
        return None

    def describe(self) -> dict[str, Any]:
        told = {"weights": dict(zip(self.strata, self.weights, strict=True))} if self.weights else {}
        return {"kind": self.selector, "criteria": list(self.criteria), "max_copies": self.max_copies, **told}


def natural_plan(domain_tokens: NDArray[np.int64], budget: int, max_copies: int) -> RandomPlan:
    """A random sample of the pool of `budget` tokens. domain_tokens: (n_domains,)."""
    _check(domain_tokens, budget, max_copies)
    return RandomPlan("natural", WHOLE_POOL, (budget,), max_copies)


def uniform_plan(
    domains: tuple[str, ...], domain_tokens: NDArray[np.int64], budget: int, max_copies: int
) -> RandomPlan:
    """Equal tokens from every domain; a domain that cannot give its share even at `max_copies` gives all, the others
    share the rest."""
    _check(domain_tokens, budget, max_copies)
    quotas = capped_shares(np.ones(len(domains)), budget, domain_tokens * max_copies)
    return RandomPlan("uniform", domains, tuple(int(quota) for quota in quotas), max_copies)


def weights_plan(
    weights: Mapping[str, float],
    domains: Sequence[str],
    domain_tokens: NDArray[np.int64],
    budget: int,
    max_copies: int,
) -> RandomPlan:
    """Random documents of every domain, by given weights: what RegMix (arXiv 2407.01492) trains on.

    weights: by domain, proportions; a domain without one gives nothing. Raises ConfigError for a domain that the pool
    does not have, BudgetError where a domain cannot give its share at `max_copies`, with all such domains.
    """
    unknown = sorted(name for name, weight in weights.items() if weight > 0 and name not in domains)
    if unknown:
        raise ConfigError(
            f"select.weights: found {', '.join(unknown)}, but the pool has no documents of that name; its domains are "
            f"{', '.join(domains)}"
        )
    found = np.array([weights.get(name, 0.0) for name in domains])
    if not found.sum() > 0:
        raise ConfigError(f"select.weights: found no weight above 0 among the pool's domains, {', '.join(domains)}")
    quotas = whole_shares(found, budget)
    short = [
        f"{name} {quota:,} of {tokens:,}"
        for name, quota, tokens in zip(domains, quotas.tolist(), domain_tokens.tolist(), strict=True)
        if quota > tokens * max_copies
    ]
    if short:
        listed = "; ".join(short[:_SHOWN]) + (f"; and {len(short) - _SHOWN} more" if len(short) > _SHOWN else "")
        raise BudgetError(
            f"select.weights: with a budget of {budget:,} tokens they ask domains for more than {max_copies} copies of "
            f"what these hold (tokens asked of tokens held: {listed}). Lower the budget or these weights, or raise "
            "mixture.max_copies"
        )
    return RandomPlan("weights", tuple(domains), tuple(quotas.tolist()), max_copies, weights=tuple(found.tolist()))


def topk_plan(criterion: str, domain_tokens: NDArray[np.int64], budget: int) -> RulePlan:
    """The `budget` best tokens by one score, whatever their domain."""
    return rule_plan(TopK(criterion), budget, int(domain_tokens.sum()))


def _check(domain_tokens: NDArray[np.int64], budget: int, max_copies: int) -> None:
    total = int(domain_tokens.sum())
    if budget > total * max_copies:
        raise BudgetError(
            f"mixture.budget: asked {budget:,} tokens, the pool holds {total:,} and {total * max_copies:,} with every "
            f"document at {max_copies} copies. Lower the budget or raise max_copies"
        )
