"""Catalogue B: columns that are missing, misspelled, of another type, in another case, or nested."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from quadmix.errors import ConfigError
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.readers import read_unit
from quadmix.pool.refusals import FileRefused
from quadmix.pool.row_checks import ReadLog
from quadmix.schema import FileReason
from tests.pool.building import documents, pool, read_all, reasons, write_jsonl, write_parquet


def table(n: int = 6, start: int = 0, **columns: pa.Array) -> pa.Table:
    """The standard documents as a table, some columns replaced; None drops one."""
    built = pa.Table.from_pylist(documents(n, start))
    for name, values in columns.items():
        position = built.schema.get_field_index(name)
        built = built.remove_column(position)
        if values is not None:
            built = built.add_column(position, name, values)
    return built


@pytest.mark.parametrize("column", ["text", "id"])
def test_a_file_without_text_or_id_is_refused(tmp_path: Path, column: str) -> None:
    write_parquet(tmp_path / "a.parquet", table(**{column: None}))
    write_parquet(tmp_path / "b.parquet", documents(6, 6))
    write_jsonl(tmp_path / "c.jsonl", [{k: v for k, v in row.items() if k != column} for row in documents(6, 12)])
    inventory = find_inputs(pool(tmp_path))
    assert {refusal.shard: refusal.reason for refusal in inventory.refused} == {
        "a.parquet": FileReason.MISSING_COLUMN,
        "c.jsonl": FileReason.MISSING_COLUMN,
    }
    assert column in inventory.refused[0].message


@pytest.mark.parametrize("write", [write_parquet, write_jsonl])
def test_a_misspelled_column_is_a_config_error_with_the_nearest_name(tmp_path: Path, write: object) -> None:
    name = "a.parquet" if write is write_parquet else "a.jsonl.zst"
    write(tmp_path / name, documents(6))  # type: ignore[operator]
    with pytest.raises(ConfigError) as caught:
        find_inputs(pool(tmp_path, columns={"tokens": "n_tok", "text": "txt"}), ("scor",))
    problems = caught.value.problems
    assert len(problems) == 3
    for problem, meant in zip(problems, ("text", "n_tokens", "score"), strict=True):
        assert "UNKNOWN_COLUMN" in problem
        assert f"did you mean '{meant}'?" in problem


def test_whole_counts_stored_as_floats_in_one_file_are_taken(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(6))
    write_parquet(tmp_path / "b.parquet", table(6, 6, n_tokens=pa.array([5.0] * 6)))
    log = ReadLog()
    rows = read_all(pool(tmp_path), log=log)
    assert [row["tokens"] for row in rows[6:]] == [5] * 6
    assert log.fixes == {"token counts stored as floats": 6}


def test_broken_counts_stored_as_floats_in_one_file_refuse_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(6))
    write_parquet(tmp_path / "b.parquet", table(6, 6, n_tokens=pa.array([5.0] * 5 + [1.9])))
    (refusal,) = find_inputs(pool(tmp_path)).refused
    assert (refusal.shard, refusal.reason) == ("b.parquet", FileReason.TYPE_DRIFT)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", pa.array(range(6))),
        ("n_tokens", pa.array(["7"] * 6)),
        ("text", pa.array(range(6))),
        ("domain", pa.array([1.5] * 6)),
        ("score", pa.array(["0.5"] * 6)),
    ],
)
def test_a_file_of_another_type_is_refused(tmp_path: Path, column: str, values: pa.Array) -> None:
    write_parquet(tmp_path / "a.parquet", documents(6))
    write_parquet(tmp_path / "b.parquet", table(6, 6, **{column: values}))
    write_parquet(tmp_path / "c.parquet", documents(6, 12))
    (refusal,) = find_inputs(pool(tmp_path), ("score",)).refused
    assert (refusal.shard, refusal.reason) == ("b.parquet", FileReason.TYPE_DRIFT)
    assert column in refusal.message


def test_the_reader_refuses_a_type_that_slipped_past_the_inventory(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(6))
    config = pool(tmp_path)
    (unit,) = plan_units(find_inputs(config).files, config.unit_bytes)
    with pytest.raises(FileRefused, match="TYPE_DRIFT"):
        list(read_unit(unit, pool(tmp_path, columns={"text": "n_tokens"})))


def test_extra_columns_are_ignored_and_listed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(6))
    write_parquet(tmp_path / "b.parquet", table(6, 6).append_column("extra", pa.array(range(6))))
    inventory = find_inputs(pool(tmp_path))
    assert inventory.warnings == ("EXTRA_COLUMN: only some of the 2 Parquet files have extra",)
    assert reasons(read_all(pool(tmp_path))) == {"ok": 12}


def test_a_score_that_the_first_file_lacks_is_null_there_only(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", table(score=None))
    write_parquet(tmp_path / "b.parquet", documents(6, 6))
    rows = read_all(pool(tmp_path), ("score",))
    assert [row["score"] is None for row in rows] == [True] * 6 + [False] * 6
    assert any(
        warning.startswith("MISSING_COLUMN: 'score'") for warning in find_inputs(pool(tmp_path), ("score",)).warnings
    )


def test_other_case_is_folded_and_reported(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(6))
    write_parquet(tmp_path / "b.parquet", table(6, 6).rename_columns(["ID", "text", "Domain", "N_Tokens", "score"]))
    write_jsonl(tmp_path / "c.jsonl", [{key.upper(): value for key, value in row.items()} for row in documents(6, 12)])
    log = ReadLog()
    rows = read_all(pool(tmp_path), log=log)
    assert reasons(rows) == {"ok": 18}
    assert [row["doc_id"] for row in rows] == [f"doc-{number:05d}" for number in range(18)]
    assert log.fixes["column 'id' spelled in another case"] == 12
    assert any(warning.startswith("CASE_FOLDED: 'domain'") for warning in find_inputs(pool(tmp_path)).warnings)


def test_an_exact_name_beats_a_folded_one(tmp_path: Path) -> None:
    both = table(6).append_column("Text", pa.array(["wrong"] * 6))
    write_parquet(tmp_path / "a.parquet", both)
    assert all(row["text"].startswith("This is") for row in read_all(pool(tmp_path)))


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()],
)
def test_all_types_of_text_give_the_same_rows(tmp_path: Path, kind: pa.DataType) -> None:
    plain = table(40)
    write_parquet(tmp_path / "plain" / "a.parquet", plain)
    other = plain
    for name in ("id", "text", "domain"):
        column = plain[name].cast(pa.binary()) if "binary" in str(kind) else plain[name]
        other = other.set_column(other.schema.get_field_index(name), name, column.cast(kind))
    write_parquet(tmp_path / "other" / "a.parquet", other)
    assert read_all(pool(tmp_path / "other")) == read_all(pool(tmp_path / "plain"))


@pytest.mark.parametrize("write", [write_parquet, write_jsonl])
def test_nested_columns_are_reached_by_dotted_paths(tmp_path: Path, write: object) -> None:
    rows = [
        {
            "meta": {"id": row["id"], "src": {"domain": row["domain"]}, "n": row["n_tokens"], "q": row["score"]},
            "text": row["text"],
        }
        for row in documents(10)
    ]
    write(tmp_path / ("a.parquet" if write is write_parquet else "a.jsonl"), rows)  # type: ignore[operator]
    write_parquet(tmp_path / "flat" / "a.parquet", documents(10))
    nested = pool(
        tmp_path / ("a.parquet" if write is write_parquet else "a.jsonl"),
        columns={"id": "meta.id", "domain": "meta.src.domain", "tokens": "meta.n"},
    )
    found = read_all(nested, ("meta.q",))
    plain = read_all(pool(tmp_path / "flat"), ("score",))
    for mine, theirs in zip(found, plain, strict=True):
        assert mine["meta.q"] == theirs["score"]
        assert all(mine[name] == theirs[name] for name in ("doc_id", "text", "domain", "tokens", "row"))


def test_null_structs_give_null_fields(tmp_path: Path) -> None:
    rows = [{"meta": {"id": "a"}, "text": "one"}, {"meta": None, "text": "two"}]
    write_parquet(tmp_path / "a.parquet", rows)
    found = read_all(pool(tmp_path, columns={"id": "meta.id", "domain": None, "tokens": None}))
    assert [row["reason"] for row in found] == [None, "NULL_ID"]


def test_a_column_whose_name_holds_a_dot_is_found(tmp_path: Path) -> None:
    rows = [{"the.id": row["id"], "text": row["text"]} for row in documents(3)]
    write_parquet(tmp_path / "a.parquet", rows)
    write_jsonl(tmp_path / "b.jsonl", [{"the.id": row["id"], "text": row["text"]} for row in documents(3, 3)])
    found = read_all(pool(tmp_path, columns={"id": "the.id", "domain": None, "tokens": None}))
    assert [row["doc_id"] for row in found] == [f"doc-{number:05d}" for number in range(6)]
