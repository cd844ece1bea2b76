"""Token histograms are monoids; order keys order as the scores do."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core import sketch
from quadmix.core.sketch import TokenHistogram, key_score, order_key

documents = st.lists(st.tuples(st.integers(0, 30) | st.integers(0, 2**40), st.integers(0, 2**40)), max_size=30)
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def histogram(rows: list[tuple[int, int]]) -> TokenHistogram:
    bins = np.array([b for b, _ in rows], dtype=np.int64)
    return TokenHistogram.of(bins, np.array([t for _, t in rows], dtype=np.int64))


def same(first: TokenHistogram, second: TokenHistogram) -> bool:
    return all(np.array_equal(getattr(first, f), getattr(second, f)) for f in ("bins", "docs", "tokens"))


@settings(max_examples=40)
@given(documents)
def test_a_histogram_counts_documents_and_tokens_of_every_bin(rows: list[tuple[int, int]]) -> None:
    wanted: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for bin_, tokens in rows:
        wanted[bin_][0] += 1
        wanted[bin_][1] += tokens
    found = histogram(rows)
    assert {int(b): [int(d), int(t)] for b, d, t in zip(found.bins, found.docs, found.tokens, strict=True)} == wanted
    assert list(found.bins) == sorted(wanted)
    assert found.total_docs == len(rows)
    assert found.total_tokens == sum(tokens for _, tokens in rows)
    assert found.bins.dtype == found.docs.dtype == found.tokens.dtype == np.int64


@settings(max_examples=40)
@given(documents, documents, documents)
def test_merging_is_associative_commutative_and_has_an_identity(
    a: list[tuple[int, int]], b: list[tuple[int, int]], c: list[tuple[int, int]]
) -> None:
    one, two, three = histogram(a), histogram(b), histogram(c)
    assert same(one.merge(two), histogram(a + b))
    assert same(one.merge(two), two.merge(one))
    assert same(one.merge(two).merge(three), one.merge(two.merge(three)))
    assert same(one.merge(TokenHistogram.empty()), one)
    assert same(TokenHistogram.empty().merge(one), one)


@pytest.mark.parametrize("dense", [0, 10**9])
@settings(max_examples=40)
@given(a=documents, b=documents)
def test_counting_and_sorting_give_the_same_histogram(
    a: list[tuple[int, int]], b: list[tuple[int, int]], dense: int
) -> None:
    a, b = [[(bin_ % 1000, tokens) for bin_, tokens in rows] for rows in (a, b)]
    wanted, merged = histogram(a), histogram(a + b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch, "_DENSE", dense)
        assert same(histogram(a), wanted)
        assert same(histogram(a).merge(histogram(b)), merged)
        small = [(bin_, tokens % 1000) for bin_, tokens in a]  # packed in one word
        assert same(histogram(small), histogram([*small]))
        assert histogram(small).total_tokens == sum(tokens for _, tokens in small)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=20))
def test_bins_and_tokens_of_32_bits_are_counted_as_by_a_loop(rows: list[tuple[int, int]]) -> None:
    found = histogram(rows + rows[:3])
    for bin_, docs, tokens in zip(found.bins, found.docs, found.tokens, strict=True):
        mine = [t for b, t in rows + rows[:3] if b == bin_]
        assert (docs, tokens) == (len(mine), sum(mine))


def test_merging_beyond_the_integers_of_float64_is_exact() -> None:
    one = TokenHistogram(np.array([3]), np.array([1]), np.array([2**53]))
    two = TokenHistogram(np.array([3]), np.array([1]), np.array([1]))
    assert one.merge(two).tokens[0] == 2**53 + 1


def test_a_histogram_of_few_documents_far_apart_stays_small() -> None:
    found = TokenHistogram.of(np.array([0, 2**50], dtype=np.int64), np.array([1, 10**15], dtype=np.int64))
    assert found.bins.nbytes == 16
    assert found.total_tokens == 10**15 + 1


@settings(max_examples=40)
@given(finite32, finite32)
def test_order_keys_compare_as_the_scores_do(a: float, b: float) -> None:
    first, second = (int(key) for key in order_key(np.array([a, b], dtype=np.float32)))
    assert (first < second) == (a < b)
    assert (first == second) == (a == b)  # -0.0 and 0.0 are one score


@settings(max_examples=40)
@given(finite32)
def test_a_score_comes_back_from_its_order_key(score: float) -> None:
    assert float(key_score(order_key(np.array([score], dtype=np.float32)))[0]) == score


def test_order_keys_of_a_strided_column() -> None:
    scores = np.array([[1.0, -2.0], [3.0, -4.0]], dtype=np.float32)
    assert list(order_key(scores[:, 1])) == list(order_key(np.array([-2.0, -4.0], dtype=np.float32)))
