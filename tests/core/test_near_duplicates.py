"""MinHash: its estimate against the Jaccard similarity that it estimates, and the rate on planted samples."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.core.near_duplicates import PLACES, near_duplicate_rate, signatures


def laid_out(sets: list[NDArray[np.uint64]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    return np.concatenate(sets), np.cumsum([0, *map(len, sets)])


def shingle_sets(overlaps: list[int], size: int = 400) -> list[NDArray[np.uint64]]:
    """One set for each number of shingles that it shares with the first."""
    rng = np.random.default_rng(4)
    base = rng.integers(0, 2**64, size, dtype=np.uint64)
    return [
        base,
        *(np.concatenate([base[:k], rng.integers(0, 2**64, size - k, dtype=np.uint64)]) for k in overlaps),
    ]


def test_agreement_estimates_the_jaccard_similarity() -> None:
    overlaps = list(range(0, 401, 8))
    found = signatures(*laid_out(shingle_sets(overlaps)))
    estimate = (found[0] == found[1:]).mean(axis=1)
    true = np.array([k / (800 - k) for k in overlaps])
    z = (estimate - true) / np.sqrt(np.maximum(true * (1 - true), 1e-3) / PLACES)
    assert np.abs(z).max() < 4
    assert abs(z.mean()) < 0.6
    assert estimate[0] < 0.05
    assert estimate[-1] == 1.0


def test_order_repeats_and_company_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = shingle_sets([0, 100, 399], size=50 * 8)
    found = signatures(*laid_out(sets))
    turned = [np.concatenate([one[::-1], one[:7]]) for one in sets]
    assert np.array_equal(signatures(*laid_out(turned)), found)
    monkeypatch.setattr("quadmix.core.near_duplicates._CHUNK", 10)
    assert np.array_equal(signatures(*laid_out(sets)), found)


def test_the_rate_counts_documents_that_have_a_double() -> None:
    sets = shingle_sets([0, 0, 395, 0, 100])  # 0 and 3 are near, J = .975; 5 is not, J = .14
    found = signatures(*laid_out(sets))
    assert near_duplicate_rate(found) == pytest.approx(2 / 6)
    assert near_duplicate_rate(found[[1, 2, 4]]) == 0.0
    assert near_duplicate_rate(found[[1, 1, 1, 2]]) == 0.75


def test_blocks_do_not_show_in_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = signatures(*laid_out(shingle_sets([380, 390, 0, 0, 0, 399])))
    rate = near_duplicate_rate(found)
    monkeypatch.setattr("quadmix.core.near_duplicates._BLOCK_VALUES", 1)
    assert near_duplicate_rate(found) == rate == pytest.approx(4 / 7)


def test_a_single_document_and_one_without_shingles_are_refused() -> None:
    found = signatures(*laid_out(shingle_sets([])))
    with pytest.raises(ValueError, match="among 1 documents"):
        near_duplicate_rate(found)
    with pytest.raises(ValueError, match="without shingles"):
        signatures(np.arange(3, dtype=np.uint64), np.array([0, 0, 3]))
