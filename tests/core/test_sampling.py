"""The sampling function, its integrals against dense sums and scipy, and draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate

from quadmix.core import sampling
from quadmix.core.portable import FAST, PORTABLE
from quadmix.core.sampling import (
    CappedRise,
    RiseIntegral,
    draw_copies,
    interval_mean,
    sampling_integral,
    sampling_value,
)

ranks = st.floats(0.0, 1.0)
steepnesses = st.sampled_from([0.0, 1e-9, 1.0, 1e3, 1e6]) | st.floats(0.0, 2e3)
cutoffs = st.sampled_from([0.0, 1.0, 1e-6]) | ranks
exponents = st.sampled_from([0.0, 1.0, 16.0]) | st.floats(0.0, 4.0)
floors = st.sampled_from([0.0, 1e-3, 2.0]) | st.floats(0.0, 3.0)
Shape = tuple[float, float, float, float]
shapes = st.tuples(steepnesses, cutoffs, exponents, floors)


def literal(rank: float, steepness: float, cutoff: float, exponent: float, floor: float) -> float:
    """Eq. 3 as printed, where the exponential does not overflow."""
    if rank > cutoff:
        return floor
    return (2.0 / (1.0 + math.exp(-min(steepness * (cutoff - rank), 700.0)))) ** exponent + floor


def value(rank: float, shape: Shape) -> float:
    return float(sampling_value(np.array([rank]), *(np.array([part]) for part in shape))[0])


@settings(max_examples=40)
@given(ranks, shapes)
def test_the_value_is_equation_three(rank: float, shape: Shape) -> None:
    with np.errstate(all="raise", under="ignore"):
        assert value(rank, shape) == pytest.approx(literal(rank, *shape), rel=1e-13, abs=1e-15)


@settings(max_examples=40)
@given(ranks, ranks, shapes)
def test_a_better_rank_never_has_fewer_expected_copies(one: float, two: float, shape: Shape) -> None:
    better, worse = sorted((one, two))
    assert value(better, shape) >= value(worse, shape) * (1.0 - 1e-14)


@settings(max_examples=40)
@given(shapes)
def test_copies_lie_between_one_and_two_to_the_exponent_above_the_threshold(shape: Shape) -> None:
    _, cutoff, exponent, floor = shape
    inside = value(cutoff, shape) - floor
    assert inside == pytest.approx(1.0, rel=1e-13)
    assert value(0.0, shape) <= (2.0**exponent + floor) * (1 + 1e-13)
    if cutoff < 1.0:
        assert value(float(np.nextafter(cutoff, 2.0)), shape) == floor


@pytest.mark.parametrize("steepness", [1e3, 1e6, 1e300])
@pytest.mark.parametrize(("rank", "cutoff"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_no_overflow_at_any_steepness(steepness: float, rank: float, cutoff: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        found = value(rank, (steepness, cutoff, 1.0, 1e-3))
    assert found == pytest.approx({1.0: 2.0, 0.0: 1.0, -1.0: 0.0}[cutoff - rank] + 1e-3, rel=1e-15)


def test_an_undefined_rank_gets_the_floor() -> None:
    with np.errstate(invalid="ignore"):
        assert value(math.nan, (10.0, 0.5, 1.0, 0.25)) == 0.25


def dense(shape: Shape, low: float, high: float, cap: float = math.inf, scale: float = 1.0) -> float:
    """Mean of min(scale * S, cap) over (low, high] by adaptive quadrature, split where S bends."""
    steepness, cutoff, exponent, floor = shape
    points = {low, high, min(max(cutoff, low), high)}
    if steepness > 0:
        points |= {cutoff - t / steepness for t in (0.01, 0.1, 1, 4, 16, 40)}
        room = cap / scale - floor
        if exponent > 0 and 1.0 < room < 2.0**exponent:
            half = room ** (1.0 / exponent) / 2.0
            points.add(cutoff - math.log(half / (1.0 - half)) / steepness)
    edges = sorted(point for point in points if low <= point <= high)
    total = 0.0
    for left, right in itertools.pairwise(edges):
        if right > left:
            middle = (left + right) / 2
            inside = middle <= cutoff

            def function(r: float, inside: bool = inside) -> float:
                s = literal(min(r, cutoff), *shape) if inside else floor
                return min(scale * s, cap)

            total += integrate.quad(function, left, right, epsabs=0, epsrel=1e-12, limit=200)[0]
    return total / (high - low)


@settings(max_examples=30)
@given(shapes)
def test_the_integral_is_that_of_the_function(shape: Shape) -> None:
    found = float(sampling_integral(*(np.array([part]) for part in shape))[0])
    assert found == pytest.approx(dense(shape, 0.0, 1.0), rel=2e-10)
    fast = float(sampling_integral(*(np.array([part]) for part in shape), arithmetic=FAST)[0])
    assert fast == pytest.approx(found, rel=1e-12)


@settings(max_examples=40)
@given(shapes, ranks, ranks, st.sampled_from([math.inf, 1.0, 1.3, 2.0, 4.0]), st.sampled_from([1.0, 0.3, 5.0]))
def test_a_tie_group_gets_the_mean_over_its_interval(
    shape: Shape, one: float, two: float, cap: float, scale: float
) -> None:
    low, high = sorted((one, two))
    assume(high - low > 1e-9)
    arrays = [np.array([part]) for part in (low, high, *shape)]
    found = float(interval_mean(*arrays, cap=cap, scale=scale)[0])
    # exponent 16 across a cap: the function moves by 2**16 within the interval
    assert found == pytest.approx(dense(shape, low, high, cap, scale), rel=1e-7, abs=1e-12)
    assert found <= cap * (1 + 1e-12)


@settings(max_examples=25)
@given(shapes, st.lists(ranks, max_size=12), st.sampled_from([math.inf, 1.0, 1.5, 3.0]))
def test_intervals_that_tile_the_domain_add_up_to_the_integral(shape: Shape, cuts: list[float], cap: float) -> None:
    """So a domain's expected tokens are T * integral of S, however its documents tie."""
    edges = np.unique([0.0, *cuts, 1.0])
    low, high = edges[:-1], edges[1:]
    mean = interval_mean(low, high, *(np.full(low.size, part) for part in shape), cap=cap)
    whole = interval_mean(np.zeros(1), np.ones(1), *(np.array([part]) for part in shape), cap=cap)
    assert float((mean * (high - low)).sum()) == pytest.approx(float(whole[0]), rel=1e-7, abs=1e-12)


