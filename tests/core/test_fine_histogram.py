"""Exact tokens of crowded bins: however documents are split, and through a pipe."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT


def pool(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores in two crowded bins and outside, tokens (some have none), and the bins."""
    rng = np.random.default_rng(3)
    scores = np.float32(1.0) + rng.integers(0, 5_000, n).astype(np.float32) * np.float32(2.0**-23)
    scores[::3] = rng.normal(size=scores[::3].size).astype(np.float32)
    scores[::7] = -2.5
    heavy = np.unique(order_key(np.float32([1.0, -2.5])) >> np.uint32(COARSE_SHIFT)).astype(np.int64)
    return scores, rng.integers(0, 50, n), heavy


def test_it_counts_what_a_histogram_of_whole_keys_counts_however_documents_are_split() -> None:
    scores, tokens, heavy = pool(4_000)
    keys = order_key(scores).astype(np.int64)
    inside = np.isin(keys >> COARSE_SHIFT, heavy)
    wanted = TokenHistogram.of(keys[inside], tokens[inside])
    parts = [FineHistogram.of(scores[part], tokens[part], heavy) for part in np.array_split(np.arange(4_000), 7)]
    merged = FineHistogram.empty(heavy)
    for part in parts[::-1]:
        merged = merged.merge(part)
    for found in (FineHistogram.of(scores, tokens, heavy), merged):
        assert np.array_equal(found.keys, wanted.bins)
        assert np.array_equal(found.counts, wanted.tokens)


@pytest.mark.parametrize("n", [0, 50, 60_000, None])
def test_a_pipe_changes_nothing_and_carries_few_empty_scores(n: int | None) -> None:
    scores, tokens, heavy = pool(n or 0)
    if n is None:  # every score of the first bin
        scores = np.float32(1.0) + np.arange(4096, dtype=np.float32) * np.float32(2.0**-23)
        tokens, heavy = np.arange(4096), heavy[1:]
    sent = FineHistogram.of(scores, tokens, heavy)
    assert n is not None or sent.seen.all()
    wire = pickle.dumps(sent, protocol=5)
    got = pickle.loads(wire)
    assert all(np.array_equal(getattr(got, name), getattr(sent, name)) for name in ("heavy", "seen", "tokens"))
    assert len(wire) < min(12 * sent.keys.size, 9 * sent.seen.size) + 1_000
    assert np.array_equal(got.merge(sent).counts, 2 * sent.counts)


def test_histograms_of_other_bins_do_not_merge() -> None:
    scores, tokens, heavy = pool(100)
    with pytest.raises(ValueError, match="other bins"):
        FineHistogram.of(scores, tokens, heavy).merge(FineHistogram.of(scores, tokens, heavy[:1]))
