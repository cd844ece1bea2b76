"""Documents at both ends of each component: found while counting, then read for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.config import PoolConfig
from quadmix.engine.base import Engine
from quadmix.pool.units import Unit
from quadmix.schema import DOC_HASH, DOC_ID
from quadmix.stages.annotate import Annotated
from quadmix.stages.unit_texts import chosen_texts, ok_rows

_CHARS = 240  # of a document that is shown

End = tuple[float, int, str]  # value of the component, document hash, annotation file
Texts = Mapping[int, tuple[str, str]]  # document hash -> id, beginning of its text


@dataclass(frozen=True)
class Ends:
    """low, high: of each component the `kept` documents with the smallest and largest values, the outermost first, ties
    by document hash."""

    kept: int
    low: tuple[tuple[End, ...], ...]
    high: tuple[tuple[End, ...], ...]

    @staticmethod
    def empty(components: int, kept: int) -> Ends:
        return Ends(kept, ((),) * components, ((),) * components)

    @staticmethod
    def of(values: NDArray[np.float32], doc_hash: NDArray[np.uint64], path: str, kept: int) -> Ends:
        """values: (n, K); doc_hash: (n,); path: the annotation file that they come from."""
        columns = [np.ascontiguousarray(values[:, k]) for k in range(values.shape[1])]
        turned = [_first(-column, doc_hash, path, kept) for column in columns]
        return Ends(
            kept,
            tuple(_first(column, doc_hash, path, kept) for column in columns),
            tuple(tuple((-value, doc, file) for value, doc, file in ends) for ends in turned),
        )

    def merge(self, other: Ends) -> Ends:
        """The ends of both sets of documents."""
        low = (sorted((*mine, *theirs)) for mine, theirs in zip(self.low, other.low, strict=True))
        high = (
            sorted((*mine, *theirs), key=lambda end: (-end[0], end[1]))
            for mine, theirs in zip(self.high, other.high, strict=True)
        )
        return Ends(
            self.kept, tuple(tuple(ends[: self.kept]) for ends in low), tuple(tuple(ends[: self.kept]) for ends in high)
        )


def _first(values: NDArray[np.float32], doc_hash: NDArray[np.uint64], path: str, kept: int) -> tuple[End, ...]:
    """The documents with the smallest values, ties by hash."""
    few = min(kept, values.size)
    if not few:
        return ()
    rows = np.flatnonzero(values <= np.partition(values, few - 1)[few - 1])
    rows = rows[np.lexsort((doc_hash[rows], values[rows]))[:few]]
    return tuple((float(values[row]), int(doc_hash[row]), path) for row in rows)


@dataclass(frozen=True)
class ReadBeginnings:
    """Task: (unit, its annotation file, document hashes) -> id and beginning of the text of each of these documents."""

    pool: PoolConfig

    def __call__(self, item: tuple[Unit, str, tuple[int, ...]]) -> Texts:
        unit, path, wanted = item
        table = pq.read_table(path, columns=[DOC_HASH, DOC_ID], page_checksum_verification=True)
        hashes = table[DOC_HASH].to_numpy()
        chosen = ok_rows(path) & np.isin(hashes, np.array(wanted, dtype=np.uint64))
        rows = np.flatnonzero(chosen)
        ids = table[DOC_ID].take(rows).to_pylist()
        texts = [text for batch in chosen_texts(self.pool, unit, path, chosen) for text in batch]
        found = zip(hashes[rows].tolist(), ids, texts, strict=True)
        return {doc: (str(doc_id), _beginning(text)) for doc, doc_id, text in found}


def _beginning(text: str) -> str:
    plain = " ".join(text[: 4 * _CHARS].split())
    return plain if len(plain) <= _CHARS else plain[: _CHARS - 1] + "…"


def read_ends(engine: Engine, pool: PoolConfig, annotated: Annotated, ends: Ends) -> Texts:
    """Read the documents at the ends of all components."""
    wanted: dict[str, set[int]] = {}
    for _, doc, path in (end for side in (ends.low, ends.high) for one in side for end in one):
        wanted.setdefault(path, set()).add(doc)
    if not wanted:
        return {}
    items = [
        (unit, path, tuple(sorted(wanted[path])))
        for unit, path in zip(annotated.units, annotated.files, strict=True)
        if path in wanted
    ]
    found: dict[int, tuple[str, str]] = {}
    for _, texts in engine.map(ReadBeginnings(pool), items, label="odis: reading examples"):
        found |= texts
    return found


@dataclass(frozen=True)
class Example:
    """value: of the component, in deviations from its mean."""

    doc_id: str
    value: float
    text: str


@dataclass(frozen=True)
class ComponentEnds:
    """The outermost documents of one component, the outermost first."""

    low: tuple[Example, ...]
    high: tuple[Example, ...]


def with_texts(ends: Ends, texts: Texts) -> tuple[ComponentEnds, ...]:
    """(K,) the ends with what was read of their documents."""

    def shown(side: Sequence[End]) -> tuple[Example, ...]:
        return tuple(Example(texts[doc][0], value, texts[doc][1]) for value, doc, _ in side)

    return tuple(ComponentEnds(shown(low), shown(high)) for low, high in zip(ends.low, ends.high, strict=True))
