"""The search for duplicate ids as two passes of small tasks: buckets find the losers, their units are written again.

A unit's first annotation is never touched: it stays as the piece that later runs reuse, whatever shards join the pool.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quadmix import schema
from quadmix.engine.base import Engine
from quadmix.pool.duplicates import LOSER_REASONS, Losers, find_losers, load_ids, n_buckets
from quadmix.pool.quarantine import escaped
from quadmix.stages.unit_files import BAD_ROWS_SCHEMA, file_of, write_annotations


@dataclass(frozen=True)
class FindLosers:
    """Task: bucket -> (file of its losers or "", the units that lose rows)."""

    directory: str
    scratch: str
    ids: tuple[str, ...]
    buckets: int

    def __call__(self, bucket: int) -> tuple[str, list[int]]:
        tables = load_ids([Path(self.directory) / name for name in self.ids])
        losers = find_losers(tables, bucket, self.buckets)
        if not losers.table.size:
            return "", []
        handle, name = tempfile.mkstemp(prefix=f"losers-{bucket:05d}-", suffix=".npy", dir=self.scratch)
        with os.fdopen(handle, "wb") as opened:
            np.save(opened, losers.table, allow_pickle=False)
        return name, losers.units()


@dataclass(frozen=True)
class QuarantineLosers:
    """Task: unit index -> the payload of the unit written again with its losing rows quarantined."""

    directory: str
    units: tuple[str, ...]
    bad: tuple[str, ...]  # file of each unit's rows that were quarantined before, or ""
    losers: tuple[str, ...]
    criteria: tuple[str, ...]

    def __call__(self, unit: int) -> dict[str, Any]:
        directory = Path(self.directory)
        found = [Losers(np.load(path, mmap_mode="r", allow_pickle=False)).of_unit(unit) for path in self.losers]
        position, reason, kept_unit, kept_position = np.concatenate(found, axis=1)
        order = np.argsort(position)
        position, reason = position[order], reason[order]
        details = [
            self._kept(int(other), int(row)) for other, row in zip(kept_unit[order], kept_position[order], strict=True)
        ]
        table = pq.read_table(directory / self.units[unit])
        status = np.full(table.num_rows, -1, dtype=np.int64)
        status[position] = reason
        names = pa.array([str(name) for name in LOSER_REASONS]).take(pa.array(status, mask=status < 0))
        column = table.schema.get_field_index(schema.STATUS)
        table = table.set_column(column, table.schema.field(column), pc.coalesce(names, table[schema.STATUS]))
        rows = table.take(pa.array(position))
        lost = [rows[schema.SHARD], rows[schema.ROW], rows[schema.DOC_ID], rows[schema.STATUS], pa.array(details)]
        bad = [pa.table([_one_chunk(values) for values in lost], schema=BAD_ROWS_SCHEMA)]
        if self.bad[unit]:
            bad.append(pq.read_table(directory / self.bad[unit]))
        for criterion in self.criteria:
            name = schema.score_column(criterion)
            place = table.schema.get_field_index(name)
            values = pc.if_else(pc.equal(table[schema.STATUS], schema.OK), table[name], pa.scalar(None, pa.float32()))
            table = table.set_column(place, table.schema.field(place), values)
        ordered = pa.concat_tables(bad)
        rank = pc.sort_indices(ordered, [(schema.SHARD, "ascending"), (schema.ROW, "ascending")])
        return write_annotations(directory, unit, table, self.criteria, [ordered.take(rank)])

    def _kept(self, unit: int, position: int) -> str:
        shards, rows = _places(str(Path(self.directory) / self.units[unit]))
        return escaped(f"kept: row {rows[position].as_py()} of {shards[position].as_py()}")


def quarantine_duplicates(
    engine: Engine, directory: Path, payloads: Sequence[dict[str, Any]], criteria: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The payloads of all units (in unit order), those that lose rows written again."""
    rows = sum(payload["ok"][0] for payload in payloads)
    buckets = n_buckets(rows)
    with tempfile.TemporaryDirectory(prefix="losers-", dir=directory) as scratch:
        task = FindLosers(str(directory), scratch, tuple(_path(payload, "ids") for payload in payloads), buckets)
        losers: dict[int, str] = {}
        affected: set[int] = set()
        for bucket, (name, units) in engine.map(task, range(buckets), label="duplicates"):
            if name:
                losers[bucket] = name
                affected.update(units)
        if not affected:
            return list(payloads)
        again = QuarantineLosers(
            str(directory),
            tuple(_path(payload, "unit") for payload in payloads),
            tuple(_path(payload, "bad") for payload in payloads),
            tuple(losers[bucket] for bucket in sorted(losers)),
            criteria,
        )
        result = list(payloads)
        items = sorted(affected)
        for place, payload in engine.map(again, items, label="quarantine duplicates"):
            result[items[place]] = {**payloads[items[place]], **payload}
    return result


def _path(payload: Mapping[str, Any], prefix: str) -> str:
    entry = file_of(dict(payload), prefix)
    return "" if entry is None else entry.path


@lru_cache(maxsize=16)
def _places(path: str) -> tuple[pa.Array, pa.Array]:
    """(shard, row) of every row of a unit."""
    table = pq.read_table(path, columns=[schema.SHARD, schema.ROW])
    return _one_chunk(table[schema.SHARD]), _one_chunk(table[schema.ROW])


def _one_chunk(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    joined = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined
