"""QuaDMix as a plan (arXiv 2504.16511): expected copies from quality ranks inside each domain.

Fit: a histogram of merged qualities per domain (one pass; documents in one bin are a tie group), ranks from it
(eq. 2), the multiplier that meets the budget in closed form, then the mean of S (eq. 3) over every tie group's rank
interval. Apply: scores -> classes -> integer quality -> bin -> expected copies f, all by table. Keys are u / f with
step 1 / f: below key 1 lie exactly floor(f) + [u < fraction] copies, so the cut of every domain is close to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import whole_shares
from quadmix.core.mixture import MeetBudget, expected_tokens, meet_budget
from quadmix.core.normalise import ScoreLookup, ScoreMap
from quadmix.core.param_space import Params
from quadmix.core.quality import QUALITY_BITS, bin_bits, cell_ranks, integer_quality, integer_weights
from quadmix.core.sampling import interval_mean, sampling_value
from quadmix.core.sketch import TokenHistogram
from quadmix.errors import BudgetError
from quadmix.schema import EXPECTED_COPIES, QUALITY_RANK
from quadmix.selectors.base import DocBatch, OneDraw, Window

RankRule = Literal["interval", "paper"]
_BLOCK = 1 << 18  # cells whose sampling function is computed at once
_SHOWN = 20  # domains that a message lists


@dataclass(frozen=True)
class QualityBinning:
    """Documents to cells: a cell is one quality bin of one domain; a domain's cells are contiguous, the best last."""

    lookups: tuple[ScoreLookup, ...]
    weights: NDArray[np.int64]  # (n_domains, n_criteria), units of 2**-20
    shift: NDArray[np.int64]  # (n_domains,) bits of a quality dropped by its bin
    base: NDArray[np.int64]  # (n_domains + 1,) first cell of each domain
    low: NDArray[np.int64]  # (n_domains,) lowest bin possible

    @staticmethod
    def of(
        score_maps: tuple[ScoreMap, ...], merge_weights: NDArray[np.float64], docs: NDArray[np.int64]
    ) -> QualityBinning:
        """score_maps: one per criterion; merge_weights: (n_domains, n_criteria); docs: (n_domains,) documents."""
        shift = QUALITY_BITS - bin_bits(docs)
        weights = integer_weights(merge_weights)
        worst = (weights * np.array([m.sigma[0] for m in score_maps])).sum(axis=1)
        best = (weights * np.array([m.sigma[-1] for m in score_maps])).sum(axis=1)
        low, high = worst >> shift, best >> shift
        base = np.concatenate([[0], np.cumsum(high - low + 1)])
        return QualityBinning(tuple(m.lookup() for m in score_maps), weights, shift, base, low)

    def cells(self, batch: DocBatch) -> NDArray[np.int64]:
        """(n,) cell of every document."""
        sigma = np.empty((len(batch), len(self.lookups)), dtype=np.int32, order="F")
        for column, lookup in enumerate(self.lookups):
            sigma[:, column] = lookup.find(np.ascontiguousarray(batch.scores[:, column]))
        cells = integer_quality(sigma, self.weights, batch.domain)
        cells >>= self.shift[batch.domain]
        cells += (self.base[:-1] - self.low)[batch.domain]
        return cells

    def histogram(self, batch: DocBatch) -> TokenHistogram:
        """Documents and tokens of every cell."""
        return TokenHistogram.of(self.cells(batch), batch.n_tokens)

    def domain_of(self, cells: TokenHistogram) -> NDArray[np.int64]:
        """(k,) the domain of every cell of a histogram."""
        return np.searchsorted(self.base, cells.bins, side="right") - 1


