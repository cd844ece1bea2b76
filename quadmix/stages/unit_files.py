"""The files of an annotated unit: columns gathered batch by batch, written once, named by their content.

Bytes are a function of the rows alone: fixed writer settings, dictionaries in sorted order, no time, no host.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix import schema
from quadmix.core.summary import PoolSummary
from quadmix.hashing import sha256_file
from quadmix.pool.duplicates import sorted_ids
from quadmix.pool.quarantine import Faults
from quadmix.stages.records import FileEntry

ROW_GROUP_ROWS = 1 << 18
BAD_ROWS_SCHEMA = pa.schema(
    [
        (schema.SHARD, pa.string()),
        (schema.ROW, pa.int64()),
        (schema.DOC_ID, pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
_NAMED = (schema.DOMAIN, schema.CLUSTER)
_CODED = [schema.SHARD, *_NAMED, schema.STATUS]


@dataclass
class UnitColumns:
    """A unit's annotations while they are gathered. criteria: names of the score columns, in order; clusters: whether
    there is a column of clusters."""

    criteria: tuple[str, ...]
    clusters: bool = False
    batches: list[pa.Table] = field(default_factory=list)
    checks: list[NDArray[np.uint64]] = field(default_factory=list)
    bad: list[pa.Table] = field(default_factory=list)

    def append(
        self,
        *,
        batch: pa.RecordBatch,
        domains: pa.Array,
        clusters: pa.Array | None,
        doc_hash: NDArray[np.uint64],
        id_check: NDArray[np.uint64],
        content_hash: NDArray[np.uint64],
        n_tokens: NDArray[np.int64],
        n_bytes: NDArray[np.int64],
        scores: NDArray[np.float32],
        faults: Faults,
    ) -> None:
        """Add the rows of one batch. scores: (n, n_criteria), stored as null where the row is quarantined."""
        fine = faults.fine
        status = faults.reasons()
        columns = {
            schema.DOC_ID: batch["doc_id"],
            schema.DOC_HASH: pa.array(doc_hash),
            schema.CONTENT_HASH: pa.array(content_hash),
            schema.SHARD: batch["shard"],
            schema.ROW: batch["row"],
            schema.N_TOKENS: pa.array(n_tokens),
            schema.N_BYTES: pa.array(n_bytes),
            schema.DOMAIN: domains,
            **({} if clusters is None else {schema.CLUSTER: clusters}),
            schema.STATUS: pc.fill_null(status, schema.OK),
        }
        for index, name in enumerate(self.criteria):
            columns[schema.score_column(name)] = pa.array(scores[:, index], mask=~fine)
        self.batches.append(pa.table(columns))
        self.checks.append(id_check)
        if not fine.all():
            rows = pa.array(np.flatnonzero(~fine))
            found = [batch["shard"], batch["row"], batch["doc_id"], status, faults.detail_column()]
            self.bad.append(pa.table([column.take(rows) for column in found], schema=BAD_ROWS_SCHEMA))

    def table(self) -> pa.Table:
        """All rows, in input order."""
        if not self.batches:
            return annotation_schema(self.criteria, self.clusters).empty_table()
        table = pa.concat_tables(self.batches)
        for name in _NAMED:
            position = table.schema.get_field_index(name)
            if position >= 0:
                table = table.set_column(position, name, _sorted_dictionary(table[name]))
        return table.cast(annotation_schema(self.criteria, self.clusters))


def annotation_schema(criteria: tuple[str, ...], clusters: bool) -> pa.Schema:
    """Columns of an annotation file; domains and clusters by name."""
    fixed: list[tuple[str, pa.DataType]] = [
        (schema.DOC_ID, pa.string()),
        (schema.DOC_HASH, pa.uint64()),
        (schema.CONTENT_HASH, pa.uint64()),
        (schema.SHARD, pa.string()),
        (schema.ROW, pa.int64()),
        (schema.N_TOKENS, pa.int64()),
        (schema.N_BYTES, pa.int64()),
        (schema.DOMAIN, pa.dictionary(pa.int32(), pa.string())),
        *([(schema.CLUSTER, pa.dictionary(pa.int32(), pa.string()))] if clusters else []),
        (schema.STATUS, pa.string()),
    ]
    return pa.schema([*fixed, *((schema.score_column(name), pa.float32()) for name in criteria)])


def write_unit(directory: Path, index: int, columns: UnitColumns) -> dict[str, Any]:
    """Write a unit's files into `directory`; the payload of its piece (see `payload_of`)."""
    table = columns.table()
    fine = np.asarray(pc.equal(table[schema.STATUS], schema.OK))
    checks = np.concatenate([np.zeros(0, dtype=np.uint64), *columns.checks])
    ids = sorted_ids(
        _numbers(table, schema.DOC_HASH)[fine], checks[fine], _numbers(table, schema.CONTENT_HASH)[fine],
        np.flatnonzero(fine),
    )  # fmt: skip

    def save_ids(path: Path) -> None:
        with open(path, "wb") as handle:
            np.save(handle, ids, allow_pickle=False)

    payload = write_annotations(directory, index, table, columns.criteria, columns.bad)
    payload["files"].append(asdict(_published(directory, f"ids-{index:05d}", ".npy", ids.shape[1], save_ids)))
    return payload


