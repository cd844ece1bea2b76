"""Duplicate document ids across the whole pool, found without ever holding the pool.

Every unit leaves its usable rows' hashes sorted by document hash; a bucket is one range of hashes and one task.
Kept is the row with the smallest (content hash, shard, row), so which text survives never depends on how the input
is split or named. After it, document hashes are unique among usable rows, which the draws and tie-breaks rely on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from quadmix.schema import RowReason

BUCKET_ROWS = 4_000_000
LOSER_REASONS = (RowReason.DUP_ID_SAME, RowReason.DUP_ID_CONFLICT, RowReason.HASH_COLLISION)


@dataclass(frozen=True)
class Losers:
    """k rows that lose against another row of the same document hash, sorted by (unit, position).

    table: (5, k) int64: unit, position in the unit, index into LOSER_REASONS, the kept row's unit and position.
    """

    table: NDArray[np.int64]

    def of_unit(self, unit: int) -> NDArray[np.int64]:
        """(4, k_unit): the table's columns of one unit, without the unit itself."""
        low, high = np.searchsorted(self.table[0], [unit, unit + 1])
        return self.table[1:, low:high]

    def units(self) -> list[int]:
        """Units that lose rows."""
        return [int(unit) for unit in np.unique(self.table[0])]


def id_checks(doc_ids: Sequence[str]) -> NDArray[np.uint64]:
    """A second, independent hash (xxh3, 64 bits) of every id: tells a repeated id from two ids of one hash."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(doc_id.encode("utf-8")) for doc_id in doc_ids), dtype=np.uint64)


def sorted_ids(
    doc_hash: NDArray[np.uint64],
    id_check: NDArray[np.uint64],
    content_hash: NDArray[np.uint64],
    position: NDArray[np.integer],
) -> NDArray[np.uint64]:
    """(4, n) uint64 sorted by document hash: what one unit leaves for the search for duplicates."""
    order = np.argsort(doc_hash, kind="stable")
    return np.stack([doc_hash, id_check, content_hash, position.astype(np.uint64)])[:, order]


def n_buckets(rows: int) -> int:
    """Buckets for a pool of so many rows."""
    return max(1, -(-rows // BUCKET_ROWS))


def find_losers(ids: Sequence[NDArray[np.uint64]], bucket: int, buckets: int) -> Losers:
    """Compare all units' rows whose hash lies in one of `buckets` equal ranges. ids[u]: unit u's `sorted_ids`."""
    low = bucket * 2**64 // buckets
    last = (bucket + 1) * 2**64 // buckets - 1
    parts, units = [], []
    for unit, table in enumerate(ids):
        start = int(np.searchsorted(table[0], np.uint64(low), side="left"))
        stop = int(np.searchsorted(table[0], np.uint64(last), side="right"))
        if stop > start:
            parts.append(np.asarray(table[:, start:stop]))
            units.append(np.full(stop - start, unit, dtype=np.int64))
    if not parts:
        return Losers(np.zeros((5, 0), dtype=np.int64))
    table = np.concatenate(parts, axis=1)
    unit_of = np.concatenate(units)
    repeated = _repeated(table[0])
    return _judge(table[:, repeated], unit_of[repeated])


def load_ids(paths: Sequence[Path]) -> list[NDArray[np.uint64]]:
    """The units' tables, memory-mapped: a bucket reads only its own range."""
    return [_load(path) for path in paths]


def _load(path: Path) -> NDArray[np.uint64]:
    table: NDArray[np.uint64] = np.load(path, mmap_mode="r", allow_pickle=False)
    return table


def _repeated(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) whether the value occurs more than once."""
    order = np.argsort(hashes, kind="stable")
    ranked = hashes[order]
    same = ranked[1:] == ranked[:-1]
    mask = np.zeros(len(hashes), dtype=np.bool_)
    mask[order[1:]] |= same
    mask[order[:-1]] |= same
    return mask


def _judge(table: NDArray[np.uint64], unit_of: NDArray[np.int64]) -> Losers:
    doc_hash, id_check, content, position = table
    order = np.lexsort((position, unit_of, content, doc_hash))
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = doc_hash[order][1:] != doc_hash[order][:-1]
    winner = order[np.flatnonzero(first)[np.cumsum(first) - 1]]
    loser, kept = order[~first], winner[~first]
    same_id = id_check[loser] == id_check[kept]
    same_text = content[loser] == content[kept]
    reason = np.where(~same_id, 2, np.where(same_text, 0, 1))
    rows = np.stack(
        [unit_of[loser], position[loser].astype(np.int64), reason, unit_of[kept], position[kept].astype(np.int64)]
    )
    return Losers(np.ascontiguousarray(rows[:, np.lexsort((rows[1], rows[0]))], dtype=np.int64))