@dataclass(frozen=True)
class QuadmixPlan(OneDraw):
    """A fitted QuaDMix mixture. expected, rank: (n_cells,) float64."""

    domains: tuple[str, ...]
    criteria: tuple[str, ...]
    params: Params  # a batch of one; the cutoffs as given, before the multiplier
    multiplier: float
    rule: MeetBudget
    rank_rule: RankRule
    normalise: str
    max_copies: int
    binning: QualityBinning
    expected: NDArray[np.float64]
    rank: NDArray[np.float64]
    domain_quotas: tuple[int, ...]
    windows: tuple[Window, ...]
    resolution: float  # largest share of a domain's tokens in one tie group of several documents

    @property
    def selector(self) -> str:
        return "quadmix"

    @property
    def clusters(self) -> tuple[str, ...]:
        return ()

    @property
    def strata(self) -> tuple[str, ...]:
        return self.domains

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.domain_quotas))

    def _cells(self, batch: DocBatch) -> NDArray[np.int64]:
        return batch.remember(self, "cells", lambda: self.binning.cells(batch))

    def expected_copies(self, batch: DocBatch) -> NDArray[np.float64]:
        """(n,) f of every document: the mean of min(S, cap) over its tie group's rank interval."""
        return batch.remember(self, "expected", lambda: self.expected[self._cells(batch)])

    def quality_rank(self, batch: DocBatch) -> NDArray[np.float64]:
        """(n,) eq. 2: 0 is best, ties share the largest."""
        return self.rank[self._cells(batch)]

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        return np.where(self.expected_copies(batch) > 0, batch.domain, -1).astype(np.int32)

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            return u / self.expected_copies(batch)

    def step(self, batch: DocBatch) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            return 1.0 / self.expected_copies(batch)

    def columns(self, batch: DocBatch) -> dict[str, NDArray[np.float64]]:
        return {EXPECTED_COPIES: self.expected_copies(batch), QUALITY_RANK: self.quality_rank(batch)}

    def window(self, stratum: int) -> Window | None:
        return self.windows[stratum]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "quadmix",
            "criteria": list(self.criteria),
            "theta": theta_by_name(self.params, self.domains, self.criteria),
            "multiplier": self.multiplier,
            "meet_budget": self.rule,
            "rank": self.rank_rule,
            "normalise": self.normalise,
            "max_copies": self.max_copies,
            "resolution": self.resolution,
        }


def fit_quadmix(
    params: Params,
    *,
    domains: tuple[str, ...],
    domain_tokens: NDArray[np.int64],
    criteria: tuple[str, ...],
    binning: QualityBinning,
    cells: TokenHistogram,
    budget: int,
    max_copies: int,
    rule: MeetBudget = "omega",
    rank_rule: RankRule = "interval",
    normalise: str = "quantile",
) -> QuadmixPlan:
    """Turn one theta into a plan that meets `budget` tokens.

    params: a batch of one, ordered as `domains` and `criteria`; domain_tokens: (n_domains,) tokens of the pool;
    cells: `binning.histogram` of the whole pool. Raises BudgetError with the numbers when the budget is out of reach.
    """
    met = meet_budget(params, domain_tokens, budget, float(max_copies), rule)
    multiplier = float(met.multiplier[0])
    if not np.isfinite(multiplier) or budget > int(domain_tokens.sum()) * max_copies:
        raise BudgetError(_infeasible(params, domains, domain_tokens, budget, max_copies, rule))
    scale = multiplier if rule == "scale" else 1.0
    stretch = multiplier if rule == "omega" else 1.0
    curve = (
        params.steepness[0],
        np.minimum(stretch * params.cutoff[0], 1.0),
        params.exponent[0],
        params.floor[0],
    )
    domain = binning.domain_of(cells)
    low, high = cell_ranks(cells.tokens, domain)
    value = np.zeros(low.size)
    some = np.flatnonzero(cells.tokens)
    for start in range(0, some.size, _BLOCK):
        part = some[start : start + _BLOCK]
        steepness, cutoff, exponent, floor = (field[domain[part]] for field in curve)
        if rank_rule == "interval":
            value[part] = interval_mean(
                low[part], high[part], steepness, cutoff, exponent, floor, float(max_copies), scale
            )
        else:
            point = sampling_value(high[part], steepness, cutoff, exponent, floor)
            value[part] = np.minimum(scale * point, float(max_copies))
    n_cells = int(binning.base[-1])
    expected, rank = np.zeros(n_cells), np.ones(n_cells)
    expected[cells.bins], rank[cells.bins] = value, high
    docs = np.bincount(domain, weights=cells.docs * value, minlength=len(domains))
    rate = np.bincount(domain, weights=cells.docs * np.minimum(value, max_copies - value), minlength=len(domains))
    tokens = met.tokens[0]
    guess = np.ones(len(domains))
    if rank_rule == "paper":
        # S at a tie group's largest rank promises fewer tokens than its integral: the quotas keep the proportions
        tokens = np.bincount(domain, weights=cells.tokens * value, minlength=len(domains))
        reach = int(cells.tokens[value > 0].sum()) * max_copies
        if budget > reach:
            raise BudgetError(
                f"mixture.budget: asked {budget:,} tokens, with `rank: paper` this mixture admits documents of "
                f"{reach:,} tokens at {max_copies} copies, since tied documents all take their group's largest rank. "
                f"Use `rank: interval`, widen the cutoffs or lower the budget"
            )
        guess = np.divide(float(budget), np.cumsum(tokens)[-1]) * guess
    several = cells.docs > 1
    return QuadmixPlan(
        domains, criteria, params, multiplier, rule, rank_rule, normalise, max_copies, binning, expected, rank,
        tuple(int(quota) for quota in whole_shares(tokens, budget)),
        tuple(_window(*map(float, shape)) for shape in zip(docs, rate, guess, strict=True)),
        float((high - low)[several].max()) if several.any() else 0.0,
    )  # fmt: skip


