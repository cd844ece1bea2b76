"""What a regressor sees of a mixture: token shares and repeats of every domain, its qualities, or theta itself.

Shares and repeats follow from theta in closed form (core.mixture), microseconds a candidate; mean qualities need the
documents, milliseconds a candidate, so only finalists get them. A trial's features are measured on the data that
its proxy was really trained on; a candidate's are the expectations of the same quantities.

Qualities are pooled: the mean of the whole mixture by criterion, and what each domain adds to it, its share times its
mean quality's distance from the middle (`lift`). A domain's mean quality by itself says much about a mixture that takes
a half from it and nothing about one that takes a thousandth; its lift says how much of each there is.

Theta itself is redundant: one factor on all cutoffs (the budget's multiplier takes it back), the scale of the merge
weights, the steepness and exponent of a domain without tokens. Realised features hold none of that.

A domain from which a mixture takes nothing has share 0, repeats 1 and the mean quality of the whole domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.mixture import Met, meet_budget
from quadmix.core.param_space import Params
from quadmix.core.portable import FAST, sigmoid
from quadmix.core.quality import quality_interval
from quadmix.core.quotas import project, reach, with_quotas
from quadmix.core.sampling import CappedRise, rise
from quadmix.search.columns import COUNTED
from quadmix.search.constraints import Limits
from quadmix.search.counting import AT_ONCE, Counts
from quadmix.search.result import MixtureByName

Floats = NDArray[np.float64]

# mean quality of the pool where scores are normalised to quantiles; elsewhere it only adds a multiple of the share
_MIDDLE = 0.5
# far below the half document by which a selection misses its budget
SCREENING_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Mixtures:
    """A batch of k mixtures, expected or realised. tokens: (k,); share, repeats: (k, n_domains);
    quality: (k, n_domains, n_criteria), counted: (k, n_targets) losses of the counting proxy; None where they were not
    computed."""

    tokens: Floats
    share: Floats
    repeats: Floats
    quality: Floats | None = None
    counted: Floats | None = None

    def by_name(
        self, index: int, domains: Sequence[str], criteria: Sequence[str], counted: Sequence[str] = ()
    ) -> MixtureByName:
        """One of them, keyed by names. counted: names of the columns of its counted losses."""
        if self.quality is None:
            raise ValueError("mean qualities were not computed for these mixtures")
        return MixtureByName(
            tokens=float(self.tokens[index]),
            share={name: float(self.share[index, m]) for m, name in enumerate(domains)},
            repeats={name: float(self.repeats[index, m]) for m, name in enumerate(domains)},
            quality={
                name: {criterion: float(self.quality[index, m, n]) for n, criterion in enumerate(criteria)}
                for m, name in enumerate(domains)
            },
            counted=None if self.counted is None else dict(zip(counted, self.counted[index].tolist(), strict=True)),
        )

    @staticmethod
    def of_names(
        mixtures: Sequence[MixtureByName], domains: Sequence[str], criteria: Sequence[str], counted: Sequence[str] = ()
    ) -> Mixtures:
        """The inverse of `by_name`, stacked. counted: targets whose counted losses all of them must have."""
        losses = [[(mixture.counted or {})[name] for name in counted] for mixture in mixtures] if counted else None
        return Mixtures(
            np.array([mixture.tokens for mixture in mixtures], dtype=np.float64),
            np.array([[mixture.share[name] for name in domains] for mixture in mixtures]),
            np.array([[mixture.repeats[name] for name in domains] for mixture in mixtures]),
            np.array([[[mixture.quality[d][c] for c in criteria] for d in domains] for mixture in mixtures]),
            None if losses is None else np.array(losses),
        )


@dataclass(frozen=True)
class ClosedForm:
    """Expected mixtures of a batch of thetas under the budget. params: with the multiplier applied to the cutoffs
    (rule `omega`), and what the limits changed; scale: (k,), 1 under `omega`; feasible: (k,) bool, False rows hold
    NaN."""

    params: Params
    scale: Floats
    feasible: NDArray[np.bool_]
    mixtures: Mixtures


def closed_form(
    params: Params, domain_tokens: NDArray[np.int64], mixture: MixtureConfig, limits: Limits | None = None
) -> ClosedForm:
    """Meet the budget and give every theta's expected shares and repeats. domain_tokens: (n_domains,) of the pool.

    A theta that breaks the limits takes the closest shares within them, as far as its sampling functions reach; it is
    infeasible when there are none. Repeats are expected tokens over expected unique tokens; a document of f expected
    copies is in with probability min(f, 1).
    """
    cap = float(mixture.max_copies)
    met = meet_budget(params, domain_tokens, mixture.budget, cap, mixture.meet_budget, FAST, SCREENING_TOLERANCE)
    feasible = np.isfinite(met.multiplier)
    if limits is not None and limits.bounded:
        return _within(params, met, domain_tokens, mixture, limits, feasible)
    if mixture.meet_budget == "omega":
        scale = np.ones(len(params))
        cutoff = np.minimum(params.cutoff * np.where(feasible, met.multiplier, 1.0)[:, None], 1.0)
        # S is at least 1 up to the cutoff, and the floor beyond
        unique = cutoff + (1.0 - cutoff) * np.minimum(params.floor, 1.0)
    else:
        scale = np.where(feasible, met.multiplier, 1.0)
        cutoff = np.minimum(params.cutoff, 1.0)
        unique = _unique_when_scaled(params, cutoff, scale)
    mixtures = _mixtures(met.tokens, unique * domain_tokens)
    return ClosedForm(params.with_cutoff(cutoff), scale, feasible, mixtures)


def _mixtures(tokens: Floats, unique_tokens: Floats) -> Mixtures:
    total = tokens.sum(axis=1)
    taken = np.isfinite(tokens) & (tokens > 0) & (unique_tokens > 0)
    repeats = np.where(taken, tokens / np.where(unique_tokens > 0, unique_tokens, 1.0), 1.0)
    return Mixtures(total, tokens / total[:, None], repeats)


def _within(
    params: Params,
    met: Met,
    domain_tokens: NDArray[np.int64],
    mixture: MixtureConfig,
    limits: Limits,
    feasible: NDArray[np.bool_],
) -> ClosedForm:
    """Rule `omega`, under which the cutoffs of single domains can move."""
    cap = float(mixture.max_copies)
    stretched = params.with_cutoff(np.minimum(params.cutoff * np.where(feasible, met.multiplier, 1.0)[:, None], 1.0))
    tokens, cutoff, floor, feasible = met.tokens.copy(), stretched.cutoff.copy(), params.floor.copy(), feasible.copy()
    rows = np.flatnonzero(limits.broken(tokens))
    if rows.size:
        high = np.minimum(reach(stretched[rows], domain_tokens, cap, FAST), limits.high)
        low = np.broadcast_to(limits.low, high.shape)
        quotas = project(tokens[rows], low, high, float(mixture.budget))
        possible = np.isfinite(quotas[:, 0])
        tokens[rows], feasible[rows] = quotas, possible
        rows, quotas = rows[possible], quotas[possible]
        moved = with_quotas(stretched[rows], domain_tokens, quotas, cap, FAST, SCREENING_TOLERANCE)
        cutoff[rows], floor[rows] = moved.cutoff, moved.floor
    unique = cutoff + (1.0 - cutoff) * np.minimum(floor, 1.0)
    found = replace(stretched, cutoff=cutoff, floor=floor)
    return ClosedForm(found, np.ones(len(params)), feasible, _mixtures(tokens, unique * domain_tokens))


def _unique_when_scaled(params: Params, cutoff: Floats, scale: Floats) -> Floats:
    wide = np.broadcast_to(scale[:, None], params.floor.shape)
    capped = CappedRise.of(params.exponent, params.floor, 1.0, wide, FAST)
    x = params.steepness * cutoff
    sloped = x >= 1e-12
    inside = np.where(
        sloped,
        capped(x) / np.where(params.steepness > 0, params.steepness, 1.0),
        cutoff * capped.value(np.zeros_like(x)),
    )
    return np.asarray(inside + (1.0 - cutoff) * np.minimum(wide * params.floor, 1.0))


@dataclass(frozen=True)
class QualitySample:
    """Documents on which mixtures are measured. domain: (n,); n_tokens: (n,); normalised: (n, n_criteria), the
    q_n of eq. 1; `whole`: (n_domains, n_criteria), the token-weighted mean of each domain; counts: the counting proxy
    over these documents, where there is one."""

    domain: NDArray[np.int32]
    n_tokens: NDArray[np.int64]
    normalised: Floats
    whole: Floats
    counts: Counts | None = None

    @staticmethod
    def of(domain: NDArray[np.int32], n_tokens: NDArray[np.int64], normalised: Floats, n_domains: int) -> QualitySample:
        weights = n_tokens.astype(np.float64)
        return QualitySample(domain, n_tokens, normalised, mean_by_domain(domain, weights, normalised, n_domains))


def mean_by_domain(domain: NDArray[np.integer], weights: Floats, values: Floats, n_domains: int) -> Floats:
    """(n_domains, n_columns) weighted means; NaN for a domain without weight. values: (n, n_columns)."""
    total = np.bincount(domain, weights=weights, minlength=n_domains)
    sums = np.stack(
        [np.bincount(domain, weights=weights * values[:, n], minlength=n_domains) for n in range(values.shape[1])],
        axis=1,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums / total[:, None])


def with_quality(found: ClosedForm, sample: QualitySample, max_copies: int) -> Mixtures:
    """The same mixtures with their expected mean qualities and counted losses; milliseconds each. All of them must be
    feasible."""
    n_domains = found.params.floor.shape[1]
    tokens = sample.n_tokens.astype(np.float64)
    quality = np.empty((len(found.params), n_domains, sample.normalised.shape[1]))
    waiting: list[Floats] = []
    counted: list[Floats] = []
    for index, copies in enumerate(expected_copies(found, sample, max_copies)):
        means = mean_by_domain(sample.domain, tokens * copies, sample.normalised, n_domains)
        quality[index] = np.where(np.isfinite(means), means, _filled(sample.whole))
        if sample.counts is not None:
            waiting.append(copies)
            if len(waiting) == AT_ONCE or index == len(quality) - 1:
                counted.append(sample.counts.losses(np.stack(waiting)))
                waiting = []
    return replace(found.mixtures, quality=quality, counted=np.concatenate(counted) if counted else None)


def expected_copies(found: ClosedForm, sample: QualitySample, max_copies: int) -> Iterator[Floats]:
    """(n,) expected copies of the sample's documents, mixture by mixture."""
    sigma = sigmoid(sample.normalised, FAST)
    for index in range(len(found.params)):
        merged = (found.params.merge_weights[index][sample.domain] * sigma).sum(axis=1)
        low, high = quality_interval(merged, sample.n_tokens, sample.domain)
        one, scale = found.params.one(index), float(found.scale[index])
        yield _expected_copies(one, scale, max_copies, sample.domain, low, high)


