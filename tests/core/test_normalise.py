"""Score maps against literal loops: mid-ranks, z-scores, min-max, and the table against the search."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import (
    SIGMA_BITS,
    ScoreMap,
    fit_score_map,
    heavy_bins,
    load_score_maps,
    save_score_maps,
)
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT

scores_of = st.lists(
    st.tuples(
        st.floats(-100, 100, width=32)
        | st.integers(0, 5).map(float)
        | st.integers(0, 900).map(lambda step: float(np.float32(1 + step * 2**-23))),
        st.integers(1, 10**6),
    ),
    min_size=1,
    max_size=40,
)


def fit(scores: np.ndarray, tokens: np.ndarray, normalisation: str = "quantile") -> ScoreMap:
    sketch = TokenHistogram.of(order_key(scores) >> np.uint32(COARSE_SHIFT), tokens)
    fine = FineHistogram.of(scores, tokens, heavy_bins(sketch))
    return fit_score_map("q", sketch, fine, normalisation)  # type: ignore[arg-type]


def arrays(rows: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in rows], dtype=np.float32), np.array([t for _, t in rows], dtype=np.int64)


@settings(max_examples=30)
@given(scores_of)
def test_small_pools_get_the_exact_token_weighted_mid_rank(rows: list[tuple[float, int]]) -> None:
    # equal shares above 1/2048 each, so that every bin of several documents is split
    rows = [(score, 1000 + tokens % 7) for score, tokens in rows]
    scores, tokens = arrays(rows)
    found = fit(scores, tokens)
    normalised = found.normalised[found.classes(scores)]
    for score, value in zip(scores, normalised, strict=True):
        lower, tie = int(tokens[scores < score].sum()), int(tokens[scores == score].sum())
        assert value == pytest.approx((lower + tie / 2) / tokens.sum(), rel=1e-15)


@settings(max_examples=30)
@given(scores_of)
def test_the_error_of_a_rank_is_below_the_resolution(rows: list[tuple[float, int]]) -> None:
    scores, tokens = arrays(rows)
    found = fit(scores, tokens)
    assert found.resolution <= 1 / 2048
    normalised = found.normalised[found.classes(scores)]
    for score, value in zip(scores, normalised, strict=True):
        lower, tie = int(tokens[scores < score].sum()), int(tokens[scores == score].sum())
        assert abs(value - (lower + tie / 2) / tokens.sum()) <= found.resolution + 1e-12
    order = np.argsort(scores, kind="stable")
    assert (np.diff(normalised[order]) >= 0).all()


def test_a_heavy_tie_of_a_small_integer_score_is_exact_in_a_large_pool() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 50_000).astype(np.float32)
    tokens = rng.lognormal(6, 1.5, scores.size).astype(np.int64) + 1
    found = fit(scores, tokens)
    assert found.resolution == 0.0
    for score in range(6):
        lower, tie = int(tokens[scores < score].sum()), int(tokens[scores == score].sum())
        value = found.normalised[found.classes(np.array([score], dtype=np.float32))[0]]
        assert value == (2 * lower + tie) / (2 * int(tokens.sum()))


@settings(max_examples=30)
@given(scores_of, st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_the_table_finds_the_class_that_the_search_finds(rows: list[tuple[float, int]], unseen: list[float]) -> None:
    scores, tokens = arrays(rows)
    found = fit(scores, tokens)
    lookup = found.lookup()
    near = np.concatenate([scores, np.nextafter(scores, np.float32(np.inf)), np.nextafter(scores, np.float32(-1e38))])
    asked = np.concatenate([near, np.array(unseen, dtype=np.float32), np.float32([0.0, -0.0, 3.4e38, -3.4e38])])
    assert np.array_equal(lookup.find(asked), found.sigma[found.classes(asked)])


def test_the_table_keeps_several_split_bins_apart() -> None:
    inside = np.float32(1.0) + np.arange(1, 40, dtype=np.float32) * np.float32(2.0**-20)
    scores = np.concatenate([inside, inside * 2, inside * 8, -inside]).astype(np.float32)
    found = fit(scores, np.arange(1, scores.size + 1, dtype=np.int64) * 1000)
    lookup = found.lookup()
    assert lookup.fine.shape[0] == 4
    every = np.concatenate([scores, np.nextafter(scores, np.float32(100)), np.nextafter(scores, np.float32(-100))])
    assert np.array_equal(lookup.find(every), found.sigma[found.classes(every)])


@settings(max_examples=30)
@given(scores_of)
def test_zscore_and_minmax_follow_their_definitions(rows: list[tuple[float, int]]) -> None:
    rows = [(score, 1000 + tokens % 7) for score, tokens in rows]
    scores, tokens = arrays(rows)
    wide, share = scores.astype(np.float64), tokens / tokens.sum()
    found = fit(scores, tokens, "zscore")
    mean = float((wide * share).sum())
    deviation = math.sqrt(float(((wide - mean) ** 2 * share).sum()))
    # a score alone in its coarse bin stands for the bin's middle: within 2**-11 of itself
    blur = np.abs(wide).max() * 2.0**-11 + 1e-30
    if deviation > 100 * blur:
        value = found.normalised[found.classes(scores)]
        assert np.allclose(value, (wide - mean) / deviation, atol=20 * blur / deviation)
    found = fit(scores, tokens, "minmax")
    span = float(wide.max() - wide.min())
    value = found.normalised[found.classes(scores)]
    assert 0.0 <= value.min() <= value.max() <= 1.0
    if span > 100 * blur:
        assert np.allclose(value, (wide - wide.min()) / span, atol=10 * blur / span)


@pytest.mark.parametrize("normalisation", ["quantile", "zscore", "minmax"])
def test_one_document_or_a_constant_score_is_no_special_case(normalisation: str) -> None:
    for scores in (np.float32([7.0]), np.float32([3.0] * 9)):
        found = fit(scores, np.full(scores.size, 5, dtype=np.int64), normalisation)
        assert np.isfinite(found.normalised).all()
        assert found.sigma.shape == (1,)
        assert 0 < found.sigma[0] < 1 << SIGMA_BITS


def test_a_criterion_without_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="no document"):
        fit_score_map("q", TokenHistogram.empty(), FineHistogram.empty())


def test_a_giant_document_alone_in_its_bin_needs_no_second_pass() -> None:
    scores, tokens = np.float32([1.0, 2.0, 3.0]), np.array([10**15, 1, 1], dtype=np.int64)
    sketch = TokenHistogram.of(order_key(scores) >> np.uint32(COARSE_SHIFT), tokens)
    assert heavy_bins(sketch).size == 0


def test_score_maps_survive_their_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    maps = tuple(
        ScoreMap(name, one.keys, one.normalised, one.sigma, one.resolution)
        for name, one in (
            ("a", fit(rng.normal(size=500).astype(np.float32), np.full(500, 3, dtype=np.int64))),
            ("b", fit(np.float32([1, 1, 2]), np.array([1, 2, 3], dtype=np.int64))),
        )
    )
    path = str(tmp_path / "maps.npz")
    save_score_maps(path, maps)
    for stored, given_ in zip(load_score_maps(path, ("b", "a")), maps[::-1], strict=True):
        assert stored.criterion == given_.criterion
        assert stored.resolution == given_.resolution
        assert all(np.array_equal(getattr(stored, f), getattr(given_, f)) for f in ("keys", "normalised", "sigma"))
