"""Constraints of a mixture: from names to bounds on domain tokens, and which of them a mixture breaks.

The swarm is not constrained: proxies learn from the whole space (Olmix, arXiv 2602.12237, found that better). Bounds
act where candidates are screened and proposed. A candidate that breaks one takes the closest shares that keep all
(core.quotas), so what is predicted is what `select` builds.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.config import ConstraintsConfig, MixtureConfig
from quadmix.errors import ConfigError

Floats = NDArray[np.float64]
Kind = Literal["min_share", "max_share", "fixed_share", "max_repeats"]

# of the budget: what rounding may take, and what the closed form of screening may be off
_EXACT, _CLOSED_FORM = 1e-9, 1e-5


@dataclass(frozen=True)
class Bound:
    """One constraint: `value` as configured (a share, or repeats), and the domain tokens that it stands for."""

    kind: Kind
    domain: str
    value: float
    tokens: float

    @property
    def name(self) -> str:
        """`min_share.web`: where it stands under mixture.constraints."""
        return f"{self.kind}.{self.domain}"

    @property
    def is_floor(self) -> bool:
        return self.kind in ("min_share", "fixed_share")

    @property
    def is_ceiling(self) -> bool:
        return self.kind != "min_share"

    def excess(self, tokens: float) -> float:
        """Tokens by which a domain of that many breaks the bound, signed: above it > 0, below it < 0, else 0."""
        above = max(tokens - self.tokens, 0.0) if self.is_ceiling else 0.0
        return above + (min(tokens - self.tokens, 0.0) if self.is_floor else 0.0)

    def holds_tight(self, tokens: float, budget: int) -> bool:
        """Whether it binds: the domain's tokens are at the bound."""
        return abs(tokens - self.tokens) <= 1e-6 * budget

    def loosened(self, tokens: float) -> list[Bound]:
        """What stands for it when it gives way by that many tokens; a fixed share gives way on both sides."""
        if self.kind == "fixed_share":
            low, high = max(self.tokens - tokens, 0.0), self.tokens + tokens
            return [Bound("min_share", self.domain, self.value, low), Bound("max_share", self.domain, self.value, high)]
        moved = self.tokens - tokens if self.kind == "min_share" else self.tokens + tokens
        return [Bound(self.kind, self.domain, self.value, max(moved, 0.0))]


def bounds_of(
    constraints: ConstraintsConfig, domains: Sequence[str], domain_tokens: NDArray[np.int64], budget: int
) -> list[Bound]:
    """Every configured bound, in tokens. Raises ConfigError naming all domains that the pool does not have."""
    repeats = constraints.max_repeats
    by_kind: dict[Kind, Mapping[str, float]] = {
        "min_share": constraints.min_share,
        "max_share": constraints.max_share,
        "fixed_share": constraints.fixed_share,
        "max_repeats": repeats if isinstance(repeats, dict) else dict.fromkeys(domains, repeats),
    }
    pool = dict(zip(domains, domain_tokens.tolist(), strict=True))
    problems, found = [], []
    for kind, asked in by_kind.items():
        for name in sorted(asked):
            if name not in pool:
                problems.append(f"mixture.constraints.{kind}.{name}: {_no_domain(name, domains)}")
                continue
            tokens = asked[name] * (pool[name] if kind == "max_repeats" else budget)
            found.append(Bound(kind, name, float(asked[name]), float(tokens)))
    if problems:
        raise ConfigError(problems)
    return found


def _no_domain(name: str, domains: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, domains, n=1, cutoff=0.0)
    return f"no domain of the pool has this name; the nearest is {close[0]!r} (it has {', '.join(sorted(domains))})"


def ends(bounds: Sequence[Bound], domains: Sequence[str]) -> tuple[Floats, Floats]:
    """(n_domains,) the highest floor of each domain, 0 without one, and its lowest ceiling, inf without one."""
    low, high = np.zeros(len(domains)), np.full(len(domains), np.inf)
    place = {name: index for index, name in enumerate(domains)}
    for bound in bounds:
        at = place[bound.domain]
        if bound.is_floor:
            low[at] = max(low[at], bound.tokens)
        if bound.is_ceiling:
            high[at] = min(high[at], bound.tokens)
    return low, high


@dataclass(frozen=True)
class Limits:
    """What screening needs, in the order of the pool's domains. low, high: (n_domains,) tokens, high inf where free;
    natural: (n_domains,) shares of the pool; kl: weight of the divergence from them."""

    low: Floats
    high: Floats
    natural: Floats
    kl: float

    @staticmethod
    def of(bounds: Sequence[Bound], domains: Sequence[str], domain_tokens: NDArray[np.int64], kl: float) -> Limits:
        low, high = ends(bounds, domains)
        return Limits(low, high, domain_tokens / domain_tokens.sum(), kl)

    @property
    def bounded(self) -> bool:
        return bool((self.low > 0).any() or np.isfinite(self.high).any())

    def broken(self, tokens: Floats) -> NDArray[np.bool_]:
        """(k,) whether domain tokens (k, n_domains) break any bound by more than rounding; not so for NaN."""
        slack = _EXACT * np.nansum(tokens, axis=1, keepdims=True)
        return np.asarray(((tokens < self.low - slack) | (tokens > self.high + slack)).any(axis=1))

    def penalty(self, share: Floats) -> Floats:
        """(k,) kl * KL(share || natural), nats; 0 log 0 is 0, and a share where the natural one is 0 makes it infinite
        unless it is rounding's. share: (k, n_domains), rows summing to 1."""
        if self.kl == 0.0:
            return np.zeros(len(share))
        held = (share > 0) & (self.natural > 0)
        ratio = np.where(held, share, 1.0) / np.where(held, self.natural, 1.0)
        divergence = np.maximum(np.where(held, share * np.log(ratio), 0.0).sum(axis=1), 0.0)
        outside = ((share > _EXACT) & (self.natural == 0)).any(axis=1)
        return np.asarray(self.kl * np.where(outside, np.inf, divergence))


def limits_of(
    mixture: MixtureConfig, domains: Sequence[str], domain_tokens: NDArray[np.int64]
) -> tuple[list[Bound], Limits]:
    """The configured constraints of a mixture over this pool."""
    asked = mixture.constraints
    bounds = bounds_of(asked, domains, domain_tokens, mixture.budget)
    return bounds, Limits.of(bounds, domains, domain_tokens, asked.kl)


def violations(
    bounds: Sequence[Bound], share: Mapping[str, float], budget: int, slack: Mapping[str, float] | None = None
) -> list[str]:
    """Which bounds a mixture breaks, in words. share: by domain; slack: tokens by which a domain may be off."""
    found = []
    for bound in bounds:
        tokens = share.get(bound.domain, 0.0) * budget
        over = bound.excess(tokens)
        if abs(over) > max((slack or {}).get(bound.domain, 0.0), _CLOSED_FORM * budget):
            has = f"{tokens / (bound.tokens / bound.value):.3g}" if bound.tokens > 0 else f"{tokens / budget:.3g}"
            found.append(f"{bound.name} is {bound.value:g}, it has {has}")
    return found
