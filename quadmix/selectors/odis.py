"""ODiS (arXiv 2510.18909; algorithms.md, section 4): the best documents of each principal component of the scores.

Scores are standardised, their correlation matrix is taken apart (`core.components`), and every document is projected
onto the K components that are kept. A document belongs to the component in which its token-weighted quantile is
highest (ties to the first), so the strata are disjoint, and each is filled to a quota of its own: one threshold on
all components together would be decided by the first alone. A later component admits no document whose quantile in the
first one is below the floor: such a document belongs to the first, among its last. In a stratum the largest values come
first.

Components and quantiles are of the whole pool, also inside another mixture's domain quotas: there each domain's quota
is cut by the same shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import capped_shares, whole_shares
from quadmix.core.components import Components, Projection
from quadmix.core.normalise import ScoreLookup, ScoreMap
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT
from quadmix.errors import BudgetError, ConfigError
from quadmix.selectors.base import JOIN, DocBatch, TakenOnce
from quadmix.selectors.odis_outcome import ComponentOutcome, Dimension, Outcome, component_name

QUANTILE_BITS = 30
_UNIT = float(1 << QUANTILE_BITS)

Shares = Literal["equal", "explained_variance"] | tuple[float, ...]


@dataclass(frozen=True)
class Rules:
    """What a user decides. names, groups, quality (decides signs): of the D dimensions; shares: weights of the
    components in the budget, `custom` ones as numbers; floor: quantile of the first component, None: there is none."""

    names: tuple[str, ...]
    groups: tuple[str | None, ...]
    quality: tuple[bool, ...]
    most_components: int = 4
    explained_variance: float = 0.8
    shares: Shares = "equal"
    floor: float | None = 0.3

    def weights(self, fitted: Components) -> NDArray[np.float64]:
        """(K,) of the kept components, summing to 1. Raises ConfigError for another number of weights than
        components."""
        if self.shares == "equal":
            found = np.ones(fitted.kept)
        elif self.shares == "explained_variance":
            found = fitted.eigenvalues[: fitted.kept]
        else:
            found = np.array(self.shares, dtype=np.float64)
        if found.size != fitted.kept:
            held = 100 * float(fitted.explained[: fitted.kept].sum())
            raise ConfigError(
                f"odis.shares: found {found.size} weights, but {fitted.kept} components are kept, which explain "
                f"{held:.1f} % of the variance; give one weight each, or change odis.components"
            )
        return found / float(np.cumsum(found)[-1])


@dataclass(frozen=True)
class Membership:
    """Which component a document belongs to. lookups: one a component, from its value to its quantile in units of
    2**-30; floor: in the same units, 0: there is none."""

    projection: Projection
    lookups: tuple[ScoreLookup, ...]
    floor: int

    @staticmethod
    def of(projection: Projection, maps: Sequence[ScoreMap], floor: float | None) -> Membership:
        """maps: token-weighted mid-rank quantiles of each component (`fit_score_map`)."""
        return Membership(projection, tuple(quantile_lookup(one) for one in maps), in_units(floor or 0.0))

    def quantiles(self, values: NDArray[np.float32]) -> NDArray[np.int32]:
        """(n, K) quantiles of (n, K) component values, in units of 2**-30; higher is better."""
        found = np.empty(values.shape, dtype=np.int32, order="F")
        for k, lookup in enumerate(self.lookups):
            found[:, k] = lookup.find(np.ascontiguousarray(values[:, k]))
        return found

    def component(self, quantiles: NDArray[np.int32]) -> NDArray[np.int32]:
        """(n,) index of the component."""
        best: NDArray[np.int32] = np.argmax(quantiles, axis=1).astype(np.int32)  # the first of equal ones
        best[quantiles[:, 0] < self.floor] = 0
        return best


def quantile_lookup(score_map: ScoreMap) -> ScoreLookup:
    """A table from values to quantiles in units of 2**-30."""
    return ScoreLookup.of(score_map.keys, np.rint(score_map.normalised * _UNIT).astype(np.int32))


def in_units(quantile: float) -> int:
    """A quantile in units of 2**-30."""
    return round(quantile * _UNIT)


def component_histograms(values: NDArray[np.float32], tokens: NDArray[np.int64]) -> tuple[TokenHistogram, ...]:
    """The coarse sketch of each column of (n, K) component values."""
    keys = [order_key(np.ascontiguousarray(values[:, k])) for k in range(values.shape[1])]
    return tuple(TokenHistogram.of(key >> np.uint32(COARSE_SHIFT), tokens) for key in keys)


@dataclass(frozen=True)
class Census:
    """Who belongs where. documents, tokens: (n_domains, K) int64; moved: (2,) documents and tokens that belong to the
    first component because of the floor; shared: (K, K) int64 tokens in two independent top sets, the diagonal one
    set's own."""

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    moved: NDArray[np.int64]
    shared: NDArray[np.int64]

    @staticmethod
    def empty(n_domains: int, components: int) -> Census:
        table = np.zeros((n_domains, components), dtype=np.int64)
        return Census(table, table, np.zeros(2, dtype=np.int64), np.zeros((components, components), dtype=np.int64))

    @staticmethod
    def of(
        membership: Membership,
        batch: DocBatch,
        values: NDArray[np.float32],
        n_domains: int,
        tops: NDArray[np.int64],
    ) -> Census:
        """values: (n, K) components of the batch; tops: (K,) quantile, in units of 2**-30, from which on a document is
        in a component's top set."""
        quantiles = membership.quantiles(values)
        size = quantiles.shape[1]
        component = membership.component(quantiles)
        moved = component != np.argmax(quantiles, axis=1)
        cell = batch.domain.astype(np.int64) * size + component
        shape = (n_domains, size)
        documents = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
        tokens = np.bincount(cell, weights=batch.n_tokens, minlength=shape[0] * shape[1]).reshape(shape)
        inside = quantiles >= tops
        shared = np.zeros((size, size), dtype=np.int64)
        for i in range(size):
            for j in range(i + 1):
                shared[i, j] = shared[j, i] = int(batch.n_tokens[inside[:, i] & inside[:, j]].sum())
        by_floor = np.array([moved.sum(), batch.n_tokens[moved].sum()], dtype=np.int64)
        return Census(documents.astype(np.int64), tokens.astype(np.int64), by_floor, shared)

    def merge(self, other: Census) -> Census:
        return Census(
            self.documents + other.documents, self.tokens + other.tokens, self.moved + other.moved,
            self.shared + other.shared,
        )  # fmt: skip


