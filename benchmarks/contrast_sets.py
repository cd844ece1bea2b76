"""Pairs of text sets that a quality dimension must tell apart, made of the shipped pool and seeded noise.

`edited` against `noisy`: edited prose as it is, and other documents of the same sources with words out of order, lost
punctuation and capitals, broken lines and pieces that come again and again. `reference` against `chatter`: entries of
reference works, and messages of a made-up chat. `expert` against `plain`: documentation and mathematics in words, and
documents put together from the short sentences of common words that the pool's prose and guides contain. No document is
in both sets of a pair.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

EDITED = ("wikipedia", "rust-book", "django-howto", "python-howto", "postgresql-howto")
REFERENCE = ("wikipedia", "factbook", "python-library", "postgresql-reference")
EXPERT = ("postgresql-reference", "python-c-api", "metamath-comments", "sqlite-reference", "apache-modules")
PLAIN_FROM = ("austen", "king-james", "rust-book", "django-howto", "python-howto", "wikipedia")
_COMMON_WORDS = 1_000
_LONGEST_PLAIN = 11  # words of a sentence
_LEAST_CHARS = 300

_OPENERS = ("lol", "yeah", "ok so", "hmm", "no way", "haha", "well", "i mean", "dude", "omg", "right", "btw", "so")
_SAYINGS = (
    "i don't think so", "that's what i said", "are you coming or not", "i was going to do that", "you know what i mean",
    "it was so good", "can we talk about it later", "i can't even", "did you see it", "what do you want me to do",
    "i have no idea", "me too", "let me know", "that is not what she said", "we were there all night", "just do it",
    "i will be there in a bit", "you should have seen him", "it's not like that", "why would you do that to me",
    "i know right", "nothing much, and you", "sorry i was out", "are they still on for this", "he did it again",
)  # fmt: skip
_CLOSERS = ("lol", "haha", "ok", "you know", "i guess", "right", "see you", "thanks", "idk", "for real")


@dataclass(frozen=True)
class Contrast:
    """Texts of which the `better` ones should score higher."""

    better: tuple[str, ...]
    worse: tuple[str, ...]


def contrasts(documents: Iterable[dict[str, Any]], size: int, seed: int) -> dict[str, Contrast]:
    """documents: of the shipped pool, with `source` and `text`. size: texts of each set."""
    by_source: dict[str, list[str]] = {}
    for document in documents:
        by_source.setdefault(document["source"], []).append(document["text"])
    draw = random.Random(f"contrasts/{seed}")
    edited = _drawn(by_source, EDITED, 2 * size, draw)
    return {
        "edited against noisy": Contrast(tuple(edited[:size]), tuple(noisy(text, draw) for text in edited[size:])),
        "reference against chatter": Contrast(
            tuple(_drawn(by_source, REFERENCE, size, draw)), tuple(chatter(draw) for _ in range(size))
        ),
        "expert against plain": Contrast(
            tuple(_drawn(by_source, EXPERT, size, draw)), tuple(plain(by_source, size, draw))
        ),
    }


def _drawn(by_source: dict[str, list[str]], sources: Sequence[str], n: int, draw: random.Random) -> list[str]:
    """About as many texts of each source, long enough to be judged, in a drawn order."""
    chosen = []
    for number, source in enumerate(sources):
        share = n * (number + 1) // len(sources) - n * number // len(sources)
        long_enough = [text for text in by_source[source] if len(text) >= _LEAST_CHARS]
        chosen += draw.sample(long_enough, share)
    draw.shuffle(chosen)
    return chosen


def noisy(text: str, draw: random.Random) -> str:
    """The text as a bad extraction leaves it."""
    words = text.split()
    strength = draw.uniform(0.5, 1.0)
    for start in range(0, len(words), 6):  # words change places with near ones
        if draw.random() < strength:
            window = words[start : start + 6]
            draw.shuffle(window)
            words[start : start + 6] = window
    kept = []
    for word in words:
        if draw.random() < strength:
            word = word.strip(".,;:!?()").lower()
        if draw.random() < 0.1 * strength:
            word = draw.choice(("|", ">>", "#", "...", "[edit]", "&nbsp;", word[::-1]))
        kept.append(word)
    piece = " ".join(kept[: draw.randint(4, 9)])
    lines = []
    at = 0
    while at < len(kept):
        step = draw.randint(3, 12)
        lines.append(" ".join(kept[at : at + step]))
        if draw.random() < 0.35 * strength:
            lines.append(piece)
        at += step
    return "\n".join(lines)


def chatter(draw: random.Random) -> str:
    """A dozen or more short messages."""
    lines = []
    for _ in range(draw.randint(12, 40)):
        parts = [draw.choice(_SAYINGS)]
        if draw.random() < 0.5:
            parts.insert(0, draw.choice(_OPENERS))
        if draw.random() < 0.4:
            parts.append(draw.choice(_CLOSERS))
        text = " ".join(parts)
        lines.append(text.capitalize() + draw.choice((".", "!", "?")) if draw.random() < 0.5 else text)
    return "\n".join(lines)


def plain(by_source: dict[str, list[str]], n: int, draw: random.Random) -> Iterator[str]:
    """Documents of short sentences whose words are all common in the pool."""
    texts = [text for source in PLAIN_FROM for text in by_source[source]]
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    common = {word for word, _ in counts.most_common(_COMMON_WORDS)}
    sentences = sorted(
        {
            sentence
            for text in texts
            for sentence in re.findall(r"(?<=[.!?] )[A-Z][a-z ']+[.!?]", text)
            if 4 <= len(sentence.split()) <= _LONGEST_PLAIN
            and all(word in common for word in re.findall(r"[a-z]+", sentence.lower()))
        }
    )
    for _ in range(n):
        yield " ".join(draw.choice(sentences) for _ in range(draw.randint(8, 25)))


def auc(better: Sequence[float], worse: Sequence[float]) -> float:
    """The chance that a drawn better text scores above a drawn worse one, ties counting half."""
    ordered = sorted([(value, 1) for value in better] + [(value, 0) for value in worse])
    wins = 0.0
    at = below = 0
    while at < len(ordered):
        stop = at
        while stop < len(ordered) and ordered[stop][0] == ordered[at][0]:
            stop += 1
        tied = [side for _, side in ordered[at:stop]]
        wins += sum(tied) * (below + (len(tied) - sum(tied)) / 2)
        below += len(tied) - sum(tied)
        at = stop
    return wins / (len(better) * len(worse))
