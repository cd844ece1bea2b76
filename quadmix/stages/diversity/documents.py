"""The sampled documents: texts from the pool, labels and scores from the annotations, found by document hash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.config import PoolConfig
from quadmix.engine.base import Engine, Shared
from quadmix.errors import InputError
from quadmix.pool.units import Unit
from quadmix.schema import CLUSTER, DOC_HASH, DOMAIN, N_TOKENS, score_column
from quadmix.stages.annotate import Annotated
from quadmix.stages.unit_texts import chosen_texts, ok_rows

MOST_CHARS = 1 << 14  # of a document: the driver holds the texts of all samples
_TEXT = "text"


@dataclass(frozen=True)
class ReadWanted:
    """Task: (unit, its annotation file) -> file of the wanted documents in it, "" where there are none."""

    pool: PoolConfig
    directory: str
    criteria: tuple[str, ...]
    wanted: Shared[NDArray[np.uint64]]  # ascending

    def __call__(self, item: tuple[Unit, str]) -> str:
        unit, path = item
        known = pq.read_schema(path).names
        columns = [DOC_HASH, N_TOKENS, DOMAIN, *map(score_column, self.criteria)]
        columns += [CLUSTER] if CLUSTER in known else []
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
        chosen = ok_rows(path) & np.isin(table[DOC_HASH].to_numpy(), self.wanted.get())
        rows = np.flatnonzero(chosen)
        if not rows.size:
            return ""
        texts = [text[:MOST_CHARS] for batch in chosen_texts(self.pool, unit, path, chosen) for text in batch]
        found = table.take(pa.array(rows)).append_column(_TEXT, pa.array(texts, pa.string()))
        handle, name = tempfile.mkstemp(prefix="sampled-", suffix=".parquet", dir=self.directory)
        os.close(handle)
        pq.write_table(found, name, compression="lz4", write_page_checksum=True)
        return name


@dataclass(frozen=True)
class Documents:
    """n documents, ascending by hash. texts: their beginnings; tokens: (n,) int64; domains, clusters: names, None where
    the pool has no clusters; scores: (n, n_criteria) float32."""

    hashes: NDArray[np.uint64]
    texts: list[str]
    tokens: NDArray[np.int64]
    domains: list[str]
    clusters: list[str] | None
    scores: NDArray[np.float32]

    def places(self, hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
        """(k,) where these documents are."""
        return np.searchsorted(self.hashes, hashes)


def read_documents_of(
    engine: Engine,
    pool: PoolConfig,
    annotated: Annotated,
    samples: Sequence[NDArray[np.uint64]],
    directory: Path,
) -> Documents:
    """The documents of all samples, each once. Raises InputError for documents that the pool does not hold."""
    wanted = np.unique(np.concatenate(samples))
    criteria = annotated.summary.criteria
    with tempfile.TemporaryDirectory(prefix="sampled-", dir=directory) as folder:
        task = ReadWanted(pool, folder, criteria, engine.share(wanted))
        items = list(zip(annotated.units, annotated.files, strict=True))
        parts = [
            pq.read_table(name, page_checksum_verification=True)
            for _, name in engine.map(task, items, label="diversity: reading samples", size=_bytes)
            if name
        ]
    table = pa.concat_tables(parts, promote_options="default") if parts else None
    hashes = np.zeros(0, dtype=np.uint64) if table is None else table[DOC_HASH].to_numpy()
    if table is None or len(np.unique(hashes)) < len(wanted):
        raise InputError(
            f"diversity: {len(wanted) - len(np.unique(hashes)):,} of {len(wanted):,} sampled documents are not in the "
            "pool: a selection of another pool was given. Name runs that selected from the same documents"
        )
    table = table.take(pa.array(np.argsort(hashes, kind="stable")))
    scores = [table[score_column(name)].to_numpy() for name in criteria]
    return Documents(
        table[DOC_HASH].to_numpy(),
        table[_TEXT].to_pylist(),
        table[N_TOKENS].to_numpy(),
        _names(table[DOMAIN]),
        _names(table[CLUSTER]) if CLUSTER in table.column_names else None,
        np.stack(scores, axis=1) if scores else np.zeros((len(wanted), 0), dtype=np.float32),
    )


def _bytes(item: tuple[Unit, str]) -> int:
    return item[0].bytes


def _names(column: Any) -> list[str]:
    names: list[str] = column.cast(pa.string()).to_pylist()
    return names