def top_quantiles(asked: NDArray[np.int64], pool_tokens: int) -> NDArray[np.int64]:
    """(K,) quantile, in units of 2**-30, above which a component's top set of `asked` tokens lies."""
    return np.array([in_units(1.0 - min(int(tokens) / pool_tokens, 1.0)) for tokens in asked], dtype=np.int64)


def outcome_of(
    rules: Rules, fitted: Components, asked: NDArray[np.int64], weights: NDArray[np.float64], census: Census
) -> Outcome:
    """What the fit found. weights, asked: (K,), the budget's shares and tokens."""
    dimensions = tuple(
        Dimension(name, group, quality, float(fitted.mean[d]), float(fitted.deviation[d]))
        for d, (name, group, quality) in enumerate(zip(rules.names, rules.groups, rules.quality, strict=True))
    )
    documents, tokens = census.documents.sum(axis=0), census.tokens.sum(axis=0)
    projection, loadings = fitted.projection, fitted.loadings
    components = tuple(
        ComponentOutcome(
            component_name(k), _floats(loadings[k]), _floats(projection.weights[k]), float(weights[k]), int(asked[k]),
            int(documents[k]), int(tokens[k]), int(census.shared[k, k]), tuple(map(int, census.shared[k])),
        )
        for k in range(fitted.kept)
    )  # fmt: skip
    return Outcome(
        int(asked.sum()), int(documents.sum()), int(tokens.sum()), dimensions,
        tuple(_floats(row) for row in fitted.correlation), _floats(fitted.eigenvalues), rules.explained_variance,
        rules.most_components, components, rules.floor, (int(census.moved[0]), int(census.moved[1])),
    )  # fmt: skip


