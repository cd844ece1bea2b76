"""What a search leaves behind, keyed by names of domains, criteria and targets, never by position.

`SearchResult` goes to JSON and back without loss (floats are written so that they read back to the same bits); the
report and `select` read nothing else. A failed proxy has `losses: null` and says why.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from quadmix.config import Theta
from quadmix.errors import VerificationError

JOINT = "joint"
SEARCH_RESULT_VERSION = 3

_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
@dataclass(frozen=True)
class ThetaByName:
    """The parameters of one mixture: merge weights by domain and criterion, the sampling function by domain."""

    merge_weights: dict[str, dict[str, float]]
    steepness: dict[str, float]
    cutoff: dict[str, float]
    exponent: dict[str, float]
    floor: dict[str, float]

    def as_config(self) -> Theta:
        """The same numbers as the configuration's `select.theta`."""
        return Theta(**asdict(self))


@with_config(_STRICT)
@dataclass(frozen=True)
class MixtureByName:
    """A mixture as realised or expected. share: of tokens; repeats: tokens / unique tokens; quality: token-weighted
    mean of the normalised scores. A domain without tokens has share 0, repeats 1 and the quality of the whole domain.
    counted: nats per token by target as the counting proxy has them, None where it was not asked.
    """

    tokens: float
    share: dict[str, float]
    repeats: dict[str, float]
    quality: dict[str, dict[str, float]]
    counted: dict[str, float] | None = None


@with_config(_STRICT)
@dataclass(frozen=True)
class Trial:
    """One proxy of the swarm. kind: theta | natural | uniform | topk.

    losses: nats per token by target, None = failed, and then `error` says why.
    """

    name: str
    kind: str
    criterion: str | None
    theta: ThetaByName | None
    attempts: int  # draws of Algorithm 1 up to and including this one
    mixture: MixtureByName | None
    losses: dict[str, float] | None
    bits_per_byte: dict[str, float] | None
    joint: float | None
    predicted: dict[str, float] | None  # by target and JOINT: out of fold for thetas, plain for baselines
    error: str | None


@with_config(_STRICT)
@dataclass(frozen=True)
class Scores:
    """spearman and r2: higher is better; mae in nats per token."""

    spearman: float
    mae: float
    r2: float


@with_config(_STRICT)
@dataclass(frozen=True)
class CrossValidation:
    """Held-out scores by target and JOINT, beside the mean of the permuted-label controls. coverage: the part of the
    held-out losses that lay in their 90 % prediction intervals."""

    folds: int
    rows: int
    scores: dict[str, Scores]
    permuted: dict[str, Scores]
    permutations: int
    coverage: dict[str, float]
    out_of_fold: dict[str, list[float]]

    @property
    def coverage_by_chance(self) -> tuple[float, float]:
        """Between which parts 95 of 100 counts of `rows` independent losses lie where 90 % intervals hold what they
        promise."""
        half = 1.96 * math.sqrt(0.9 * 0.1 / self.rows)
        return 0.9 - half, min(0.9 + half, 1.0)

    def facts(self) -> dict[str, Any]:
        """JSON values, without the single predictions."""
        kept = ("folds", "scores", "permuted", "coverage")
        return {name: value for name, value in asdict(self).items() if name in kept}

    def in_words(self) -> list[str]:
        """A line a target, for a log."""
        low, high = self.coverage_by_chance
        return [
            f"held out, {name}: Spearman {found.spearman:.3f}, MAE {found.mae:.4f} nats, R2 {found.r2:.3f} (losses "
            f"permuted: {control.spearman:.3f}, {control.mae:.4f}, {control.r2:.3f}); {self.coverage[name]:.0%} lie in "
            f"their 90 % intervals ({low:.0%} to {high:.0%} of {self.rows} by chance)"
            for name, found in self.scores.items()
            for control in (self.permuted[name],)
        ]


@with_config(_STRICT)
@dataclass(frozen=True)
class Noise:
    """Standard deviations in nats by target and JOINT, from mixtures trained again under fresh seeds. seeds: with the
    swarm's own; freedom: degrees of freedom of `paired`, the noise between mixtures of one seed; low, high: ends of
    its 90 % interval; alone: of one mixture's loss over seeds."""

    mixtures: int
    seeds: int
    freedom: int
    paired: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    alone: dict[str, float]


@with_config(_STRICT)
@dataclass(frozen=True)
class FirstFidelityFacts:
    """The counting proxy: what it counted, among how many draws it chose each trial of the first round, and by target
    its Spearman correlation with the losses of the trained thetas and the regressors' slope on it (0: left alone)."""

    documents: int
    tokens: int
    draws: int
    spearman: dict[str, float]
    slopes: dict[str, float]


@with_config(_STRICT)
@dataclass(frozen=True)
class Worth:
    """What `trials` more trials are expected to take off the joint loss of the proposal, nats; in nine of ten
    imagined outcomes between low and high."""

    trials: int
    mean: float
    low: float
    high: float


@with_config(_STRICT)
@dataclass(frozen=True)
class Tally:
    """What became of the candidates."""

    drawn: int
    infeasible: int  # cannot meet the budget under the cap on copies, within the constraints
    screened: int
    finalists: int
    averaged: int


