"""Moments of parts merge to the moments of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quadmix.core.moments import Moments

values = st.lists(st.floats(-1e6, 1e6), max_size=30)


@given(st.lists(values, min_size=1, max_size=5))
@example([[0.0, 0.0, 6.1690762899705405e-162]])
def test_merged_parts_are_numpys_moments_of_the_whole(parts: list[list[float]]) -> None:
    merged = Moments(0, 0.0, 0.0)
    for part in parts:
        merged = merged.merge(Moments.of(np.array(part, dtype=np.float64)))
    whole = np.concatenate([np.array(part, dtype=np.float64) for part in parts])
    assert merged.n == whole.size
    if whole.size:
        size = float(np.abs(whole).max())
        assert merged.mean == pytest.approx(
            whole.mean(), rel=1e-12, abs=max(1e-13 * size, 1e-300)
        )  # below, floats lose digits
        assert merged.m2 == pytest.approx(whole.var() * whole.size, rel=1e-10, abs=max(1e-12 * size**2, 1e-300))


def test_a_part_has_the_same_bits_in_any_order() -> None:
    drawn = np.random.default_rng(0).standard_cauchy(1000)
    assert Moments.of(drawn) == Moments.of(drawn[::-1].copy()) == Moments.of(np.sort(drawn))


def test_equal_values_have_no_spread() -> None:
    assert Moments.of(np.full(7, 0.1)) == Moments(7, 0.1, 0.0)
