"""exp, log and the logistic function from IEEE additions, multiplications and divisions alone.

The exponentials of numpy and of the C library differ in their last bit between processors and versions; what
decides whether a document is in a manifest must not. IEEE 754 fixes the four basic operations to the bit, and
numpy evaluates them one at a time (no fused multiply-add), so these give the same bits everywhere. Accuracy: a few
units in the last place (tested against `math`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LN2_HIGH = 6.93147180369123816490e-01  # ln 2 to 33 bits: its product with |k| < 2**11 is exact
_LN2_LOW = 1.90821492927058770002e-10
_LN2_INVERSE = 1.44269504088896338700
_EXP_TERMS = tuple(1.0 / factorial for factorial in (
    6227020800.0, 479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0,
))  # fmt: skip
_ATANH_TERMS = tuple(1.0 / odd for odd in range(25, 0, -2))
_SQRT_HALF = 0.7071067811865476


class Arithmetic(NamedTuple):
    """The two transcendental functions that a formula needs."""

    exp: Callable[[Floats], Floats]
    log: Callable[[Floats], Floats]


def exp(x: Floats) -> Floats:
    """e**x for float64 arrays; 0 below -745, clipped at e**709 above."""
    x = np.clip(x, -745.0, 709.0)
    k = np.rint(x * _LN2_INVERSE)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    total = np.full_like(r, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        total *= r
        total += term
    # in two steps: 2**k alone may be subnormal or beyond the range
    half = (k * 0.5).astype(np.int32)
    scaled: Floats = np.ldexp(np.ldexp(total, half), k.astype(np.int32) - half)
    return scaled


def log(x: Floats) -> Floats:
    """Natural logarithm of positive float64 arrays."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < _SQRT_HALF
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    k = exponent.astype(np.float64) - small
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    total = np.full_like(s, _ATANH_TERMS[0])
    for term in _ATANH_TERMS[1:]:
        total *= square
        total += term
    return k * _LN2_HIGH + (2.0 * s * total + k * _LN2_LOW)


PORTABLE = Arithmetic(exp, log)
FAST = Arithmetic(np.exp, np.log)  # for screening candidates, where nothing is published


def sigmoid(x: Floats, arithmetic: Arithmetic = PORTABLE) -> Floats:
    """1 / (1 + e**-x), without overflow for any finite x."""
    e = arithmetic.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)
