"""What annotate leaves on disk: every row once, the right columns, bytes that depend on the rows alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix import schema
from quadmix.core.summary import PoolSummary
from quadmix.engine.local import LocalEngine
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import content_hash, doc_hash
from quadmix.pool.readers import read_unit
from quadmix.progress import Progress
from quadmix.stages.annotate import annotate
from tests.pool.building import documents, write_jsonl, write_parquet
from tests.stages.annotate_pools import counts, quarantine_of, rows_of, run, run_config, status_of
from tests.stages.inline_engine import InlineEngine

COLUMNS = [
    "doc_id",
    "doc_hash",
    "content_hash",
    "shard",
    "row",
    "n_tokens",
    "n_bytes",
    "domain",
    "status",
    "score_score",
]


def tree(directory: Path) -> dict[str, str]:
    """Name -> sha256 of the files that a record may list."""
    kept = [path for path in directory.rglob("*") if path.is_file() and "pieces" not in path.parts]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def test_every_input_row_has_one_annotation_in_input_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", documents(40), group=9)
    write_jsonl(tmp_path / "in" / "b.jsonl.zst", documents(30, 40))
    done = run(run_config(tmp_path, pool={"unit_bytes": 1500}))
    assert len(done.units) > 3
    table = rows_of(done)
    assert table.schema.names == COLUMNS
    wanted = documents(70)
    assert table["doc_id"].to_pylist() == [row["id"] for row in wanted]
    assert table["domain"].to_pylist() == [row["domain"] for row in wanted]
    assert table["n_tokens"].to_pylist() == [row["n_tokens"] for row in wanted]
    assert table["n_bytes"].to_pylist() == [len(row["text"].encode()) for row in wanted]
    assert np.array_equal(table["score_score"].to_numpy(), np.float32([row["score"] for row in wanted]))
    assert np.array_equal(table["doc_hash"].to_numpy(), doc_hash(row["id"] for row in wanted))
    assert np.array_equal(table["content_hash"].to_numpy(), content_hash(row["text"] for row in wanted))
    assert table["row"].to_pylist() == [*range(40), *range(30)]
    assert set(table["status"].to_pylist()) == {schema.OK}


def test_a_unit_file_has_the_rows_that_read_unit_gives(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", [*documents(40), {**documents(1)[0], "text": None}], group=9)
    config = run_config(tmp_path, pool={"unit_bytes": 1500})
    done = run(config)
    for unit, path in zip(done.units, done.files, strict=True):
        read = [row for batch in read_unit(unit, config.pool) for row in batch["doc_id"].to_pylist()]
        assert pq.read_table(path)["doc_id"].to_pylist() == read


def test_the_types_on_disk_are_the_promised_ones(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(5))
    found = pq.read_schema(run(run_config(tmp_path)).files[0])
    assert found.field("domain").type == pa.dictionary(pa.int32(), pa.string())
    types = [found.field(name).type for name in COLUMNS if name != "domain"]
    assert types == [
        pa.string(), pa.uint64(), pa.uint64(), pa.string(), pa.int64(), pa.int64(), pa.int64(), pa.string(),
        pa.float32(),
    ]  # fmt: skip


def test_the_record_adds_up(tmp_path: Path) -> None:
    bad = [{**documents(1, 90)[0], "text": " "}, {**documents(1, 91)[0], "score": None}]
    write_jsonl(tmp_path / "in" / "a.jsonl", [*documents(50), *bad])
    done = run(run_config(tmp_path))
    said, table = done.record.summary, rows_of(done)
    assert said["rows"] == table.num_rows == 52
    assert said["ok_docs"] == 50 == sum(domain["docs"] for domain in said["domains"].values())
    assert said["ok_tokens"] == sum(row["n_tokens"] for row in documents(50)) == done.summary.total_tokens
    assert said["ok_tokens"] == sum(domain["tokens"] for domain in said["domains"].values())
    assert said["quarantine"] == {
        "EMPTY_TEXT": {"docs": 1, "tokens": bad[0]["n_tokens"]},
        "NULL_SCORE": {"docs": 1, "tokens": bad[1]["n_tokens"]},
    }
    assert said["rows"] == said["ok_docs"] + sum(tally["docs"] for tally in said["quarantine"].values())
    total = sum(table["n_tokens"].to_pylist())
    assert total == said["ok_tokens"] + sum(tally["tokens"] for tally in said["quarantine"].values())
    digest = hashlib.sha256((tmp_path / "in" / "a.jsonl").read_bytes()).hexdigest()
    assert said["inputs"] == [
        {"shard": "a.jsonl", "size": (tmp_path / "in" / "a.jsonl").stat().st_size, "sha256": digest}
    ]
    json.dumps(said, allow_nan=False)


def test_the_summary_is_that_of_the_usable_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [*documents(60), {**documents(1, 99)[0], "domain": ""}])
    done = run(run_config(tmp_path, pool={"unit_bytes": 10**6}))
    table = rows_of(done)
    table = table.filter(pa.compute.equal(table["status"], "ok"))
    coded = table["domain"].combine_chunks().dictionary_encode()
    whole = PoolSummary.of_rows(
        coded.dictionary.to_pylist(),
        coded.indices.to_numpy(),
        table["n_tokens"].to_numpy(),
        table["n_bytes"].to_numpy(),
        table["score_score"].to_numpy()[:, None],
        ["score"],
    )
    assert done.summary.domains == whole.domains
    for name in ("docs", "tokens", "bytes"):
        assert np.array_equal(getattr(done.summary, name), getattr(whole, name))
    assert np.array_equal(done.summary.sketches[0].tokens, whole.sketches[0].tokens)


def test_two_runs_and_two_engines_leave_the_same_bytes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", [*documents(90), *documents(5)], group=20)
    write_jsonl(tmp_path / "in" / "b.jsonl.gz", [*documents(40, 80), {"id": "x", "text": None, "score": 1}])
    config = run_config(tmp_path, pool={"unit_bytes": 4000})
    trees = []
    for name in ("one", "two", "three"):
        other = config.model_copy(update={"output": str(tmp_path / name)})
        if name == "three":
            with LocalEngine(2, Progress.silent()) as engine:
                done = annotate(other, engine, Progress.silent())
        else:
            done = run(other)
        trees.append(tree(done.directory))
    assert trees[0] == trees[1] == trees[2]
    assert any(path.startswith("unit-") for path in trees[0])


def test_lower_is_better_is_flipped_at_the_border(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(9))
    scorer = {
        "kind": "columns",
        "columns": {"score": "score"},
        "lower_is_better": ["score"],
        "ranges": {"score": [0, 1]},
    }
    table = rows_of(run(run_config(tmp_path, annotate={"scorers": [scorer]})))
    assert np.array_equal(table["score_score"].to_numpy(), -np.float32([row["score"] for row in documents(9)]))


def test_quarantined_rows_are_listed_with_place_reason_and_detail(tmp_path: Path) -> None:
    rows = documents(6)
    rows[2]["text"] = 5
    rows[4]["id"] = None
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    done = run(run_config(tmp_path))
    assert quarantine_of(done) == [
        {
            "shard": "a.jsonl",
            "row": 2,
            "doc_id": rows[2]["id"],
            "reason": "TYPE",
            "detail": "text is a number, wanted text: 5",
        },
        {"shard": "a.jsonl", "row": 4, "doc_id": None, "reason": "NULL_ID", "detail": "no id"},
    ]
    table = rows_of(done)
    assert table["score_score"].to_pylist()[2] is None
    assert table["status"].to_pylist()[4] == "NULL_ID"


def test_too_many_bad_rows_stop_the_run_with_counts(tmp_path: Path) -> None:
    rows = documents(1000)
    rows[3]["text"], rows[5]["domain"] = "", None
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    with pytest.raises(InputError) as caught:
        run(run_config(tmp_path, pool={"max_quarantine_fraction": 0.001}))
    assert caught.value.exit_code == 3
    for word in (
        "2 of 1000 rows (0.20%)",
        "EMPTY_TEXT 1",
        "NULL_DOMAIN 1",
        "max_quarantine_fraction",
        "quarantine.parquet",
    ):
        assert word in str(caught.value)
    assert not (tmp_path / "out" / "stages" / "annotate.json").exists()
    assert run(run_config(tmp_path, pool={"max_quarantine_fraction": 0.002})).record.summary["ok_docs"] == 998


def test_a_pool_without_usable_rows_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{**row, "domain": None} for row in documents(5)])
    with pytest.raises(InputError, match="no usable row is left of 5"):
        run(run_config(tmp_path))


def test_duplicate_ids_are_found_across_shards_and_units(tmp_path: Path) -> None:
    rows = documents(20)
    other = {**rows[3], "text": "Another text under the same id."}
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    write_jsonl(tmp_path / "in" / "b.jsonl", [rows[7], other, *documents(5, 20)])
    write_parquet(tmp_path / "in" / "c.parquet", [rows[7], *documents(5, 30)])
    done = run(run_config(tmp_path, pool={"unit_bytes": 1}))
    assert counts(done) == {"DUP_ID_CONFLICT": 1, "DUP_ID_SAME": 2}
    table = rows_of(done)
    usable = table.filter(pa.compute.equal(table["status"], "ok"))
    assert len(set(usable["doc_id"].to_pylist())) == usable.num_rows == 30
    assert len(set(usable["doc_hash"].to_pylist())) == 30
    same = [row for row in quarantine_of(done) if row["reason"] == "DUP_ID_SAME"]
    assert [(row["shard"], row["row"], row["detail"]) for row in same] == [
        ("b.jsonl", 0, "kept: row 7 of a.jsonl"),
        ("c.parquet", 0, "kept: row 7 of a.jsonl"),
    ]
    assert done.record.summary["ok_docs"] == 30 == int(done.summary.docs.sum())
    lost = table.filter(pa.compute.not_equal(table["status"], "ok"))
    assert lost["score_score"].null_count == 3


def test_which_text_survives_a_conflict_does_not_depend_on_names_or_order(tmp_path: Path) -> None:
    rows = documents(12)
    other = [{**row, "text": f"Changed: {row['text']}"} for row in rows]
    kept = []
    for number, names in enumerate((("a.jsonl", "b.jsonl"), ("b.jsonl", "a.jsonl"), ("x.parquet", "w.jsonl.gz"))):
        folder = tmp_path / str(number) / "in"
        for name, content in zip(names, (rows, other), strict=True):
            (write_parquet if name.endswith("parquet") else write_jsonl)(folder / name, content)
        table = rows_of(run(run_config(tmp_path / str(number), pool={"unit_bytes": 1})))
        usable = table.filter(pa.compute.equal(table["status"], "ok"))
        kept.append(sorted(zip(usable["doc_id"].to_pylist(), usable["content_hash"].to_pylist(), strict=True)))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 12


def test_content_ids_keep_each_text_once(tmp_path: Path) -> None:
    rows = [{**row, "text": f"text {number % 4}"} for number, row in enumerate(documents(12))]
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    done = run(run_config(tmp_path, pool={"id_from": "content", "max_quarantine_fraction": 0.0}))
    assert counts(done) == {"DUP_ID_SAME": 8}
    assert done.record.summary["ok_docs"] == 4


def test_bad_files_are_all_named_and_may_be_skipped(tmp_path: Path) -> None:
    for number in range(3):
        rows = documents(40, 40 * number)
        write_parquet(tmp_path / "in" / f"{number}.parquet", rows, group=10, compression="none", use_dictionary=False)
    flipped = bytearray((tmp_path / "in" / "1.parquet").read_bytes())
    flipped[flipped.index(b"document number 75")] ^= 64
    (tmp_path / "in" / "1.parquet").write_bytes(flipped)
    path = write_jsonl(tmp_path / "in" / "3.jsonl.gz", documents(9000, 200))
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "in" / "4.txt").write_text("notes")
    with pytest.raises(InputError, match=r"4\.txt"):
        run(run_config(tmp_path))
    (tmp_path / "in" / "4.txt").unlink()
    with pytest.raises(InputError) as caught:
        run(run_config(tmp_path))
    assert "1.parquet: CHECKSUM_MISMATCH" in str(caught.value)
    assert "3.jsonl.gz: TRUNCATED_GZIP" in str(caught.value)
    for unit_bytes in (1500, 10**8):  # the bad files alone in their units, and bundled with good ones
        config = run_config(tmp_path, pool={"unit_bytes": unit_bytes, "skip_bad_files": True})
        done = run(config)
        assert sorted(status_of(done)) == [row["id"] for row in (*documents(40), *documents(40, 80))]
        assert {(item["shard"], item["reason"]) for item in done.record.summary["refused"]} == {
            ("1.parquet", "CHECKSUM_MISMATCH"),
            ("3.jsonl.gz", "TRUNCATED_GZIP"),
        }
        again = run(config)
        assert again.units == done.units
        assert again.files == done.files


def test_missing_counts_and_domains_are_config_errors(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(5))
    with pytest.raises(ConfigError) as caught:
        run(run_config(tmp_path, pool={"columns": {"id": "id"}}))
    assert len(caught.value.problems) == 2


def test_tokens_are_counted_by_a_tokenizer_file(tmp_path: Path) -> None:
    tokenizer = Path(__file__).parents[2] / "examples" / "tokenizer" / "tokenizer.json"
    if not tokenizer.exists():
        pytest.skip("the example tokenizer is not there")
    from tokenizers import Tokenizer

    write_jsonl(tmp_path / "in" / "a.jsonl", documents(20))
    config = run_config(
        tmp_path, pool={"columns": {"id": "id", "domain": "domain"}}, tokenizer={"path": str(tokenizer)}
    )
    reference = Tokenizer.from_file(str(tokenizer))
    wanted = [len(reference.encode(row["text"], add_special_tokens=False).ids) + 1 for row in documents(20)]
    assert rows_of(run(config))["n_tokens"].to_pylist() == wanted


def test_an_empty_shard_is_no_trouble(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl.gz", [])
    write_parquet(tmp_path / "in" / "b.parquet", pa.Table.from_pylist(documents(3)).slice(0, 0))
    write_jsonl(tmp_path / "in" / "c.jsonl", b"\n\n")
    write_jsonl(tmp_path / "in" / "d.jsonl", documents(3))
    done = run(run_config(tmp_path, pool={"unit_bytes": 1}))
    assert done.record.summary["rows"] == 3


def test_a_huge_stream_is_prepared_once_and_annotated_in_parts(tmp_path: Path) -> None:
    rows = documents(2000)
    rows[100]["text"] = ""
    write_jsonl(tmp_path / "whole" / "in" / "a.jsonl.gz", rows)
    write_jsonl(tmp_path / "parts" / "in" / "a.jsonl.gz", rows)
    whole = run(run_config(tmp_path / "whole", pool={"unit_bytes": 10**8}))
    engine = InlineEngine()
    config = run_config(tmp_path / "parts", pool={"unit_bytes": 10_000})
    parts = run(config, engine)
    assert engine.items["ingest"] == 1
    assert len(parts.units) > 5 > len(whole.units)
    assert rows_of(parts).equals(rows_of(whole))
    assert parts.record.summary["inputs"] == whole.record.summary["inputs"]
    assert quarantine_of(parts) == quarantine_of(whole)
    again = run(config, engine)
    assert engine.items["ingest"] == 1
    assert again.units == parts.units
    read = [
        row for unit in again.units for batch in read_unit(unit, config.pool) for row in batch["doc_id"].to_pylist()
    ]
    assert read == [row["id"] for row in rows]
