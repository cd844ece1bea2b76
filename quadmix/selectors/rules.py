"""Rules that order documents by annotated columns, each as one frozen object, and the plan that runs any of them.

A rule gives every document a key (smaller is taken first) and may refuse some. `RulePlan` runs it over the whole pool
or inside given domain quotas, each document once. Sources: docs/selectors.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quadmix.core.portable import log
from quadmix.core.score_depth import ScoreDepth
from quadmix.errors import BudgetError
from quadmix.selectors.base import DocBatch, TakenOnce

WHOLE_POOL = ("pool",)
Floats = NDArray[np.float64]


def gumbel(u: Floats) -> Floats:
    """Standard Gumbel draws -ln(-ln(u)) from draws in the open interval (0, 1), the same bits everywhere."""
    return -log(-log(u))


class Rule(Protocol):
    """Frozen and picklable."""

    @property
    def kind(self) -> str: ...
    @property
    def criteria(self) -> tuple[str, ...]:
        """Score columns that `key` and `passes` read, in this order."""
        ...

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        """(n,) finite; `u` is the document's draw."""
        ...

    def passes(self, batch: DocBatch) -> NDArray[np.bool_] | None:
        """(n,) who may be taken; None: everyone."""
        ...

    def settings(self) -> dict[str, Any]:
        """What the manifest records so that keys can be computed again."""
        ...


@dataclass(frozen=True)
class _Everyone:
    """What rules share that refuse nobody."""

    def passes(self, batch: DocBatch) -> NDArray[np.bool_] | None:
        return None


@dataclass(frozen=True)
class InDrawOrder(_Everyone):
    """Documents in the order of their draws."""

    kind = "random"
    criteria: tuple[str, ...] = ()

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        return u

    def settings(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class TopK(_Everyone):
    """The best scores first."""

    criterion: str
    kind = "topk"

    @property
    def criteria(self) -> tuple[str, ...]:
        return (self.criterion,)

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        return -batch.scores[:, 0].astype(np.float64)

    def settings(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Threshold:
    """Scores from `least_score` (a float32) on, in the order of their draws. least_quantile: what it was derived from,
    if it was."""

    criterion: str
    least_score: float
    least_quantile: float | None = None
    kind = "threshold"

    @property
    def criteria(self) -> tuple[str, ...]:
        return (self.criterion,)

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        return u

    def passes(self, batch: DocBatch) -> NDArray[np.bool_] | None:
        return np.asarray(batch.scores[:, 0].astype(np.float64) >= self.least_score)

    def settings(self) -> dict[str, Any]:
        return {"least_score": self.least_score, "least_quantile": self.least_quantile}


@dataclass(frozen=True)
class Gumbel(_Everyone):
    """Draws without replacement, each with a probability in proportion to exp(score / temperature) among those that are
    left: the largest score / temperature + Gumbel first (Gumbel top-k, arXiv 1903.06059)."""

    criterion: str
    temperature: float
    kind = "gumbel"

    @property
    def criteria(self) -> tuple[str, ...]:
        return (self.criterion,)

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        return -(batch.scores[:, 0].astype(np.float64) / self.temperature + gumbel(u))

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


@dataclass(frozen=True)
class CriteriaMix(_Everyone):
    """The union of the top sets of several criteria, as deep as the budget lets them reach: a document is in it at the
    depth at which the first of them reaches it, depth over share (`core.score_depth`). depths, shares: one a
    criterion."""

    criteria: tuple[str, ...]
    shares: tuple[float, ...]
    depths: tuple[ScoreDepth, ...]
    kind = "criteria_mix"

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        found = np.full(len(batch), np.inf)
        for column, (depth, share) in enumerate(zip(self.depths, self.shares, strict=True)):
            found = np.minimum(found, depth.depth(np.ascontiguousarray(batch.scores[:, column]), u) / share)
        return found

    def settings(self) -> dict[str, Any]:
        return {"shares": list(self.shares)}


@dataclass(frozen=True)
class Density(_Everyone):
    """Keeps a document with a probability in proportion to density ** -exponent (arXiv 2402.09668): the key is
    ln(u) + exponent * ln(density), below a cut at ln(c) exactly when u <= c * density ** -exponent.

    The sparse come first. measures: density | log_density | minus_log_density, what the criterion says.
    """

    criterion: str
    measures: str
    exponent: float
    kind = "density"

    @property
    def criteria(self) -> tuple[str, ...]:
        return (self.criterion,)

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        return log(u) + self.exponent * log_density(batch.scores[:, 0].astype(np.float64), self.measures)

    def settings(self) -> dict[str, Any]:
        return {"measures": self.measures, "exponent": self.exponent}


def log_density(scores: Floats, measures: str) -> Floats:
    """Natural logarithm of what a density criterion measures; densities must be above 0."""
    if measures == "density":
        return log(scores)
    return scores if measures == "log_density" else -scores


def score_of_log_density(logs: Floats, measures: str) -> Floats:
    """The scores that `log_density` turned into these."""
    if measures == "density":
        return np.exp(logs)
    return logs if measures == "log_density" else -logs


@dataclass(frozen=True)
class RulePlan(TakenOnce):
    """A rule over the whole pool, or inside domain quotas (then the strata are the pool's domains)."""

    rule: Rule
    strata: tuple[str, ...]
    stratum_quotas: tuple[int, ...]
    within: bool = False

    @property
    def selector(self) -> str:
        return self.rule.kind

    @property
    def criteria(self) -> tuple[str, ...]:
        return self.rule.criteria

    @property
    def clusters(self) -> tuple[str, ...]:
        return ()

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.stratum_quotas))

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        place = batch.domain.astype(np.int32, copy=False) if self.within else np.zeros(len(batch), dtype=np.int32)
        passes = self.rule.passes(batch)
        return place if passes is None else np.where(passes, place, -1).astype(np.int32)

    def key(self, batch: DocBatch, u: Floats) -> Floats:
        return self.rule.key(batch, u)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.rule.kind,
            "criteria": list(self.criteria),
            "max_copies": 1,
            "rule": self.rule.settings(),
            "domain_quotas": dict(zip(self.strata, self.stratum_quotas, strict=True)) if self.within else None,
        }


