"""Where the words and lines of a chunk of documents are, found for all of them at once.

A chunk is the documents' characters in one array, a newline after each document. A *word* is what

    \\w+(?:[.'’]\\w+)*  |  ([^\\w\\s])\\1*

matches: letters, digits and marks, joined by an inner point or apostrophe, or a run of one and the same punctuation
character. It comes close to what spaCy's English rules give (datatrove's default), at a fraction of the cost.

Equal stretches of text are recognised by a polynomial hash over characters, modulo 2**64 with an odd base: a prefix sum
gives the hash of any span in constant time.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
Codes = NDArray[np.uint8] | NDArray[np.uint32]

WORD, ALPHA, SPACE, SOLID, BREAK, TERMINAL, LOWER = (1 << bit for bit in range(7))

NEWLINE, RETURN, DOT, APOSTROPHE, RIGHT_QUOTE, ELLIPSIS = 10, 13, 46, 39, 0x2019, 0x2026
_BREAKS = (10, 11, 12, 13, 28, 29, 30, 0x85, 0x2028, 0x2029)
# sentence-final punctuation of the scripts in wide use (Unicode's Sentence_Terminal, without historic scripts)
_TERMINALS = ".!?։؝؞؟۔܀܁܂߹।॥၊။።፧፨᙮᜵᜶‼‽⁇⁈⁉⸮。꓿꘎꘏꛳꛷﹒﹖﹗！．？｡"
_TABLE_SIZE = 0x20000
# beyond the table: ideographs are letters, variation selectors continue a word, the rest is private use or unassigned
_HIGH_FLAGS = ((0x20000, 0x40000, WORD | ALPHA | SOLID), (0xE0100, 0xE01F0, WORD))

MAX_CHARS = 1 << 21  # what is read of a longer document: bounds memory at about 150 MB
CHUNK_CHARS = 1 << 18  # laid out at once: small enough for the processor's cache

_BASE = np.uint64(0x9E3779B97F4A7C15)


def flag_of(character: str) -> int:
    """What a character is; SOLID: neither blank nor punctuation nor a control character."""
    category = unicodedata.category(character)
    code = ord(character)
    is_word = character.isalnum() or character == "_" or category[0] == "M"
    is_punctuation = category[0] in "PC" or (code < 128 and not is_word and not character.isspace())
    return (
        WORD * is_word
        | ALPHA * character.isalpha()
        | SPACE * character.isspace()
        | SOLID * (not is_punctuation and not character.isspace())
        | BREAK * (code in _BREAKS)
        | TERMINAL * (character in _TERMINALS)
        | LOWER * character.islower()
    )


@lru_cache(maxsize=1)
def _ascii_flags() -> NDArray[np.uint8]:
    return np.array([flag_of(chr(code)) for code in range(256)], dtype=np.uint8)


@lru_cache(maxsize=1)
def _unicode_flags() -> NDArray[np.uint8]:
    return np.array([flag_of(chr(code)) for code in range(_TABLE_SIZE)], dtype=np.uint8)


@lru_cache(maxsize=1)
def _power_tables(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Powers 0..size-1 of the base and of its inverse modulo 2**64; size is a power of two."""
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    tables = []
    for base in (_BASE, inverse):
        powers = np.ones(1, dtype=np.uint64)
        step = base  # base ** len(powers)
        while len(powers) < size:
            powers = np.concatenate([powers, powers * step])
            with np.errstate(over="ignore"):
                step = step * step
        tables.append(powers)
    return tables[0], tables[1]