def _window(docs: float, rate: float, centre: float) -> Window:
    """Where a domain's cut lies: near key `centre`, below which `docs` * `centre` copies are expected; above it, `rate`
    of them a unit of key (documents that are taken max_copies times already add none).

    The tokens below a key vary like a sum of independent draws; 10 deviations of a sum of equal documents leave
    room for uneven ones, and a cut outside only costs a pass.
    """
    expected = docs * centre
    spread = 10.0 * math.sqrt(expected) + 20.0
    low = centre * (1.0 - spread / expected) if spread < expected else 0.0
    return Window(low, centre + spread / max(rate, 1e-9), min(expected, spread) + spread)


def theta_by_name(params: Params, domains: tuple[str, ...], criteria: tuple[str, ...]) -> dict[str, Any]:
    """One theta as nested dictionaries keyed by domain and criterion names: the form of `config.Theta`."""
    return {
        "merge_weights": {
            domain: {name: float(params.merge_weights[0, m, n]) for n, name in enumerate(criteria)}
            for m, domain in enumerate(domains)
        },
        **{
            field: {domain: float(getattr(params, field)[0, m]) for m, domain in enumerate(domains)}
            for field in ("steepness", "cutoff", "exponent", "floor")
        },
    }


def params_by_name(theta: Mapping[str, Any], domains: tuple[str, ...], criteria: tuple[str, ...]) -> Params:
    """The inverse of `theta_by_name`, for names that were checked (`stages.fitting`): a batch of one."""
    weights = np.array([[[theta["merge_weights"][d].get(n, 0.0) for n in criteria] for d in domains]], dtype=np.float64)
    weights /= weights.sum(axis=2, keepdims=True)
    rest = {
        field: np.array([[theta[field][d] for d in domains]], dtype=np.float64)
        for field in ("steepness", "cutoff", "exponent", "floor")
    }
    return Params(weights, **rest)


def _infeasible(
    params: Params, domains: tuple[str, ...], domain_tokens: NDArray[np.int64], budget: int, max_copies: int, rule: str
) -> str:
    if rule == "omega":
        widest = params.with_cutoff(np.ones_like(params.cutoff))
        most = expected_tokens(widest, domain_tokens, float(max_copies))[0]
        least = expected_tokens(params.with_cutoff(np.zeros_like(params.cutoff)), domain_tokens, float(max_copies))[0]
    else:
        reachable = np.where(params.floor[0] > 0, 1.0, np.minimum(params.cutoff[0], 1.0))
        most = domain_tokens * reachable * max_copies
        least = np.zeros_like(most)
    shown = [f"{name} {tokens:,.0f}" for name, tokens in zip(domains[:_SHOWN], most, strict=False)]
    each = ", ".join(shown + ([f"and {len(domains) - _SHOWN} more"] if len(domains) > _SHOWN else []))
    total = int(domain_tokens.sum())
    every = total * max_copies
    if least.sum() > budget:
        return (
            f"mixture.budget: {budget:,} tokens is less than the {least.sum():,.0f} that the floors of theta alone "
            f"select; lower `floor` or raise the budget"
        )
    return (
        f"mixture.budget: asked {budget:,} tokens, this mixture can reach {most.sum():,.0f} with meet_budget '{rule}' "
        f"and at most {max_copies} copies (per domain: {each}); the pool holds {total:,} tokens, {every:,} "
        f"with every document at {max_copies} copies. Lower the budget, raise max_copies, or choose another theta"
    )
