"""Diversity of a sample: against the definitions spelled out, against PyPI's vendi-score, and on planted samples."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.core.diversity import (
    SecondMoments,
    effective_number,
    entropy,
    kl_divergence,
    novelsum,
    unit_points,
)

ORDERS = (1.0, 2.0, 3.5, math.inf)


def points(n: int = 300, dimensions: int = 16, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings in clumps of unequal size and any length."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, dimensions))
    which = np.minimum(rng.geometric(0.35, n) - 1, 5)
    return (centres[which] + 0.4 * rng.normal(size=(n, dimensions))).astype(np.float32)


def literal_novelsum(sample: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The definition, document by document."""
    unit = [row / math.sqrt(float(row @ row)) for row in sample.astype(np.float64)]
    different: list[NDArray[np.float64]] = []
    for row in reference.astype(np.float64):
        row = row / math.sqrt(float(row @ row))
        if not any(np.array_equal(row, other) for other in different):
            different.append(row)
    total = 0.0
    for mine in unit:
        apart = sorted(float(((mine - other) ** 2).sum()) for other in different)
        apart = [value for value in apart if value > 1e-12][:10]
        density = (sum(apart) / len(apart) + 1e-9) ** -0.5
        weighted = sorted(density * (1.0 - float(mine @ other)) for other in unit)
        ranks = range(1, len(unit) + 1)
        total += sum(value / rank for value, rank in zip(weighted, ranks, strict=True)) / sum(1 / r for r in ranks)
    return total / len(unit)


def test_entropy_of_equal_classes_is_the_logarithm_of_their_number() -> None:
    assert entropy(np.full(8, 12)) == pytest.approx(math.log(8))
    assert effective_number(np.array([5, 5, 0, 5])) == pytest.approx(3.0)
    assert entropy(np.array([0, 7, 0])) == 0.0
    assert effective_number(np.array([3, 1])) == pytest.approx(4 / 3**0.75)


def test_divergence_from_the_pool_is_what_its_sum_says() -> None:
    sample, pool = np.array([1, 3, 0]), np.array([20, 20, 10])
    assert kl_divergence(sample, pool) == pytest.approx(0.25 * math.log(0.25 / 0.4) + 0.75 * math.log(0.75 / 0.4))
    assert kl_divergence(pool * 3, pool) == 0.0
    with pytest.raises(ValueError, match="that the pool has not"):
        kl_divergence(pool, sample)


@pytest.mark.parametrize("weights", [np.zeros(3), np.array([]), np.array([1.0, -0.5])])
def test_shares_of_nothing_are_refused(weights: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="wanted weights of at least 0"):
        entropy(weights)


@pytest.mark.filterwarnings("ignore:Please import `csr_matrix`")
@pytest.mark.parametrize(("n", "dimensions"), [(300, 16), (40, 64), (2, 5)])
def test_vendi_is_that_of_the_published_package(n: int, dimensions: int) -> None:
    vendi = pytest.importorskip("vendi_score.vendi", reason="needs vendi-score: pip install '.[test]'")
    sample = points(n, dimensions)
    moments = SecondMoments.of(sample)
    similarity = unit_points(sample) @ unit_points(sample).T
    for order in ORDERS:
        named = "inf" if order == math.inf else order
        assert moments.vendi(order) == pytest.approx(vendi.score_K(similarity, q=named), abs=1e-6)
        assert moments.vendi(order) == pytest.approx(vendi.score_dual(sample.astype(np.float64), q=named), abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_vendi_counts_what_differs(order: float) -> None:
    basis = np.eye(12, dtype=np.float32)
    assert SecondMoments.of(7.0 * basis).vendi(order) == pytest.approx(12.0, abs=1e-5)
    assert SecondMoments.of(np.repeat(basis[:3], 5, axis=0)).vendi(order) == pytest.approx(3.0, abs=1e-5)
    assert SecondMoments.of(basis[:1]).vendi(order) == pytest.approx(1.0)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_of_a_sample_merge_to_the_same_bits(parts: int) -> None:
    sample = points(3_001, 8)  # several blocks
    whole = SecondMoments.of(sample)
    cut = np.random.default_rng(parts).integers(0, parts, len(sample))
    merged = reduce(SecondMoments.merge, [SecondMoments.of(sample[cut == part]) for part in range(parts)])
    assert merged.n == whole.n
    assert np.array_equal(merged.sums, whole.sums)
    assert merged.vendi(1.0) == whole.vendi(1.0)
    assert np.array_equal(SecondMoments.of(sample[np.argsort(cut, kind="stable")]).sums, whole.sums)


def test_what_no_score_can_be_given_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing has no diversity"):
        SecondMoments.of(points(0)).vendi()
    with pytest.raises(ValueError, match="wanted at least 1"):
        SecondMoments.of(points(5)).vendi(0.5)
    half = SecondMoments(1 << 17, np.zeros((2, 2), dtype=np.int64))
    assert half.merge(half).n == 1 << 18
    with pytest.raises(ValueError, match="take a sample"):
        half.merge(half).merge(half)
    with pytest.raises(ValueError, match="of 1 points, wanted two"):
        novelsum(points(1))
    with pytest.raises(ValueError, match="one point only"):
        novelsum(np.repeat(points(1), 5, axis=0))


@pytest.mark.parametrize("own", [True, False])
def test_novelsum_is_its_definition(own: bool) -> None:
    sample = points(60)
    sample[7] = sample[3]
    reference = sample if own else np.concatenate([points(80, seed=1), sample[:20], sample[:4]])
    found = novelsum(sample) if own else novelsum(sample, reference)
    assert found == pytest.approx(literal_novelsum(sample, reference), rel=1e-9)


def test_few_points_of_reference_are_all_neighbours() -> None:
    sample = points(9)
    assert novelsum(sample, sample[:4]) == pytest.approx(literal_novelsum(sample, sample[:4]), rel=1e-9)


def test_novelsum_in_blocks_is_novelsum_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, reference = points(150), points(90, seed=2)
    whole = novelsum(sample, reference)
    monkeypatch.setattr("quadmix.core.diversity._BLOCK_VALUES", 1_000)
    assert novelsum(sample, reference) == pytest.approx(whole, rel=1e-12)
    assert novelsum(sample[::-1], reference[::-1]) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_planted_copies_lower_both_scores_and_a_narrow_sample_has_less(seed: int) -> None:
    pool = points(400, seed=seed)
    varied = pool[:200]
    copied = np.repeat(varied[:40], 5, axis=0)
    # half of the pool around the centre of its largest clump
    largest = np.random.default_rng(seed).normal(size=(6, 16))[0]
    narrow = pool[np.argsort(-unit_points(pool)[:, :16] @ largest)[:200]]
    for poorer in (copied, narrow):
        assert novelsum(poorer, pool) < novelsum(varied, pool)
    for order in ORDERS:
        assert SecondMoments.of(narrow).vendi(order) < SecondMoments.of(varied).vendi(order)
    one = np.concatenate([varied[:100], np.repeat(varied[:1], 100, axis=0)])
    assert SecondMoments.of(one).vendi() < SecondMoments.of(varied).vendi()


def test_documents_without_words_are_alike_and_like_nothing_else() -> None:
    sample = np.concatenate([np.eye(4, dtype=np.float32), np.zeros((4, 4), dtype=np.float32)])
    assert SecondMoments.of(sample[:5]).vendi() == pytest.approx(5.0, abs=1e-5)
    assert SecondMoments.of(sample[4:]).vendi() == pytest.approx(1.0)
    assert novelsum(sample[:5]) > novelsum(sample[3:])
