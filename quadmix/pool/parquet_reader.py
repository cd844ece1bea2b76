"""Rows of Parquet files: only the columns that are needed, page checksums verified, batches bounded by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from quadmix.config import PoolConfig
from quadmix.pool.column_paths import ColumnPath, dotted_names, nearest, resolve
from quadmix.pool.refusals import FileRefused
from quadmix.pool.row_checks import RawRows, ReadLog
from quadmix.pool.schema_check import Role, roles_of, type_class
from quadmix.pool.storage import is_uri, open_input, shown
from quadmix.pool.units import InputFile, Piece
from quadmix.schema import FileReason

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1 << 16


def read_parquet(
    file: InputFile, pieces: Sequence[Piece], config: PoolConfig, extras: tuple[str, ...], log: ReadLog
) -> Iterator[RawRows]:
    """The rows of consecutive row groups of one file. Raises FileRefused for broken pages and unfit columns."""
    columns = config.columns
    with open_input(file.path) as handle:
        try:
            # remote columns are fetched together; local ones gain nothing from it and would be held twice
            parquet = pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=is_uri(file.path))
            found = {role.path: _locate(file, parquet.schema_arrow, role) for role in roles_of(config, extras)}
            wanted = list(dict.fromkeys(column.dotted for column in found.values() if column is not None))
            groups = [piece.row_group for piece in pieces]
            batches = parquet.iter_batches(
                batch_size=_rows_of_a_batch(parquet.metadata, groups, wanted),
                row_groups=groups,
                columns=wanted,
                use_threads=False,
            )
            row = pieces[0].start
            for batch in batches:

                def take(path: str, batch: pa.RecordBatch = batch) -> pa.Array:
                    column = found[path]
                    return pa.nulls(batch.num_rows) if column is None else column.take(batch)

                for path, column in found.items():
                    if column is not None and column.folded:
                        log.fixes[f"column {path!r} spelled in another case"] += batch.num_rows
                yield RawRows(
                    shard=file.shard,
                    first_row=row,
                    n_rows=batch.num_rows,
                    ids=take(columns.id) if columns.id is not None and config.id_from == "column" else None,
                    texts=take(columns.text),
                    domains=take(columns.domain) if columns.domain is not None else None,
                    tokens=take(columns.tokens) if columns.tokens is not None else None,
                    extras={path: _plain(take(path)) for path in extras},
                    faults={},
                )
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, PermissionError):
                raise
            message = f"a page is damaged ({error}); copy the file again"
            raise FileRefused(file.shard, shown(file.path), FileReason.CHECKSUM_MISMATCH, message) from error


def _locate(file: InputFile, schema: pa.Schema, role: Role) -> ColumnPath | None:
    column = resolve(schema, role.path)
    if column is None and role.required:
        message = f"{role.path!r} ({role.key}) is not in this file{nearest(role.path, dotted_names(schema))}"
        raise FileRefused(file.shard, shown(file.path), FileReason.MISSING_COLUMN, message)
    if column is not None and role.allowed and type_class(column.type) not in role.allowed:
        message = f"{role.path!r} has type {column.type}, wanted {' or '.join(role.allowed)}"
        raise FileRefused(file.shard, shown(file.path), FileReason.TYPE_DRIFT, message)
    return column


def _rows_of_a_batch(metadata: pq.FileMetaData, groups: Sequence[int], wanted: Sequence[str]) -> int:
    """Rows that decode to about 8 MiB, from the sizes of the wanted columns in the footer."""
    widest = 1.0
    for index in groups:
        group = metadata.row_group(index)
        size = sum(
            chunk.total_uncompressed_size
            for chunk in (group.column(number) for number in range(group.num_columns))
            if any(chunk.path_in_schema == path or chunk.path_in_schema.startswith(path + ".") for path in wanted)
        )
        widest = max(widest, size / max(group.num_rows, 1))
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / widest)))


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
