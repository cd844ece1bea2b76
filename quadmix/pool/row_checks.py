"""The checks that every row passes before a scorer sees it: id, text, domain and token count (catalogue C, D, E).

Whole columns at a time; Python touches single values only in columns that hold something wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from quadmix.config import PoolConfig
from quadmix.pool.quarantine import Faults
from quadmix.schema import RowReason

MAX_TOKENS = 2**31 - 1  # of one document; more is a slip in the input
MAX_DOMAIN_BYTES = 255
_EXACT_FLOAT = 2.0**53


@dataclass(frozen=True)
class RawRows:
    """Rows as a reader found them, not yet judged. Arrays have n_rows values; None: the config names no such column.

    ids: text or integers. texts, domains: any text type, domains also integers. tokens: integers or floats.
    faults: row -> (reason, detail) for rows that the reader itself could not make sense of; their values are null.
    """

    shard: str
    first_row: int
    n_rows: int
    ids: pa.Array | None
    texts: pa.Array
    domains: pa.Array | None
    tokens: pa.Array | None
    extras: Mapping[str, pa.Array]
    faults: Mapping[int, tuple[RowReason, str]]


@dataclass
class ReadLog:
    """What was put right while reading: how many rows, by what was done."""

    fixes: Counter[str] = field(default_factory=Counter)


def checked_batch(raw: RawRows, config: PoolConfig, log: ReadLog) -> pa.RecordBatch:
    """The batch that stages see: shard, row, doc_id, text, [domain], [tokens], extras, reason, detail."""
    faults = Faults.none(raw.n_rows)
    faults.mark_rows(raw.faults)
    rows = pa.array(np.arange(raw.first_row, raw.first_row + raw.n_rows, dtype=np.int64))
    given = None if raw.ids is None else _checked_ids(raw.ids, config, faults)
    texts = _checked_texts(raw.texts, config, faults)
    ids = _derived_ids(raw, texts, rows, config) if given is None else given
    columns = {"shard": pa.repeat(pa.scalar(raw.shard, pa.string()), raw.n_rows), "row": rows}
    columns |= {"doc_id": ids, "text": texts}
    if raw.domains is not None:
        columns["domain"] = checked_domains(raw.domains, faults)
    if raw.tokens is not None:
        columns["tokens"] = _checked_tokens(raw.tokens, faults, log)
    columns |= raw.extras
    columns |= {"reason": faults.reasons(), "detail": faults.detail_column()}
    return pa.record_batch(list(columns.values()), names=list(columns))


def checked_domains(domains: pa.Array, faults: Faults) -> pa.Array:
    """(n,) string. Null and empty names are never merged together: both are NULL_DOMAIN."""
    return _checked_names(domains, faults, "domain", RowReason.NULL_DOMAIN, RowReason.DOMAIN_INVALID)


def checked_clusters(clusters: pa.Array, faults: Faults) -> pa.Array:
    """(n,) string, as for domains: null and empty names are NULL_CLUSTER."""
    return _checked_names(clusters, faults, "cluster", RowReason.NULL_CLUSTER, RowReason.CLUSTER_INVALID)


def _checked_names(
    column: pa.Array, faults: Faults, what: str, null_reason: RowReason, invalid_reason: RowReason
) -> pa.Array:
    names, broken = as_text(column)
    faults.mark(broken, RowReason.BAD_UTF8, what)
    names = pc.cast(names, pa.string())
    coded = names.dictionary_encode()
    known = coded.dictionary.to_pylist()
    codes = np.asarray(pc.fill_null(coded.indices, len(known)))
    empty = np.array([not name for name in known] + [True])
    invalid = np.array([_domain_invalid(name) for name in known] + [False])
    faults.mark(empty[codes], null_reason)
    faults.mark(invalid[codes], invalid_reason, lambda row: known[codes[row]])
    return names


def as_text(column: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """(values as large_string, (n,) rows whose bytes are not UTF-8; those become null). Integers become digits."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    nothing = np.zeros(len(column), dtype=np.bool_)
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.large_string()), nothing
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column.validate(full=True)  # readers of Parquet do not look whether text is UTF-8
        return pc.cast(column, pa.large_string()), nothing
    except pa.ArrowInvalid:
        return _decode_each(column)


