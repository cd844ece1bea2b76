"""Shares within bounds, and the mixture that has them.

Domain tokens that break a bound are projected: the closest ones in Kullback-Leibler divergence, KL(x || p), that keep
every bound and sum to the budget are x = clip(c * p, low, high) with one number c (the Lagrangian's stationary
point), so domains away from their bounds keep their proportions. c is found exactly: the sum is piecewise linear in c.

A domain's expected tokens depend on its own cutoff alone, and grow with it along a convex curve. So Newton's method
gives every domain the cutoff of its quota. A quota below what the floor alone selects takes cutoff 0 and a lower floor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quadmix.core.mixture import expected_tokens
from quadmix.core.param_space import Params
from quadmix.core.portable import PORTABLE, Arithmetic
from quadmix.core.sampling import CappedRise

Floats = NDArray[np.float64]


def project(tokens: Floats, low: Floats, high: Floats, total: float) -> Floats:
    """(k, n_domains) the closest tokens within [low, high] that sum to `total`; NaN rows where there are none.

    tokens: (k, n_domains) >= 0; low, high: the same shape, 0 <= low, finite. A domain without tokens stays at `low`;
    so does one with less than 1e-200 of the row's largest, which no factor would bring into reach.
    """
    tokens = np.where(tokens > _NOTHING * tokens.max(axis=1, keepdims=True), tokens, 0.0)
    high = np.where(tokens > 0, high, low)
    possible = (low <= high).all(axis=1) & (_sum(low) <= total * _ABOVE) & (_sum(high) >= total * _BELOW)
    safe = np.where(tokens > 0, tokens, 1.0)
    # c passes low / p: the domain begins to grow, with slope p; high / p: it stops
    starts, stops = low / safe, np.maximum(high, low) / safe
    events = np.concatenate([starts, stops], axis=1)
    order = np.argsort(events, axis=1, kind="stable")
    slopes = np.where(tokens > 0, tokens, 0.0)
    slope = np.cumsum(np.take_along_axis(np.concatenate([slopes, -slopes], axis=1), order, axis=1), axis=1)
    events = np.take_along_axis(events, order, axis=1)
    gains = slope[:, :-1] * np.diff(events, axis=1)
    sums = _sum(low)[:, None] + np.concatenate([np.zeros((len(tokens), 1)), np.cumsum(gains, axis=1)], axis=1)
    last = np.clip((sums < total).sum(axis=1) - 1, 0, events.shape[1] - 2)[:, None]
    at, below, rate = (np.take_along_axis(values, last, axis=1)[:, 0] for values in (events, sums, slope))
    c = at + np.where(rate > 0, (total - below) / np.where(rate > 0, rate, 1.0), 0.0)
    uneven = np.flatnonzero(np.where(tokens > 0, tokens, np.inf).min(axis=1) < _UNEVEN * tokens.max(axis=1))
    if uneven.size:
        c[uneven] = _factor(tokens[uneven], low[uneven], np.maximum(high, low)[uneven], events[uneven], total)
    found = np.clip(c[:, None] * tokens, low, np.maximum(high, low))
    # rounding of the sums above leaves a relative 1e-15 or so: the free domains take it
    free = (found > low) & (found < high)
    room = np.where(free, found, 0.0)
    share = room / np.maximum(_sum(room), 1e-300)[:, None]
    found = np.clip(found + share * (total - _sum(found))[:, None], low, np.maximum(high, low))
    return np.where(possible[:, None], found, np.nan)


def _factor(tokens: Floats, low: Floats, high: Floats, events: Floats, total: float) -> Floats:
    """(k,) the c at which clip(c tokens, low, high) sums to `total`, without differences of sums: the slope of a domain
    that has next to nothing vanishes beside the others', and its events are far apart. events: (k, e), ascending."""
    sums = np.stack([_sum(np.clip(events[:, e, None] * tokens, low, high)) for e in range(events.shape[1])], axis=1)
    last = np.clip((sums < total).sum(axis=1) - 1, 0, events.shape[1] - 2)[:, None]
    at, below, next_ = (
        np.take_along_axis(*pair, axis=1) for pair in ((events, last), (sums, last), (events, last + 1))
    )
    growing = (low < next_ * tokens) & (at * tokens < high) & (tokens > 0)
    rate = _sum(np.where(growing, tokens, 0.0))
    return np.asarray(at[:, 0] + np.where(rate > 0, (total - below[:, 0]) / np.where(rate > 0, rate, 1.0), 0.0))


