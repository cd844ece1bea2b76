"""JSON lines, plain, gzip (several members too) or zstandard: exact faults for every line, in bounded memory.

A row is a line that is not blank, numbered from 0. Lines are parsed one by one, so a broken one costs only itself;
a line too long to hold any document that is allowed is passed over without being kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pydantic_core import from_json

from quadmix.config import PoolConfig
from quadmix.pool.column_paths import MISSING, lookup
from quadmix.pool.refusals import FileRefused
from quadmix.pool.row_checks import RawRows, ReadLog
from quadmix.pool.storage import open_input, shown
from quadmix.pool.units import InputFile
from quadmix.schema import FileReason, RowReason

_BLOCK = 4 << 20
_PEEK_BYTES = 64 * 1024
_WORST_ESCAPE = 6  # bytes that JSON may spend on one: \u0001
_OTHER_FIELDS = 1 << 20
_CODECS = {"gz": "gzip", "zst": "zstd"}
_INT64 = range(-(2**63), 2**63)
_BOM = b"\xef\xbb\xbf"

Faulty = dict[int, tuple[RowReason, str]]


def read_jsonl(file: InputFile, config: PoolConfig, extras: tuple[str, ...], log: ReadLog) -> Iterator[RawRows]:
    """The rows of a whole file, a few MiB at a time. Raises FileRefused when the compressed stream is broken."""
    limit = _WORST_ESCAPE * config.max_doc_bytes + _OTHER_FIELDS
    row, line_number = 0, 1
    for lines in _blocks_of_lines(file, limit):
        documents: list[dict[str, Any]] = []
        faults: Faulty = {}
        for offset, line in enumerate(lines):
            document = _parse(line, line_number + offset, limit)
            if document is None:
                continue
            if isinstance(document, tuple):
                faults[len(documents)] = document
                document = {}
            documents.append(document)
        line_number += len(lines)
        if documents:
            yield _columns_of(documents, faults, file, row, config, extras, log)
            row += len(documents)


def peek_documents(file: InputFile) -> list[dict[str, Any]]:
    """The objects among the first lines: what the file's columns look like. Broken lines are left for the reader."""
    with _decoded(file) as stream:
        head = stream.read(_PEEK_BYTES)
    lines = head.removeprefix(_BOM).split(b"\n")
    if len(head) == _PEEK_BYTES:
        lines.pop()  # cut in the middle
    parsed = (_parse(line, 0, _PEEK_BYTES) for line in lines)
    return [document for document in parsed if isinstance(document, dict)]


def _blocks_of_lines(file: InputFile, limit: int) -> Iterator[list[bytes | None]]:
    """Complete lines as the stream delivers them; None stands for a line of more than `limit` bytes."""
    with _decoded(file) as stream:
        held: list[bytes] = []
        held_bytes = 0
        skipping = False
        first = True
        while block := stream.read(_BLOCK):
            if first:
                block, first = block.removeprefix(_BOM), False
            head, newline, rest = block.partition(b"\n")
            if not skipping:
                held.append(head)
                held_bytes += len(head)
                skipping = held_bytes > limit
            if skipping:
                held, held_bytes = [], 0
            if newline:
                complete, _, tail = rest.rpartition(b"\n")
                lines: list[bytes | None] = [None if skipping else b"".join(held)]
                if _:
                    lines.extend(complete.split(b"\n"))
                yield lines
                held, held_bytes, skipping = [tail], len(tail), False
        if held_bytes or skipping:
            yield [None if skipping else b"".join(held)]


@contextmanager
def _decoded(file: InputFile) -> Iterator[pa.NativeFile]:
    """The file's bytes after decompression; a broken stream raises FileRefused from inside the `with`."""
    codec = _CODECS.get(file.compression)
    with open_input(file.path) as raw:
        stream = pa.CompressedInputStream(raw, codec) if codec else raw
        try:
            yield stream
        except (pa.ArrowException, OSError) as error:
            if codec is None or isinstance(error, PermissionError):
                raise
            text = str(error)
            cut = "Truncated" in text
            reasons = {
                "gzip": (FileReason.BAD_GZIP, FileReason.TRUNCATED_GZIP),
                "zstd": (FileReason.BAD_ZSTD, FileReason.TRUNCATED_ZSTD),
            }[codec]
            what = f"the {codec} stream ends too early" if cut else f"not a sound {codec} stream ({text})"
            raise FileRefused(file.shard, shown(file.path), reasons[cut], f"{what}; copy the file again") from error


