"""A pool of real text in which junk is planted: what is junk is known, and nothing that selects sees it.

Kinds, each the same share of the documents: `shuffled`, other documents of the pool with their words in random order;
`copy`, exact copies of few clean documents, ten of each; `foreign`, another language. Which documents are clean, which
are shuffled and which are copied follows from the seed; so does a sample of clean text that stays outside.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quadmix.hashing import doc_hash, seed_for, uniform
from quadmix.manifest.durable import write_atomically
from quadmix.scorers.context import Document

CLEAN, SHUFFLED, COPY, FOREIGN = "clean", "shuffled", "copy", "foreign"
JUNK = (SHUFFLED, COPY, FOREIGN)
COPIES = 10  # of each document that is copied
_FEWEST_WORDS = 50  # of a document that is shuffled: with less, hardly anything changes
_OUTSIDE = 100  # clean documents that the pool does not hold


@dataclass(frozen=True)
class Planted:
    """rows: (id, domain, text); kinds: by id; outside: texts."""

    rows: tuple[tuple[str, str, str], ...]
    kinds: dict[str, str]
    outside: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """One file of JSON lines, without the kinds."""
        folder.mkdir(parents=True, exist_ok=True)
        lines: list[dict[str, Any]] = [{"id": id_, "domain": domain, "text": text} for id_, domain, text in self.rows]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(folder / "pool.jsonl", text.encode("utf-8"))


def junk_of_each_kind(clean: int, share: float) -> int:
    """Documents of every kind of junk beside so many clean ones. share: of the pool, of each kind."""
    return round(clean * share / (1.0 - len(JUNK) * share))


def plant(documents: Sequence[Document], foreign: Sequence[str], seed: int, clean: int, share: float) -> Planted:
    """A pool of `clean` documents and their junk. SystemExit where there are too few documents."""
    junk = junk_of_each_kind(clean, share)
    order = np.argsort(uniform(doc_hash([one.id for one in documents]), seed, "planted"), kind="stable")
    drawn = [documents[index] for index in order.tolist()]
    rest = [one for one in drawn[clean + _OUTSIDE :] if len(one.text.split()) >= _FEWEST_WORDS]
    if len(rest) < junk or len(foreign) < junk:
        raise SystemExit(
            f"--documents {clean}: wanted {junk} more to shuffle and {junk} in another language, found {len(rest)} and "
            f"{len(foreign)}; ask for fewer or give a larger --pool"
        )
    found = [(CLEAN, one.id, one.domain or "", one.text) for one in drawn[:clean]]
    found += [(SHUFFLED, f"s/{one.id}", one.domain or "", shuffled(one.text, one.id, seed)) for one in rest[:junk]]
    for copy in range(junk):
        one = drawn[copy // COPIES]
        found.append((COPY, f"c{copy % COPIES}/{one.id}", one.domain or "", one.text))
    chosen = np.random.default_rng(seed_for(seed, "planted-foreign")).permutation(len(foreign))[:junk]
    found += [(FOREIGN, f"f/{index}", "manual", foreign[index]) for index in chosen.tolist()]
    return Planted(
        tuple((id_, domain, text) for _, id_, domain, text in found),
        {id_: kind for kind, id_, _, _ in found},
        tuple(one.text for one in drawn[clean : clean + _OUTSIDE]),
    )


def shuffled(text: str, name: str, seed: int) -> str:
    """Its words in an order drawn by seed and name."""
    words = text.split()
    order = np.random.default_rng(seed_for(seed, "planted-words", name)).permutation(len(words))
    return " ".join(words[index] for index in order.tolist())
