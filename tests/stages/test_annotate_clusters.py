"""The cluster column of annotations: a user's own or fitted, the same for the same documents however they are split."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq

from quadmix.stages.annotate import Annotated
from tests.pool.building import documents, write_jsonl, write_parquet
from tests.scorers.list_context import notices, speech
from tests.stages.annotate_pools import counts, quarantine_of, run, run_config


def clusters_of(done: Annotated) -> dict[str, str | None]:
    """Document id -> its cluster."""
    found: dict[str, str | None] = {}
    for path in done.files:
        table = pq.read_table(path, columns=["doc_id", "cluster"])
        found |= dict(zip(table["doc_id"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    return found


def test_a_column_of_ones_own_becomes_the_clusters_and_what_has_none_is_quarantined(tmp_path: Path) -> None:
    rows = [{**row, "meta": {"topic": index % 3}} for index, row in enumerate(documents(12))]
    rows[4]["meta"] = {"topic": None}
    write_parquet(tmp_path / "in" / "a.parquet", rows)
    asked = {"clusters": {"kind": "column", "column": "meta.topic"}}
    done = run(run_config(tmp_path, annotate=asked))
    assert counts(done) == {"NULL_CLUSTER": 1}
    assert quarantine_of(done)[0]["doc_id"] == rows[4]["id"]
    wanted = {row["id"]: str(index % 3) for index, row in enumerate(rows)}
    assert {name: found for name, found in clusters_of(done).items() if name != rows[4]["id"]} == {
        name: topic for name, topic in wanted.items() if name != rows[4]["id"]
    }


def test_strings_are_named_as_they_are_and_control_characters_are_refused(tmp_path: Path) -> None:
    rows = [{**row, "topic": name} for row, name in zip(documents(4), ["é", "", "a\tb", "x"], strict=True)]
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    done = run(run_config(tmp_path, annotate={"clusters": {"kind": "column", "column": "topic"}}))
    assert counts(done) == {"CLUSTER_INVALID": 1, "NULL_CLUSTER": 1}
    assert clusters_of(done)[rows[0]["id"]] == "é"


def test_fitted_clusters_do_not_depend_on_files_or_units(tmp_path: Path) -> None:
    rows = [
        {"id": document.id, "text": document.text, "domain": "d", "n_tokens": 9, "score": 0.5}
        for document in [*speech(120), *notices(120)]
    ]
    write_jsonl(tmp_path / "one" / "in" / "a.jsonl", rows)
    random.Random(1).shuffle(rows)
    for place in range(4):
        write_jsonl(tmp_path / "many" / "in" / f"{place}.jsonl", rows[place::4])
    asked = {"clusters": {"kind": "embeddings", "sample_docs": 100}}
    one = run(run_config(tmp_path / "one", annotate=asked))
    many = run(run_config(tmp_path / "many", annotate=asked, pool={"unit_bytes": 4096}))
    assert len(many.files) > 1
    assert clusters_of(one) == clusters_of(many)
    assert len(set(clusters_of(one).values())) > 2
    model = one.record.summary["clusters"]["model"]
    assert (one.directory / model).is_file()


def test_without_clusters_there_is_no_such_column(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(3))
    done = run(run_config(tmp_path))
    assert "cluster" not in pq.read_schema(done.files[0]).names
    assert done.record.summary["clusters"] is None
