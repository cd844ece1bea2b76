"""Manifest rows beside the annotation rows that they claim to come from, matched by shard and row number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.errors import VerificationError
from quadmix.manifest.model import Manifest
from quadmix.manifest.recompute import Ints
from quadmix.schema import ROW, SHARD

_ROW_BITS = 40  # rows of one shard


@dataclass(frozen=True)
class Segment:
    """Rows start..stop-1 of a part that claim to come from one annotation file."""

    part: int
    start: int
    stop: int


class PartReader:
    """Rows of the manifest's parts, by part and row number, a row group at a time."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def read(self, part: int, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        path = self.manifest.part_path(self.manifest.files[part])
        pieces, first = [], 0
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    low, high = max(start - first, 0), min(stop - first, rows)
                    if low < high:
                        pieces.append(
                            file.read_row_group(group, columns=list(columns), use_threads=False).slice(low, high - low)
                        )
                    first += rows
        except (OSError, pa.ArrowException) as error:
            raise VerificationError(f"{path}: cannot be read ({error}); publish the manifest again") from error
        return pa.concat_tables(pieces).unify_dictionaries()


@dataclass(frozen=True)
class Claims:
    """n manifest rows that claim to come from one annotation file. part, row: (n,) where they are."""

    table: pa.Table
    part: Ints
    row: Ints

    @staticmethod
    def read(parts: PartReader, segments: Sequence[Segment], columns: Sequence[str]) -> Claims:
        tables = [parts.read(segment.part, segment.start, segment.stop, columns) for segment in segments]
        return Claims(
            pa.concat_tables(tables).unify_dictionaries(),
            np.concatenate([np.full(segment.stop - segment.start, segment.part) for segment in segments]),
            np.concatenate([np.arange(segment.start, segment.stop) for segment in segments]),
        )

    def take(self, rows: Ints) -> Claims:
        return Claims(self.table.take(pa.array(rows)), self.part[rows], self.row[rows])

    def numbers(self, column: str) -> NDArray[Any]:
        """(n,) values; a null becomes NaN, which equals nothing."""
        return np.asarray(self.table[column].to_numpy())

    def codes(self, column: str, names: Sequence[str]) -> Ints:
        """(n,) index of each value among `names`, -1 for another value."""
        found = pc.index_in(self.table[column].cast(pa.string()), value_set=pa.array(names, pa.string()))
        return np.asarray(found.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)).astype(np.int64)

    def text(self, column: str, row: Any) -> Any:
        return self.table[column][int(row)].as_py()


def files_of(table: pa.Table, ranges: dict[str, tuple[NDArray[np.int64], ...]]) -> Ints:
    """(n,) annotation file that holds each (shard, row); -1 for none."""
    shards = table[SHARD].cast(pa.string()).combine_chunks().dictionary_encode()
    code = shards.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    row = table[ROW].combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    file = np.full(row.size, -1, dtype=np.int64)
    for number, shard in enumerate(shards.dictionary.to_pylist()):
        if shard not in ranges:
            continue
        first, last, holder = ranges[shard]
        mine = np.flatnonzero(code == number)
        at = np.searchsorted(first, row[mine], side="right") - 1
        inside = (at >= 0) & (row[mine] <= last[np.maximum(at, 0)])
        file[mine[inside]] = holder[at[inside]]
    return file


def positions(path: Path, claim: Claims) -> Ints:
    """(n,) row number in the annotation file of each claimed (shard, row); -1 where there is none."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read(columns=[SHARD, ROW], use_threads=False)
    names = pc.unique(table[SHARD].cast(pa.string()))
    own, theirs = (_places(side, names) for side in (table, claim.table))
    order = np.argsort(own, kind="stable")
    at = np.searchsorted(own[order], theirs)
    at[at == own.size] = 0
    found = order[at]
    return np.where((own[found] == theirs) & (theirs >= 0), found, -1)


def _places(table: pa.Table, names: Any) -> Ints:
    """(n,) one integer for each (shard, row), -1 where the shard is not among the names."""
    code = pc.index_in(table[SHARD].cast(pa.string()), value_set=names).combine_chunks().fill_null(-1)
    row = table[ROW].combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    shard = code.to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where((shard >= 0) & (row >= 0), shard << _ROW_BITS | row, -1)
