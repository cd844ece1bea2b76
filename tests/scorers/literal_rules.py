"""The signals of `scorers.heuristics` again, as loops over one document: slow, plain, and sharing no code with it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import pairwise

import numpy as np

TERMINALS = ".!?؟۔।॥。！？．｡"  # of the characters that the tests use
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
STOP = ("the", "be", "to", "of", "and", "that", "have", "with")
AFTER_ARTICLE = {
    *("the", "a", "an", "of", "to", "and", "in", "is", "was", "that", "for", "with", "by", "on", "as", "at", "or"),
    *("are", "be", "from", "it", "this", "were", "which", "but", "have", "has", "had", "his", "their"),
}


@lru_cache(maxsize=4096)
def is_letter(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


@lru_cache(maxsize=4096)
def is_solid(character: str) -> bool:
    if character.isspace() or unicodedata.category(character)[0] in "PC":
        return False
    return is_letter(character) or ord(character) >= 128


@lru_cache(maxsize=2048)
def word_spans(text: str) -> list[tuple[int, int]]:
    spans, place = [], 0
    while place < len(text):
        start = place
        if text[place].isspace():
            place += 1
            continue
        if is_letter(text[place]):
            while place < len(text) and (
                is_letter(text[place])
                or (
                    text[place] in ".'’"
                    and place + 1 < len(text)
                    and is_letter(text[place - 1])
                    and is_letter(text[place + 1])
                )
            ):
                place += 1
        else:
            while place < len(text) and text[place] == text[start]:
                # a point or apostrophe between letters belongs to the word before it
                place += 1
        spans.append((start, place))
    return spans


@lru_cache(maxsize=2048)
def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def sentences_of(line: str) -> int:
    """One, and one more for every word that follows a full stop, question or exclamation mark and other punctuation."""
    count, ended, begun = 1, False, False
    for word in words_of(line):
        if is_letter(word[0]):
            count += ended and begun
            begun, ended = True, False
        elif word[0] in TERMINALS and (word[0] != "." or word == "."):
            ended = True
    return count


def repeats(items: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    n = chars = 0
    for item in items:
        if item in seen:
            n, chars = n + 1, chars + len(item)
        seen.add(item)
    return n, chars


def top_ngram(words: list[str], n: int) -> int:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count


def repeated_ngrams(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    chars = place = 0
    while place + n <= len(words):
        gram = tuple(words[place : place + n])
        if gram in seen:
            chars += sum(map(len, gram))
            place += n
        else:
            seen.add(gram)
            place += 1
    return chars


def c4_lines(text: str) -> list[str]:
    kept = []
    for raw in text.splitlines():
        line = raw.strip()
        n_words = line.split()
        if any(len(word) > 1000 for word in n_words) or len(n_words) < 3:
            continue
        line = re.sub(r"\[\d*]|\[edit]|\[citation needed]", "", line)
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("..."):
            continue
        if "javascript" in line.lower() or any(phrase in line.lower() for phrase in POLICY):
            continue
        kept.append(line)
    return kept


def ratio(part: float, whole: float, empty: float = 0.0) -> float:
    return part / whole if whole else empty


def signals(text: str) -> dict[str, float]:
    words = words_of(text)
    solid = [word for word in words if any(map(is_solid, word))]
    lines = text.splitlines()
    pieces = [line for line in text.split("\n") if line.strip()]
    parted = re.split("\n+", text)
    paragraphs = re.split(r"\n{2,}", text.strip())
    result = {
        "word_count": len(solid),
        "mean_word_length": float(np.mean([len(word) for word in solid])) if solid else 0.0,
        "hash_word_ratio": ratio(text.count("#"), len(words)),
        "ellipsis_word_ratio": ratio(text.count("...") + text.count("…"), len(words)),
        "alpha_word_fraction": ratio(sum(any(c.isalpha() for c in word) for word in words), len(words)),
        "newline_word_ratio": ratio(text.count("\n"), len(words)),
        "stop_word_count": len(set(STOP) & set(words)),
        "bullet_line_fraction": ratio(sum(line.lstrip().startswith(("•", "-")) for line in lines), len(lines)),
        "ellipsis_line_fraction": ratio(sum(line.rstrip().endswith(("...", "…")) for line in lines), len(lines)),
        "terminal_line_fraction": ratio(sum(line.endswith(tuple(TERMINALS)) for line in pieces), len(pieces)),
        "short_line_fraction": ratio(sum(len(line) <= 30 for line in pieces), len(pieces)),
        "line_duplicate_char_fraction": ratio(repeats(pieces)[1], len(text.replace("\n", ""))),
        "duplicate_line_fraction": repeats(parted)[0] / len(parted) if text else 0.0,
        "duplicate_line_char_fraction": ratio(repeats(parted)[1], len(text)),
        "duplicate_paragraph_fraction": repeats(paragraphs)[0] / len(paragraphs),
        "duplicate_paragraph_char_fraction": ratio(repeats(paragraphs)[1], len(text)),
        "c4_sentence_count": sum(sentences_of(line) for line in c4_lines(text)),
        "c4_line_fraction": ratio(len(c4_lines(text)), len(lines)),
        "curly_bracket_ratio": ratio(text.count("{"), len(text)),
        "lorem_ipsum": float("lorem ipsum" in text.lower()),
        "javascript_line_fraction": ratio(sum("javascript" in line.lower() for line in lines), len(lines)),
        "policy_line_fraction": ratio(sum(any(p in line.lower() for p in POLICY) for line in lines), len(lines)),
    }
    for n in (2, 3, 4):
        result[f"top_{n}gram_char_fraction"] = min(1.0, ratio(top_ngram(words, n), len(text)))
    for n in range(5, 11):
        result[f"duplicate_{n}gram_char_fraction"] = ratio(repeated_ngrams(words, n), len(text))
    return result | order_signals(text)


def order_signals(text: str) -> dict[str, float]:
    spans = word_spans(text)
    ends = cased = articles = faults = 0
    for (start, end), (next_start, next_end) in pairwise(spans):
        word, following = text[start:end], text[next_start:next_end]
        if word[0] in TERMINALS and is_letter(following[0]) and end < next_start:
            ends += 1
            cased += not following[0].islower()
        if word in ("the", "a", "an"):
            articles += 1
            faults += following in AFTER_ARTICLE or following[0] in TERMINALS
    return {"sentence_case_fraction": ratio(cased, ends, 1.0), "article_fault_fraction": ratio(faults, articles)}
