"""The mixtures that every proposal must beat, as plans: natural, uniform domains, top-k by one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import capped_shares
from quadmix.errors import BudgetError
from quadmix.selectors.base import DocBatch, TakenOnce, Window

_WHOLE_POOL = ("pool",)


@dataclass(frozen=True)
class RandomPlan:
    """Documents in the order of their draws: over the whole pool (`natural`) or to equal quotas a domain (`uniform`).

    A copy's key is u + k, so every document is taken once before any is taken twice.
    """

    selector: str
    strata: tuple[str, ...]
    stratum_quotas: tuple[int, ...]
    max_copies: int
    criteria: tuple[str, ...] = ()

    @property
    def clusters(self) -> tuple[str, ...]:
        return ()

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.stratum_quotas))

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        if self.strata == _WHOLE_POOL and self.selector == "natural":
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
        return {"kind": self.selector, "criteria": list(self.criteria), "max_copies": self.max_copies}


@dataclass(frozen=True)
class TopKPlan(TakenOnce):
    """The best documents of the whole pool by one score, each once."""

    criterion: str
    budget: int

    @property
    def selector(self) -> str:
        return "topk"

    @property
    def criteria(self) -> tuple[str, ...]:
        return (self.criterion,)

    @property
    def clusters(self) -> tuple[str, ...]:
        return ()

    @property
    def strata(self) -> tuple[str, ...]:
        return _WHOLE_POOL

    @property
    def quotas(self) -> Mapping[int, int]:
        return {0: self.budget}

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        return np.zeros(len(batch), dtype=np.int32)

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        return -batch.scores[:, 0].astype(np.float64)

    def describe(self) -> dict[str, Any]:
        return {"kind": "topk", "criteria": [self.criterion], "max_copies": 1}


def natural_plan(domain_tokens: NDArray[np.int64], budget: int, max_copies: int) -> RandomPlan:
    """A random sample of the pool of `budget` tokens. domain_tokens: (n_domains,)."""
    _check(domain_tokens, budget, max_copies)
    return RandomPlan("natural", _WHOLE_POOL, (budget,), max_copies)


def uniform_plan(
    domains: tuple[str, ...], domain_tokens: NDArray[np.int64], budget: int, max_copies: int
) -> RandomPlan:
    """Equal tokens from every domain; a domain that cannot give its share even at `max_copies` gives all, the others
    share the rest."""
    _check(domain_tokens, budget, max_copies)
    quotas = capped_shares(np.ones(len(domains)), budget, domain_tokens * max_copies)
    return RandomPlan("uniform", domains, tuple(int(quota) for quota in quotas), max_copies)


def topk_plan(criterion: str, domain_tokens: NDArray[np.int64], budget: int) -> TopKPlan:
    """The `budget` best tokens by one score."""
    _check(domain_tokens, budget, 1)
    return TopKPlan(criterion, budget)


def _check(domain_tokens: NDArray[np.int64], budget: int, max_copies: int) -> None:
    total = int(domain_tokens.sum())
    if budget > total * max_copies:
        raise BudgetError(
            f"mixture.budget: asked {budget:,} tokens, the pool holds {total:,} and {total * max_copies:,} with every "
            f"document at {max_copies} copies. Lower the budget or raise max_copies"
        )
