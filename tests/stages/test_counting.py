"""What the counting proxy is asked about: the tokens that a target's loss counts, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from proxy_models.completions import CompletionSet
from proxy_models.data import EvalSet
from quadmix.stages.counting import held_out_windows

END = 9


def test_windows_of_text_are_all_tokens_and_of_pairs_the_completions_behind_their_prompts(tmp_path: Path) -> None:
    path = str(tmp_path / "text.bin")
    EvalSet(np.array([1, 2, 3, 9], dtype=np.uint16), 10).save(path)
    assert held_out_windows(path, END).tolist() == [[9, 9, 1], [9, 1, 2], [1, 2, 3], [2, 3, 9]]
    pairs = CompletionSet.of_pairs(
        [np.array([9, 5], dtype=np.uint16), np.array([9], dtype=np.uint16)],
        [np.array([6, 7, 9], dtype=np.uint16), np.array([8, 9], dtype=np.uint16)],
        [4, 4],
        100,
    )
    pairs.save(path)
    # the second pair's prompt is empty: no token of the first pair stands before its completion
    assert held_out_windows(path, END).tolist() == [[9, 5, 6], [5, 6, 7], [6, 7, 9], [9, 9, 8], [9, 8, 9]]
