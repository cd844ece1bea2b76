"""exp, log and the logistic function: a few units in the last place of `math`, from basic operations only."""

from __future__ import annotations

import ast
import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core import portable

# what IEEE 754 fixes to the bit, or moves bits without rounding
ALLOWED_NUMPY = {
    "float64", "int32", "clip", "rint", "full_like", "ldexp", "frexp", "where", "abs", "exp", "log",
}  # fmt: skip


def ulps(found: float, wanted: float) -> float:
    return abs(found - wanted) / math.ulp(wanted)


@settings(max_examples=40)
@given(st.floats(-700.0, 709.0))
def test_exp_is_within_three_ulps_of_math(x: float) -> None:
    assert ulps(float(portable.exp(np.array([x]))[0]), math.exp(x)) <= 3.0


@settings(max_examples=40)
@given(st.floats(1e-300, 1e300))
def test_log_is_within_three_ulps_of_math(x: float) -> None:
    found, wanted = float(portable.log(np.array([x]))[0]), math.log(x)
    # next to 1 the logarithm vanishes, and its error is that of x
    assert ulps(found, wanted) <= 3.0 or abs(found - wanted) <= 2.0**-53 * abs(x - 1.0) * 4


@pytest.mark.parametrize("x", [-1e308, -745.2, -720.0, 0.0, -0.0, 709.0, 1e308])
def test_exp_neither_overflows_nor_goes_negative(x: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        value = float(portable.exp(np.array([x]))[0])
    assert 0.0 <= value < math.inf
    if -745.0 < x <= 709.0:
        assert value == pytest.approx(math.exp(x), rel=1e-15, abs=5e-324)


def test_exp_of_zero_and_log_of_one_and_two_are_exact() -> None:
    assert portable.exp(np.zeros(1))[0] == 1.0
    assert list(portable.log(np.array([1.0, 2.0, 0.5]))) == [0.0, math.log(2.0), -math.log(2.0)]


@settings(max_examples=40)
@given(st.floats(-1e300, 1e300))
def test_sigmoid_is_the_logistic_function_and_symmetric(x: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        up, down = portable.sigmoid(np.array([x, -x]))
    wanted = 1.0 / (1.0 + math.exp(-x)) if x > -700 else 0.0
    assert up == pytest.approx(wanted, rel=1e-15, abs=1e-300)
    assert up + down == pytest.approx(1.0, rel=1e-15)


def test_the_portable_functions_use_basic_operations_only() -> None:
    """np.exp and np.log are named once, in FAST, which nothing published may use."""
    tree = ast.parse(inspect.getsource(portable))
    used: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
            used[node.attr] = used.get(node.attr, 0) + 1
        assert not isinstance(node, ast.Pow), "powers are not fixed to the bit"
    assert set(used) <= ALLOWED_NUMPY
    assert used["exp"] == used["log"] == 1
    assert (np.exp, np.log) == portable.FAST


def test_a_value_does_not_depend_on_its_place_in_the_array() -> None:
    """Vector loops handle the last few elements apart; the bits must not show it."""
    x = np.linspace(-30.0, 5.0, 1003)
    for function in (portable.exp, lambda v: portable.log(portable.exp(v)), portable.sigmoid):
        whole = function(x)
        alone = np.array([function(x[i : i + 1])[0] for i in range(x.size)])
        assert (whole == alone).all()
