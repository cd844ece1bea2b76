"""Prepared shards: an input that cannot be shared between tasks as it lies, rewritten once into small row groups.

A huge JSONL stream, or Parquet with row groups far beyond a unit, is read once from front to back; what `read_unit`
would have given is stored, faults included, so shard names and row numbers stay those of the original file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from quadmix.pool.batches import split_by_bytes
from quadmix.pool.refusals import FileRefused
from quadmix.pool.storage import look, open_input, shown, tail_digest
from quadmix.pool.units import InputFile, Piece
from quadmix.schema import FileReason

MAX_ROW_GROUP_BYTES = 128 << 20
_BATCH_ROWS = 1 << 14
_FIXED = ("shard", "row", "doc_id", "text", "domain", "tokens")
_JUDGED = ("reason", "detail")


def read_prepared(file: InputFile, pieces: Sequence[Piece], extras: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """The stored batches of some row groups, with the columns in the order of `read_unit`."""
    with open_input(file.path) as handle:
        try:
            parquet = pq.ParquetFile(handle, page_checksum_verification=True)
            names = parquet.schema_arrow.names
            wanted = [name for name in (*_FIXED, *extras, *_JUDGED) if name in names]
            groups = [piece.row_group for piece in pieces]
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=groups, columns=wanted, use_threads=False):
                yield batch.select(wanted)
        except (pa.ArrowException, OSError) as error:
            message = f"the prepared copy is damaged ({error}); delete it and run again"
            raise FileRefused(file.shard, shown(file.path), FileReason.CHECKSUM_MISMATCH, message) from error


def write_prepared(batches: Iterable[pa.RecordBatch], path: Path, row_group_bytes: int) -> int:
    """Store the batches in row groups of at most `row_group_bytes` (and 128 MiB), one row at least; rows written."""
    limit = min(row_group_bytes, MAX_ROW_GROUP_BYTES)
    writer: pq.ParquetWriter | None = None
    held: list[pa.RecordBatch] = []
    rows = 0

    def flush() -> None:
        if writer is not None and held:
            writer.write_table(pa.Table.from_batches(held, writer.schema), row_group_size=sum(map(len, held)))
            held.clear()

    try:
        for batch in (part for whole in batches for part in split_by_bytes(whole, limit)):
            if writer is None:
                writer = pq.ParquetWriter(
                    path, batch.schema, compression="zstd", compression_level=3, write_page_checksum=True
                )
            if held and sum(item.nbytes for item in held) + batch.nbytes > limit:
                flush()
            held.append(_as_stored(batch, writer.schema))
            rows += batch.num_rows
        if writer is None:  # a stream without a single row is still a sound input
            writer = pq.ParquetWriter(path, pa.schema([("shard", pa.string()), ("row", pa.int64())]))
        flush()
    finally:
        if writer is not None:
            writer.close()
    return rows


def prepared_input(original: InputFile, path: Path) -> InputFile:
    """The prepared copy as an input: other bytes, same shard."""
    entry = look(str(path))
    return replace(
        original,
        path=str(path),
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        footer=tail_digest(str(path), entry.size),
        format="prepared",
        compression="",
    )


def _as_stored(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch under the first batch's schema: a JSONL column that was all null there may have a type only now."""
    if batch.schema == schema:
        return batch
    return batch.cast(schema)