def _parse(line: bytes | None, number: int, limit: int) -> dict[str, Any] | tuple[RowReason, str] | None:
    """The object of one line, its fault, or None for a blank line."""
    if line is None:
        return RowReason.DOC_TOO_LARGE, f"line {number}: more than {limit} bytes"
    try:
        value = from_json(line, cache_strings="keys")
    except ValueError as error:
        if not line.strip():
            return None
        return _fault(line, number, str(error))
    if type(value) is dict:
        return value
    return RowReason.NOT_OBJECT, f"line {number}: {type(value).__name__}, wanted an object: {_shown(line)}"


def _fault(line: bytes, number: int, error: str) -> tuple[RowReason, str]:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return RowReason.BAD_UTF8, f"line {number}: byte {wrong.start}: {_shown(line)}"
    reason = RowReason.BAD_JSON
    if error.startswith("trailing characters"):
        reason = RowReason.TRAILING_DATA
    elif "surrogate" in error or "end of hex escape" in error:  # half of a pair: no text has it
        reason = RowReason.BAD_UTF8
    return reason, f"line {number}: {error.replace(' at line 1', '')}: {_shown(line)}"


def _shown(line: bytes) -> str:
    return line[:120].decode("utf-8", "backslashreplace")


def _columns_of(
    documents: list[dict[str, Any]],
    faults: Faulty,
    file: InputFile,
    first_row: int,
    config: PoolConfig,
    extras: tuple[str, ...],
    log: ReadLog,
) -> RawRows:
    columns = config.columns

    def values(path: str) -> list[Any]:
        return _values(documents, path, log)

    def strings(path: str, what: str, integers: bool) -> pa.Array:
        return _strings(values(path), what, integers, faults)

    by_column = config.id_from == "column" and columns.id is not None
    return RawRows(
        shard=file.shard,
        first_row=first_row,
        n_rows=len(documents),
        ids=strings(columns.id, "id", True) if by_column and columns.id is not None else None,
        texts=strings(columns.text, "text", False),
        domains=strings(columns.domain, "domain", True) if columns.domain is not None else None,
        tokens=_counts(values(columns.tokens), faults) if columns.tokens is not None else None,
        extras={path: _extra(values(path), path, faults) for path in extras},
        faults=faults,
    )


def _values(documents: list[dict[str, Any]], path: str, log: ReadLog) -> list[Any]:
    """(n,) values at `path`, None where there is none."""
    found = [document.get(path, MISSING) for document in documents]
    for row, value in enumerate(found):
        if value is MISSING:
            deeper, folded = lookup(documents[row], path)
            found[row] = None if deeper is MISSING else deeper
            if folded:
                log.fixes[f"column {path!r} spelled in another case"] += 1
    return found


def _strings(values: list[Any], what: str, integers: bool, faults: Faulty) -> pa.Array:
    """Text values; whole numbers too where `integers`; anything else is a TYPE fault."""
    kinds = set(map(type, values))
    if not kinds <= {str, type(None)}:
        for row, value in enumerate(values):
            if integers and type(value) is int:
                values[row] = str(value)
            elif value is not None and type(value) is not str:
                faults.setdefault(row, (RowReason.TYPE, f"{what} is {_kind(value)}, wanted text: {value!r:.120}"))
                values[row] = None
    return pa.array(values, pa.large_string())


def _counts(values: list[Any], faults: Faulty) -> pa.Array:
    """Token counts as int64 or float64; what is neither is a BAD_TOKENS fault."""
    kinds = set(map(type, values))
    for row, value in enumerate(values):
        if type(value) is int and value not in _INT64:
            faults.setdefault(row, (RowReason.BAD_TOKENS, f"found {value}"))
            values[row] = None
        elif value is not None and type(value) not in (int, float):
            faults.setdefault(row, (RowReason.BAD_TOKENS, f"tokens is {_kind(value)}, wanted a count: {value!r:.120}"))
            values[row] = None
    return pa.array(values, pa.float64() if float in kinds else pa.int64())


def _extra(values: list[Any], path: str, faults: Faulty) -> pa.Array:
    """A scorer's input: numbers if the batch holds any, else lists of numbers, else text; other types are faults."""
    kinds = set(map(type, values))
    wanted: tuple[type, ...] = (str,)
    kind = pa.large_string()
    if int in kinds or float in kinds:
        wanted, kind = (int, float), pa.float64()
    elif list in kinds:
        wanted, kind = (list,), pa.list_(pa.float64())
    for row, value in enumerate(values):
        if value is not None and (type(value) not in wanted or (type(value) is list and not _all_numbers(value))):
            faults.setdefault(row, (RowReason.TYPE, f"{path} is {_kind(value)}, wanted {kind}: {value!r:.120}"))
            values[row] = None
    return pa.array([float(value) if type(value) is int else value for value in values], kind)


def _all_numbers(values: list[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


def _kind(value: Mapping[str, Any] | Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)
