"""The members of a union, each fitted for its share, put together as one plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quadmix.selectors.union import UnionPlan, member_quotas, union_plan
from quadmix.stages.measured import Measured

_RULES = 2  # how members draw and settle; raised when it changes, so that no union of older rules is taken for one


@dataclass(frozen=True)
class UnionFit:
    """members: (share, selector, fit for its share of the budget) by name."""

    members: Mapping[str, tuple[float, str, Measured]]
    budget: int
    seed: int
    purpose: str
    domains: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of all members and of the rules that put them together."""
        told = {name: (share, selector, fit.digest) for name, (share, selector, fit) in self.members.items()}
        return json.dumps([_RULES, told], sort_keys=True)

    def alone(self) -> UnionPlan:
        """Every member takes its share of the whole pool."""
        plans = {name: (share, fit.alone()) for name, (share, _, fit) in self.members.items()}
        return union_plan(plans, self.budget, self.seed, self.purpose)

    def within(self, domain_quotas: Sequence[int]) -> UnionPlan:
        """Every member takes its share of every domain's quota."""
        names = sorted(self.members)
        quotas = member_quotas([self.members[name][0] for name in names], domain_quotas)
        plans = {
            name: (self.members[name][0], self.members[name][2].within(own.tolist()))
            for name, own in zip(names, quotas, strict=True)
        }
        wanted = tuple(zip(self.domains, map(int, domain_quotas), strict=True))
        return union_plan(plans, self.budget, self.seed, self.purpose, wanted)
