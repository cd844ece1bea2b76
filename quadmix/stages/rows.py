"""Reading annotation files as batches that plans understand: documents of status ok, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.errors import InputError
from quadmix.schema import CLUSTER, DOC_HASH, DOMAIN, N_TOKENS, OK, STATUS, score_column
from quadmix.selectors.base import DocBatch


@dataclass(frozen=True)
class RowReader:
    """Which columns to read, and the pool's domain names that give domains their index.

    Passes that draw nothing leave `hashes` out (the column that compresses least): their batches hold zeros. Where
    cluster names are given, batches hold each document's index into them.
    """

    domains: tuple[str, ...]
    criteria: tuple[str, ...]
    extra: tuple[str, ...] = ()
    hashes: bool = True
    clusters: tuple[str, ...] = ()

    def batches(self, path: str) -> Iterator[tuple[DocBatch, pa.Table]]:
        """(documents of status ok, their further columns `extra`), one row group at a time, in input order."""
        columns = [N_TOKENS, DOMAIN, STATUS, *map(score_column, self.criteria), *([DOC_HASH] if self.hashes else [])]
        columns += [CLUSTER] if self.clusters else []
        columns += [name for name in self.extra if name not in columns]
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns, use_threads=False)
                kept = _ok_rows(table[STATUS])
                if kept is not None:
                    table = table.take(kept)
                yield self._batch(table, path), table.select(list(self.extra))

    def _batch(self, table: pa.Table, path: str) -> DocBatch:
        scores = np.empty((table.num_rows, len(self.criteria)), dtype=np.float32, order="F")
        for column, name in enumerate(self.criteria):
            scores[:, column] = _numpy(table[score_column(name)])
            if not np.isfinite(scores[:, column]).all():
                raise InputError(
                    f"{path}: {score_column(name)} holds NaN, infinity or null in a row of status ok, wanted a finite "
                    "number in each; run annotate again"
                )
        hashes = _numpy(table[DOC_HASH]) if self.hashes else np.zeros(table.num_rows, dtype=np.uint64)
        domain = _codes(table[DOMAIN], self.domains, f"{path}: domains")
        if self.clusters and CLUSTER not in table.column_names:
            raise InputError(f"{path}: the annotations have no clusters; run annotate again with annotate.clusters")
        cluster = _codes(table[CLUSTER], self.clusters, f"{path}: clusters") if self.clusters else None
        return DocBatch(hashes, domain, _numpy(table[N_TOKENS]), scores, cluster)


def _codes(column: pa.ChunkedArray, known: tuple[str, ...], what: str) -> NDArray[np.int32]:
    """(n,) index of every name among the known ones, -1 for null. Raises InputError for a name that is not there."""
    place = _places(known)
    codes = np.empty(len(column), dtype=np.int32)
    start = 0
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            chunk = chunk.dictionary_encode()
        names: Sequence[str] = chunk.dictionary.to_pylist()
        mapping = np.array([*(place.get(name, -2) for name in names), -1], dtype=np.int32)
        mine = mapping[_numpy(pc.fill_null(chunk.indices, len(names)))]
        if mine.size and int(mine.min()) < -1:
            unknown = sorted({name for name in names if name not in place})
            raise InputError(f"{what} {unknown} are not in the pool's summary; run annotate again")
        codes[start : start + len(chunk)] = mine
        start += len(chunk)
    return codes


@lru_cache(maxsize=4)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _ok_rows(status: pa.ChunkedArray) -> pa.Array | None:
    """Row numbers of status ok; None when every row is."""
    if pa.types.is_dictionary(status.type):
        fine = [_numpy(chunk.indices) == _place_of_ok(chunk.dictionary) for chunk in status.chunks]
    else:
        fine = [_numpy(pc.equal(chunk, OK)) for chunk in status.chunks]
    if all(part.all() for part in fine):
        return None
    return pa.array(np.flatnonzero(np.concatenate(fine)))


def _place_of_ok(dictionary: pa.Array) -> int:
    names: list[str] = dictionary.to_pylist()
    return names.index(OK) if OK in names else -1


def _numpy(column: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    values: NDArray[Any] = (
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
    return values