def _powers(length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return _power_tables(max(1 << 19, 1 << (length - 1).bit_length()))


@dataclass(frozen=True)
class Spans:
    """Stretches of a chunk in text order: characters start..end-1; `first[d]`..`first[d+1]`-1 belong to document d."""

    start: Int
    end: Int
    first: Int

    @property
    def length(self) -> Int:
        return self.end - self.start

    @property
    def count(self) -> Int:
        """(documents,) number of spans."""
        return np.diff(self.first)

    @cached_property
    def document(self) -> Int:
        """(spans,) the document of each span."""
        return np.repeat(np.arange(len(self.first) - 1), self.count)

    def total(self, values: NDArray[np.generic]) -> Int:
        """(documents,) sums of whole numbers, one value a span."""
        running = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum(values, out=running[1:])
        return running[self.first[1:]] - running[self.first[:-1]]

    def keep(self, chosen: Bool) -> Spans:
        """The spans where `chosen` holds."""
        first = np.zeros(len(self.first), dtype=np.int64)
        np.cumsum(self.total(chosen), out=first[1:])
        return Spans(self.start[chosen], self.end[chosen], first)


class Layout:
    """Characters, words and lines of a chunk of documents (see the module's docstring)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.text = "\n".join(texts) + "\n"
        lengths = np.fromiter((len(text) for text in texts), dtype=np.int64, count=len(texts))
        self.n_chars: Int = lengths
        self.doc_end: Int = np.cumsum(lengths + 1) - 1  # each document's closing newline
        self.doc_start: Int = self.doc_end - lengths
        if self.text.isascii():
            self.codes: Codes = np.frombuffer(self.text.encode("ascii"), dtype=np.uint8)
            self.flags: NDArray[np.uint8] = _ascii_flags()[self.codes]
        else:
            self.codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            table = _unicode_flags()
            self.flags = table[np.minimum(self.codes, _TABLE_SIZE - 1)]
            high = np.flatnonzero(self.codes >= _TABLE_SIZE)
            if len(high):
                self.flags[high] = 0
                for low, behind, flags in _HIGH_FLAGS:
                    self.flags[high[(self.codes[high] >= low) & (self.codes[high] < behind)]] = flags
        self._solid: Bool = (self.flags & SPACE) == 0
        self._find_words()

    # ------------------------------------------------------------------------------------------ words

    def _find_words(self) -> None:
        codes, flags, solid = self.codes, self.flags, self._solid
        in_word = (flags & WORD) != 0
        joiner = (codes == DOT) | (codes == APOSTROPHE)
        if codes.dtype == np.uint32:
            joiner |= codes == RIGHT_QUOTE
        inner = np.flatnonzero(joiner[1:-1]) + 1 if len(codes) > 2 else np.zeros(0, dtype=np.int64)
        inner = inner[in_word[inner - 1] & in_word[inner + 1]]
        joined = in_word.copy()
        joined[inner] = True
        # a word begins at a solid character that continues neither letters nor a run of the same character
        continues = np.zeros(len(codes), dtype=bool)
        both = joined[1:] & joined[:-1]
        same = (codes[1:] == codes[:-1]) & ~joined[1:] & ~joined[:-1]
        np.logical_or(both, same, out=continues[1:])
        begins = solid & ~continues
        closes = np.zeros(len(codes), dtype=bool)
        closes[1:] = solid[:-1] & ~(solid[1:] & continues[1:])
        start, end = np.flatnonzero(begins), np.flatnonzero(closes)
        self.words = Spans(start, end, self._first(start))
        self.word_is_punctuation: Bool = ~in_word[start]
        gathered = np.bitwise_or.reduceat(flags, start) if len(start) else np.zeros(0, dtype=np.uint8)
        self.word_flags: NDArray[np.uint8] = gathered

    @cached_property
    def blank_separated(self) -> Spans:
        """Words in the sense of `str.split()`."""
        edges = np.flatnonzero(self._solid[1:] != self._solid[:-1]) + 1
        if self._solid[0]:
            edges = np.concatenate([np.zeros(1, dtype=np.int64), edges])
        return Spans(edges[0::2], edges[1::2], self._first(edges[0::2]))

    # ------------------------------------------------------------------------------------------ lines

    @cached_property
    def lines(self) -> Spans:
        """What `text.split("\\n")` gives."""
        return self._between(np.flatnonzero(self.codes == NEWLINE))

    @cached_property
    def split_lines(self) -> Spans:
        """What `text.splitlines()` gives (a carriage return before a newline stays at the end of its line)."""
        breaks = np.flatnonzero(self.flags & BREAK)
        returns = self.codes[breaks] == RETURN
        if returns.any():
            breaks = breaks[~(returns & (self.codes[np.minimum(breaks + 1, len(self.codes) - 1)] == NEWLINE))]
        lines = self._between(breaks)
        last = np.zeros(len(lines.start), dtype=bool)
        last[lines.first[1:] - 1] = True
        return lines.keep(~(last & (lines.length == 0)))

    @cached_property
    def paragraphs(self) -> Spans:
        """What splitting the stripped text at two or more newlines gives; a blank document has one empty paragraph."""
        newline = np.flatnonzero(self.codes == NEWLINE)
        alone = np.ones(len(newline), dtype=bool)
        adjacent = np.diff(newline) == 1
        alone[1:] &= ~adjacent
        alone[:-1] &= ~adjacent
        # paragraphs are the spans between runs of two or more newlines, clipped to the first and last solid character
        runs = newline[~alone]
        run_begins = np.ones(len(runs), dtype=bool)
        run_begins[1:] = np.diff(runs) != 1
        run_start = runs[run_begins]
        run_end = runs[np.append(run_begins[1:], True)] + 1 if len(runs) else runs
        has_words = self.words.count > 0
        low, high = self.doc_start.copy(), self.doc_start.copy()
        low[has_words] = self.words.start[self.words.first[:-1][has_words]]
        high[has_words] = self.words.end[self.words.first[1:][has_words] - 1]
        document = np.searchsorted(self.doc_end, run_start)
        inside = (run_start >= low[document]) & (run_end <= high[document])
        start = np.sort(np.concatenate([low, run_end[inside]]))
        end = np.sort(np.concatenate([high, run_start[inside]]))
        return Spans(start, end, self._first(start))

    def _between(self, breaks: Int) -> Spans:
        """The spans that end at each break; every document's closing newline is among them."""
        start = np.zeros(len(breaks), dtype=np.int64)
        start[1:] = breaks[:-1] + 1
        return Spans(start, breaks, self._first(start))

    def _first(self, start: Int) -> Int:
        """(documents + 1,) index of each document's first span, given the spans' starts in order."""
        return np.append(np.searchsorted(start, self.doc_start), len(start))

    # ------------------------------------------------------------------------------------------ hashes and searches

    @cached_property
    def _prefix(self) -> NDArray[np.uint64]:
        values = self.codes.astype(np.uint64)
        values += np.uint64(1)
        values *= _powers(len(values))[0][: len(values)]
        prefix = np.zeros(len(values) + 1, dtype=np.uint64)
        np.cumsum(values, out=prefix[1:])
        return prefix

    def hash(self, spans: Spans) -> NDArray[np.uint64]:
        """(spans,) equal for equal texts."""
        inverse = _powers(len(self.codes))[1]
        return mix((self._prefix[spans.end] - self._prefix[spans.start]) * inverse[spans.start])

    def words_of(self, spans: Spans) -> tuple[Int, Int]:
        """Index of the first word in each span and of the first word after it."""
        return np.searchsorted(self.words.start, spans.start), np.searchsorted(self.words.start, spans.end)

    def per_document(self, positions: Int) -> Int:
        """(documents,) how many of the ordered character positions lie in each."""
        return np.diff(self._first(positions))

    @cached_property
    def lowered(self) -> str:
        """The chunk in lower case, character by character (U+0130 alone would become two)."""
        return self.text.replace("İ", "i").lower()

    def find(self, phrase: str) -> Int:
        """Positions at which a lower-case phrase occurs, whatever its case in the text."""
        found, position = [], self.lowered.find(phrase)
        while position >= 0:
            found.append(position)
            position = self.lowered.find(phrase, position + 1)
        return np.array(found, dtype=np.int64)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 64-bit values (the finaliser of SplitMix64): distinct stay distinct, every bit depends on all."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def text_hash(text: str) -> np.uint64:
    """The hash that `Layout.hash` gives to a span with this text."""
    layout = Layout([text])
    whole = Spans(layout.doc_start, layout.doc_end, np.array([0, 1]))
    return np.uint64(layout.hash(whole)[0])


def index_in(hashes: NDArray[np.uint64], vocabulary: tuple[str, ...]) -> Int:
    """(n,) index in `vocabulary` of the words with these hashes, -1 where it is not one of them."""
    known, index = _sorted_hashes(vocabulary)
    place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[place] == hashes, index[place], -1)


@lru_cache(maxsize=8)
def _sorted_hashes(vocabulary: tuple[str, ...]) -> tuple[NDArray[np.uint64], Int]:
    hashes = np.array([text_hash(word) for word in vocabulary], dtype=np.uint64)
    order = np.argsort(hashes)
    return hashes[order], order


def layouts(texts: Sequence[str], max_chars: int = MAX_CHARS) -> Iterator[tuple[list[int], Layout]]:
    """(rows, their layout) until every text has been in one, each cut after `max_chars` characters.

    Pure ASCII goes apart, since it needs one byte a character instead of four. What a layout says of a document does
    not depend on the documents laid out with it.
    """
    for ascii_only in (True, False):
        rows: list[int] = []
        size = 0
        for row, text in enumerate(texts):
            if text.isascii() is not ascii_only:
                continue
            if rows and size + len(text) > CHUNK_CHARS:
                yield rows, Layout([texts[row][:max_chars] for row in rows])
                rows, size = [], 0
            rows.append(row)
            size += min(len(text), max_chars)
        if rows:
            yield rows, Layout([texts[row][:max_chars] for row in rows])