def test_a_narrow_interval_that_holds_the_caps_bend_is_cut_there() -> None:
    shape = (1.0, 0.9, 16.0, 0.0)  # within the interval the free function grows by half
    cap = literal(0.65, *shape)
    found = interval_mean(*(np.array([part]) for part in (0.6, 0.7, *shape)), cap=cap)
    assert float(found[0]) == pytest.approx(dense(shape, 0.6, 0.7, cap), rel=1e-10)


def test_intervals_of_many_widths_are_computed_together_as_alone() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.9, 400)
    high = low + 10.0 ** rng.uniform(-7, -1, 400)
    shape = [rng.uniform(0, 1000, 400), rng.uniform(0, 1, 400), rng.uniform(0, 2, 400), rng.uniform(0, 0.1, 400)]
    together = interval_mean(low, high, *shape, cap=1.7, scale=1.1)
    for row in range(0, 400, 7):
        one = slice(row, row + 1)
        alone = interval_mean(low[one], high[one], *(part[one] for part in shape), cap=1.7, scale=1.1)
        assert alone[0] == together[row]


@pytest.mark.parametrize("exponent", [0.0, 1e-300, 0.5, 1.0, 16.0])
def test_the_integral_of_the_rise_grows_without_steps(exponent: float) -> None:
    integral = RiseIntegral.of(np.array([exponent]))
    x = np.concatenate([np.linspace(0, 40, 4001), sampling._PANELS])
    x.sort()
    area = integral(x)
    assert area[0] == 0.0
    slope = np.diff(area)
    assert (slope >= 0).all()
    assert (slope <= np.diff(x) * 2.0**exponent * (1 + 1e-9) + 1e-12).all()


@settings(max_examples=30)
@given(exponents, floors, st.floats(0.5, 5.0), st.floats(0.1, 4.0), st.floats(0.0, 60.0))
def test_the_capped_integral_is_the_integral_of_the_capped_value(
    exponent: float, floor: float, cap: float, scale: float, x: float
) -> None:
    one = CappedRise.of(np.array([exponent]), np.array([floor]), cap, np.array([scale]), PORTABLE)
    grid = np.linspace(0.0, x, 4_001)
    dense_sum = np.trapezoid(one.value(grid), grid)
    # steep exponents bend sharply: the trapezoid, not the integral, is coarse there
    assert float(one(np.array([x]))[0]) == pytest.approx(dense_sum, rel=5e-4, abs=1e-9)
    whole, below = one.parts(np.array([x]))
    assert 0.0 <= below[0] <= whole[0] * (1 + 1e-12)


def test_draws_give_the_fraction_as_probability() -> None:
    u = (np.arange(10_000) + 0.5) / 10_000
    for expected in (0.0, 0.25, 1.0, 1.3, 3.75):
        copies = draw_copies(np.full(u.size, expected), u)
        assert copies.dtype == np.int32
        assert copies.mean() == pytest.approx(expected, abs=1e-4)
        assert set(np.unique(copies)) <= {math.floor(expected), math.ceil(expected)}


@settings(max_examples=40)
@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.0, 1.0, exclude_min=True, exclude_max=True))
def test_one_draw_gives_a_better_document_at_least_as_many_copies(one: float, two: float, u: float) -> None:
    low, high = sorted((one, two))
    fewer, more = draw_copies(np.array([low, high]), np.array([u, u]))
    assert fewer <= more
