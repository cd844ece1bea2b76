"""Closed forms of a mixture: its tokens in every domain, and the multiplier that meets a budget.

With token-weighted ranks and S averaged over tie groups, a domain's expected tokens are T_d times the integral of
min(scale * S, cap), whatever the scores and merge weights are. So a candidate costs microseconds, and the budget is
met before any document is read: `omega` multiplies all cutoffs by one number (cutoffs stop at 1), `scale` multiplies S.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quadmix.core.param_space import Params
from quadmix.core.portable import PORTABLE, Arithmetic
from quadmix.core.sampling import CappedRise

Floats = NDArray[np.float64]
MeetBudget = Literal["omega", "scale"]


def expected_tokens(
    params: Params, domain_tokens: NDArray[np.int64], max_copies: float = np.inf, arithmetic: Arithmetic = PORTABLE
) -> Floats:
    """(k, n_domains) expected tokens of each mixture in each domain, of at most `max_copies` copies a document."""
    scale = np.ones_like(params.floor)
    capped = CappedRise.of(params.exponent, params.floor, max_copies, scale, arithmetic)
    return _Curve(params, domain_tokens.astype(np.float64), capped, max_copies).tokens(params.cutoff, capped)


@dataclass(frozen=True)
class Met:
    """multiplier (k,): NaN where the budget is out of reach. tokens (k, n_domains): expected, summing to the budget."""

    multiplier: Floats
    tokens: Floats


def meet_budget(
    params: Params,
    domain_tokens: NDArray[np.int64],
    budget: int,
    max_copies: float = np.inf,
    rule: MeetBudget = "omega",
    arithmetic: Arithmetic = PORTABLE,
    tolerance: float = 1e-13,
) -> Met:
    """The multiplier under which each mixture's expected tokens are the budget.

    domain_tokens: (n_domains,) int64; budget: tokens; tolerance: relative, of the tokens. Newton's method in the
    logarithm of the multiplier, kept inside a bracket.
    """
    pool = domain_tokens.astype(np.float64)
    scale = np.ones_like(params.floor)
    curve = _Curve(
        params, pool, CappedRise.of(params.exponent, params.floor, max_copies, scale, arithmetic), max_copies
    )
    evaluate = curve.by_omega if rule == "omega" else curve.by_scale
    # omega: beyond max(1 / cutoff) nothing grows. scale: beyond cap / floor nothing does; where the floor is 0, those
    # beyond the cutoff never come in, and the reach is what the cutoff admits.
    if rule == "omega":
        high = 1.0 / np.maximum(params.cutoff.min(axis=1), 1e-300)
    else:
        low_value = np.where(params.floor > 0, params.floor, 1.0).min(axis=1)
        high = (max_copies if np.isfinite(max_copies) else float(budget)) / low_value
    reach, _ = evaluate(high)
    target = float(budget)
    feasible = _total(reach) >= target * (1.0 - 1e-12)
    start = np.minimum(target / np.maximum(_total(pool * params.cutoff), 1e-300), high)
    log_low, log_high = np.full(len(params), -200.0), np.log(high)
    # at the lower end of the bracket only the floors are left; if they alone exceed the budget, it cannot be met
    floor_only, _ = evaluate(np.exp(log_low))
    feasible &= _total(floor_only) <= target * (1.0 + 1e-12)
    x = np.log(np.maximum(start, 1e-80))
    active = np.flatnonzero(feasible)
    for _ in range(200):
        if not active.size:
            break
        c = np.exp(x[active])
        tokens, slope = evaluate(c, active)
        gap = _total(tokens) - target
        over = gap > 0
        log_high[active] = np.where(over, np.minimum(log_high[active], x[active]), log_high[active])
        log_low[active] = np.where(over, log_low[active], np.maximum(log_low[active], x[active]))
        done = np.abs(gap) <= tolerance * target
        done |= log_high[active] - log_low[active] <= 1e-15 * np.maximum(np.abs(x[active]), 1.0)
        step = np.where(slope > 0, gap / np.where(slope > 0, slope * c, 1.0), np.inf)
        proposal = x[active] - step
        inside = (proposal > log_low[active]) & (proposal < log_high[active])
        proposal = np.where(inside, proposal, 0.5 * (log_low[active] + log_high[active]))
        x[active] = np.where(done, x[active], proposal)
        active = active[~done]
    multiplier = np.where(feasible, np.exp(x), np.nan)
    tokens, _ = evaluate(np.exp(x))
    return Met(multiplier, np.where(feasible[:, None], tokens, np.nan))


@dataclass(frozen=True)
class _Curve:
    """Expected tokens of a batch as a function of the multiplier, with the slope."""

    params: Params
    pool: Floats  # (n_domains,)
    capped: CappedRise
    cap: float

    def tokens(self, cutoff: Floats, capped: CappedRise, rows: slice | NDArray[np.integer] = slice(None)) -> Floats:
        cutoff = np.minimum(cutoff, 1.0)
        steepness = self.params.steepness[rows]
        x = steepness * cutoff
        inside, outside = self._inside(capped(x), x, cutoff, steepness, capped), capped.scale * capped.floor
        return np.asarray(self.pool * (inside + (1.0 - cutoff) * np.minimum(outside, self.cap)))

    @staticmethod
    def _inside(integral: Floats, x: Floats, cutoff: Floats, steepness: Floats, capped: CappedRise) -> Floats:
        flat = x < 1e-12  # no slope at all: S is 1 + floor up to the cutoff
        return np.where(
            flat, cutoff * capped.value(np.zeros_like(x)), integral / np.where(steepness > 0, steepness, 1.0)
        )

    def by_omega(self, c: Floats, rows: NDArray[np.integer] | slice = slice(None)) -> tuple[Floats, Floats]:
        cutoff = self.params.cutoff[rows] * c[:, None]
        capped = _rows(self.capped, rows)
        tokens = self.tokens(cutoff, capped, rows)
        top = capped.value(self.params.steepness[rows] * np.minimum(cutoff, 1.0))
        rate = np.where(cutoff < 1.0, self.params.cutoff[rows] * (top - np.minimum(capped.floor, self.cap)), 0.0)
        return tokens, _total(self.pool * rate)

    def by_scale(self, c: Floats, rows: NDArray[np.integer] | slice = slice(None)) -> tuple[Floats, Floats]:
        scale = np.broadcast_to(c[:, None], self.params.floor[rows].shape)
        capped = _rows(self.capped, rows).rescaled(scale)
        steepness, cutoff = self.params.steepness[rows], np.minimum(self.params.cutoff[rows], 1.0)
        x = steepness * cutoff
        whole, below = capped.parts(x)
        low = scale * capped.floor
        inside = self._inside(whole, x, cutoff, steepness, capped)
        tokens = self.pool * (inside + (1.0 - cutoff) * np.minimum(low, self.cap))
        growing = np.where(x < 1e-12, inside, below / np.where(steepness > 0, steepness, 1.0))
        growing = growing + (1.0 - cutoff) * np.where(low < self.cap, low, 0.0)
        return tokens, _total(self.pool * growing) / c


def _rows(capped: CappedRise, rows: NDArray[np.integer] | slice) -> CappedRise:
    integral = capped.integral
    chosen = type(integral)(
        integral.exponent[rows], tuple(panel[rows] for panel in integral.panels), integral.arithmetic
    )
    return CappedRise(chosen, capped.floor[rows], capped.scale[rows], capped.cap, capped.bend[rows])


def _total(tokens: Floats) -> Floats:
    """(k, n_domains) to (k,), added from left to right: the same bits everywhere, unlike numpy's pairwise sums."""
    return np.asarray(np.cumsum(tokens, axis=1)[:, -1])
