"""The sampling function (eq. 3), its integrals, and draws.

S(r) = (2 / (1 + exp(-steepness * (cutoff - r))))**exponent + floor where r <= cutoff, else floor.
With t = steepness * (cutoff - r) and h(t) = (2 * sigma(t))**exponent, every integral of S is one of h, a smooth
function that leaves 1 at t = 0 and reaches 2**exponent by t = 32: Gauss-Legendre panels that double in width give it
to about 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quadmix.core.portable import PORTABLE, Arithmetic

Floats = NDArray[np.float64]

_LN2 = 0.6931471805599453
_PANELS = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
# 8-point Gauss-Legendre on [0, 1]: the constants are spelled out since an eigenvalue solver's last bit may vary
_HALF_NODES = (0.1834346424956498, 0.5255324099163290, 0.7966664774136267, 0.9602898564975363)
_HALF_WEIGHTS = (0.3626837833783620, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763)
NODES = tuple(0.5 - 0.5 * x for x in reversed(_HALF_NODES)) + tuple(0.5 + 0.5 * x for x in _HALF_NODES)
WEIGHTS = tuple(0.5 * w for w in reversed(_HALF_WEIGHTS)) + tuple(0.5 * w for w in _HALF_WEIGHTS)


def sampling_value(rank: Floats, steepness: Floats, cutoff: Floats, exponent: Floats, floor: Floats) -> Floats:
    """Eq. 3: expected copies at quality rank `rank` (0 best); all arguments broadcast, float64.

    Never overflows: the exponential is taken of -|t| only.
    """
    rank, steepness, cutoff, exponent, floor = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (rank, steepness, cutoff, exponent, floor))
    )
    inside = rank <= cutoff
    t = steepness * np.maximum(cutoff - rank, 0.0)
    return np.where(inside, rise(t, exponent, PORTABLE), 0.0) + floor


def rise(t: Floats, exponent: Floats, arithmetic: Arithmetic) -> Floats:
    """h(t) = (2 * sigma(t))**exponent for t >= 0."""
    return arithmetic.exp(exponent * (_LN2 - arithmetic.log(1.0 + arithmetic.exp(-t))))


@dataclass(frozen=True)
class RiseIntegral:
    """G(x) = integral of h from 0 to x, for fixed exponents of any shape; build once, evaluate at many x."""

    exponent: Floats
    panels: tuple[Floats, ...]  # G at the panels' edges
    arithmetic: Arithmetic

    @staticmethod
    def of(exponent: Floats, arithmetic: Arithmetic = PORTABLE) -> RiseIntegral:
        totals = [np.zeros_like(exponent)]
        for left, right in pairwise(_PANELS):
            total = np.zeros_like(exponent)
            for node, weight in zip(NODES, WEIGHTS, strict=True):
                t = np.array([left + (right - left) * node])
                log_twice_sigma = _LN2 - arithmetic.log(1.0 + arithmetic.exp(-t))[0]
                total += weight * arithmetic.exp(exponent * log_twice_sigma)
            totals.append(totals[-1] + (right - left) * total)
        return RiseIntegral(exponent, tuple(totals), arithmetic)

    def __call__(self, x: Floats) -> Floats:
        """G(x), x >= 0, of the exponents' shape (or broadcast with it)."""
        x, exponent, *panels = np.broadcast_arrays(x, self.exponent, *self.panels)
        panel = np.searchsorted(_PANELS, x, side="right") - 1
        below = np.minimum(panel, len(_PANELS) - 2)
        left = _PANELS[below]
        start = np.choose(below, panels[:-1])
        width = np.minimum(x, _PANELS[-1]) - left
        total = np.zeros(x.shape)
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            total += weight * rise(left + width * node, exponent, self.arithmetic)
        beyond = np.maximum(x - _PANELS[-1], 0.0)
        area: Floats = start + width * total + beyond * self.arithmetic.exp(exponent * _LN2)
        return area


def sampling_integral(
    steepness: Floats, cutoff: Floats, exponent: Floats, floor: Floats, arithmetic: Arithmetic = PORTABLE
) -> Floats:
    """The integral of S over ranks 0..1: a domain's expected tokens are its tokens times this, whatever its scores."""
    steepness, cutoff, exponent, floor = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in (steepness, cutoff, exponent, floor))
    )
    cutoff = np.minimum(cutoff, 1.0)
    x = steepness * cutoff
    return cutoff * mean_rise(RiseIntegral.of(exponent, arithmetic), x) + floor


def mean_rise(integral: RiseIntegral, x: Floats) -> Floats:
    """G(x) / x, 1 at x = 0."""
    safe = np.where(x > 0, x, 1.0)
    return np.where(x > 0, integral(safe) / safe, 1.0)