def write_annotations(
    directory: Path, index: int, table: pa.Table, criteria: tuple[str, ...], bad: list[pa.Table]
) -> dict[str, Any]:
    """Write annotations, summary and quarantined rows.

    Returns JSON: files (unit, summary, then bad rows if any), rows, ok [docs, tokens], quarantine {reason: [docs,
    tokens]}; rows = ok + quarantined is asserted.
    """
    summary = summarise(table, criteria)

    def save_table(path: Path) -> None:
        pq.write_table(
            table, path, compression="zstd", compression_level=3, write_page_checksum=True,
            row_group_size=ROW_GROUP_ROWS, use_dictionary=_CODED,
        )  # fmt: skip

    def save_bad(path: Path) -> None:
        pq.write_table(pa.concat_tables(bad), path, compression="zstd", compression_level=3, write_page_checksum=True)

    files = [
        _published(directory, f"unit-{index:05d}", ".parquet", table.num_rows, save_table),
        _published(
            directory, f"summary-{index:05d}", ".npz", len(summary.domains), lambda path: summary.save(str(path))
        ),
    ]
    if bad:
        n_bad = sum(part.num_rows for part in bad)
        files.append(_published(directory, f"bad-{index:05d}", ".parquet", n_bad, save_bad))
    tally = _tally(table)
    ok = tally.pop(schema.OK, [0, 0])
    if ok[0] + sum(docs for docs, _ in tally.values()) != table.num_rows:
        raise AssertionError(f"unit {index}: {table.num_rows} rows are not {ok[0]} usable + quarantined {tally}")
    return {"files": [asdict(file) for file in files], "rows": table.num_rows, "ok": ok, "quarantine": tally}


def summarise(table: pa.Table, criteria: tuple[str, ...]) -> PoolSummary:
    """The summary of a unit's usable rows."""
    usable = table.filter(pc.equal(table[schema.STATUS], schema.OK))
    if not usable.num_rows:
        return PoolSummary.empty(criteria)
    domains = usable[schema.DOMAIN].combine_chunks()
    domains = domains.chunk(0) if isinstance(domains, pa.ChunkedArray) else domains
    scores = np.stack(
        [np.zeros(usable.num_rows, dtype=np.float32)]
        + [_numbers(usable, schema.score_column(name)) for name in criteria]
    )[1:].T
    return PoolSummary.of_rows(
        domains.dictionary.to_pylist(),
        np.asarray(domains.indices),
        _numbers(usable, schema.N_TOKENS),
        _numbers(usable, schema.N_BYTES),
        scores,
        criteria,
    )


def file_of(payload: dict[str, Any], prefix: str) -> FileEntry | None:
    """The file of a piece whose name starts with `prefix` (unit, ids, summary, bad), None if it has none."""
    for entry in payload["files"]:
        if entry["path"].startswith(prefix + "-"):
            return FileEntry(**entry)
    return None


def _published(directory: Path, stem: str, suffix: str, rows: int, save: Callable[[Path], None]) -> FileEntry:
    """Write under a private name, hash, rename to `<stem>-<sha16><suffix>`."""
    handle, name = tempfile.mkstemp(prefix=f"{stem}-", suffix=".tmp", dir=directory)
    os.close(handle)
    temporary = Path(name)
    try:
        save(temporary)
        digest = sha256_file(str(temporary))
        final = f"{stem}-{digest[:16]}{suffix}"
        entry = FileEntry(final, rows, temporary.stat().st_size, digest)
        os.chmod(temporary, 0o644)
        os.replace(temporary, directory / final)
    finally:
        temporary.unlink(missing_ok=True)
    return entry


def _tally(table: pa.Table) -> dict[str, list[int]]:
    """{status: [docs, tokens]}."""
    grouped = table.select([schema.STATUS, schema.N_TOKENS]).group_by(schema.STATUS)
    counted = grouped.aggregate([(schema.N_TOKENS, "count"), (schema.N_TOKENS, "sum")]).sort_by(schema.STATUS)
    statuses, docs, tokens = (column.to_pylist() for column in counted.select(
        [schema.STATUS, f"{schema.N_TOKENS}_count", f"{schema.N_TOKENS}_sum"]
    ).columns)  # fmt: skip
    return {status: [count, total] for status, count, total in zip(statuses, docs, tokens, strict=True)}


def _sorted_dictionary(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """The names as dictionary<int32, string> with the names sorted, so that bytes do not depend on batch borders."""
    coded = names.combine_chunks()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    coded = coded.dictionary_encode()
    order = pc.sort_indices(coded.dictionary)
    place = np.empty(len(order), dtype=np.int32)
    place[np.asarray(order)] = np.arange(len(order), dtype=np.int32)
    valid = coded.indices.is_valid().to_numpy(zero_copy_only=False)
    codes = np.asarray(pc.fill_null(coded.indices, 0))
    codes = place[codes] if len(place) else np.zeros(len(codes), dtype=np.int32)
    array = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=~valid), coded.dictionary.take(order))
    return pa.chunked_array([array])


def _numbers(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table[name].to_numpy())
