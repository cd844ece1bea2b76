"""Cutting files into units, by the input and `unit_bytes` alone.

Small files are bundled in name order while they fit; a file that fills a unit by itself is cut between row groups and
shares no unit. So a file appended at the end of the order can at most join the last, not yet full bundle.
"""

from __future__ import annotations

from collections.abc import Sequence

from quadmix.pool.parquet_footer import read_footer
from quadmix.pool.units import InputFile, Piece, Unit

# bytes of text behind one stored byte; only steers how many small files share a unit
_EXPANSION = {"": 1, "gz": 3, "zst": 4}


def decoded_bytes(file: InputFile) -> int:
    """About how many bytes a file holds once decoded: exact for Parquet, estimated for compressed JSONL."""
    if file.format == "jsonl":
        return file.size * _EXPANSION[file.compression]
    return sum(size for _, size in _pieces(file))


def plan_units(files: Sequence[InputFile], unit_bytes: int) -> tuple[Unit, ...]:
    """Units of about `unit_bytes` decoded bytes, in the order of the files (sorted by shard)."""
    units: list[Unit] = []
    bundle: list[Piece] = []
    held = 0

    def close() -> None:
        nonlocal held
        if bundle:
            known = all(piece.stop >= 0 for piece in bundle)
            rows = sum(piece.stop - piece.start for piece in bundle) if known else -1
            units.append(Unit(len(units), tuple(bundle), held, rows))
            bundle.clear()
            held = 0

    for file in sorted(files, key=lambda item: item.shard):
        pieces = _pieces(file)
        total = sum(size for _, size in pieces)
        alone = total >= unit_bytes
        if alone or held + total > unit_bytes:
            close()
        for piece, size in pieces:
            if alone and held + size > unit_bytes:
                close()
            bundle.append(piece)
            held += size
        if alone:
            close()
    close()
    return tuple(units)


def _pieces(file: InputFile) -> list[tuple[Piece, int]]:
    """(piece, decoded bytes) of a whole file: one a row group, or the file itself."""
    if file.format == "jsonl":
        return [(Piece(file, -1, 0, -1), decoded_bytes(file))]
    pieces, start = [], 0
    groups = read_footer(file.path, file.shard, file.size, file.mtime_ns).row_groups
    for index, group in enumerate(groups):
        if group.rows:
            pieces.append((Piece(file, index, start, start + group.rows), group.bytes))
        start += group.rows
    return pieces
