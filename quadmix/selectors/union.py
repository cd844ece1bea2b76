"""A union of selectors: in the order of their names each takes its share of the tokens from what the ones before left.

So what two of them want is counted once, for the first, and the second goes further down its own order. Every member
has draws of its own: those of documents that an earlier member left are no fair draws any more. A union is cut
member by member (`settle_union`): the budget's residual goes on from one to the next, and the whole is as exact as one
selector. Only then is it known who takes what: `with_cuts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import Cut, Settled, copies_taken, whole_shares
from quadmix.errors import BudgetError
from quadmix.hashing import uniform
from quadmix.selectors.base import JOIN, DocBatch, SelectionPlan, TakenOnce, Window, domain_of

Cuts = Mapping[int, Cut]
# cuts the strata of a plan; see `core.budget.settle` for what was missed before and the strata's domains
Settle = Callable[[SelectionPlan, Mapping[str, int], Sequence[str] | None], Mapping[int, Settled]]


@dataclass(frozen=True)
class Member:
    """share: weight among the members; budget: tokens by it; plan: takes each document once, its quotas being this
    member's."""

    name: str
    share: float
    budget: int
    plan: SelectionPlan


@dataclass(frozen=True)
class UnionPlan(TakenOnce):
    """Build with `union_plan`. members: by name. cuts: of the first members, as many as are known; what they take is
    theirs, the rest is beyond the cuts of the last of them. seed, purpose: of the documents' draws, a member's name
    being added to the purpose."""

    members: tuple[Member, ...]
    seed: int
    purpose: str
    domain_quotas: tuple[tuple[str, int], ...] = ()
    cuts: tuple[Cuts, ...] = ()

    @property
    def selector(self) -> str:
        return "union"

    @property
    def criteria(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for member in self.members for name in member.plan.criteria))

    @property
    def clusters(self) -> tuple[str, ...]:
        return next((member.plan.clusters for member in self.members if member.plan.clusters), ())

    @property
    def strata(self) -> tuple[str, ...]:
        return tuple(f"{member.name}{JOIN}{name}" for member in self.members for name in member.plan.strata)

    @property
    def starts(self) -> tuple[int, ...]:
        """(members + 1,) the first stratum of each member."""
        return (0, *np.cumsum([len(member.plan.strata) for member in self.members]).tolist())

    @property
    def quotas(self) -> Mapping[int, int]:
        return {
            start + stratum: quota
            for start, member in zip(self.starts, self.members, strict=False)
            for stratum, quota in member.plan.quotas.items()
        }

    def with_cuts(self, cuts: Sequence[Cuts]) -> UnionPlan:
        """cuts: of the first members, by their own strata."""
        return replace(self, cuts=tuple(cuts))

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        found: NDArray[np.int32] = self._places(batch)[0].astype(np.int32)
        return found

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._places(batch)[1]
        return found

    def draws(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the member that takes a document, or of the last one that it is eligible for."""
        found: NDArray[np.float64] = self._places(batch)[3]
        return found

    def taken(self, batch: DocBatch) -> NDArray[np.bool_]:
        """(n,) what the members with cuts take."""
        return np.asarray(self._places(batch)[2] > 0)

    def _places(self, batch: DocBatch) -> NDArray[np.float64]:
        return batch.remember(self, "union", lambda: self._find_places(batch))

    def _find_places(self, batch: DocBatch) -> NDArray[np.float64]:
        """(4, n) stratum, key in it, whether it is taken, draw. Of a document that nobody takes, those of the last
        member that it is eligible for."""
        found = np.full((4, len(batch)), 0.0)
        found[0], found[1] = -1, np.inf
        for start, member, cuts in zip(self.starts, self.members, self.cuts, strict=False):
            mine, u = self.view(batch, member), self.member_draws(batch, member)
            stratum, key = member.plan.stratum(mine), member.plan.key(mine, u)
            free = (stratum >= 0) & np.isfinite(key) & (found[2] == 0)
            size = range(len(member.plan.strata))
            cut_key = np.array([cuts[s].key if s in cuts else -np.inf for s in size])
            cut_hash = np.array([cuts[s].hash if s in cuts else 0 for s in size], dtype=np.uint64)
            own = np.where(free, key, np.inf)
            copies = copies_taken(own, member.plan.step(mine), mine.doc_hash, cut_key[stratum], cut_hash[stratum], 1)
            found[0, free], found[1, free], found[3, free] = start + stratum[free], key[free], u[free]
            found[2] += copies
        return found

    def member_draws(self, batch: DocBatch, member: Member) -> NDArray[np.float64]:
        return uniform(batch.doc_hash, self.seed, f"{self.purpose}/{member.name}")

    def view(self, batch: DocBatch, member: Member) -> DocBatch:
        """The batch with the columns that a member reads, in its order."""
        names = self.criteria
        columns = [names.index(name) for name in member.plan.criteria]
        return DocBatch(
            batch.doc_hash, batch.domain, batch.n_tokens, np.asfortranarray(batch.scores[:, columns]), batch.cluster
        )

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "union",
            "criteria": list(self.criteria),
            "max_copies": 1,
            "members": {
                member.name: {"share": member.share, "budget": member.budget, "plan": member.plan.describe()}
                for member in self.members
            },
            "domain_quotas": dict(self.domain_quotas) or None,
        }


@dataclass(frozen=True)
class _Next(TakenOnce):
    """The next member of a union, in which documents that the ones before take have an infinite key."""

    before: UnionPlan
    member: Member

    @property
    def selector(self) -> str:
        return self.member.plan.selector

    @property
    def criteria(self) -> tuple[str, ...]:
        return self.before.criteria

    @property
    def clusters(self) -> tuple[str, ...]:
        return self.before.clusters

    @property
    def strata(self) -> tuple[str, ...]:
        return self.member.plan.strata

    @property
    def quotas(self) -> Mapping[int, int]:
        return self.member.plan.quotas

    def _view(self, batch: DocBatch) -> DocBatch:
        return self.before.view(batch, self.member)

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        return self.member.plan.stratum(self._view(batch))

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        own = self.before.member_draws(batch, self.member)
        return np.where(self.before.taken(batch), np.inf, self.member.plan.key(self._view(batch), own))

    def window(self, stratum: int) -> Window | None:
        return None if self.before.cuts else self.member.plan.window(stratum)

    def describe(self) -> dict[str, Any]:
        return self.member.plan.describe()


def union_plan(
    members: Mapping[str, tuple[float, SelectionPlan]],
    budget: int,
    seed: int,
    purpose: str,
    domain_quotas: Sequence[tuple[str, int]] = (),
) -> UnionPlan:
    """members: (share, plan) by name, a plan's quotas being what `member_budgets` gives it."""
    names = sorted(members)
    tokens = member_budgets([members[name][0] for name in names], budget)
    made = tuple(
        Member(name, members[name][0], int(own), members[name][1]) for name, own in zip(names, tokens, strict=True)
    )
    return UnionPlan(made, seed, purpose, tuple(domain_quotas))


def member_budgets(shares: Sequence[float], budget: int) -> NDArray[np.int64]:
    """(n_members,) tokens of each, by name."""
    return whole_shares(np.array(shares, dtype=np.float64), budget)


def member_quotas(shares: Sequence[float], domain_quotas: Sequence[int]) -> NDArray[np.int64]:
    """(n_members, n_domains) tokens of each member in each domain; every column sums to the domain's quota."""
    return np.stack([member_budgets(shares, int(quota)) for quota in domain_quotas], axis=1)


def settle_union(plan: UnionPlan, settle: Settle) -> tuple[UnionPlan, dict[int, Settled]]:
    """Cut a union member by member: the plan with its cuts, and the outcome of every stratum.

    Raises BudgetError where the earlier members leave one too little, in the pool or in a domain that has a quota.
    """
    found: dict[int, Settled] = {}
    cuts: list[Cuts] = []
    missed: dict[str, int] = {}  # by domain, over the members so far; below 0: they took more than they were asked
    for start, member in zip(plan.starts, plan.members, strict=False):
        domains = _domains_of(member.plan.strata, plan.domain_quotas)
        settled = settle(_Next(plan.with_cuts(cuts), member), missed, domains)
        for domain in dict.fromkeys(domains or [""]):
            mine = [one for stratum, one in settled.items() if domains is None or domains[stratum] == domain]
            asked, taken = sum(one.quota for one in mine), sum(one.taken for one in mine)
            if taken < asked + min(missed.get(domain, 0), 0) and all(one.exhausted or not one.quota for one in mine):
                where = f" in domain {domain!r}" if domain else ""
                raise BudgetError(
                    f"select.union.{member.name}: its share{where} is {asked:,} tokens, but the members before it "
                    f"leave {taken:,} that it may take. Lower its share or the budget, or rename it so that it comes "
                    "earlier"
                )
            missed[domain] = missed.get(domain, 0) + asked - taken
        cuts.append({stratum: outcome.cut for stratum, outcome in settled.items()})
        found |= {start + stratum: outcome for stratum, outcome in settled.items()}
    return plan.with_cuts(cuts), found


def _domains_of(strata: Sequence[str], domain_quotas: Sequence[tuple[str, int]]) -> list[str] | None:
    """The domain of every stratum, by their names; None where domains have no quotas."""
    names = [name for name, _ in domain_quotas]
    return [domain_of(stratum, names) for stratum in strata] if names else None
