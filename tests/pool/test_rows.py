"""Catalogue C and the token counts of D: every bad row has its reason, every other row is untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.errors import ConfigError
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.quarantine import DETAIL_CHARACTERS
from quadmix.pool.readers import MAX_BATCH_BYTES, read_unit
from quadmix.pool.row_checks import ReadLog
from tests.pool.building import documents, lines, pool, read_all, reasons, write_jsonl, write_parquet

LONG_ID = "x" * 5000


def with_row(tmp_path: Path, row: dict[str, Any] | bytes, form: str, **settings: Any) -> dict[str, Any]:
    """The bad row as read among nine good ones, which must all be fine."""
    good = documents(9)
    if isinstance(row, bytes):
        path = write_jsonl(tmp_path / "a.jsonl", lines(good[:4]) + row + b"\n" + lines(good[4:]))
    elif form == "jsonl":
        path = write_jsonl(tmp_path / "a.jsonl", [*good[:4], row, *good[4:]])
    else:
        path = write_parquet(tmp_path / "a.parquet", [*good[:4], row, *good[4:]])
    rows = read_all(pool(path, **settings))
    assert reasons(rows[:4] + rows[5:]) == {"ok": 9}
    assert [found["row"] for found in rows] == list(range(10))
    return rows[4]


def changed(**fields: Any) -> dict[str, Any]:
    return {**documents(1, 77)[0], **fields}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": None}, "NULL_ID"),
        ({"id": ""}, "NULL_ID"),
        ({"id": LONG_ID}, "ID_TOO_LONG"),
        ({"text": None}, "NULL_TEXT"),
        ({"text": ""}, "EMPTY_TEXT"),
        ({"text": " \n\t\u2003 "}, "EMPTY_TEXT"),
        ({"text": "y" * 3001}, "DOC_TOO_LARGE"),
        ({"domain": None}, "NULL_DOMAIN"),
        ({"domain": ""}, "NULL_DOMAIN"),
        ({"domain": "with\x00nul"}, "DOMAIN_INVALID"),
        ({"domain": "d" * 300}, "DOMAIN_INVALID"),
        ({"n_tokens": None}, "BAD_TOKENS"),
        ({"n_tokens": -1}, "NEG_TOKENS"),
        ({"n_tokens": 2**31}, "BAD_TOKENS"),
        ({"n_tokens": 0}, "ZERO_TOKENS"),
    ],
)
def test_a_bad_value_quarantines_its_row_only(tmp_path: Path, form: str, fields: dict[str, Any], reason: str) -> None:
    found = with_row(tmp_path, changed(**fields), form, max_doc_bytes=3000)
    assert found["reason"] == reason
    assert found["detail"] is None or len(found["detail"]) <= DETAIL_CHARACTERS


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["../../etc/passwd", "a\nb", "nul\x00", "🙂" * 100, "z" * 4000, " ", "-rf", "$(x)"])
def test_odd_ids_are_data(tmp_path: Path, form: str, name: str) -> None:
    found = with_row(tmp_path, changed(id=name), form)
    assert (found["reason"], found["doc_id"]) == (None, name)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["../../evil", "a/b", "%2F", ".", "..", "01", "1", "001", "1e3", "2024-01-01", "ünï"])
def test_odd_domains_are_distinct_data(tmp_path: Path, form: str, name: str) -> None:
    found = with_row(tmp_path, changed(domain=name), form)
    assert (found["reason"], found["domain"]) == (None, name)


@pytest.mark.parametrize(
    ("line", "reason", "shown"),
    [
        (b'{"id": "a", "text": "cut', "BAD_JSON", "line 5"),
        (b"{'id': 'a'}", "BAD_JSON", "line 5"),
        (b'{"id": "a",}', "BAD_JSON", "line 5"),
        (b"[" * 500, "BAD_JSON", "recursion"),
        (b'{"id": "a"} {"id": "b"}', "TRAILING_DATA", "line 5"),
        (b'["a"]', "NOT_OBJECT", "list"),
        (b'"text"', "NOT_OBJECT", "str"),
        (b"17", "NOT_OBJECT", "int"),
        (b"null", "NOT_OBJECT", "NoneType"),
        (b'{"id": "a", "text": 5, "domain": "x", "n_tokens": 3}', "TYPE", "text is a number"),
        (b'{"id": "a", "text": {"a": 1}, "domain": "x", "n_tokens": 3}', "TYPE", "text is an object"),
        (b'{"id": "a", "text": true, "domain": "x", "n_tokens": 3}', "TYPE", "text is a boolean"),
        (b'{"id": 1.5, "text": "t", "domain": "x", "n_tokens": 3}', "TYPE", "id is a number"),
        (b'{"id": "a", "text": "t", "domain": ["x"], "n_tokens": 3}', "TYPE", "domain is an array"),
        (b'{"id": "a", "domain": "x", "n_tokens": 3}', "NULL_TEXT", ""),
        (b'{"id": "a", "text": "\xff\xfe", "domain": "x", "n_tokens": 3}', "BAD_UTF8", "line 5"),
        (b'{"id": "a", "text": "\\ud800", "domain": "x", "n_tokens": 3}', "BAD_UTF8", "line 5"),
        (b'{"id": "a", "text": "t", "domain": "x", "n_tokens": 100000000000000000000}', "BAD_TOKENS", "1000000"),
        (b'{"id": "a", "text": "t", "domain": "x", "n_tokens": 1.9}', "BAD_TOKENS", "1.9"),
        (b'{"id": "a", "text": "t", "domain": "x", "n_tokens": "7"}', "BAD_TOKENS", "text"),
        (b'{"id": "a", "text": "t", "domain": "x", "n_tokens": true}', "BAD_TOKENS", "boolean"),
        (b'{"id": "a", "text": "t", "domain": "x", "n_tokens": NaN}', "BAD_TOKENS", ""),
        (b'{"id": "a", "text": "t", "domain": "x", "n_tokens": 1e400}', "BAD_TOKENS", ""),
        (b'{"id": "a", "text": "t", "domain": "x", "n_tokens": 9007199254740993.0}', "BAD_TOKENS", ""),
    ],
)
def test_a_bad_line_has_its_reason(tmp_path: Path, line: bytes, reason: str, shown: str) -> None:
    found = with_row(tmp_path, line, "jsonl")
    assert found["reason"] == reason
    assert shown in (found["detail"] or "")


def test_a_cut_last_line_is_one_bad_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", lines(documents(9))[:-20])
    assert reasons(read_all(pool(path))) == {"ok": 8, "BAD_JSON": 1}


def test_blank_lines_are_not_rows(tmp_path: Path) -> None:
    raw = b"\n\n" + lines(documents(3)) + b"  \n\r\n\n" + lines(documents(3, 3)) + b"{\n\n"
    rows = read_all(pool(write_jsonl(tmp_path / "a.jsonl", raw)))
    assert [row["row"] for row in rows] == list(range(7))
    assert reasons(rows) == {"ok": 6, "BAD_JSON": 1}
    assert rows[6]["detail"].startswith("line 12:")


def test_carriage_returns_and_a_byte_order_mark_are_harmless(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf" + lines(documents(5)).replace(b"\n", b"\r\n")
    assert reasons(read_all(pool(write_jsonl(tmp_path / "a.jsonl", raw)))) == {"ok": 5}


def test_a_last_line_without_newline_is_read(tmp_path: Path) -> None:
    assert len(read_all(pool(write_jsonl(tmp_path / "a.jsonl", lines(documents(5)).rstrip())))) == 5


def test_a_line_beyond_every_limit_costs_one_row(tmp_path: Path) -> None:
    huge = b'{"id": "h", "text": "' + b"a" * 9_000_000 + b'"}\n'
    raw = lines(documents(5)) + huge + lines(documents(5, 5)) + huge + huge.rstrip(b"\n")
    rows = read_all(pool(write_jsonl(tmp_path / "a.jsonl.zst", raw), max_doc_bytes=1000))
    assert [row["reason"] for row in rows] == [None] * 5 + ["DOC_TOO_LARGE"] + [None] * 5 + ["DOC_TOO_LARGE"] * 2


def test_invalid_utf8_in_parquet_is_found_row_by_row(tmp_path: Path) -> None:
    texts = [b"fine", b"\xff\xfe broken", "gr\u00fcn".encode(), b"\xed\xa0\x80"]
    raw = pa.array(texts, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())  # what careless writers produce
    ids = pa.array(["a", "b", "c", "d"])
    write_parquet(tmp_path / "a.parquet", pa.table({"id": ids, "text": text, "domain": ids, "n_tokens": [1, 2, 3, 4]}))
    rows = read_all(pool(tmp_path))
    assert [row["reason"] for row in rows] == [None, "BAD_UTF8", None, "BAD_UTF8"]
    assert rows[2]["text"] == "grün"


def test_float_token_counts_in_json_are_taken_when_whole(tmp_path: Path) -> None:
    log = ReadLog()
    rows = read_all(pool(write_jsonl(tmp_path / "a.jsonl", [changed(n_tokens=5.0), changed(n_tokens=6)])), log=log)
    assert [row["tokens"] for row in rows] == [5, 6]


def test_ids_from_content_and_position(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two"}, {"text": "one"}, {"text": None}]
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    write_parquet(tmp_path / "in" / "b.parquet", rows)
    bare = {"id": None, "domain": None, "tokens": None}
    by_content = [row["doc_id"] for row in read_all(pool(tmp_path / "in", columns=bare, id_from="content"))]
    assert by_content[0] == by_content[2] == by_content[4] == by_content[6]
    assert by_content[0] != by_content[1]
    assert len(by_content[0]) == 32
    assert by_content[3] is None
    by_position = [row["doc_id"] for row in read_all(pool(tmp_path / "in", columns=bare, id_from="position"))]
    assert by_position == [f"a.jsonl#{row}" for row in range(4)] + [f"b.parquet#{row}" for row in range(4)]
    with pytest.raises(ConfigError, match=r"pool\.columns\.id"):
        find_inputs(pool(tmp_path / "in", columns=bare))


def test_whole_number_ids_become_digits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "j" / "a.jsonl", [changed(id=7), changed(id=2**70)])
    write_parquet(tmp_path / "p" / "a.parquet", [changed(id=7), changed(id=-8)])
    assert [row["doc_id"] for row in read_all(pool(tmp_path / "j"))] == ["7", str(2**70)]
    assert [row["doc_id"] for row in read_all(pool(tmp_path / "p"))] == ["7", "-8"]


def test_extra_json_columns_of_mixed_types_fault_the_odd_ones(tmp_path: Path) -> None:
    values = [0.5, 3, None, "high", True, [1], float("nan")]
    write_jsonl(tmp_path / "a.jsonl", [changed(score=value) for value in values])
    rows = read_all(pool(tmp_path), ("score",))
    assert [row["reason"] for row in rows] == [None, None, None, "TYPE", "TYPE", "TYPE", None]
    assert [row["score"] for row in rows[:3]] == [0.5, 3.0, None]


@pytest.mark.long
def test_more_than_two_gib_of_text_in_one_column_chunk_is_read_in_small_batches(tmp_path: Path) -> None:
    """A dictionary page makes 2.2 GiB of decoded text a small file."""
    text = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 1100, pa.int32()), pa.array(["a" * 2**20, "b" * 2**20]))
    ids = pa.array([str(number) for number in range(2200)])
    path = tmp_path / "a.parquet"
    write_parquet(path, pa.table({"id": ids, "text": text}), group=2200, store_schema=False)
    config = pool(path, columns={"domain": None, "tokens": None})
    n_rows = n_bytes = 0
    for unit in plan_units(find_inputs(config).files, config.unit_bytes):
        for batch in read_unit(unit, config):
            assert batch.nbytes <= MAX_BATCH_BYTES
            n_rows += batch.num_rows
            n_bytes += batch["text"].nbytes
    assert n_rows == 2200
    assert n_bytes > 2**31


BAD_LINES = st.sampled_from([b"{", b"[1]", b'{"id":"x"} 1', b'{"text":"no id","domain":"d","n_tokens":1}', b"\xff{}"])


@given(st.lists(st.one_of(st.none(), BAD_LINES), max_size=60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_planted_bad_rows_are_counted_exactly(
    tmp_path_factory: pytest.TempPathFactory, plan: list[bytes | None], end: bool
) -> None:
    good = documents(len(plan))
    parts = [json.dumps(row).encode() if bad is None else bad for row, bad in zip(good, plan, strict=True)]
    raw = b"\n".join(parts) + (b"\n" if end else b"")
    if not raw:
        return
    path = write_jsonl(tmp_path_factory.mktemp("planted") / "a.jsonl.gz", raw)
    peek_fails = not any(bad is None for bad in plan)
    rows = [] if peek_fails else read_all(pool(path))
    if not peek_fails:
        assert reasons(rows)["ok"] == plan.count(None)
        assert len(rows) == len(plan)
        assert [row["doc_id"] for row in rows if row["reason"] is None] == [
            row["id"] for row, bad in zip(good, plan, strict=True) if bad is None
        ]
