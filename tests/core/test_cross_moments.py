"""Exact moments: integers that no split can change, and the correlations that follow from them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.cross_moments import CrossMoments, exponent_of
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT


def columns(seed: int, n: int, size: int = 3) -> np.ndarray:
    """Columns of unlike sizes, the first with outliers."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, size)) * np.logspace(-3, 4, size) + np.linspace(-2, 9, size)
    found[:, 0] *= np.exp(rng.normal(size=n))
    return found.astype(np.float32)


def exponents(scores: np.ndarray) -> tuple[int, ...]:
    return tuple(int(np.frexp(np.abs(scores[:, d]).max())[1]) for d in range(scores.shape[1]))


def test_sums_are_those_of_fractions() -> None:
    scores = columns(0, 60)
    found = CrossMoments.of(scores, exponents(scores))
    for i in range(3):
        unit = Fraction(2) ** (found.exponents[i] - 40)
        exact = [Fraction(float(value)) / unit for value in scores[:, i]]
        rounded = [round(value) for value in exact]
        assert max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) <= Fraction(1, 2)
        assert found.sums[i] == sum(rounded)
        for j in range(3):
            other = [round(Fraction(float(v)) / Fraction(2) ** (found.exponents[j] - 40)) for v in scores[:, j]]
            assert found.products[i][j] == sum(a * b for a, b in zip(rounded, other, strict=True))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 9_000), max_size=6))
def test_any_split_and_order_gives_the_same_integers(seed: int, cuts: list[int]) -> None:
    scores = columns(seed, 9_000)
    whole = CrossMoments.of(scores, exponents(scores))
    shuffled = scores[np.random.default_rng(seed).permutation(len(scores))]
    total = CrossMoments.empty(whole.exponents)
    for part in np.split(shuffled, sorted(cuts)):
        total = CrossMoments.of(part, whole.exponents).merge(total)
    assert total == whole


def test_means_deviations_and_correlations_are_numpys() -> None:
    scores = columns(3, 20_000, 6)
    found = CrossMoments.of(scores, exponents(scores))
    wide = scores.astype(np.float64)
    np.testing.assert_allclose(found.means(), wide.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.deviations(), wide.std(axis=0), rtol=1e-8)
    np.testing.assert_allclose(found.correlation(), np.corrcoef(wide.T), atol=1e-8)
    assert not found.constant().any()


def test_a_constant_column_is_known_whatever_its_value() -> None:
    scores = columns(4, 500)
    scores[:, 1] = np.float32(0.1)
    found = CrossMoments.of(scores, exponents(scores))
    assert found.constant().tolist() == [False, True, False]
    assert np.isnan(found.correlation()[1]).all()


def test_what_is_not_finite_or_beyond_the_exponent_is_refused() -> None:
    scores = columns(5, 10)
    limits = exponents(scores)
    scores[3, 2] = np.nan
    with pytest.raises(ValueError, match="column 2"):
        CrossMoments.of(scores, limits)
    scores[3, 2] = np.float32(2.0 ** limits[2])
    with pytest.raises(ValueError, match=r"column 2 has a value of 2\*\*"):
        CrossMoments.of(scores, limits)
    with pytest.raises(ValueError, match="different exponents"):
        CrossMoments.empty((1,)).merge(CrossMoments.empty((2,)))


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=1, max_size=20))
def test_a_sketch_bounds_the_exponent(values: list[float]) -> None:
    scores = np.array(values, dtype=np.float32)
    sketch = TokenHistogram.of(order_key(scores) >> np.uint32(COARSE_SHIFT), np.ones(scores.size, dtype=np.int64))
    exponent = exponent_of(sketch)
    assert np.abs(scores.astype(np.float64)).max() < 2.0**exponent
    assert CrossMoments.of(scores[:, None], (exponent,)).n == scores.size
