"""The form of a manifest's `plan` section: what must be in it so that every key can be computed again."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quadmix.manifest.published_odis import Fit
from quadmix.manifest.published_quad import Clusters
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


class Plan(BaseModel):
    """The `plan` section of a manifest as far as recomputing needs it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    kind: Literal["quadmix", "natural", "uniform", "topk", "quad", "odis"]
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
        elif self.kind == "topk" and len(self.criteria) != 1:
            raise ValueError(f"top-k has one criterion, found {self.criteria}")
        elif self.kind == "quad" and self.outcome is None:
            raise ValueError("outcome is missing")
        elif self.kind == "odis" and (self.odis is None or [one.name for one in self.odis.dimensions] != self.criteria):
            raise ValueError("odis is missing or its dimensions are not the criteria")
        elif self.domain_quotas is not None and sorted(self.domain_quotas) != sorted(self.domains):
            raise ValueError("domain_quotas are not those of the plan's domains")
        elif self.outcome is not None and self.domain_quotas is not None and self.fill is None:
            raise ValueError("fill is missing")
        return self

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
