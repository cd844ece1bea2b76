"""Merged quality and quality rank against literal loops; the integer path against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quadmix.core import quality as q
from quadmix.core.normalise import SIGMA_BITS

Docs = list[tuple[int, int, int]]
# (quality, tokens, domain): few qualities, so ties abound; zero-token documents too
documents = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 50) | st.integers(0, 10**12), st.integers(0, 3)), max_size=30
)


def literal_interval(docs: Docs, index: int) -> tuple[float, float]:
    quality, _, domain = docs[index]
    total = sum(t for _, t, d in docs if d == domain)
    if total == 0:
        return 1.0, 1.0
    better = sum(t for value, t, d in docs if d == domain and value > quality)
    at_least = sum(t for value, t, d in docs if d == domain and value >= quality)
    return better / total, at_least / total


def columns(docs: Docs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.array([doc[i] for doc in docs], dtype=np.int64) for i in range(3))  # type: ignore[return-value]


@settings(max_examples=40)
@given(documents)
def test_ranks_are_those_of_a_literal_loop(docs: Docs) -> None:
    quality, tokens, domain = columns(docs)
    low, high = q.quality_interval(quality.astype(np.float64), tokens, domain)
    wanted = [literal_interval(docs, i) for i in range(len(docs))]
    assert list(zip(low, high, strict=True)) == wanted
    assert list(q.quality_rank(quality, tokens, domain)) == [rank for _, rank in wanted]


@settings(max_examples=40)
@given(documents, st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_documents(docs: Docs, random) -> None:
    quality, tokens, domain = columns(docs)
    order = list(range(len(docs)))
    random.shuffle(order)
    ranks = q.quality_rank(quality, tokens, domain)
    assert np.array_equal(q.quality_rank(quality[order], tokens[order], domain[order]), ranks[order])


@settings(max_examples=40)
@given(documents)
def test_cell_ranks_are_those_of_the_documents_in_the_cells(docs: Docs) -> None:
    cells = sorted({(domain, quality) for quality, _, domain in docs})
    tokens = np.array([sum(t for v, t, d in docs if (d, v) == cell) for cell in cells], dtype=np.int64)
    low, high = q.cell_ranks(tokens, np.array([domain for domain, _ in cells], dtype=np.int64))
    for cell, *found in zip(cells, low, high, strict=True):
        index = next(i for i, (v, _, d) in enumerate(docs) if (d, v) == cell)
        assert tuple(found) == literal_interval(docs, index)


def test_tied_scores_share_the_largest_rank_and_the_document_counts_itself() -> None:
    ranks = q.quality_rank(np.array([3.0, 2.0, 2.0, 1.0]), np.array([1, 2, 3, 4]), np.zeros(4, dtype=int))
    assert list(ranks) == [0.1, 0.6, 0.6, 1.0]


@settings(max_examples=40)
@given(
    hnp.arrays(np.float64, (7, 3), elements=st.floats(-50, 50)),
    hnp.arrays(np.float64, (2, 3), elements=st.floats(0.01, 1)),
)
def test_merged_quality_is_equation_one(scores: np.ndarray, weights: np.ndarray) -> None:
    weights = weights / weights.sum(axis=1, keepdims=True)
    domain = np.array([0, 1, 0, 1, 1, 0, 0])
    found = q.merged_quality(scores, weights, domain)
    for row in range(7):
        wanted = sum(weights[domain[row], n] / (1 + math.exp(-scores[row, n])) for n in range(3))
        assert found[row] == pytest.approx(wanted, rel=1e-14)


@settings(max_examples=40)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.floats(0, 1e6)))
def test_integer_weights_sum_exactly_and_are_the_nearest(weights: np.ndarray) -> None:
    weights[:, 0] += 1e-3
    whole = q.integer_weights(weights)
    assert (whole >= 0).all()
    for row in range(weights.shape[0]):
        assert int(whole[row].sum()) == 1 << q.WEIGHT_BITS
        total = sum(Fraction(float(w)) for w in weights[row])
        for n in range(weights.shape[1]):
            exact = Fraction(float(weights[row, n])) / total * (1 << q.WEIGHT_BITS)
            assert abs(exact - int(whole[row, n])) < 1 + Fraction(1, 10**6)


def test_integer_weights_break_equal_remainders_by_index() -> None:
    assert list(q.integer_weights(np.ones((1, 3)))[0]) == [349526, 349525, 349525]


def test_integer_weights_give_what_is_left_to_the_largest_remainder() -> None:
    found = q.integer_weights(np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 2.0]]))
    assert found.tolist() == [[149797, 299593, 599186], [0, 349525, 699051]]


def test_integer_quality_is_exact_at_its_largest() -> None:
    weights = q.integer_weights(np.array([[1.0, 2.0, 5.0]]))
    sigma = np.full((2, 3), 1 << SIGMA_BITS, dtype=np.int32)  # int32, as the tables give it: must not wrap
    sigma[1] = (1, 2, 3)
    found = q.integer_quality(sigma, weights, np.zeros(2, dtype=np.int32))
    assert found.dtype == np.int64
    assert list(found) == [1 << q.QUALITY_BITS, int((weights[0] * [1, 2, 3]).sum())]


def test_bins_are_sixteen_a_document_between_their_bounds() -> None:
    docs = np.array([0, 1, 2, 3, 16, 17, 1 << 13, (1 << 13) + 1, 10**9], dtype=np.int64)
    assert list(q.bin_bits(docs)) == [8, 8, 8, 8, 8, 9, 17, 18, 18]


def test_bits_stay_the_same_whatever_the_logarithm_rounds_to() -> None:
    for length in range(5, 14):
        exact = np.array([1 << length, (1 << length) + 1], dtype=np.int64)
        assert list(q.bin_bits(exact)) == [length + 4, length + 5]


@pytest.mark.parametrize("docs", [np.full(50_000, 1000), np.full(300, 10**6), np.r_[np.full(40_000, 20), 10**9]])
def test_many_domains_do_not_cost_gigabytes(docs: np.ndarray) -> None:
    bits = q.bin_bits(docs.astype(np.int64))
    assert int((1 << bits).sum()) <= q.MAX_BINS
    assert bits.min() >= 8


def test_a_giant_domain_keeps_its_resolution_among_many_small_ones() -> None:
    bits = q.bin_bits(np.r_[np.full(40_000, 20), 10**9].astype(np.int64))
    assert (bits[0], bits[-1]) == (8, 18)
