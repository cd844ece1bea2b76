"""Cluster quality sampling (arXiv 2409.11378): every cluster gives tokens in proportion to its size, drawn without
replacement with probabilities in proportion to exp(quality / temperature).

What a cluster cannot give, the others do (`core.budget`). Inside domain quotas the strata are the clusters of each
domain, and a domain's quota is cut in proportion to their tokens in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import capped_shares
from quadmix.errors import BudgetError, ConfigError
from quadmix.selectors.base import JOIN, DocBatch, TakenOnce
from quadmix.selectors.rules import Gumbel


@dataclass(frozen=True)
class ClusterQualityPlan(TakenOnce):
    """Build with `cluster_quality_plan` or `cluster_quality_plan_within`. place: (n_domains or 1, K) int32 stratum of a
    domain's cluster, -1 where there is none."""

    rule: Gumbel
    clusters: tuple[str, ...]
    strata: tuple[str, ...]
    stratum_quotas: tuple[int, ...]
    place: NDArray[np.int32]
    domain_quotas: tuple[tuple[str, int], ...] = ()

    @property
    def selector(self) -> str:
        return "cluster_quality"

    @property
    def criteria(self) -> tuple[str, ...]:
        return self.rule.criteria

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.stratum_quotas))

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        if batch.cluster is None:
            raise ValueError("cluster quality sampling needs the documents' clusters: read them with the annotations")
        domain = batch.domain if self.domain_quotas else np.zeros(len(batch), dtype=np.int32)
        found = self.place[domain, np.maximum(batch.cluster, 0)]
        return np.where(batch.cluster >= 0, found, -1).astype(np.int32)

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.rule.key(batch, u)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "cluster_quality",
            "criteria": list(self.criteria),
            "max_copies": 1,
            "rule": {**self.rule.settings(), "clusters": list(self.clusters)},
            "domain_quotas": dict(self.domain_quotas) or None,
        }


def cluster_quality_plan(
    rule: Gumbel, clusters: Sequence[str], tokens: NDArray[np.int64], budget: int
) -> ClusterQualityPlan:
    """clusters: K names, sorted; tokens: (K,) of the pool. Raises BudgetError where they hold less than the budget."""
    quotas = _quotas("mixture.budget", budget, tokens)
    place = np.arange(len(clusters), dtype=np.int32)[None, :]
    return ClusterQualityPlan(rule, tuple(clusters), tuple(clusters), quotas, place)


def cluster_quality_plan_within(
    rule: Gumbel,
    clusters: Sequence[str],
    domains: Sequence[str],
    domain_quotas: Sequence[int],
    tokens: NDArray[np.int64],
) -> ClusterQualityPlan:
    """tokens: (n_domains, K) of each cluster in each domain. Raises BudgetError for a domain whose clusters hold less
    than its quota."""
    cells = []
    for d, (domain, quota) in enumerate(zip(domains, domain_quotas, strict=True)):
        found = _quotas(f"select: domain {domain!r}", int(quota), tokens[d])
        cells += [(f"{domain}{JOIN}{clusters[k]}", d, k, found[k]) for k in np.flatnonzero(tokens[d]).tolist()]
    cells.sort()
    names = tuple(name for name, _, _, _ in cells)
    if len(set(names)) < len(names):
        raise ConfigError(
            f"cluster_quality: two pairs of domain and cluster have one name; rename what has {JOIN!r} in its name"
        )
    place = np.full((len(domains), len(clusters)), -1, dtype=np.int32)
    for stratum, (_, d, k, _) in enumerate(cells):
        place[d, k] = stratum
    wanted = tuple(zip(domains, map(int, domain_quotas), strict=True))
    return ClusterQualityPlan(rule, tuple(clusters), names, tuple(cell[3] for cell in cells), place, wanted)


def _quotas(where: str, budget: int, tokens: NDArray[np.int64]) -> tuple[int, ...]:
    held = int(tokens.sum())
    if budget > held:
        raise BudgetError(
            f"{where}: asked {budget:,} tokens, the documents that have a cluster hold {held:,} and `cluster_quality` "
            "takes each once. Lower the budget, or give every document a cluster"
        )
    return tuple(map(int, capped_shares(tokens.astype(np.float64), budget, tokens)))