def interval_mean(
    low: Floats, high: Floats, steepness: Floats, cutoff: Floats, exponent: Floats, floor: Floats,
    cap: float = np.inf, scale: float = 1.0,
) -> Floats:  # fmt: skip
    """Mean of min(scale * S, cap) over the rank intervals (low, high]: the expected copies of tie groups.

    All arrays (k,), one entry an interval, 0 <= low < high <= 1. Narrow intervals are integrated directly (a
    difference of integrals would cancel), wide ones through G; an interval across the cutoff is cut there.
    """
    inner_high = np.minimum(high, cutoff)
    width = np.maximum(inner_high - low, 0.0)
    outside = np.minimum(scale * floor, cap)
    near, far = steepness * np.maximum(cutoff - inner_high, 0.0), steepness * np.maximum(cutoff - low, 0.0)
    # quadrature wants a smooth function: an interval that holds the cap's bend goes through G, unless it is so narrow
    # that the function hardly moves
    bend = _bend(exponent, floor, cap, np.full_like(floor, scale), PORTABLE)
    direct = (far - near <= 0.5) & ~((near < bend) & (bend < far) & (far - near > 1e-6))
    mean = np.empty_like(low)
    if direct.any():
        start, length, power = far[direct], (far - near)[direct], exponent[direct]
        total = np.zeros(start.size)
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            value = scale * (rise(start - length * node, power, PORTABLE) + floor[direct])
            total += weight * np.minimum(value, cap)
        mean[direct] = total
    wide = ~direct
    if wide.any():
        capped = CappedRise.of(exponent[wide], floor[wide], cap, np.full(int(wide.sum()), scale))
        mean[wide] = (capped(far[wide]) - capped(near[wide])) / (far - near)[wide]
    share = width / (high - low)
    # rounding may leave the mean of a capped function an ulp above its cap
    return np.minimum(share * mean + (1.0 - share) * outside, cap)


@dataclass(frozen=True)
class CappedRise:
    """Integral from 0 to x of min(scale * (h(t) + floor), cap): what a repeat cap leaves of the sampling function."""

    integral: RiseIntegral
    floor: Floats
    scale: Floats
    cap: float
    bend: Floats  # t beyond which the cap holds; inf: never

    @staticmethod
    def of(exponent: Floats, floor: Floats, cap: float, scale: Floats, arithmetic: Arithmetic = PORTABLE) -> CappedRise:
        integral = RiseIntegral.of(exponent, arithmetic)
        return CappedRise(integral, floor, scale, cap, _bend(exponent, floor, cap, scale, arithmetic))

    def rescaled(self, scale: Floats) -> CappedRise:
        """The same functions under another scale: G is kept, only the bend moves."""
        arithmetic = self.integral.arithmetic
        bend = _bend(self.integral.exponent, self.floor, self.cap, scale, arithmetic)
        return CappedRise(self.integral, self.floor, scale, self.cap, bend)

    def __call__(self, x: Floats) -> Floats:
        return self.parts(x)[0]

    def parts(self, x: Floats) -> tuple[Floats, Floats]:
        """The integral up to x, and the part of it below the cap, which alone grows with the scale."""
        free = np.minimum(x, self.bend)
        below = self.scale * (self.integral(free) + self.floor * free)
        if np.isinf(self.cap):
            return below, below
        return below + np.where(x > self.bend, self.cap * np.maximum(x - free, 0.0), 0.0), below

    def value(self, t: Floats) -> Floats:
        """min(scale * (h(t) + floor), cap)."""
        free = self.scale * (rise(t, self.integral.exponent, self.integral.arithmetic) + self.floor)
        return np.minimum(free, self.cap)


def _bend(exponent: Floats, floor: Floats, cap: float, scale: Floats, arithmetic: Arithmetic) -> Floats:
    room = cap / scale - floor  # h reaches the cap where h = room; h runs from 1 to 2**exponent
    top = arithmetic.exp(exponent * _LN2)
    bend = np.where(room >= top, np.inf, 0.0)
    between = (room > 1.0) & (room < top)
    if between.any():
        safe_room = np.where(between, room, 1.0)
        safe_exponent = np.where(between & (exponent > 0), exponent, 1.0)
        half = 0.5 * arithmetic.exp(arithmetic.log(safe_room) / safe_exponent)  # sigma(t) at the bend
        half = np.where(between, np.minimum(half, 1.0 - 2.0**-53), 0.5)
        bend = np.where(between, arithmetic.log(half) - arithmetic.log(1.0 - half), bend)
    return bend


def draw_copies(expected: Floats, u: Floats) -> NDArray[np.int32]:
    """a.b means a copies plus one more with probability b: floor(expected) + [u < fraction]. (n,) int32."""
    whole = np.floor(expected)
    return (whole + (u < expected - whole)).astype(np.int32)
