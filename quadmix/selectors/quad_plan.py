"""Quad as a plan: every cluster, or every cluster of every domain, gives its tokens in hash order, each document once.

With the clusters as strata the quotas are what the bandit granted plus fill. Inside another selector's domain
quotas the strata are (domain, cluster), see `within_domains`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import whole_shares
from quadmix.errors import BudgetError, ConfigError, InputError
from quadmix.selectors.base import JOIN, DocBatch, TakenOnce
from quadmix.selectors.quad_outcome import ClusterOutcome, Outcome, filled


@dataclass(frozen=True)
class QuadPlan(TakenOnce):
    """Build with `quad_plan` or `quad_plan_within`.

    place: (n_domains or 1, n_codes) int32 stratum of a document's domain and cluster code, -1 where there is none.
    stratum_fill: of each stratum's quota inside domain quotas, the tokens that no grant stands behind.
    """

    strata: tuple[str, ...]
    stratum_quotas: tuple[int, ...]
    place: NDArray[np.int32]
    outcome: Outcome
    domain_quotas: tuple[tuple[str, int], ...] = ()  # of the whole pool's domains, in the order of their index
    stratum_fill: tuple[int, ...] = ()

    @property
    def selector(self) -> str:
        return "quad"

    @property
    def criteria(self) -> tuple[str, ...]:
        return ()

    @property
    def clusters(self) -> tuple[str, ...]:
        return tuple(cluster.name for cluster in sorted(self.outcome.clusters, key=lambda one: one.code))

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.stratum_quotas))

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        if batch.cluster is None:
            raise ValueError("a Quad plan needs the documents' clusters: read them with the annotations")
        known = (batch.cluster >= 0) & (batch.cluster < self.place.shape[1])
        domain = batch.domain if self.domain_quotas else np.zeros(len(batch), dtype=np.int32)
        found = self.place[domain, np.where(known, batch.cluster, 0)]
        return np.where(known, found, -1).astype(np.int32)

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        return u

    def describe(self) -> dict[str, Any]:
        outcome = self.outcome.to_json()
        del outcome["rounds"]  # they grow with the scored documents; the quotas follow without them
        fill = dict(zip(self.strata, self.stratum_fill, strict=True)) if self.domain_quotas else None
        told = self.outcome
        if fill is not None:
            told = outcome_within(
                told, self.domain_quotas, dict(zip(self.strata, self.stratum_quotas, strict=True)), fill
            )
        return {
            "kind": "quad",
            "criteria": [],
            "max_copies": 1,
            "outcome": outcome,
            "stop": told.why,
            "domain_quotas": dict(self.domain_quotas) or None,
            "fill": fill,
        }


def quad_plan(outcome: Outcome) -> QuadPlan:
    """The clusters as strata."""
    names = tuple(cluster.name for cluster in outcome.clusters)
    codes = [cluster.code for cluster in outcome.clusters]
    place = np.full((1, max(codes) + 1), -1, dtype=np.int32)
    place[0, codes] = np.arange(len(names))
    return QuadPlan(names, tuple(cluster.granted + cluster.fill for cluster in outcome.clusters), place, outcome)


def quad_plan_within(
    outcome: Outcome, domains: Sequence[str], domain_quotas: Sequence[int], tokens: NDArray[np.int64]
) -> QuadPlan:
    """Clusters inside given domain quotas. domains: the pool's names, by index; tokens: as in `within_domains`."""
    granted, fill = within_domains(outcome, domains, domain_quotas, tokens)
    cells = [(domain, cluster) for domain, cluster in zip(*np.nonzero(tokens), strict=True)]
    clusters = outcome.clusters
    name_of = {cell: f"{domains[cell[0]]}{JOIN}{clusters[cell[1]].name}" for cell in cells}
    cells.sort(key=lambda cell: name_of[cell])
    names = tuple(name_of[cell] for cell in cells)
    if len(set(names)) < len(names):
        twice = next(one for one, other in itertools.pairwise(names) if one == other)
        raise ConfigError(
            f"quad: two pairs of domain and cluster are both called {twice!r}; rename the domain or cluster that has "
            f"{JOIN!r} in its name"
        )
    place = np.full((len(domains), max(cluster.code for cluster in clusters) + 1), -1, dtype=np.int32)
    for stratum, (domain, cluster) in enumerate(cells):
        place[domain, clusters[cluster].code] = stratum
    wanted = tuple(zip(domains, map(int, domain_quotas), strict=True))
    quotas = tuple(int(granted[cell] + fill[cell]) for cell in cells)
    return QuadPlan(names, quotas, place, outcome, wanted, tuple(int(fill[cell]) for cell in cells))