def _decode_each(column: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    values: list[str | None] = []
    broken = np.zeros(len(column), dtype=np.bool_)
    for row, raw in enumerate(pc.cast(column, pa.large_binary()).to_pylist()):
        try:
            values.append(None if raw is None else raw.decode("utf-8"))
        except UnicodeDecodeError:
            values.append(None)
            broken[row] = True
    return pa.array(values, pa.large_string()), broken


def _checked_ids(column: pa.Array, config: PoolConfig, faults: Faults) -> pa.Array:
    ids, broken = as_text(column)
    faults.mark(broken, RowReason.BAD_UTF8, "id")
    lengths = _lengths(ids)
    faults.mark(lengths <= 0, RowReason.NULL_ID, lambda row: "empty id" if lengths[row] == 0 else "no id")
    too_long = lengths > config.max_id_bytes
    if too_long.any():
        faults.mark(too_long, RowReason.ID_TOO_LONG, lambda row: f"{lengths[row]} bytes: {ids[row].as_py()[:200]}")
        ids = pc.if_else(pa.array(too_long), pa.scalar(None, pa.large_string()), ids)
    return pc.cast(ids, pa.string())


def _derived_ids(raw: RawRows, texts: pa.Array, rows: pa.Array, config: PoolConfig) -> pa.Array:
    """Ids of a pool that has none: 32 hex digits of xxh3-128 over the text's bytes, or `shard#row`."""
    if config.id_from == "position":
        return pc.binary_join_element_wise(pa.scalar(raw.shard), pc.cast(rows, pa.string()), "#")
    digest = xxhash.xxh3_128_hexdigest
    return pa.array(
        [None if text is None else digest(text.encode("utf-8")) for text in texts.to_pylist()], type=pa.string()
    )


def _checked_texts(column: pa.Array, config: PoolConfig, faults: Faults) -> pa.Array:
    texts, broken = as_text(column)
    faults.mark(broken, RowReason.BAD_UTF8, "text")
    lengths = _lengths(texts)
    faults.mark(lengths < 0, RowReason.NULL_TEXT)
    blank = np.asarray(pc.fill_null(pc.utf8_is_space(texts), False)) | (lengths == 0)
    faults.mark(blank, RowReason.EMPTY_TEXT)
    too_large = lengths > config.max_doc_bytes
    if too_large.any():
        limit = config.max_doc_bytes
        faults.mark(too_large, RowReason.DOC_TOO_LARGE, lambda row: f"{lengths[row]} bytes, at most {limit} wanted")
        texts = pc.if_else(pa.array(too_large), pa.scalar(None, pa.large_string()), texts)
    return texts


def _checked_tokens(column: pa.Array, faults: Faults, log: ReadLog) -> pa.Array:
    """(n,) int64, null where the count is not one. Floats that hold whole numbers are taken and counted as a fix."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    values = np.zeros(len(column)) if pa.types.is_null(column.type) else np.asarray(pc.fill_null(column, 0))
    good = valid & np.isfinite(values) & (values >= 0) & (values <= MAX_TOKENS)
    faults.mark(valid & (values < 0), RowReason.NEG_TOKENS, lambda row: f"{values[row]} tokens")
    if values.dtype.kind == "f":
        good &= (values == np.floor(values)) & (np.abs(values) < _EXACT_FLOAT)
        log.fixes["token counts stored as floats"] += int(good.sum())
    faults.mark(~good, RowReason.BAD_TOKENS, lambda row: f"found {column[row]}, wanted 0..{MAX_TOKENS}")
    faults.mark(good & (values == 0), RowReason.ZERO_TOKENS)
    return pa.array(np.where(good, values, 0).astype(np.int64), mask=~good)


def _lengths(texts: pa.Array) -> NDArray[np.int64]:
    """(n,) bytes of each value, -1 for null."""
    return np.asarray(pc.fill_null(pc.binary_length(texts), -1)).astype(np.int64, copy=False)


def _domain_invalid(name: str) -> bool:
    return len(name.encode("utf-8")) > MAX_DOMAIN_BYTES or any(ord(sign) < 32 or ord(sign) == 127 for sign in name)
