"""The quality rules of Gopher, C4 and FineWeb as numbers, and one number made of them.

Published filters say yes or no at a threshold. Here each measured quantity is a *signal* of its own
(Gopher: arXiv 2112.11446, table A1 and section A.1.1; C4: arXiv 1910.10683; FineWeb: arXiv 2406.17557), computed for a
whole chunk of documents at once, and `heuristic_quality` says how many of the thresholds a document passes, and by how
much, so that it ranks.

Definitions follow datatrove's filters, given the words of `text_layout`; the tests hold them against those filters.
A document longer than `text_layout.MAX_CHARS` is judged by its first so many characters (it fails Gopher's
100,000-word rule either way), which bounds memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import HeuristicScorerConfig
from quadmix.hashing import fingerprint
from quadmix.scorers.base import Criterion, chosen_outputs, float32_column
from quadmix.scorers.context import FitContext
from quadmix.scorers.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS, duplicates, ngram_characters
from quadmix.scorers.text_layout import (
    ALPHA,
    DOT,
    ELLIPSIS,
    LOWER,
    NEWLINE,
    SOLID,
    TERMINAL,
    Bool,
    Int,
    Layout,
    index_in,
    layouts,
)

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
ARTICLES = ("the", "a", "an")
# words that do not follow an article in running English
NOT_AFTER_ARTICLE = (
    *("the", "a", "an", "of", "to", "and", "in", "is", "was", "that", "for", "with", "by", "on", "as", "at"),
    *("or", "are", "be", "from", "it", "this", "were", "which", "but", "have", "has", "had", "his", "their"),
)
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_BULLETS = (0x2022, ord("-"))
_C4_LINE_ENDS = tuple(map(ord, ".?!\"'"))
_LONG_WORD, _SHORT_LINE = 1000, 30
_LENIENCY = 0.1

Values = NDArray[np.float64]
UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Rule:
    """A published threshold: `threshold` is where a document fails, at `comfortable` it passes beyond doubt."""

    threshold: float
    comfortable: float


@dataclass(frozen=True)
class Signal:
    """One measured quantity. `family`: signals that say the same thing count once in `heuristic_quality`."""

    name: str
    range: tuple[float, float] | None
    higher_is_better: bool
    family: str
    rules: tuple[Rule, ...]


def _at_most(name: str, family: str, threshold: float, range_: tuple[float, float] | None = UNIT) -> Signal:
    return Signal(name, range_, False, family, (Rule(threshold, 0.0),))


_TOP_LIMIT = {2: 0.20, 3: 0.18, 4: 0.16}
_DUPLICATE_LIMIT = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

_SIGNALS = (
    # Gopher, quality
    Signal("word_count", None, True, "length", (Rule(50, 200), Rule(100_000, 20_000))),
    Signal("mean_word_length", None, True, "word_shape", (Rule(3, 4), Rule(10, 6))),
    _at_most("hash_word_ratio", "symbols", 0.1, None),
    _at_most("ellipsis_word_ratio", "symbols", 0.1, None),
    _at_most("bullet_line_fraction", "line_shape", 0.9),
    _at_most("ellipsis_line_fraction", "line_shape", 0.3),
    # published: 0.8 of the blank-separated words; here punctuation is a word too, a sixth of running English
    Signal("alpha_word_fraction", UNIT, True, "alphabetic", (Rule(0.65, 0.85),)),
    Signal("stop_word_count", (0.0, float(len(STOP_WORDS))), True, "stop_words", (Rule(2, 6),)),
    # Gopher, repetition
    _at_most("duplicate_line_fraction", "line_repetition", 0.30),
    _at_most("duplicate_line_char_fraction", "line_repetition", 0.20),
    _at_most("duplicate_paragraph_fraction", "line_repetition", 0.30),
    _at_most("duplicate_paragraph_char_fraction", "line_repetition", 0.20),
    *(_at_most(f"top_{n}gram_char_fraction", "ngram_repetition", _TOP_LIMIT[n]) for n in TOP_NGRAMS),
    *(_at_most(f"duplicate_{n}gram_char_fraction", "ngram_repetition", _DUPLICATE_LIMIT[n]) for n in DUPLICATE_NGRAMS),
    # C4
    Signal("c4_sentence_count", None, True, "sentences", (Rule(5, 15),)),
    Signal("c4_line_fraction", UNIT, True, "sentences", ()),
    Signal("curly_bracket_ratio", UNIT, False, "code", (Rule(0.002, 0.0),)),
    Signal("lorem_ipsum", UNIT, False, "boilerplate", (Rule(0.5, 0.0),)),
    Signal("javascript_line_fraction", UNIT, False, "boilerplate", (Rule(0.2, 0.0),)),
    Signal("policy_line_fraction", UNIT, False, "boilerplate", (Rule(0.2, 0.0),)),
    # FineWeb
    Signal("terminal_line_fraction", UNIT, True, "line_ends", (Rule(0.12, 0.6),)),
    Signal("short_line_fraction", UNIT, False, "line_lengths", (Rule(0.67, 0.2),)),
    _at_most("line_duplicate_char_fraction", "line_repetition", 0.01),
    Signal("newline_word_ratio", None, False, "line_lengths", (Rule(0.3, 0.05),)),
    # ours: the published rules count words and lines and would not notice words in the wrong order
    Signal("sentence_case_fraction", UNIT, True, "sentence_starts", (Rule(0.6, 0.95),)),
    Signal("article_fault_fraction", UNIT, False, "articles", (Rule(0.08, 0.0),)),
)
QUALITY = "heuristic_quality"
SIGNALS: dict[str, Signal] = {signal.name: signal for signal in _SIGNALS}
OUTPUTS: dict[str, Criterion] = {
    QUALITY: Criterion(QUALITY, UNIT),
    **{s.name: Criterion(s.name, s.range, s.higher_is_better) for s in _SIGNALS},
}


@dataclass(frozen=True)
class HeuristicScorer:
    """`outputs` picks from `OUTPUTS`."""

    outputs: tuple[Criterion, ...]
    name: str = "heuristics"
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: HeuristicScorerConfig, context: FitContext) -> HeuristicScorer:
        """Nothing is learned. Raises ConfigError for an unknown or repeated output."""
        return cls(chosen_outputs("heuristics", config.outputs, OUTPUTS))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, repr(self.outputs))

    def load(self) -> None:
        """Nothing to load."""

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One float32 column per output; needs the column `text`. A null text is scored as an empty one."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        names = [criterion.name for criterion in self.outputs]
        measured = measure(texts, names)
        return pa.record_batch([float32_column(measured[name]) for name in names], names=names)


def measure(texts: Sequence[str], names: Sequence[str] = tuple(OUTPUTS)) -> dict[str, Values]:
    """name -> (n,) values of the wanted signals (and `heuristic_quality`) of n documents."""
    result = {name: np.zeros(len(texts)) for name in names}
    for rows, layout in layouts(texts):
        measured = _measure_chunk(layout, set(names))
        for name in names:
            result[name][rows] = measured[name]
    return result


def heuristic_quality(signals: Mapping[str, Values]) -> Values:
    """(n,) in [0, 1]: the harmonic mean over families of rules of how well the family's worst rule is passed.

    A rule is passed with 1 at its comfortable value, 1/2 at its threshold, 0 as far beyond it, straight lines between.
    The harmonic mean lets one broken family weigh more than several excellent ones, as a filter would; `_LENIENCY` is
    added to every term so that it does not decide alone.
    """
    families: dict[str, Values] = {}
    for signal in _SIGNALS:
        for rule in signal.rules:
            margin = (signals[signal.name] - rule.threshold) / (rule.comfortable - rule.threshold)
            passed = np.clip(0.5 + 0.5 * margin, 0.0, 1.0)
            families[signal.family] = np.minimum(families.get(signal.family, 1.0), passed)
    resistance = np.zeros(len(next(iter(families.values()))))
    for name in sorted(families):
        resistance += 1.0 / (families[name] + _LENIENCY)
    return np.clip(len(families) / resistance - _LENIENCY, 0.0, 1.0)


def _measure_chunk(layout: Layout, names: set[str]) -> dict[str, Values]:
    wanted = set(SIGNALS) if QUALITY in names else names
    measured: dict[str, Values] = {}
    for part, provides in _PARTS:
        if wanted & provides:
            measured |= part(layout)
    if QUALITY in names:
        measured[QUALITY] = heuristic_quality(measured)
    return measured


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic], empty: float = 0.0) -> Values:
    """part / whole, `empty` where whole is 0."""
    result = np.full(len(whole), empty)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def _word_signals(layout: Layout) -> dict[str, Values]:
    words = layout.words
    n_words = words.count
    solid = (layout.word_flags & SOLID) != 0
    n_solid = words.total(solid)
    dots = (layout.codes[words.start] == DOT) & layout.word_is_punctuation
    ellipses = words.total(np.where(dots, words.length // 3, 0)) + layout.per_document(_where(layout, ELLIPSIS))
    return {
        "word_count": n_solid.astype(np.float64),
        "mean_word_length": _ratio(words.total(np.where(solid, words.length, 0)), n_solid),
        "hash_word_ratio": _ratio(layout.per_document(_where(layout, ord("#"))), n_words),
        "ellipsis_word_ratio": _ratio(ellipses, n_words),
        "alpha_word_fraction": _ratio(words.total((layout.word_flags & ALPHA) != 0), n_words),
        "newline_word_ratio": _ratio(layout.per_document(_where(layout, NEWLINE)) - 1, n_words),
    }


def _order_signals(layout: Layout) -> dict[str, Values]:
    words = layout.words
    word_hash = layout.hash(words)
    stop = index_in(word_hash, STOP_WORDS)
    seen = np.zeros((len(words.count), len(STOP_WORDS)), dtype=bool)
    known = stop >= 0
    seen[words.document[known], stop[known]] = True

    followed = np.zeros(len(words.start), dtype=bool)  # by another word of the same document
    followed[:-1] = words.document[1:] == words.document[:-1]
    at = np.flatnonzero(followed)
    terminal = layout.word_is_punctuation & ((layout.flags[words.start] & TERMINAL) != 0)
    # an end of sentence: terminal punctuation, a blank, then letters
    ends = at[terminal[at] & ~layout.word_is_punctuation[at + 1] & (words.end[at] < words.start[at + 1])]
    cased = np.zeros(len(words.start), dtype=bool)
    cased[ends] = (layout.flags[words.start[ends + 1]] & LOWER) == 0
    is_end = np.zeros(len(words.start), dtype=bool)
    is_end[ends] = True

    article = index_in(word_hash, ARTICLES) >= 0
    articles = at[article[at]]
    fault = np.zeros(len(words.start), dtype=bool)
    fault[articles] = terminal[articles + 1] | (index_in(word_hash[articles + 1], NOT_AFTER_ARTICLE) >= 0)
    return {
        "stop_word_count": seen.sum(axis=1).astype(np.float64),
        "sentence_case_fraction": _ratio(words.total(cased), words.total(is_end), empty=1.0),
        "article_fault_fraction": _ratio(words.total(fault), words.total(article & followed)),
    }


def _line_signals(layout: Layout) -> dict[str, Values]:
    words = layout.words
    # Gopher: lines of str.splitlines
    lines = layout.split_lines
    first, behind = layout.words_of(lines)
    filled = first < behind
    opening = layout.codes[words.start[first[filled]]]
    last = behind[filled] - 1
    closing = layout.codes[words.end[last] - 1]
    bullet, trailing = np.zeros(len(filled), dtype=bool), np.zeros(len(filled), dtype=bool)
    bullet[filled] = np.isin(opening, _BULLETS)
    trailing[filled] = (closing == ELLIPSIS) | ((closing == DOT) & (words.length[last] >= 3) & _is_dots(layout, last))
    # FineWeb: lines between newlines that hold more than blanks
    pieces = layout.lines
    first, behind = layout.words_of(pieces)
    pieces = pieces.keep(first < behind)
    ended = (layout.flags[pieces.end - 1] & TERMINAL) != 0
    duplicate_chars = duplicates(layout, pieces)[1]
    newlines = layout.per_document(_where(layout, NEWLINE)) - 1
    return {
        "bullet_line_fraction": _ratio(lines.total(bullet), lines.count),
        "ellipsis_line_fraction": _ratio(lines.total(trailing), lines.count),
        "terminal_line_fraction": _ratio(pieces.total(ended), pieces.count),
        "short_line_fraction": _ratio(pieces.total(pieces.length <= _SHORT_LINE), pieces.count),
        "line_duplicate_char_fraction": _ratio(duplicate_chars, layout.n_chars - newlines),
    }


def _repetition_signals(layout: Layout) -> dict[str, Values]:
    chars = layout.n_chars
    # split at runs of newlines, only a leading and a trailing run leave an empty line, the second repeating the first
    lines = layout.lines.keep(layout.lines.length > 0)
    edges = np.where(
        chars > 0,
        (layout.codes[layout.doc_start] == NEWLINE).astype(np.int64)
        + (layout.codes[np.maximum(layout.doc_end - 1, 0)] == NEWLINE),
        0,
    )
    repeated_lines, repeated_line_chars = duplicates(layout, lines)
    repeated_lines = repeated_lines + (edges == 2)
    paragraphs = layout.paragraphs
    repeated_paragraphs, repeated_paragraph_chars = duplicates(layout, paragraphs)
    result = {
        "duplicate_line_fraction": _ratio(repeated_lines, lines.count + edges),
        "duplicate_line_char_fraction": _ratio(repeated_line_chars, chars),
        "duplicate_paragraph_fraction": _ratio(repeated_paragraphs, paragraphs.count),
        "duplicate_paragraph_char_fraction": _ratio(repeated_paragraph_chars, chars),
    }
    for n, held in ngram_characters(layout).items():
        name = f"top_{n}gram_char_fraction" if n in TOP_NGRAMS else f"duplicate_{n}gram_char_fraction"
        # occurrences of a most frequent n-gram overlap in a text such as "a a a a": more characters than there are
        result[name] = np.minimum(_ratio(held, chars), 1.0)
    return result


def _c4_signals(layout: Layout) -> dict[str, Values]:
    words, lines = layout.words, layout.split_lines
    citation = _citation_words(layout)
    plain = np.flatnonzero(~citation)
    first = np.searchsorted(words.start[plain], lines.start)
    behind = np.searchsorted(words.start[plain], lines.end)
    filled = first < behind
    last = plain[behind[filled] - 1]
    # what is taken out behind the last word must touch it: a blank that is left would end the line
    final = np.searchsorted(words.start, lines.end[filled]) - 1
    held = np.cumsum(words.length)
    touching = words.end[final] - words.end[last] == held[final] - held[last]
    closed = np.zeros(len(filled), dtype=bool)
    dots = (words.length[last] >= 3) & _is_dots(layout, last)
    closed[filled] = np.isin(layout.codes[words.end[last] - 1], _C4_LINE_ENDS) & touching & ~dots
    blank_words = layout.blank_separated
    low, high = np.searchsorted(blank_words.start, lines.start), np.searchsorted(blank_words.start, lines.end)
    long_words = np.concatenate([[0], np.cumsum(blank_words.length > _LONG_WORD)])
    javascript = _lines_with(layout, ("javascript",))
    policy = _lines_with(layout, POLICY_PHRASES)
    kept = closed & (high - low >= 3) & (long_words[high] == long_words[low]) & ~javascript & ~policy
    sentences = np.where(kept, 1 + _sentence_breaks(layout, plain), 0)
    lorem = layout.per_document(layout.find("lorem ipsum"))
    return {
        "c4_sentence_count": lines.total(sentences).astype(np.float64),
        "c4_line_fraction": _ratio(lines.total(kept), lines.count),
        "curly_bracket_ratio": _ratio(layout.per_document(_where(layout, ord("{"))), layout.n_chars),
        "lorem_ipsum": (lorem > 0).astype(np.float64),
        "javascript_line_fraction": _ratio(lines.total(javascript), lines.count),
        "policy_line_fraction": _ratio(lines.total(policy), lines.count),
    }


def _sentence_breaks(layout: Layout, plain: Int) -> Int:
    """(lines,) neighbouring words with a full stop, question or exclamation mark between them, on the same line."""
    words, lines = layout.words, layout.split_lines
    punctuation = layout.word_is_punctuation[plain]
    start = words.start[plain]
    terminal = punctuation & ((layout.flags[start] & TERMINAL) != 0)
    terminal &= (layout.codes[start] != DOT) | (words.length[plain] == 1)
    passed = np.cumsum(terminal)
    lettered = np.flatnonzero(~punctuation)
    line = np.searchsorted(lines.start, start[lettered], side="right") - 1
    breaks = (np.diff(passed[lettered]) > 0) & (np.diff(line) == 0)
    return np.bincount(line[1:][breaks], minlength=len(lines.start)).astype(np.int64)


def _citation_words(layout: Layout) -> Bool:
    """(words,) words that belong to a bracketed citation, which C4 takes out before it looks at a line's end."""
    inside = np.zeros(len(layout.words.start), dtype=bool)
    if "[" in layout.text:
        for match in _CITATION.finditer(layout.text):
            low, high = np.searchsorted(layout.words.start, match.span())
            inside[low:high] = True
    return inside


