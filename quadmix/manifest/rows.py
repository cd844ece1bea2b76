"""Read a manifest's documents part by part, in order, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from quadmix.errors import VerificationError
from quadmix.manifest.model import Manifest, Part

BATCH_ROWS = 131_072


def read_rows(manifest: Manifest, columns: Sequence[str]) -> Iterator[tuple[Part, int, pa.RecordBatch]]:
    """Yield (part, number of the batch's first row in it, batch of `columns`).

    Page checksums are verified. Raises `VerificationError` naming the part that is missing, damaged or lacks a column.
    """
    for part in manifest.files:
        start = 0
        try:
            with pq.ParquetFile(manifest.part_path(part), page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
                    missing = [name for name in columns if name not in batch.schema.names]
                    if missing:
                        raise VerificationError(f"{part.path}: found no column {missing}, wanted {list(columns)}")
                    yield part, start, batch.select(list(columns))
                    start += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise VerificationError(
                f"{manifest.folder / part.path}: cannot be read ({error}); run `quadmix verify`, then publish again"
            ) from error