def outcome_within(
    outcome: Outcome, domains: Iterable[tuple[str, int]], quotas: Mapping[str, int], fill: Mapping[str, int]
) -> Outcome:
    """The outcome with what clusters give inside domain quotas in the place of what they give alone.

    domains: with their quotas; quotas, fill: tokens by stratum.
    """
    names = [name for name, _ in domains]

    def inside(cluster: ClusterOutcome) -> ClusterOutcome:
        mine = [stratum for name in names if (stratum := f"{name}{JOIN}{cluster.name}") in quotas]
        filled_up = sum(fill[stratum] for stratum in mine)
        return replace(cluster, granted=sum(quotas[stratum] for stratum in mine) - filled_up, fill=filled_up)

    return replace(outcome, clusters=tuple(inside(cluster) for cluster in outcome.clusters))


def check_holdings(domains: Sequence[str], domain_quotas: Sequence[int], tokens: Sequence[int]) -> None:
    """Raises BudgetError for a domain that holds less than its quota. tokens: held, by domain."""
    for domain, quota, held in zip(domains, domain_quotas, tokens, strict=True):
        if quota > held:
            raise BudgetError(
                f"select: domain {domain!r} has a quota of {quota:,} tokens and holds {held:,}; each document is taken "
                "once at most. Lower the budget, or cap the domain's repeats at 1 (mixture.max_copies: 1)"
            )


def within_domains(
    outcome: Outcome, domains: Sequence[str], domain_quotas: Sequence[int], tokens: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n_domains, K) tokens of each cluster in each domain that grants stand behind, and those that are fill; together
    every row sums to its domain's quota.

    tokens: (n_domains, K) of the pool, clusters as in the outcome. Granted tokens are a cluster's hash prefix, so a
    domain has its part of them: its quota is cut in proportion to granted_c * (tokens_dc / tokens_c), at most what is
    there; the rest, which is all in a domain without granted clusters, by the fill rule.
    Raises BudgetError for a domain that holds less than its quota.
    """
    clusters = outcome.clusters
    whole = np.array([cluster.tokens for cluster in clusters], dtype=np.int64)
    for column in np.flatnonzero(tokens.sum(axis=0) != whole)[:1]:
        raise InputError(
            f"quad: cluster {clusters[column].name!r} has {tokens[:, column].sum():,} tokens over the domains, the "
            f"bandit was told {whole[column]:,}; run select again"
        )
    check_holdings(domains, domain_quotas, tokens.sum(axis=1).tolist())
    granted = np.array([cluster.granted for cluster in clusters], dtype=np.float64)
    known = np.array([cluster.mean is not None for cluster in clusters])
    mean = np.array([cluster.mean or 0.0 for cluster in clusters])
    kept = np.array([cluster.kept for cluster in clusters])
    # baselines have no means: what they granted orders their fill
    rank = np.where(known, mean, granted)
    share = tokens.astype(np.float64) / np.maximum(whole, 1).astype(np.float64)
    quotas, fill = np.zeros(tokens.shape, dtype=np.int64), np.zeros(tokens.shape, dtype=np.int64)
    for row, quota in enumerate(domain_quotas):
        weights = granted * share[row]
        if weights.any():
            quotas[row] = np.minimum(whole_shares(weights, quota), tokens[row])
        fill[row] = filled(tokens[row] - quotas[row], kept, rank, quota - int(quotas[row].sum()))
    return quotas, fill
