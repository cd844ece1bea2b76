"""Floors, ceilings and fixed shares of mixtures that are domain weights, and the pull towards the prior.

The same constraints as a config's (quadmix.search.constraints), over a budget of 1: a share is its number of tokens. A
candidate that breaks one takes the closest shares in Kullback-Leibler divergence that keep all (core.quotas.project),
so domains away from their bounds keep their proportions. Bounds form a box, so averages of what keeps them keep them.
Whether any mixture does is settled before a model is fitted (quadmix.search.feasibility), and said in shares here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.core.quotas import project
from quadmix.errors import BudgetError
from quadmix.search.constraints import Bound, Limits, ends, violations
from quadmix.search.feasibility import Conflict, conflict
from quadmix.search.listing import listed

Floats = NDArray[np.float64]

_BLOCK = 8192
_ROUNDING = 1e-9
_TRACE = 1e-3  # of the prior, for a candidate whose own domains cannot fill a mixture


@dataclass(frozen=True)
class ShareBounds:
    """bounds: as asked, tokens being shares; limits: (n_domains,) each, the cap on repeats among the high ends."""

    domains: tuple[str, ...]
    bounds: tuple[Bound, ...]
    limits: Limits

    @staticmethod
    def of(bounds: Sequence[Bound], domains: Sequence[str], most: Floats, prior: Floats, kl: float) -> ShareBounds:
        """most: (n_domains,) share that each domain can have whatever is asked, by its tokens and the cap on repeats;
        prior: (n_domains,) summing to 1; kl: weight of KL(share || prior), nats.

        Raises BudgetError where no mixture keeps all bounds, with the smallest set of them that conflicts, or where kl
        is above 0 and each that does is infinitely far from the prior.
        """
        found = conflict(bounds, dict(zip(domains, most.tolist(), strict=True)), 1)
        if found is not None:
            raise BudgetError(_in_shares(found, dict(zip(domains, most.tolist(), strict=True))))
        low, high = ends(bounds, domains)
        high = np.minimum(high, most)
        if kl > 0 and (problems := _off_the_prior(bounds, domains, high, prior)):
            raise BudgetError("\n".join(problems))
        # a floor may lie above the end it conflicts with by rounding, which feasibility allows
        return ShareBounds(tuple(domains), tuple(bounds), Limits(low, np.maximum(high, low), prior, kl))

    def keep(self, weights: Floats) -> Floats:
        """(k, n_domains) mixtures to the closest ones within the bounds, rows summing to 1."""
        return np.concatenate([self._kept(weights[at : at + _BLOCK]) for at in range(0, len(weights), _BLOCK)])

    def _kept(self, weights: Floats) -> Floats:
        low, high = (np.broadcast_to(end, weights.shape) for end in (self.limits.low, self.limits.high))
        found = project(weights, low, high, 1.0)
        none = ~np.isfinite(found[:, 0])  # where its own domains cannot fill a mixture
        if none.any():
            # under a pull the domains that the prior has fill it: `of` made sure that they can
            may = (self.limits.high > 0) & ((self.limits.natural > 0) | (self.limits.kl == 0.0))
            filled = np.maximum(self.limits.natural, _TRACE / len(self.domains)) * may
            found[none] = project((weights + _TRACE * filled)[none], low[none], high[none], 1.0)
        return found

    def penalty(self, weights: Floats) -> Floats:
        """(k,) nats that the pull towards the prior adds to the joint loss of mixtures (k, n_domains); infinite for a
        domain that the prior has not."""
        return self.limits.penalty(weights)

    def broken(self, weights: Floats) -> list[str]:
        """Which bounds one mixture (n_domains,) breaks, in words."""
        return violations(self.bounds, dict(zip(self.domains, weights.tolist(), strict=True)), 1)


def _off_the_prior(bounds: Sequence[Bound], domains: Sequence[str], high: Floats, prior: Floats) -> list[str]:
    """Why every mixture within the bounds has a domain whose prior is 0. high: (n_domains,) ends of the bounds."""
    share = dict(zip(domains, prior.tolist(), strict=True))
    problems = [
        f"{_option(bound)}: the prior of {bound.domain!r} is 0, so every mixture that has some of it is infinitely far "
        "from the prior, and --kl cannot weigh that. Leave one of the two out, or give the domain a share with --prior"
        for bound in bounds
        if bound.is_floor and bound.tokens > 0 and share[bound.domain] == 0
    ]
    reach = float(high[prior > 0].clip(max=1.0).sum())
    if not problems and reach < 1 - _ROUNDING:
        none = listed([name for name in domains if share[name] == 0])
        problems.append(
            f"--kl: the domains that the prior has can be {reach:.4g} of the mixture at most, wanted 1; the others "
            f"({none}) are infinitely far from it. Leave --kl out, raise a ceiling, or give them a share with --prior"
        )
    return problems


def _in_shares(found: Conflict, most: Mapping[str, float]) -> str:
    said = ", ".join(map(_option, found.bounds))
    first = found.bounds[0] if found.bounds else None
    if first is None:
        return f"all domains together can be {1 - found.short:.4g} of the mixture at most; wanted 1"
    if len(found.bounds) == 1 and first.is_floor and first.tokens > most[first.domain]:
        if most[first.domain] == 0:
            return (
                f"{said}: {first.domain!r} has 0 tokens in --domain-tokens, so no mixture can have any of it. Leave "
                "the bound out, or give the number of its tokens"
            )
        return (
            f"{said}: of {first.domain!r} there are tokens for a share of {most[first.domain]:.4g} at most. Lower it, "
            "or raise --max-copies, or lower --budget"
        )
    if len({bound.domain for bound in found.bounds}) == 1 and len(found.bounds) > 1:
        return f"{said} exclude each other: {found.short:.4g} apart. Change one of them"
    asked = sum(bound.tokens for bound in found.bounds)
    if asked > 1:
        return f"{said} sum to {asked:.4g}: {found.short:.4g} too much. Lower them by that in all"
    return (
        f"under {said} all domains together can be {1 - found.short:.4g} of the mixture at most, wanted 1: "
        f"{found.short:.4g} short. Raise one of them, or leave it out"
    )


def _option(bound: Bound) -> str:
    return f"--{bound.kind.replace('_', '-')} {bound.domain}={bound.value:g}"
