"""Repeated lines, paragraphs and word n-grams of the documents of a chunk (Gopher, arXiv 2112.11446, table A1).

Two rules keep the n-grams cheap. An (n+1)-gram can occur twice only where its two n-grams do, so each n looks only at
what n-1 left. And sorting uses one 64-bit key a position, hash above and position below, so that one plain sort gives
the groups and each group's first member.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.scorers.text_layout import Int, Layout, Spans, mix

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)


@dataclass(frozen=True)
class Groups:
    """Positions that hold equal things, group after group; each group has at least two, in ascending order."""

    position: Int
    first: Int  # index into `position` of each group's first member
    size: Int


def duplicates(layout: Layout, spans: Spans) -> tuple[Int, Int]:
    """(documents,) how many spans repeat an earlier one of the same document, and how many characters they hold."""
    groups = group_equal(_within_document(layout.hash(spans), spans.document))
    leaders = groups.position[groups.first]
    repeats = np.zeros(len(spans.first) - 1, dtype=np.int64)
    chars = repeats.copy()
    np.add.at(repeats, spans.document[leaders], groups.size - 1)
    np.add.at(chars, spans.document[leaders], (groups.size - 1) * spans.length[leaders])
    return repeats, chars


def ngram_characters(layout: Layout) -> dict[int, Int]:
    """n -> (documents,) characters held by repeated n-grams.

    n in 2..4: all occurrences of the most frequent n-gram, its words joined by a blank (the earliest of several equally
    frequent ones). n in 5..10: the n-grams that repeat an earlier one, blanks left out; the search goes on behind a
    repeated n-gram, so none of them overlap.
    """
    words = layout.words
    n_words, word_hash = len(words.start), layout.hash(words)
    length_before = np.zeros(n_words + 1, dtype=np.int64)
    np.cumsum(words.length, out=length_before[1:])
    last_of_document = words.first[1:][words.document]  # index behind the last word of the word's document
    result: dict[int, Int] = {}
    gram = _within_document(word_hash, words.document)
    candidates = np.arange(n_words)
    for n in range(2, DUPLICATE_NGRAMS[-1] + 1):
        candidates = candidates[candidates + n <= last_of_document[candidates]]
        extended = mix(gram[candidates] * np.uint64(0x2545F4914F6CDD1D) + word_hash[candidates + n - 1])
        gram[candidates] = extended
        groups = group_equal(extended)
        groups = Groups(candidates[groups.position], groups.first, groups.size)
        if n in TOP_NGRAMS:
            result[n] = _top_characters(words, groups, n, length_before)
        if n in DUPLICATE_NGRAMS:
            starts = _repeated_starts(groups, n, words.document)
            chars = length_before[starts + n] - length_before[starts]
            totals = np.zeros(len(words.first) - 1, dtype=np.int64)
            np.add.at(totals, words.document[starts], chars)
            result[n] = totals
        repeated = np.zeros(n_words + 1, dtype=bool)
        repeated[groups.position] = True
        candidates = np.flatnonzero(repeated[:-1] & repeated[1:])
    return result


def group_equal(keys: NDArray[np.uint64]) -> Groups:
    """The groups of two or more equal keys."""
    bits = np.uint64(max(1, len(keys) - 1).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    packed = (keys & ~low) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    position = (packed & low).astype(np.int64)
    joins = np.zeros(len(keys) + 1, dtype=bool)  # joins[i]: sorted item i equals item i - 1
    # the packed key lost its lowest bits, so neighbours are compared by the whole key as well
    joins[1:-1] = ((packed[1:] ^ packed[:-1]) <= low) & (keys[position[1:]] == keys[position[:-1]])
    member = joins[:-1] | joins[1:]
    kept = position[member]
    first = np.flatnonzero(~joins[:-1][member])
    return Groups(kept, first, np.diff(np.append(first, len(kept))))


def _within_document(hashes: NDArray[np.uint64], document: Int) -> NDArray[np.uint64]:
    return mix(hashes + document.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _top_characters(words: Spans, groups: Groups, n: int, length_before: Int) -> Int:
    """(documents,) characters of the most frequent n-gram; an n-gram that occurs once counts, as the first one."""
    # one integer orders the n-grams of a document: occurrences above, earliness below
    earliness = np.int64(2**32)
    best = np.where(words.count >= n, earliness + earliness - 1 - words.first[:-1], 0)
    leaders = groups.position[groups.first]
    np.maximum.at(best, words.document[leaders], groups.size * earliness + earliness - 1 - leaders)
    occurrences = best // earliness
    start = np.where(occurrences > 0, earliness - 1 - best % earliness, 0)
    joined = length_before[np.minimum(start + n, len(length_before) - 1)] - length_before[start] + n - 1
    return np.where(occurrences > 0, occurrences * joined, 0)


def _repeated_starts(groups: Groups, n: int, document: Int) -> Int:
    """Where a left-to-right search finds an n-gram that it has passed before; it then jumps over those n words.

    As a rule every n-gram with an earlier occurrence has been passed, and the starts follow from the runs of such
    positions. Only where an earliest occurrence was itself jumped over is that wrong: those documents are walked.
    """
    leader = np.full(len(document), -1, dtype=np.int64)
    leader[groups.position] = np.repeat(groups.position[groups.first], groups.size)
    later = np.flatnonzero((leader >= 0) & (leader != np.arange(len(leader))))
    starts = _starts_in_runs(later, n)
    jumps = np.zeros(len(document) + 1, dtype=np.int8)
    jumps[starts] = 1
    jumps[starts + n] -= 1
    jumped = np.cumsum(jumps, dtype=np.int8) > 0
    doubtful = starts[jumped[leader[starts]]]
    if not len(doubtful):
        return starts
    walked = np.zeros(int(document[-1]) + 1, dtype=bool)
    walked[document[doubtful]] = True
    again = later[walked[document[later]]]
    return np.concatenate([starts[~walked[document[starts]]], _walk(again, leader[again], n, len(document))])


def _starts_in_runs(positions: Int, n: int) -> Int:
    """The starts of a search that takes every one of the ordered positions that it reaches, and then jumps n on."""
    if not len(positions):
        return positions
    gaps = np.flatnonzero(np.diff(positions) > 1)
    lows = positions[np.concatenate([[0], gaps + 1])]
    behinds = positions[np.append(gaps, len(positions) - 1)] + 1
    first, count, reached = [], [], 0
    for low, behind in zip(lows.tolist(), behinds.tolist(), strict=True):
        start = max(low, reached)
        if start < behind:
            jumps = (behind - 1 - start) // n + 1
            first.append(start)
            count.append(jumps)
            reached = start + jumps * n
    counts = np.array(count, dtype=np.int64)
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts: Int = np.repeat(np.array(first, dtype=np.int64), counts) + n * step
    return starts


def _walk(positions: Int, leader: Int, n: int, n_words: int) -> Int:
    """The same search, position by position: one whose leader was jumped over is passed for the first time there."""
    starts: list[int] = positions.tolist()
    leaders: list[int] = leader.tolist()
    behind: list[int] = np.searchsorted(positions, positions + n).tolist()
    run = b"\1" * n
    jumped = bytearray(n_words)
    passed: set[int] = set()  # leaders of n-grams that were first passed at a later occurrence
    found, index, end = [], 0, len(starts)
    while index < end:
        start, first = starts[index], leaders[index]
        if jumped[first] and first not in passed:
            passed.add(first)
            index += 1
            continue
        found.append(start)
        jumped[start : start + n] = run
        index = behind[index]
    return np.array(found, dtype=np.int64)
