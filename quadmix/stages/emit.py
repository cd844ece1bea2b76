"""Writing what was chosen: one pass that applies a plan and its cuts, one Parquet part a group of annotation files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.core.budget import Cut, copies_taken
from quadmix.engine.base import Shared
from quadmix.hashing import sha256_file, uniform
from quadmix.manifest.durable import private_name
from quadmix.schema import (
    COPIES,
    DOC_ID,
    DOMAIN,
    DRAW,
    KEY,
    N_TOKENS,
    ROW,
    SELECTOR,
    SHARD,
    STRATUM,
)
from quadmix.selectors.base import DocBatch, SelectionPlan
from quadmix.stages.rows import RowReader

_ROW_GROUP = 131_072


@dataclass(frozen=True)
class Emitted:
    """One part and its sums. documents, copies, tokens: (n_domains,) int64, tokens counting every copy.

    repeats: (max_copies + 1,) documents by copies. left_out: documents and tokens not eligible, then beyond the cut.
    """

    file: str  # "" when nothing of the group was chosen
    rows: int
    bytes: int
    sha256: str
    documents: NDArray[np.int64]
    copies: NDArray[np.int64]
    tokens: NDArray[np.int64]
    repeats: NDArray[np.int64]
    left_out: NDArray[np.int64]  # (2, 2)


@dataclass(frozen=True)
class EmitTask:
    """Applies the plan to one group of files: item = (group's number, annotation files)."""

    plan: Shared[SelectionPlan]
    cuts: Shared[dict[int, Cut]]
    reader: RowReader  # with the extra columns doc_id, shard, row
    directory: str
    seed: int
    purpose: str

    def __call__(self, item: tuple[int, Sequence[str]]) -> Emitted:
        number, paths = item
        plan, cuts = self.plan.get(), self.cuts.get()
        writer = _Writer(plan, cuts, self.reader.domains)
        for path in paths:
            for batch, table in self.reader.batches(path):
                writer.add(batch, table, uniform(batch.doc_hash, self.seed, self.purpose))
        return writer.close(os.path.join(self.directory, f"part-{number:05d}"))


class _Writer:
    """Collects the chosen rows of one part."""

    def __init__(self, plan: SelectionPlan, cuts: dict[int, Cut], domains: tuple[str, ...]) -> None:
        self.plan, self.domains = plan, domains
        strata = range(len(plan.strata))
        self.cut_key = np.array([cuts[s].key if s in cuts else -np.inf for s in strata])
        self.cut_hash = np.array([cuts[s].hash if s in cuts else 0 for s in strata], dtype=np.uint64)
        self.tables: list[pa.Table] = []
        self.documents, self.copies, self.tokens = (np.zeros(len(domains), dtype=np.int64) for _ in range(3))
        self.repeats = np.zeros(plan.max_copies + 1, dtype=np.int64)
        self.left_out = np.zeros((2, 2), dtype=np.int64)

    def add(self, batch: DocBatch, table: pa.Table, u: NDArray[np.float64]) -> None:
        plan = self.plan
        stratum, key, step = plan.stratum(batch), plan.key(batch, u), plan.step(batch)
        eligible = (stratum >= 0) & np.isfinite(key)
        copies = copies_taken(
            np.where(eligible, key, np.inf), step, batch.doc_hash, self.cut_key[stratum], self.cut_hash[stratum],
            plan.max_copies,
        )  # fmt: skip
        rows = np.flatnonzero(copies)
        self._count(batch, copies, rows, eligible)
        if not rows.size:
            return
        taken = pa.array(rows)
        columns = {
            DOC_ID: table[DOC_ID].take(taken),
            SHARD: _dictionary(table[SHARD].take(taken)),
            ROW: table[ROW].take(taken),
            DOMAIN: _named(batch.domain[rows], self.domains),
            N_TOKENS: pa.array(batch.n_tokens[rows]),
            COPIES: pa.array(copies[rows]),
            KEY: pa.array(key[rows]),
            DRAW: pa.array(plan.draws(batch, u)[rows]),
            SELECTOR: _named(np.zeros(rows.size, dtype=np.int32), (plan.selector,)),
            STRATUM: _named(stratum[rows], plan.strata),
        }
        columns |= {name: pa.array(values[rows]) for name, values in plan.columns(batch).items()}
        self.tables.append(pa.table(columns))

    def _count(
        self, batch: DocBatch, copies: NDArray[np.int32], rows: NDArray[np.intp], eligible: NDArray[np.bool_]
    ) -> None:
        size = len(self.domains)
        where, many = batch.domain[rows], copies[rows].astype(np.int64)
        self.documents += np.bincount(where, minlength=size)
        self.copies += np.bincount(where, weights=many, minlength=size).astype(np.int64)
        self.tokens += np.bincount(where, weights=many * batch.n_tokens[rows], minlength=size).astype(np.int64)
        self.repeats += np.bincount(copies[rows], minlength=self.repeats.size)
        for line, mask in enumerate((~eligible, eligible & (copies == 0))):
            self.left_out[line] += (int(mask.sum()), int(batch.n_tokens[mask].sum()))

    def close(self, stem: str) -> Emitted:
        sums = (self.documents, self.copies, self.tokens, self.repeats, self.left_out)
        if not self.tables:
            return Emitted("", 0, 0, "", *sums)
        table = pa.concat_tables(self.tables).unify_dictionaries().combine_chunks()
        # attempts of one task may race: each writes a file of its own and renames it to the same name
        private = os.path.join(os.path.dirname(stem), private_name(os.path.basename(stem)))
        pq.write_table(
            table, private, row_group_size=_ROW_GROUP, compression="zstd", compression_level=1,
            write_page_checksum=True, use_dictionary=[SHARD, DOMAIN, COPIES, SELECTOR, STRATUM],
        )  # fmt: skip
        digest, size = sha256_file(private), os.path.getsize(private)
        name = f"{stem}-{digest[:16]}.parquet"
        os.replace(private, name)
        return Emitted(os.path.basename(name), table.num_rows, size, digest, *sums)


def _named(codes: NDArray[np.int32], names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32, copy=False)), pa.array(names, pa.string()))


def _dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
