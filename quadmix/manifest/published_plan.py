"""The form of a manifest's `plan` section: what must be in it so that every key can be computed again."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quadmix.manifest.published_odis import Fit
from quadmix.manifest.published_quad import Clusters
from quadmix.manifest.published_rules import RULE_KINDS, Rule
from quadmix.manifest.recompute import Curve


class Stratum(BaseModel):
    """What one stratum should and did take, and the last copy that is in."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    quota: int = Field(ge=0)
    taken: int = Field(ge=0)
    cut_key: float | Literal["all", "none"]
    cut_hash: str = Field(pattern=r"^[0-9]{1,20}$")

    @property
    def cut(self) -> tuple[float, int]:
        """(key, hash) of the last copy that is in; infinite where all or none are."""
        if isinstance(self.cut_key, str):
            return (math.inf, 2**64 - 1) if self.cut_key == "all" else (-math.inf, 0)
        return self.cut_key, int(self.cut_hash)


class ThetaByName(BaseModel):
    """The published theta, keyed by names."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    merge_weights: dict[str, dict[str, float]]
    steepness: dict[str, float]
    cutoff: dict[str, float]
    exponent: dict[str, float]
    floor: dict[str, float]


class Member(BaseModel):
    """One member of a union. plan: its own plan, without strata."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
    share: float = Field(gt=0)
    budget: int = Field(ge=1)
    plan: dict[str, Any]


class Plan(BaseModel):
    """The `plan` section of a manifest as far as recomputing needs it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    kind: Literal[
        "quadmix", "natural", "uniform", "weights", "quad", "odis", "random", "topk", "threshold", "gumbel",
        "criteria_mix", "density", "cluster_quality", "union",
    ]  # fmt: skip
    purpose: str
    domains: list[str]
    criteria: list[str]
    max_copies: int = Field(ge=1, le=1000)
    strata: dict[str, Stratum]
    theta: ThetaByName | None = None
    multiplier: float = 1.0
    meet_budget: Literal["omega", "scale"] = "omega"
    rank: Literal["interval", "paper"] = "interval"
    normalise: Literal["quantile", "zscore", "minmax"] = "quantile"
    outcome: Clusters | None = None
    odis: Fit | None = None
    domain_quotas: dict[str, int] | None = None
    fill: dict[str, int] | None = None  # by stratum, inside domain quotas
    rule: Rule = Rule()
    weights: dict[str, float] | None = None  # by domain
    members: dict[str, Member] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Plan:
        if self.kind == "quadmix":
            if self.theta is None:
                raise ValueError("theta is missing")
            for name, values in self.theta:
                if absent := sorted(set(self.domains) - set(values)):
                    raise ValueError(f"theta.{name} has no value for {', '.join(absent)}")
            for domain in self.domains:
                weights = self.theta.merge_weights[domain]
                if set(weights) != set(self.criteria) or not sum(weights.values()) > 0:
                    raise ValueError(f"theta.merge_weights.{domain} does not fit the criteria")
        elif self.kind in RULE_KINDS and (problem := self.rule.missing(self.kind, self.criteria)):
            raise ValueError(problem)
        elif self.kind == "weights" and sorted(self.weights or {}) != self.domains:
            raise ValueError("weights are missing or not those of the plan's domains")
        elif self.kind == "quad" and self.outcome is None:
            raise ValueError("outcome is missing")
        elif self.kind == "odis" and (self.odis is None or [one.name for one in self.odis.dimensions] != self.criteria):
            raise ValueError("odis is missing or its dimensions are not the criteria")
        elif self.domain_quotas is not None and sorted(self.domain_quotas) != sorted(self.domains):
            raise ValueError("domain_quotas are not those of the plan's domains")
        elif self.outcome is not None and self.domain_quotas is not None and self.fill is None:
            raise ValueError("fill is missing")
        if self.kind == "union":
            self._check_members()
        return self

    def _check_members(self) -> None:
        if not self.members:
            raise ValueError("members are missing")
        parts = self.member_plans()
        if {name for part in parts.values() for name in part.criteria} != set(self.criteria):
            raise ValueError("the criteria are not those of the members")
        if sum(len(part.strata) for part in parts.values()) != len(self.strata):
            raise ValueError("a stratum belongs to no member")
        if any(part.kind not in (*RULE_KINDS, "quad", "odis") for part in parts.values()):
            raise ValueError("a member is of a kind that no union has")
        if any((part.domain_quotas is None) != (self.domain_quotas is None) for part in parts.values()):
            raise ValueError("a member has other domains than the union")

    def member_plans(self) -> dict[str, Plan]:
        """The plan of each member of a union by name, sorted, with the strata and the draws that are its own."""
        return {
            name: Plan.model_validate(
                {
                    **member.plan,
                    "purpose": f"{self.purpose}/{name}",
                    "domains": self.domains,
                    "strata": {
                        stratum.removeprefix(f"{name} / "): found.model_dump()
                        for stratum, found in self.strata.items()
                        if stratum.startswith(f"{name} / ")
                    },
                }
            )
            for name, member in sorted((self.members or {}).items())
        }

    def curve(self, domain: str) -> Curve:
        """The sampling curve of one domain, its cutoff stretched or its values scaled to meet the budget."""
        assert self.theta is not None
        theta, omega = self.theta, self.meet_budget == "omega"
        return Curve(
            theta.steepness[domain],
            min(self.multiplier * theta.cutoff[domain], 1.0) if omega else min(theta.cutoff[domain], 1.0),
            theta.exponent[domain],
            theta.floor[domain],
            1.0 if omega else self.multiplier,
            float(self.max_copies),
        )