@dataclass(frozen=True)
class OdisPlan(TakenOnce):
    """Build with `odis_plan` or `odis_plan_within`. place: (n_domains or 1, K) int32 stratum of a domain's component,
    -1 where nothing belongs to it."""

    strata: tuple[str, ...]
    stratum_quotas: tuple[int, ...]
    place: NDArray[np.int32]
    membership: Membership
    outcome: Outcome
    domain_quotas: tuple[tuple[str, int], ...] = ()  # of the whole pool's domains, in the order of their index

    @property
    def selector(self) -> str:
        return "odis"

    @property
    def criteria(self) -> tuple[str, ...]:
        return self.outcome.names

    @property
    def clusters(self) -> tuple[str, ...]:
        return ()

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.stratum_quotas))

    def _values(self, batch: DocBatch) -> NDArray[np.float32]:
        return batch.remember(self, "values", lambda: self.membership.projection.apply(batch.scores))

    def _component(self, batch: DocBatch) -> NDArray[np.int32]:
        def found() -> NDArray[np.int32]:
            return self.membership.component(self.membership.quantiles(self._values(batch)))

        return batch.remember(self, "component", found)

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        component = self._component(batch)
        domain = batch.domain if self.domain_quotas else np.zeros(len(batch), dtype=np.int32)
        found: NDArray[np.int32] = self.place[domain, component]
        return found

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        values, component = self._values(batch), self._component(batch)
        return -values[np.arange(len(batch)), component].astype(np.float64)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "odis",
            "criteria": list(self.criteria),
            "max_copies": 1,
            "odis": self.outcome.to_json(),
            "domain_quotas": dict(self.domain_quotas) or None,
        }


def odis_plan(membership: Membership, outcome: Outcome) -> OdisPlan:
    """The components as strata. Raises BudgetError where they hold less than the budget."""
    names = tuple(component.name for component in outcome.components)
    quotas = _quotas(outcome, "the pool", outcome.budget, np.array([one.tokens for one in outcome.components]))
    return OdisPlan(names, quotas, np.arange(len(names), dtype=np.int32)[None, :], membership, outcome)


def odis_plan_within(
    membership: Membership,
    outcome: Outcome,
    domains: Sequence[str],
    domain_quotas: Sequence[int],
    tokens: NDArray[np.int64],
) -> OdisPlan:
    """Components inside given domain quotas. domains: the pool's names, by index; tokens: (n_domains, K) of
    each component in each domain. Raises BudgetError for a domain that holds less than its quota."""
    size = len(outcome.components)
    cells, quota_of = [], {}
    for d, (domain, quota) in enumerate(zip(domains, domain_quotas, strict=True)):
        found = _quotas(outcome, f"domain {domain!r}", int(quota), tokens[d])
        for k in np.flatnonzero(tokens[d]).tolist():
            cells.append((f"{domain}{JOIN}{component_name(k)}", d, k))
            quota_of[d, k] = found[k]
    cells.sort()
    place = np.full((len(domains), size), -1, dtype=np.int32)
    for stratum, (_, d, k) in enumerate(cells):
        place[d, k] = stratum
    wanted = tuple(zip(domains, map(int, domain_quotas), strict=True))
    quotas = tuple(quota_of[d, k] for _, d, k in cells)
    return OdisPlan(tuple(name for name, _, _ in cells), quotas, place, membership, outcome, wanted)


def _quotas(outcome: Outcome, where: str, budget: int, room: NDArray[np.int64]) -> tuple[int, ...]:
    """(K,) tokens of each component: the budget by the shares; a component that holds less gives all it has, and the
    others share what it leaves."""
    shares = np.array([component.share for component in outcome.components])
    held = int(room[shares > 0].sum())
    if budget > held:
        raise BudgetError(
            f"odis: {where} has a quota of {budget:,} tokens, its components that have a share hold {held:,}, and each "
            "document is taken once. Lower the budget, give every component a share, or cap the domain's repeats at 1 "
            "(mixture.max_copies: 1)"
        )
    return tuple(map(int, capped_shares(shares, budget, room)))


def asked_tokens(weights: NDArray[np.float64], budget: int) -> NDArray[np.int64]:
    """(K,) tokens of each component by the shares alone."""
    return whole_shares(weights, budget)


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(map(float, values))