def _lines_with(layout: Layout, phrases: Sequence[str]) -> Bool:
    """(lines,) lines that hold one of the phrases in any case."""
    found = np.zeros(len(layout.split_lines.start), dtype=bool)
    for phrase in phrases:
        found[np.searchsorted(layout.split_lines.start, layout.find(phrase), side="right") - 1] = True
    return found


def _is_dots(layout: Layout, word: Int) -> Bool:
    starts_with_dot: Bool = layout.codes[layout.words.start[word]] == DOT
    return starts_with_dot & layout.word_is_punctuation[word]


def _where(layout: Layout, code: int) -> Int:
    if layout.codes.dtype == np.uint8 and code > 255:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(layout.codes == code)


_PARTS = tuple(
    (part, frozenset(names))
    for part, names in (
        (
            _word_signals,
            (
                "word_count",
                "mean_word_length",
                "hash_word_ratio",
                "ellipsis_word_ratio",
                "alpha_word_fraction",
                "newline_word_ratio",
            ),
        ),
        (_order_signals, ("stop_word_count", "sentence_case_fraction", "article_fault_fraction")),
        (
            _line_signals,
            (
                "bullet_line_fraction",
                "ellipsis_line_fraction",
                "terminal_line_fraction",
                "short_line_fraction",
                "line_duplicate_char_fraction",
            ),
        ),
        (_repetition_signals, tuple(s.name for s in _SIGNALS if s.name.startswith(("duplicate_", "top_")))),
        (
            _c4_signals,
            (
                "c4_sentence_count",
                "c4_line_fraction",
                "curly_bracket_ratio",
                "lorem_ipsum",
                "javascript_line_fraction",
                "policy_line_fraction",
            ),
        ),
    )
)
