"""One Parquet file of the selected documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(batches: Iterator[pa.RecordBatch], path: Path, suffix: str) -> None:
    """Write every batch as a row group; domains and shards as plain strings, whatever the parts hold."""
    writer: pq.ParquetWriter | None = None
    try:
        for batch in batches:
            table = _plain(pa.Table.from_batches([batch]))
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd", write_page_checksum=True)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _plain(table: pa.Table) -> pa.Table:
    for index, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(index, column.name, table.column(index).cast(column.type.value_type))
    return table