def _expected_copies(
    params: Params, scale: float, cap: int, domain: NDArray[np.int32], low: Floats, high: Floats
) -> Floats:
    """Mean of min(scale * S, cap) over rank intervals: exact about the cutoff, the smooth part taken at its middle."""
    steepness, cutoff, exponent, floor = (
        getattr(params, name)[0][domain] for name in ("steepness", "cutoff", "exponent", "floor")
    )
    edge = np.clip(cutoff, low, high)
    width = high - low
    inside = np.where(width > 0, (edge - low) / np.where(width > 0, width, 1.0), 0.0)
    t = steepness * np.maximum(cutoff - 0.5 * (low + edge), 0.0)
    top = np.minimum(scale * (rise(t, exponent, FAST) + floor), cap)
    return np.asarray(inside * top + (1.0 - inside) * np.minimum(scale * floor, cap))


def _filled(whole: Floats) -> Floats:
    # a domain of which the sample holds no document at all: any constant will do, since it never varies
    return np.where(np.isfinite(whole), whole, 0.5)


@dataclass(frozen=True)
class FeatureSet:
    """The columns of a feature matrix. kind: realised | screening | theta; counted: targets whose losses the counting
    proxy told; see `names`."""

    kind: str
    domains: tuple[str, ...]
    criteria: tuple[str, ...]
    counted: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """`share:web`, `repeats:web`, `quality:edu`, `lift:web:edu`, `counted:papers`; of theta:
        `merge_weight:web:edu`, `cutoff:web`."""
        return self._own_names() + [f"{COUNTED}{target}" for target in self.counted]

    def _own_names(self) -> list[str]:
        if self.kind == "theta":
            fields = [f"{field}:{d}" for field in ("steepness", "cutoff", "exponent", "floor") for d in self.domains]
            return [f"merge_weight:{d}:{c}" for d in self.domains for c in self.criteria] + fields
        closed = [f"{field}:{domain}" for field in ("share", "repeats") for domain in self.domains]
        quality = [f"quality:{criterion}" for criterion in self.criteria]
        quality += [f"lift:{domain}:{criterion}" for domain in self.domains for criterion in self.criteria]
        return closed if self.kind == "screening" else closed + quality

    def matrix(self, mixtures: Mixtures, params: Params | None) -> Floats:
        """(k, len(names)). params: the thetas as drawn, needed by kind `theta` only."""
        own = self._own_matrix(mixtures, params)
        if not self.counted:
            return own
        if mixtures.counted is None:
            raise ValueError("the counting proxy was not asked about these mixtures")
        return np.concatenate([own, mixtures.counted], axis=1)

    def _own_matrix(self, mixtures: Mixtures, params: Params | None) -> Floats:
        if self.kind == "theta":
            if params is None:
                raise ValueError("raw theta features asked of mixtures that have no theta")
            flat = params.merge_weights.reshape(len(params), -1)
            return np.concatenate([flat, params.steepness, params.cutoff, params.exponent, params.floor], axis=1)
        closed = np.concatenate([mixtures.share, mixtures.repeats], axis=1)
        if self.kind == "screening":
            return closed
        if mixtures.quality is None:
            raise ValueError("mean qualities were not computed for these mixtures")
        lift = mixtures.share[:, :, None] * (mixtures.quality - _MIDDLE)
        return np.concatenate([closed, _MIDDLE + lift.sum(axis=1), lift.reshape(len(closed), -1)], axis=1)
