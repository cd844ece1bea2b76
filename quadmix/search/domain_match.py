"""Which domains of an earlier pool are those of this one, and an earlier trial's mixture in this pool's terms.

A domain is the same when it has the same name and about the same text: mean normalised scores within 0.1 of each other
and tokens within a factor of 4. A trial is of use when nearly all of its tokens are of such domains; what its pool did
not have, it had none of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quadmix.search.result import MixtureByName

QUALITY_APART = 0.1
TOKENS_APART = 4.0
STRANGE = 0.01  # of a trial's tokens may be of other domains; they are left out of its shares


@dataclass(frozen=True)
class DomainMatch:
    """same: domains of both pools, by name; differences: in words; refused: why nothing can be taken over at all.
    whole: mean scores of this pool's whole domains."""

    same: tuple[str, ...]
    whole: Mapping[str, Mapping[str, float | None]]
    differences: tuple[str, ...]
    refused: tuple[str, ...]

    def holds(self, mixture: MixtureByName) -> bool:
        """Whether an earlier mixture's text is that of this pool's domains."""
        return math.fsum(share for name, share in mixture.share.items() if name not in self.same) <= STRANGE

    def translated(self, mixture: MixtureByName) -> MixtureByName:
        """The mixture over this pool's domains; only one that `holds`."""
        if not self.differences:
            return mixture
        known = math.fsum(mixture.share[name] for name in self.same)
        return MixtureByName(
            mixture.tokens * known,
            {name: mixture.share[name] / known if name in self.same else 0.0 for name in self.whole},
            {name: mixture.repeats[name] if name in self.same else 1.0 for name in self.whole},
            {
                name: mixture.quality[name]
                if name in self.same
                else {criterion: 0.5 if value is None else value for criterion, value in quality.items()}
                for name, quality in self.whole.items()
            },
            mixture.counted,
        )


def match_domains(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> DomainMatch:
    """Compare the facts of an earlier pool's domains with this pool's: labels, normalise, and by domain its tokens and
    its mean quality by criterion."""
    refused = []
    if theirs["labels"] != mine["labels"]:
        refused.append(
            "its documents were labelled with domains in another way (annotate.domains), or by an older quadmix"
        )
    if theirs["normalise"] != mine["normalise"]:
        refused.append(f"mixture.normalise was {theirs['normalise']}, is {mine['normalise']}")
    before, now = theirs["domains"], mine["domains"]
    criteria = [list(next(iter(domains.values()))["quality"]) for domains in (before, now)]
    if sorted(criteria[0]) != sorted(criteria[1]):
        refused.append(f"criteria were {', '.join(criteria[0])}, are {', '.join(criteria[1])}")
    differences = [f"domain {name!r} is new" for name in sorted(now.keys() - before.keys())]
    differences += [f"domain {name!r} is gone" for name in sorted(before.keys() - now.keys())]
    same = []
    for name in sorted(before.keys() & now.keys()):
        apart = _apart(before[name], now[name])
        differences += [f"domain {name!r}{text}" for text in apart]
        if not apart:
            same.append(name)
    whole = {name: facts["quality"] for name, facts in now.items()}
    return DomainMatch(tuple(same), whole, tuple(differences), tuple(refused))


def _apart(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    reasons = []
    ratio = max(old["tokens"], new["tokens"]) / max(min(old["tokens"], new["tokens"]), 1)
    if ratio > TOKENS_APART:
        reasons.append(f" had {old['tokens']:,} tokens, has {new['tokens']:,}")
    for criterion, value in new["quality"].items():
        was = old["quality"].get(criterion)
        if was is not None and value is not None and abs(was - value) > QUALITY_APART:
            reasons.append(f": mean {criterion} was {was:.2f}, is {value:.2f}")
    return reasons
