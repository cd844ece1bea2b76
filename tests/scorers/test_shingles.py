"""Shingles of words: sets as a literal loop makes them, and near-duplicates as a reader would call them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from quadmix.core.near_duplicates import near_duplicate_rate
from quadmix.scorers.shingles import shingles, text_signatures
from quadmix.scorers.text_layout import Layout

TEXT = "The Commission shall publish a list of the competent authorities in the Official Journal of the Union. " * 3


def literal(text: str) -> set[tuple[str, ...]]:
    words = [match.group() for match in re.finditer(r"\w+(?:[.'’]\w+)*|([^\w\s])\1*", text.lower())]
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))}


def test_documents_share_as_many_shingles_as_the_loop_says() -> None:
    texts = [TEXT, TEXT.replace("publish", "print"), TEXT[:200], "four words, not five", "four words", "", "four words"]
    found, count = shingles(Layout([text.lower() for text in texts]))
    ends = np.cumsum(count)
    sets = [set(found[end - many : end].tolist()) for end, many in zip(ends, count, strict=True)]
    for i, first in enumerate(texts):
        for j, second in enumerate(texts):
            assert len(sets[i] & sets[j]) == len(literal(first) & literal(second)), (i, j)


def test_case_and_white_space_do_not_count_and_order_is_kept() -> None:
    other = "An entirely different page about gardens, and about what grows in them during a wet spring. " * 3
    texts = ["größer als " + other, TEXT, other, TEXT.upper().replace(" ", "\n  ")]
    found = text_signatures(texts)
    assert np.array_equal(found[1], found[3])
    assert not np.array_equal(found[1], found[2])
    assert np.array_equal(text_signatures(texts[::-1]), found[::-1])
    assert near_duplicate_rate(found) == 1.0  # pages 0 and 2 differ in two words
    assert near_duplicate_rate(found[:2]) == 0.0


@pytest.mark.parametrize("texts", [["", "  \n"], ["", ""]])
def test_texts_without_words_are_all_alike(texts: list[str]) -> None:
    assert near_duplicate_rate(text_signatures(texts)) == 1.0