@with_config(_STRICT)
@dataclass(frozen=True)
class Proposal:
    """A mixture that the regressors like. origin: average | argmin | best_observed."""

    origin: str
    theta: ThetaByName
    mixture: MixtureByName
    predicted: dict[str, float]  # by target and JOINT
    interval: dict[str, list[float]] = field(default_factory=dict)  # 90 %: [low, high] of a new proxy's loss


@with_config(_STRICT)
@dataclass(frozen=True)
class Interval:
    """mean ± half_width; mean is None without values, half_width with fewer than two."""

    mean: float | None
    half_width: float | None
    n: int


@with_config(_STRICT)
@dataclass(frozen=True)
class Confirmed:
    """Fresh proxies of one mixture: losses by target and JOINT, one value a seed (None = failed), with intervals."""

    name: str
    kind: str
    criterion: str | None
    theta: ThetaByName | None
    mixture: MixtureByName | None  # as drawn under the first seed
    losses: dict[str, list[float | None]]
    bits_per_byte: dict[str, list[float | None]]
    loss: dict[str, Interval]
    ahead: dict[str, Interval]  # this mixture's loss minus the proposal's, paired: above 0, the proposal is better
    violates: list[str]  # constraints that it breaks, in words: such a mixture cannot win


@with_config(_STRICT)
@dataclass(frozen=True)
class Confirmation:
    """mixtures: the proposal first. winner: lowest mean joint loss. ties: those not told apart from the winner."""

    seeds: int
    method: str
    mixtures: list[Confirmed]
    winner: str | None
    ties: list[str]
    verdict: str


@with_config(_STRICT)
@dataclass(frozen=True)
class ConstraintFact:
    """One constraint of the proposal. name: `min_share.web`; value: as configured; tokens: that it stands for.

    price: by how much the predicted joint objective falls (nats) when it gives way by one percentage point of the
    budget, None where it does not bind. Above 0, loosening it helps.
    """

    name: str
    domain: str
    value: float
    tokens: float
    share: float  # of the proposal
    binding: bool
    price: float | None


@with_config(_STRICT)
@dataclass(frozen=True)
class KlFact:
    """What `mixture.constraints.kl` does. divergence: KL(the proposal's shares || natural), nats; penalty: weight times
    it; price: by how much the predicted joint objective, penalty left out, falls (nats) without it, None where no
    candidate was feasible."""

    weight: float
    divergence: float
    penalty: float
    price: float | None


@with_config(_STRICT)
@dataclass(frozen=True)
class FrontPoint:
    """A finalist that no other one beats on every target."""

    theta: ThetaByName
    share: dict[str, float]
    predicted: dict[str, float]  # by target and JOINT


@with_config(_STRICT)
@dataclass(frozen=True)
class TargetFacts:
    """Of one target's search half: what a model of word frequencies reaches, beside what the proxies reached."""

    weight: float  # in the joint objective, all summing to 1
    eval_tokens: int
    eval_bytes: int
    unigram_entropy: float  # nats per token of the evaluated tokens themselves
    median_loss: float | None  # over the swarm's thetas


@with_config(_STRICT)
@dataclass(frozen=True)
class SearchResult:
    """Everything that a search found, and what it was measured on."""

    domains: list[str]
    criteria: list[str]
    targets: dict[str, TargetFacts]
    pool_docs: int
    pool_tokens: int
    sample_docs: int
    sample_tokens: int
    tokens_per_trial: int
    features: list[str]
    trials: list[Trial]
    cross_validation: CrossValidation
    tally: Tally
    proposals: list[Proposal]  # the one that was confirmed first
    confirmation: Confirmation
    objective: Literal["mean", "worst"]
    constraints: list[ConstraintFact]
    prices: str  # how the prices of the constraints were computed
    pareto: list[FrontPoint]  # empty with a single target; by the first target's predicted loss
    noise: Noise | None  # None without `search.noise.seeds`, or where too few of its proxies finished
    more: Worth  # what more trials like these would be worth
    counting: FirstFidelityFacts | None = None
    kl: KlFact | None = None  # None where its weight is 0
    version: int = field(default=SEARCH_RESULT_VERSION)

    @property
    def proposal(self) -> Proposal:
        return self.proposals[0]

    @property
    def winner(self) -> Confirmed | None:
        """The confirmed winner, or None when no mixture that keeps the constraints has all its proxies."""
        return next((m for m in self.confirmation.mixtures if m.name == self.confirmation.winner), None)

    def to_json(self) -> bytes:
        """UTF-8 JSON, the same bytes for the same result."""
        return (json.dumps(asdict(self), allow_nan=False, ensure_ascii=False, indent=1) + "\n").encode("utf-8")

    @staticmethod
    def from_json(raw: bytes) -> SearchResult:
        """Read `to_json`'s bytes. Raises VerificationError for anything else."""
        try:
            parsed: Any = json.loads(raw)
            result = _ADAPTER.validate_python(parsed)
        except (ValueError, ValidationError) as error:
            raise VerificationError(
                f"search result is not readable ({error}); remove it and rerun the search"
            ) from error
        if result.version != SEARCH_RESULT_VERSION:
            raise VerificationError(
                f"search result has version {result.version}, wanted {SEARCH_RESULT_VERSION}; rerun the search"
            )
        return result


_ADAPTER: TypeAdapter[SearchResult] = TypeAdapter(SearchResult)
