"""Cutting batches by what they weigh, because one row may weigh as much as a million others."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa


def split_by_bytes(batch: pa.RecordBatch, limit: int) -> Iterator[pa.RecordBatch]:
    """The batch in row order, in slices of at most `limit` bytes or of one row."""
    if batch.num_rows <= 1 or batch.nbytes <= limit:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from split_by_bytes(batch.slice(0, half), limit)
    yield from split_by_bytes(batch.slice(half), limit)