def rule_plan(rule: Rule, budget: int, held: int) -> RulePlan:
    """`budget` tokens of the whole pool. held: tokens that the rule lets pass. Raises BudgetError for fewer."""
    if budget > held:
        raise BudgetError(
            f"mixture.budget: asked {budget:,} tokens, the pool holds {held:,}{_that_pass(rule)} and `{rule.kind}` "
            f"takes each document once. Lower the budget{_or_loosen(rule)}"
        )
    return RulePlan(rule, WHOLE_POOL, (budget,))


def rule_plan_within(
    rule: Rule, domains: Sequence[str], domain_quotas: Sequence[int], held: NDArray[np.int64]
) -> RulePlan:
    """Inside domain quotas. domains: the pool's, by index; held: (n_domains,) tokens that the rule lets pass. Raises
    BudgetError for a domain that holds fewer."""
    short = [
        f"domain {domain!r} has a quota of {quota:,} tokens and holds {int(tokens):,}{_that_pass(rule)}"
        for domain, quota, tokens in zip(domains, domain_quotas, held, strict=True)
        if quota > tokens
    ]
    if short:
        raise BudgetError(
            f"select: {'; '.join(short)}; `{rule.kind}` takes each document once. Lower the budget{_or_loosen(rule)}, "
            "or give such domains less"
        )
    return RulePlan(rule, tuple(domains), tuple(map(int, domain_quotas)), within=True)


def _that_pass(rule: Rule) -> str:
    if not isinstance(rule, Threshold):
        return ""
    return f" in documents whose {rule.criterion} is at least {rule.least_score:.6g}"


def _or_loosen(rule: Rule) -> str:
    return " or the threshold" if isinstance(rule, Threshold) else ""
