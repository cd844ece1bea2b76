"""What the counting proxy is asked about: the tokens that a target's loss counts, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from proxy_models.completions import CompletionSet
from proxy_models.data import EvalSet
from quadmix.config import CountingConfig
from quadmix.stages.counting import documents_to_count, held_out_windows
from quadmix.stages.proxy_pool import Sample

END = 9


def sample(lengths: list[int]) -> Sample:
    count = np.array(lengths, dtype=np.int64)
    rows, none = len(lengths), np.zeros(0, dtype=np.int64)
    hashes = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    plain = np.zeros((rows, 1))
    return Sample(
        hashes, np.zeros(rows, dtype=np.int32), count, plain.astype(np.float32), np.arange(rows), count, (), plain,
        none, none, plain,
    )  # fmt: skip


def test_the_less_is_selected_the_more_of_the_pool_is_counted() -> None:
    pool = sample([100] * 1000)
    asked = CountingConfig(tokens=3_000, pool_tokens=40_000)
    half, tenth = (documents_to_count(pool, asked, budget, 100_000, 5) for budget in (50_000, 10_000))
    assert half is not None
    assert tenth is not None
    assert (half.size, tenth.size) == (60, 300)
    assert set(half) <= set(tenth)  # the documents of smallest draws
    assert np.array_equal(tenth, np.sort(pool.drawn_rows(300, 5)))
    # a hundredth would need 300,000 tokens; 40,000 leave 400 of the 3,000, too few to tell mixtures apart
    assert documents_to_count(pool, asked, 1_000, 100_000, 5) is None
    # a pool that is counted whole is what proxies see, however little that is
    whole = documents_to_count(pool, CountingConfig(tokens=3_000, pool_tokens=200_000), 1_000, 100_000, 5)
    assert whole is not None
    assert whole.size == 1000


def test_windows_of_text_are_all_tokens_and_of_pairs_the_completions_behind_their_prompts(tmp_path: Path) -> None:
    path = str(tmp_path / "text.bin")
    EvalSet(np.array([1, 2, 9, 3], dtype=np.uint16), 10).save(path)
    # a document begins anew behind the end of the one before
    assert held_out_windows(path, END).tolist() == [[9, 9, 1], [9, 1, 2], [1, 2, 9], [9, 9, 3]]
    pairs = CompletionSet.of_pairs(
        [np.array([9, 5], dtype=np.uint16), np.array([9], dtype=np.uint16)],
        [np.array([6, 7, 9], dtype=np.uint16), np.array([8, 9], dtype=np.uint16)],
        [4, 4],
        100,
    )
    pairs.save(path)
    # the second pair's prompt is empty: no token of the first pair stands before its completion
    assert held_out_windows(path, END).tolist() == [[9, 5, 6], [5, 6, 7], [6, 7, 9], [9, 9, 8], [9, 8, 9]]
