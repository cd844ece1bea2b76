"""What a Parquet file's footer says, and whether the file is whole: read once a file and process.

The 8 bytes at the end and 4 at the beginning tell a cut file from one that never was Parquet. Whether pages carry
checksums is not in the footer; the first page's header says it (parquet-format, PageHeader.crc, Thrift field 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from quadmix.pool.refusals import FileRefused
from quadmix.pool.storage import open_input, shown
from quadmix.schema import FileReason

_MAGIC = b"PAR1"


@dataclass(frozen=True)
class RowGroup:
    """rows and uncompressed bytes of one row group."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Footer:
    """Row groups in file order, the Arrow schema, and whether pages carry checksums."""

    row_groups: tuple[RowGroup, ...]
    schema: pa.Schema
    page_checksums: bool

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.row_groups)


@lru_cache(maxsize=1 << 16)
def read_footer(path: str, shard: str, size: int, mtime_ns: int) -> Footer:
    """The footer of the file at `path`; `size` and `mtime_ns` only tell one version of it from another.

    Raises FileRefused with EMPTY_FILE, NOT_PARQUET or TRUNCATED_PARQUET.
    """
    with open_input(path) as handle:
        found = int(handle.size())
        fault = _fault(handle, found)
        if fault is not None:
            raise FileRefused(shard, shown(path), *fault)
        try:
            metadata = pq.ParquetFile(handle).metadata
            schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            message = f"the footer cannot be read ({error}); the file was damaged or cut"
            raise FileRefused(shard, shown(path), FileReason.TRUNCATED_PARQUET, message) from error
        groups = tuple(
            RowGroup(group.num_rows, group.total_byte_size)
            for group in (metadata.row_group(index) for index in range(metadata.num_row_groups))
        )
        return Footer(groups, schema, _page_checksums(handle, metadata))


def _fault(handle: pa.NativeFile, size: int) -> tuple[FileReason, str] | None:
    if size == 0:
        return FileReason.EMPTY_FILE, "found 0 bytes, wanted a Parquet file"
    head = handle.read_at(min(4, size), 0)
    if head == b"PARE":
        return FileReason.NOT_PARQUET, "found an encrypted footer, wanted plain Parquet"
    if head != _MAGIC:
        return FileReason.NOT_PARQUET, f"found {head!r} at the beginning, wanted {_MAGIC!r}"
    tail = handle.read_at(8, size - 8) if size >= 12 else b""
    if tail[4:] != _MAGIC:
        return FileReason.TRUNCATED_PARQUET, f"found {tail[4:]!r} at the end, wanted {_MAGIC!r}; copy the file again"
    if int.from_bytes(tail[:4], "little") + 12 > size:
        return FileReason.TRUNCATED_PARQUET, "the footer is said to be longer than the file; copy the file again"
    return None


def _page_checksums(handle: pa.NativeFile, metadata: pq.FileMetaData) -> bool:
    """Whether the first page's header holds a CRC. A file without rows has nothing to check: True."""
    if metadata.num_row_groups == 0 or metadata.num_columns == 0:
        return True
    chunk = metadata.row_group(0).column(0)
    offset = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return _header_has_crc(handle.read_at(64, offset))


def _header_has_crc(header: bytes) -> bool:
    """Walk a PageHeader in Thrift's compact protocol up to field 4; fields come in the order of their numbers."""
    position, field = 0, 0
    while position < len(header) and header[position]:
        delta, kind = header[position] >> 4, header[position] & 0x0F
        field += delta
        if delta == 0 or kind != 5 or field >= 4:  # fields 1 to 4 are i32 and follow each other
            return field == 4 and kind == 5
        position += 1
        while position < len(header) and header[position] & 0x80:
            position += 1
        position += 1
    return False
