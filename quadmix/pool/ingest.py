"""Which inputs must be prepared before they can be cut into units, and the task that prepares one.

One compressed stream is read by one task, once; afterwards its row groups are read in parallel like any others.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from quadmix.config import PoolConfig
from quadmix.hashing import sha256_file
from quadmix.pool.parquet_footer import read_footer
from quadmix.pool.prepared import MAX_ROW_GROUP_BYTES, write_prepared
from quadmix.pool.readers import read_unit
from quadmix.pool.refusals import FileRefused, Refusal
from quadmix.pool.row_checks import ReadLog
from quadmix.pool.storage import full_digest
from quadmix.pool.unit_plan import decoded_bytes
from quadmix.pool.units import InputFile, Piece, Unit

_TOLERATED = 4  # units: preparing costs a rewrite, so it must win that much parallelism


def must_prepare(file: InputFile, unit_bytes: int) -> bool:
    """Whether a file is one huge stream, or has row groups that no task should hold."""
    if file.format == "jsonl":
        return decoded_bytes(file) > _TOLERATED * unit_bytes
    if file.format == "prepared":
        return False
    footer = read_footer(file.path, file.shard, file.size, file.mtime_ns)
    limit = _TOLERATED * max(unit_bytes, MAX_ROW_GROUP_BYTES)
    return any(group.bytes > limit for group in footer.row_groups)


@dataclass(frozen=True)
class Prepared:
    """A prepared copy: its file name (by content), rows, bytes and sha256, the original's sha256, and what was put
    right while reading.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    original_sha256: str
    fixes: dict[str, int]


@dataclass(frozen=True)
class PrepareFile:
    """Task: rewrite one input file into `directory`; a bad file comes back as its refusal."""

    directory: str
    config: PoolConfig
    extras: tuple[str, ...]

    def __call__(self, file: InputFile) -> Prepared | Refusal:
        log = ReadLog()
        handle, temporary = tempfile.mkstemp(prefix="prepared-", suffix=".tmp", dir=self.directory)
        os.close(handle)
        try:
            rows = write_prepared(self._batches(file, log), Path(temporary), self.config.unit_bytes)
            digest = sha256_file(temporary)
            name = f"prepared-{digest[:16]}.parquet"
            size = os.path.getsize(temporary)
            original = full_digest(file.path)
            os.chmod(temporary, 0o644)
            os.replace(temporary, os.path.join(self.directory, name))
        except FileRefused as refused:
            return refused.refusal
        finally:
            Path(temporary).unlink(missing_ok=True)
        return Prepared(name, rows, size, digest, original, dict(sorted(log.fixes.items())))

    def _batches(self, file: InputFile, log: ReadLog) -> Iterator[pa.RecordBatch]:
        pieces: tuple[Piece, ...] = (Piece(file, -1, 0, -1),)
        if file.format == "parquet":
            groups = read_footer(file.path, file.shard, file.size, file.mtime_ns).row_groups
            starts = [sum(group.rows for group in groups[:index]) for index in range(len(groups))]
            pieces = tuple(
                Piece(file, index, start, start + group.rows)
                for index, (start, group) in enumerate(zip(starts, groups, strict=True))
                if group.rows
            )
        yield from read_unit(Unit(0, pieces, decoded_bytes(file), -1), self.config, self.extras, log)
