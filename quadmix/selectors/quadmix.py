"""QuaDMix as a plan (arXiv 2504.16511): expected copies from quality ranks inside each domain.

Fit: a histogram of merged qualities per domain (one pass; documents in one bin are a tie group), ranks from it
(eq. 2), the multiplier that meets the budget in closed form, then the mean of S (eq. 3) over every tie group's rank
interval. Apply: scores -> classes -> integer quality -> bin -> expected copies f, all by table. Keys are u / f with
step 1 / f: below key 1 lie exactly floor(f) + [u < fraction] copies, so the cut of every domain is close to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import whole_shares
from quadmix.core.mixture import MeetBudget, meet_budget
from quadmix.core.normalise import ScoreLookup, ScoreMap
from quadmix.core.param_space import Params
from quadmix.core.quality import QUALITY_BITS, bin_bits, bin_ranks, integer_quality, integer_weights
from quadmix.core.sampling import interval_mean, sampling_value
from quadmix.core.sketch import TokenHistogram
from quadmix.errors import BudgetError
from quadmix.schema import EXPECTED_COPIES, QUALITY_RANK
from quadmix.selectors.base import DocBatch

RankRule = Literal["interval", "paper"]


@dataclass(frozen=True)
class QualityBinning:
    """Documents to cells: a cell is one quality bin of one domain; a domain's cells are contiguous, the best last."""

    lookups: tuple[ScoreLookup, ...]
    sigma: tuple[NDArray[np.int64], ...]  # per criterion: sigma of each class, units of 2**-30
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
        return QualityBinning(
            tuple(m.lookup() for m in score_maps), tuple(m.sigma for m in score_maps), weights, shift, base, low
        )

    def cells(self, batch: DocBatch) -> NDArray[np.int64]:
        """(n,) cell of every document."""
        sigma = np.empty((len(batch), len(self.sigma)), dtype=np.int64, order="F")
        for column, (lookup, table) in enumerate(zip(self.lookups, self.sigma, strict=True)):
            sigma[:, column] = table[lookup.classes(np.ascontiguousarray(batch.scores[:, column]))]
        quality = integer_quality(sigma, self.weights, batch.domain)
        return (quality >> self.shift[batch.domain]) + (self.base[:-1] - self.low)[batch.domain]

    def histogram(self, batch: DocBatch) -> TokenHistogram:
        """Documents and tokens of every cell."""
        return TokenHistogram.of(self.cells(batch), batch.n_tokens)

    def domain_histogram(self, cells: TokenHistogram, domain: int) -> TokenHistogram:
        """The part of a cell histogram that belongs to one domain."""
        first, last = np.searchsorted(cells.bins, self.base[domain : domain + 2])
        return TokenHistogram(cells.bins[first:last], cells.docs[first:last], cells.tokens[first:last])


@dataclass(frozen=True)
class QuadmixPlan:
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
    domain_docs: tuple[float, ...]  # documents expected below each cut, for the window
    resolution: float  # largest share of a domain's tokens in one tie group of several documents

    @property
    def selector(self) -> str:
        return "quadmix"

    @property
    def strata(self) -> tuple[str, ...]:
        return self.domains

    @property
    def quotas(self) -> Mapping[int, int]:
        return dict(enumerate(self.domain_quotas))

    def _cells(self, batch: DocBatch) -> NDArray[np.int64]:
        return batch.remember("cells", lambda: self.binning.cells(batch))

    def expected_copies(self, batch: DocBatch) -> NDArray[np.float64]:
        """(n,) f of every document: the mean of min(S, cap) over its tie group's rank interval."""
        return batch.remember("expected", lambda: self.expected[self._cells(batch)])

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

    def window(self, stratum: int) -> tuple[float, float] | None:
        # tokens below key 1 vary like a sum of independent draws; 10 deviations of a sum of equal documents
        # leave room for uneven ones, and a cut outside only costs a pass
        docs = self.domain_docs[stratum]
        spread = 10.0 / float(np.sqrt(docs)) if docs > 400 else 0.5
        return 1.0 - spread, 1.0 + spread

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
    if not np.isfinite(multiplier):
        raise BudgetError(_infeasible(params, domains, domain_tokens, budget, max_copies, rule))
    scale = multiplier if rule == "scale" else 1.0
    stretch = multiplier if rule == "omega" else 1.0
    n_cells = int(binning.base[-1])
    expected, rank = np.zeros(n_cells), np.ones(n_cells)
    resolution, docs_below = 0.0, []
    tokens = met.tokens[0].copy()
    for index in range(len(domains)):
        histogram = binning.domain_histogram(cells, index)
        low, high = bin_ranks(histogram)
        shape = (float(params.steepness[0, index]), min(stretch * float(params.cutoff[0, index]), 1.0),
                 float(params.exponent[0, index]), float(params.floor[0, index]))  # fmt: skip
        some = histogram.tokens > 0
        value = np.zeros(low.size)
        if rank_rule == "interval":
            value[some] = interval_mean(low[some], high[some], *shape, cap=float(max_copies), scale=scale)
        else:
            point = sampling_value(high[some], *(np.array([part]) for part in shape))
            value[some] = np.minimum(scale * point, float(max_copies))
        expected[histogram.bins], rank[histogram.bins] = value, high
        several = histogram.docs > 1
        if several.any():
            resolution = max(resolution, float((high - low)[several].max()))
        if rank_rule == "paper":
            tokens[index] = np.cumsum(histogram.tokens * value)[-1] if value.size else 0.0
        docs_below.append(float(np.cumsum(histogram.docs * value)[-1]) if value.size else 0.0)
    return QuadmixPlan(
        domains, criteria, params, multiplier, rule, rank_rule, normalise, max_copies, binning, expected, rank,
        tuple(int(quota) for quota in whole_shares(tokens, budget)), tuple(docs_below), resolution,
    )  # fmt: skip


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
    from quadmix.core.mixture import expected_tokens

    if rule == "omega":
        widest = params.with_cutoff(np.ones_like(params.cutoff))
        most = expected_tokens(widest, domain_tokens, float(max_copies))[0]
        least = expected_tokens(params.with_cutoff(np.zeros_like(params.cutoff)), domain_tokens, float(max_copies))[0]
    else:
        reachable = np.where(params.floor[0] > 0, 1.0, np.minimum(params.cutoff[0], 1.0))
        most = domain_tokens * reachable * max_copies
        least = np.zeros_like(most)
    each = ", ".join(f"{name} {tokens:,.0f}" for name, tokens in zip(domains, most, strict=True))
    total = int(domain_tokens.sum())
    if least.sum() > budget:
        return (
            f"mixture.budget: {budget:,} tokens is less than the {least.sum():,.0f} that the floors of theta alone "
            f"select; lower `floor` or raise the budget"
        )
    return (
        f"mixture.budget: asked {budget:,} tokens, this mixture can reach {most.sum():,.0f} with meet_budget '{rule}' "
        f"and at most {max_copies} copies (per domain: {each}); the pool holds {total:,} tokens, {total * max_copies:,} "
        f"with every document at {max_copies} copies. Lower the budget, raise max_copies, or choose another theta"
    )