def reach(
    params: Params, domain_tokens: NDArray[np.int64], max_copies: float, arithmetic: Arithmetic = PORTABLE
) -> Floats:
    """(k, n_domains) tokens that each mixture can take of each domain: its sampling function with cutoff 1."""
    return expected_tokens(params.with_cutoff(np.ones_like(params.cutoff)), domain_tokens, max_copies, arithmetic)


def with_quotas(
    params: Params,
    domain_tokens: NDArray[np.int64],
    quotas: Floats,
    max_copies: float,
    arithmetic: Arithmetic = PORTABLE,
    tolerance: float = 1e-13,
) -> Params:
    """The same mixtures with the cutoffs (and, where a quota is below what it alone selects, the floor) under which
    every domain's expected tokens are its quota.

    quotas: (k, n_domains), at most `reach`; the cutoffs of `params` are where the iteration starts. tolerance: of the
    domain's tokens, relative.
    """
    pool = np.broadcast_to(domain_tokens.astype(np.float64), quotas.shape)
    wanted = np.where(pool > 0, quotas / np.where(pool > 0, pool, 1.0), 0.0)
    base = np.minimum(params.floor, max_copies)
    lowered = wanted < base
    cutoff = np.where(lowered | (pool <= 0), 0.0, np.minimum(params.cutoff, 1.0))
    floor = np.where(lowered, wanted, params.floor)
    rows = np.flatnonzero(~lowered & (pool > 0))
    exponent, steepness, bottom, goal, x = (
        values.reshape(-1)[rows] for values in (params.exponent, params.steepness, base, wanted, cutoff)
    )
    capped = CappedRise.of(exponent, params.floor.reshape(-1)[rows], max_copies, np.ones(rows.size), arithmetic)
    active = np.arange(rows.size)
    for _ in range(_STEPS):
        if not active.size:
            break
        part = _take(capped, active)
        slope_, here = steepness[active], x[active]
        t = slope_ * here
        inside = np.where(t < 1e-12, here * part.value(np.zeros_like(t)), part(t) / np.where(slope_ > 0, slope_, 1.0))
        gap = inside + (1.0 - here) * bottom[active] - goal[active]
        rate = part.value(t) - bottom[active]
        step = np.where(rate > 0, gap / np.where(rate > 0, rate, 1.0), 0.0)
        x[active] = np.clip(here - step, 0.0, 1.0)
        # one more step after the gap is small is one too many: the curve is convex, steps only get better
        active = active[(np.abs(gap) > tolerance * np.maximum(goal[active], 1e-300)) & (x[active] != here)]
    cutoff.reshape(-1)[rows] = x
    return replace(params, cutoff=cutoff, floor=floor)


_ABOVE, _BELOW = 1.0 + 1e-12, 1.0 - 1e-12
_STEPS = 60
_NOTHING = 1e-200
_UNEVEN = 1e-9  # least over largest tokens of a row, below which sums of slopes lose the least


def _take(capped: CappedRise, rows: NDArray[np.integer]) -> CappedRise:
    integral = capped.integral
    panels = tuple(panel[rows] for panel in integral.panels)
    chosen = replace(integral, exponent=integral.exponent[rows], panels=panels)
    return CappedRise(chosen, capped.floor[rows], capped.scale[rows], capped.cap, capped.bend[rows])


def _sum(values: Floats) -> Floats:
    """(k, n) to (k,), from left to right: the same bits everywhere, unlike numpy's pairwise sums."""
    return np.asarray(np.cumsum(values, axis=1)[:, -1])
