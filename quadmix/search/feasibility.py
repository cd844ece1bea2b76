"""Whether any mixture keeps all constraints; if none does, the smallest set of them that conflicts, with numbers.

Every constraint bounds one domain's tokens, and the tokens must sum to the budget: a linear program of boxes and one
equation. It has no solution in three cases only: a floor above a ceiling of the same domain, floors that sum to more
than the budget, ceilings that sum to less. So the smallest conflicting set is exact, without a solver's tolerances:
two constraints, the fewest floors, or the fewest ceilings (what each takes away from the pool's own reach, largest
first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import Params, ParamSpace
from quadmix.core.quotas import reach
from quadmix.errors import BudgetError
from quadmix.search.constraints import Bound

_SHOWN = 12


@dataclass(frozen=True)
class Conflict:
    """Constraints that no mixture can keep together; leaving any of `bounds` out makes them possible, unless it is
    empty: then the budget alone is out of reach. short: tokens that are missing."""

    bounds: tuple[Bound, ...]
    short: float
    message: str


def largest(space: ParamSpace, domain_tokens: NDArray[np.int64], max_copies: int) -> NDArray[np.float64]:
    """(n_domains,) tokens that some theta of the space takes of each domain: every parameter at its upper end."""
    shape = (1, space.n_domains)
    most = Params(
        np.ones((*shape, 1)),
        np.full(shape, space.range("steepness")[1]),
        np.ones(shape),
        np.full(shape, space.range("exponent")[1]),
        np.full(shape, space.range("floor")[1]),
    )
    return np.asarray(reach(most, domain_tokens, float(max_copies))[0])


def check(
    bounds: Sequence[Bound],
    domains: Sequence[str],
    domain_tokens: NDArray[np.int64],
    space: ParamSpace,
    mixture: MixtureConfig,
) -> None:
    """Raises BudgetError when no mixture of the space keeps the bounds at this budget."""
    most = dict(zip(domains, largest(space, domain_tokens, mixture.max_copies).tolist(), strict=True))
    found = conflict(bounds, most, mixture.budget)
    if found is not None:
        raise BudgetError(found.message)


def conflict(bounds: Sequence[Bound], most: Mapping[str, float], budget: int) -> Conflict | None:
    """The smallest conflicting set, or None. most: by domain, tokens that can be taken of it whatever is configured."""
    floors: dict[str, Bound] = {}
    ceilings: dict[str, Bound] = {}
    for bound in bounds:
        if bound.is_floor and (bound.domain not in floors or bound.tokens > floors[bound.domain].tokens):
            floors[bound.domain] = bound
        if bound.is_ceiling and (bound.domain not in ceilings or bound.tokens < ceilings[bound.domain].tokens):
            ceilings[bound.domain] = bound
    slack = 1e-9 * budget
    whole = sum(most[name] for name in sorted(most))
    if whole < budget - slack:
        return Conflict((), budget - whole, (
            f"mixture.budget: asked {budget:,} tokens, the pool gives at most {whole:,.0f} (mixture.max_copies and "
            f"mixture.space allow no more): {budget - whole:,.0f} short. Lower the budget or raise max_copies"
        ))  # fmt: skip
    pairs = [
        found
        for name in sorted(floors)
        if (found := _pair(floors[name], ceilings.get(name), most[name], budget, slack)) is not None
    ]
    if pairs:  # the smallest set, then the largest shortage
        return min(pairs, key=lambda one: (len(one.bounds), -one.short))
    return _too_much(floors, budget, slack) or _too_little(ceilings, most, whole, budget, slack)


def _pair(floor: Bound, ceiling: Bound | None, most: float, budget: int, slack: float) -> Conflict | None:
    if floor.tokens > most + slack:
        short = floor.tokens - most
        return Conflict((floor,), short, (
            f"mixture.constraints.{floor.name}: {floor.value:g} of the budget is {floor.tokens:,.0f} tokens, the pool "
            f"gives at most {most:,.0f} of {floor.domain!r} (mixture.max_copies and mixture.space allow no more): "
            f"{short:,.0f} short. Lower it to {_down(most / budget)}, or mixture.budget to {most / floor.value:,.0f}"
        ))  # fmt: skip
    if ceiling is None or floor.tokens <= ceiling.tokens + slack:
        return None
    short = floor.tokens - ceiling.tokens
    change = f"Lower {floor.name} to {_down(ceiling.tokens / budget)}"
    if ceiling.value > 0:
        change += f", or raise {ceiling.name} to {_up(ceiling.value * floor.tokens / ceiling.tokens)}"
    return Conflict((floor, ceiling), short, (
        f"mixture.constraints: {floor.name} {floor.value:g} asks for {floor.tokens:,.0f} tokens, {ceiling.name} "
        f"{ceiling.value:g} allows {ceiling.tokens:,.0f}: {short:,.0f} short. {change}"
    ))  # fmt: skip


def _too_much(floors: Mapping[str, Bound], budget: int, slack: float) -> Conflict | None:
    ordered = sorted(floors.values(), key=lambda bound: (-bound.tokens, bound.domain))
    sums = np.cumsum([bound.tokens for bound in ordered]) if ordered else np.zeros(0)
    beyond = np.flatnonzero(sums > budget + slack)
    if not beyond.size:
        return None
    chosen = tuple(ordered[: int(beyond[0]) + 1])
    asked = float(sums[beyond[0]])
    return Conflict(chosen, asked - budget, (
        f"mixture.constraints: {_listed(chosen)} ask for {asked:,.0f} tokens together, mixture.budget is {budget:,}: "
        f"{asked - budget:,.0f} too many. Lower them by {_up((asked - budget) / budget)} in all"
    ))  # fmt: skip


def _too_little(
    ceilings: Mapping[str, Bound], most: Mapping[str, float], whole: float, budget: int, slack: float
) -> Conflict | None:
    caps = {name: min(most[name], ceilings[name].tokens if name in ceilings else most[name]) for name in most}
    allowed = sum(caps[name] for name in sorted(caps))
    if allowed >= budget - slack:
        return None
    # a ceiling at a time, the one that takes most away first, until the others cannot make up for it
    ordered = sorted(ceilings.values(), key=lambda bound: (caps[bound.domain] - most[bound.domain], bound.domain))
    left, chosen = whole, []
    for bound in ordered:
        chosen.append(bound)
        left -= most[bound.domain] - caps[bound.domain]
        if left < budget - slack:
            break
    raises = ", or ".join(
        f"raise {bound.name} to {_up(bound.value * (bound.tokens + budget - left) / bound.tokens)}"
        for bound in chosen[:3]
        if bound.tokens > 0 and bound.tokens + budget - left <= most[bound.domain] + slack
    )
    return Conflict(tuple(chosen), budget - left, (
        f"mixture.constraints: under {_listed(chosen)} all domains together give at most {left:,.0f} tokens, "
        f"mixture.budget is {budget:,}: {budget - left:,.0f} short. "
        f"{raises[:1].upper() + raises[1:] if raises else 'Raise several of them'}, or lower the budget to {left:,.0f}"
    ))  # fmt: skip


def _listed(bounds: Sequence[Bound]) -> str:
    shown = [f"{bound.name} {bound.value:g}" for bound in bounds[:_SHOWN]]
    return ", ".join(shown + ([f"and {len(bounds) - _SHOWN} more"] if len(bounds) > _SHOWN else []))


def _down(value: float) -> str:
    """Four decimals, never more than the value."""
    return f"{np.floor(value * 1e4) / 1e4:g}"


def _up(value: float) -> str:
    """Four decimals, never less than the value."""
    return f"{np.ceil(value * 1e4) / 1e4:g}"
