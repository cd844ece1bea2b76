"""What a manifest says of a rule over annotated columns, and its keys and quotas computed again, for `verify` and
`explain`.

Written from algorithms.md, section 5, sharing nothing with the code that selects. Keys follow the one sequence of IEEE
operations that the manifest's form prescribes, since their last bits order documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from quadmix.manifest.recompute import (
    SPLIT_BITS,
    Floats,
    Ints,
    crowded,
    natural_log,
    order_keys,
    scores_of,
    shares_within_room,
)

RULE_KINDS = ("random", "topk", "threshold", "gumbel", "criteria_mix", "density", "cluster_quality")


class Rule(BaseModel):
    """The settings of one rule as published: those of its kind."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
    least_score: float | None = None
    least_quantile: float | None = Field(default=None, gt=0, lt=1)
    temperature: float | None = Field(default=None, gt=0)
    shares: list[float] | None = None
    measures: Literal["density", "log_density", "minus_log_density"] | None = None
    exponent: float | None = Field(default=None, gt=0)
    clusters: list[str] | None = None

    def missing(self, kind: str, criteria: Sequence[str]) -> str | None:
        """What a rule of this kind cannot be computed without, in words."""
        wanted = {
            "threshold": ("least_score",),
            "gumbel": ("temperature",),
            "criteria_mix": ("shares",),
            "density": ("measures", "exponent"),
            "cluster_quality": ("temperature", "clusters"),
        }.get(kind, ())
        absent = [name for name in wanted if getattr(self, name) is None]
        if absent:
            return f"rule.{absent[0]} is missing"
        if kind == "criteria_mix":
            fits = self.shares is not None and len(self.shares) == len(criteria) >= 1 and min(self.shares) > 0
            return None if fits else "rule.shares are not one number above 0 for each criterion"
        if len(criteria) != (kind != "random"):
            return f"{kind} does not go by the criteria {list(criteria)}"
        if self.clusters is not None and self.clusters != sorted(set(self.clusters)):
            return "rule.clusters are not sorted, or one is there twice"
        return None


@dataclass(frozen=True)
class ScoreCounts:
    """Documents and tokens of one score: of its coarse bins in use (order keys >> 12), ascending, and tokens of every
    single score in crowded ones."""

    coarse: Ints
    docs: Ints
    tokens: Ints
    single: Ints
    single_tokens: Ints

    @cached_property
    def classes(self) -> tuple[Ints, Ints, Ints]:
        """(first order key, order keys spanned, tokens) of every class of scores, ascending."""
        alone = ~crowded(self.docs, self.tokens)
        keys = np.concatenate([self.coarse[alone] << SPLIT_BITS, self.single])
        span = np.repeat([1 << SPLIT_BITS, 1], [int(alone.sum()), self.single.size])
        tokens = np.concatenate([self.tokens[alone], self.single_tokens])
        order = np.argsort(keys)
        return keys[order], span[order], tokens[order]

    def score_at(self, quantile: float) -> float:
        """The first score of the first class up to which there is that share of the tokens."""
        keys, _, tokens = self.classes
        total = int(tokens.sum())
        for at, upto in enumerate(np.cumsum(tokens).tolist()):
            if float(upto) >= quantile * float(total):
                return float(scores_of(keys[at : at + 1])[0])
        raise AssertionError("no quantile lies beyond all tokens")

    def depth(self, scores: NDArray[np.float32], draw: Floats) -> Floats:
        """(n,) share of the tokens that score at least as well: exact where a class begins, and inside it less the part
        of its tokens that the order keys below are of those it spans, or that larger draws have of a single score."""
        keys, span, tokens = self.classes
        own = order_keys(scores)
        at = np.maximum(np.searchsorted(keys, own, side="right") - 1, 0)
        below = np.minimum(np.maximum(own - keys[at], 0), span[at] - 1)
        total = int(tokens.sum())
        at_least = total - (np.cumsum(tokens) - tokens)
        passed = tokens[at].astype(np.float64) * np.where(span[at] == 1, 1.0 - draw, below / span[at])
        return np.asarray((at_least[at] - passed) / float(total))


def rule_keys(
    kind: str, rule: Rule, draw: Floats, scores: Sequence[NDArray[np.float32]], counts: Sequence[ScoreCounts]
) -> Floats:
    """(n,) keys. counts: of each score, for `criteria_mix`."""
    if kind in ("random", "threshold"):
        return draw
    first = scores[0].astype(np.float64)
    if kind == "topk":
        return -first
    if kind == "density":
        assert rule.exponent is not None
        measured = natural_log(first) if rule.measures == "density" else first
        return natural_log(draw) + rule.exponent * (-measured if rule.measures == "minus_log_density" else measured)
    if kind == "criteria_mix":
        assert rule.shares is not None
        reached = [
            own.depth(column, draw) / share for own, column, share in zip(counts, scores, rule.shares, strict=True)
        ]
        return np.asarray(np.min(reached, axis=0))
    assert rule.temperature is not None
    return -(first / rule.temperature + -natural_log(-natural_log(draw)))


def cluster_strata(
    clusters: Sequence[str], cells: Mapping[tuple[str, int], int], domains: Mapping[str, int] | None, budget: int
) -> dict[str, tuple[list[tuple[str, int]], int]]:
    """Stratum by name: its cells (domain, cluster code) and its quota. cells: tokens; domains: quotas, if there are."""
    codes = range(len(clusters))
    if domains is None:
        held = [sum(tokens for (_, code), tokens in cells.items() if code == own) for own in codes]
        quotas = shares_within_room([float(tokens) for tokens in held], held, budget)
        names = sorted({domain for domain, _ in cells})
        return {clusters[own]: ([(domain, own) for domain in names], quotas[own]) for own in codes}
    found: dict[str, tuple[list[tuple[str, int]], int]] = {}
    for domain, quota in domains.items():
        held = [cells.get((domain, own), 0) for own in codes]
        quotas = shares_within_room([float(tokens) for tokens in held], held, quota)
        found |= {f"{domain} / {clusters[own]}": ([(domain, own)], quotas[own]) for own in codes if held[own]}
    return found
