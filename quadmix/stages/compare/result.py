"""What a comparison found, and its words: levels, paired differences, and `tie` wherever an interval holds 0.

Losses are bits per byte on the confirmation halves. Intervals are Student's t over seeds (`quadmix.search.
confirmation`): of each entry, and of its losses minus those of the entry that it is compared with, seed by seed. They
are not widened for the number of entries. `mean` is the plain mean over targets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from quadmix.errors import VerificationError
from quadmix.search.confirmation import interval, paired
from quadmix.search.result import Interval

MEAN = "mean"
BETTER, WORSE, TIE, FAILED, ITSELF = "better", "worse", "tie", "failed", "–"
COMPARISON_VERSION = 1

_STRICT = ConfigDict(extra="forbid")
Bits = dict[str, list[float | None]]


@with_config(_STRICT)
@dataclass(frozen=True)
class Cost:
    """Work of a model on behalf of an entry. tokens: that it read, in training and in scoring; flops: estimated, None
    where nothing is known of the model."""

    what: str
    documents: int | None
    tokens: int
    flops: float | None


@with_config(_STRICT)
@dataclass(frozen=True)
class Contestant:
    """One entry. manifests: digests, one a seed (a selector that trains has one for all seeds). documents, copies,
    tokens, repeats: of its selections, means over them, repeats being tokens over those of every document once;
    share: of tokens by domain, of the first one; read_tokens: by its target models, one a seed.

    bits: bits per byte by target and MEAN, one a seed, None = failed; lead: minus those of the entry it is compared
    with (below 0: better), paired by seed; verdict: by target and MEAN. note: what to know of the entry.
    """

    name: str
    select: dict[str, Any]
    selector: str
    manifests: list[str]
    documents: float
    copies: float
    tokens: float
    repeats: float
    share: dict[str, float]
    read_tokens: list[int]
    bits: Bits
    level: dict[str, Interval]
    lead: dict[str, Interval]
    verdict: dict[str, str]
    costs: list[Cost]
    errors: list[str]
    note: str

    @property
    def scored_tokens(self) -> int:
        """That models read for its sake before it was published."""
        return sum(cost.tokens for cost in self.costs)

    @property
    def flops(self) -> float:
        """Of its selection, as far as they are known."""
        return sum(cost.flops or 0.0 for cost in self.costs)


@with_config(_STRICT)
@dataclass(frozen=True)
class Target:
    """eval_tokens, eval_bytes: of the confirmation half, as measured on."""

    eval_tokens: int
    eval_bytes: int


@with_config(_STRICT)
@dataclass(frozen=True)
class Comparison:
    """All numbers of a comparison. model: the target model's sizes; model_flops: estimated, of training one; diversity:
    as `DiversityFacts.to_json` has it, of every entry's first selection, None where it was not measured."""

    against: str
    seeds: int
    confidence: float
    budget: int
    train_tokens: int
    pool_documents: int
    pool_tokens: int
    targets: dict[str, Target]
    model: dict[str, Any]
    model_parameters: int
    model_flops: float
    entries: list[Contestant]
    diversity: dict[str, Any] | None = None

    @property
    def keys(self) -> list[str]:
        """MEAN, where there is more than one target, and the targets."""
        return [MEAN, *self.targets] if len(self.targets) > 1 else list(self.targets)

    @property
    def ranked(self) -> list[Contestant]:
        """Lowest first; what failed comes last."""
        key = self.keys[0]
        return sorted(self.entries, key=lambda one: (one.level[key].mean is None, one.level[key].mean or 0.0, one.name))

    def to_json(self) -> bytes:
        """Sorted keys, so equal comparisons have equal bytes."""
        content = {"version": COMPARISON_VERSION, **asdict(self)}
        return (json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()

    @staticmethod
    def from_json(raw: bytes) -> Comparison:
        """Raises VerificationError for bytes that are no comparison of this version."""
        try:
            content = json.loads(raw)
            version = content.pop("version", None) if isinstance(content, dict) else None
            if version != COMPARISON_VERSION:
                raise ValueError(f"version {version!r}, wanted {COMPARISON_VERSION}")
            found: Comparison = TypeAdapter(Comparison).validate_python(content)
        except (ValueError, ValidationError) as error:
            raise VerificationError(f"not a comparison: {error}; run `quadmix compare` again") from error
        return found


def with_mean(bits: Mapping[str, Sequence[float | None]]) -> Bits:
    """The same and the mean over targets of every seed in which all are there."""
    means: list[float | None] = []
    for values in zip(*bits.values(), strict=True):
        known = [value for value in values if value is not None]
        means.append(sum(known) / len(known) if len(known) == len(values) else None)
    return {MEAN: means, **{target: list(values) for target, values in bits.items()}}


def judged(
    bits: Bits, reference: Bits | None, confidence: float
) -> tuple[dict[str, Interval], dict[str, Interval], dict[str, str]]:
    """(level, lead, verdict) of an entry; `reference` None for the entry that the others are compared with."""
    level = {
        key: interval([value for value in values if value is not None], confidence) for key, values in bits.items()
    }
    if reference is None:
        return level, {}, dict.fromkeys(bits, ITSELF)
    lead = {key: paired(values, reference[key], confidence) for key, values in bits.items()}
    return level, lead, {key: verdict(one) for key, one in lead.items()}


def verdict(lead: Interval) -> str:
    """What an interval of differences says: `tie` where it holds 0."""
    if lead.mean is None or lead.half_width is None:
        return FAILED
    if abs(lead.mean) <= lead.half_width:
        return TIE
    return BETTER if lead.mean < 0 else WORSE


def in_words(comparison: Comparison) -> str:
    """One sentence: who beats the entry compared with, who ties, who loses."""
    key = comparison.keys[0]
    by_verdict: dict[str, list[str]] = {}
    for one in comparison.ranked:
        if one.name != comparison.against:
            by_verdict.setdefault(one.verdict[key], []).append(one.name)
    words = (
        (BETTER, "better than"),
        (TIE, "not told apart from"),
        (WORSE, "worse than"),
        (FAILED, "not compared with"),
    )
    clauses = [
        f"{', '.join(by_verdict[name])} {'is' if len(by_verdict[name]) == 1 else 'are'} {text} {comparison.against}"
        for name, text in words
        if name in by_verdict
    ]
    what = "mean bits per byte over the targets" if key == MEAN else f"bits per byte on {key}"
    return (
        f"By {what}, {comparison.seeds} seeds, {comparison.confidence:.0%} intervals paired by seed: "
        f"{'; '.join(clauses)}. Lowest: {comparison.ranked[0].name}."
    )
