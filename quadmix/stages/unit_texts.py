"""Texts of chosen rows of a unit, read beside its annotations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.config import PoolConfig
from quadmix.errors import InputError
from quadmix.pool.readers import read_unit
from quadmix.pool.units import Unit
from quadmix.schema import OK, ROW, STATUS


def ok_rows(annotations: str) -> NDArray[np.bool_]:
    """(rows of the unit,) which are of status ok."""
    status = pq.read_table(annotations, columns=[STATUS], page_checksum_verification=True)[STATUS]
    return np.array([value == OK for value in status.to_pylist()], dtype=bool)


def chosen_texts(pool: PoolConfig, unit: Unit, annotations: str, chosen: NDArray[np.bool_]) -> Iterator[list[str]]:
    """Texts of the chosen rows, a batch at a time. Raises InputError when unit and annotations do not fit."""
    rows = pq.read_table(annotations, columns=[ROW], page_checksum_verification=True)[ROW].to_numpy()
    start = 0
    for batch in read_unit(unit, pool):
        stop = start + batch.num_rows
        if stop > rows.size or not np.array_equal(rows[start:stop], batch.column(ROW).to_numpy(zero_copy_only=False)):
            raise _changed(unit, annotations)
        texts = batch.column("text").filter(pa.array(chosen[start:stop])).to_pylist()
        if any(text is None for text in texts):
            raise _changed(unit, annotations)
        yield texts
        start = stop
    if start != rows.size:
        raise _changed(unit, annotations)


def _changed(unit: Unit, annotations: str) -> InputError:
    names = sorted({piece.file.shard for piece in unit.pieces})
    return InputError(
        f"{', '.join(names[:3])}: the rows are no longer those that {annotations} describes; the input changed after "
        "it was annotated. Rerun the same command: annotate notices and does the changed files again"
    )
