"""Units: the pieces of input that one task reads, fixed by the input and `unit_bytes` alone.

Files are taken in name order, row groups in file order. A unit is closed when it holds `unit_bytes` of
uncompressed input, and never shared between files unless whole small files are bundled, so appending files whose
names sort last never changes earlier units. Cores and cluster size play no part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFile:
    """One input file as found: `shard` is its name relative to its input root, unique in the run."""

    path: str
    shard: str
    size: int
    mtime_ns: int
    footer: str  # hash of the last 64 KiB: tells a changed file from an unchanged one without reading it whole
    format: str  # parquet | jsonl | prepared (a copy that `pool.ingest` made)
    compression: str  # "" | gz | zst (jsonl only)
    root: str = ""


@dataclass(frozen=True)
class Piece:
    """A run of rows of one file: rows start..stop-1 of the file; parquet pieces name their row group."""

    file: InputFile
    row_group: int  # -1 for jsonl
    start: int  # first row within the file
    stop: int  # -1: to the end of the file (jsonl, whose rows are not counted beforehand)


@dataclass(frozen=True)
class Unit:
    """About `unit_bytes` of input: what one task reads."""

    index: int
    pieces: tuple[Piece, ...]
    bytes: int
    rows: int  # -1 when unknown before reading (jsonl)
