"""Small pools on disk, and everything that reading them gives, for the tests of pool and annotate."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from quadmix.config import Columns, PoolConfig
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.readers import read_unit
from quadmix.pool.row_checks import ReadLog


def documents(n: int, start: int = 0) -> list[dict[str, Any]]:
    """n documents with different ids and texts, every field well formed."""
    return [
        {
            "id": f"doc-{number:05d}",
            "text": f"This is document number {number}, and it says little else.",
            "domain": ("books", "code", "news")[number % 3],
            "n_tokens": 10 + number % 7,
            "score": (number * 37 % 101) / 100,
        }
        for number in range(start, start + n)
    ]


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]] | bytes) -> Path:
    """JSON lines, compressed as the name says; bytes are taken as they are."""
    raw = rows if isinstance(rows, bytes) else lines(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".gz"):
        raw = gzip.compress(raw, mtime=0)
    elif path.name.endswith(".zst"):
        raw = zstandard.ZstdCompressor(write_checksum=True).compress(raw)
    path.write_bytes(raw)
    return path


def write_parquet(
    path: Path,
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    *,
    group: int = 1000,
    checksums: bool = True,
    **options: Any,
) -> Path:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group, write_page_checksum=checksums, **options)
    return path


def pool(*inputs: Path, **settings: Any) -> PoolConfig:
    """A config over `inputs` with a domain and a token column."""
    columns = {"id": "id", "text": "text", "domain": "domain", "tokens": "n_tokens", **settings.pop("columns", {})}
    return PoolConfig(inputs=tuple(str(path) for path in inputs), columns=Columns(**columns), **settings)


def read_all(config: PoolConfig, extras: tuple[str, ...] = (), log: ReadLog | None = None) -> list[dict[str, Any]]:
    """Every row of the pool, in order, as dictionaries."""
    files = find_inputs(config, extras).accepted(skip_bad_files=False)
    units = plan_units(files, config.unit_bytes)
    return [row for unit in units for batch in read_unit(unit, config, extras, log) for row in batch.to_pylist()]


def reasons(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many rows have which reason; fine rows count under 'ok'."""
    return Counter(row["reason"] or "ok" for row in rows)
