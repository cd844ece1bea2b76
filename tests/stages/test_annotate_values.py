"""Catalogue D and E at the stage: scores, domains and leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quadmix.errors import ConfigError, InputError
from tests.pool.building import documents, write_jsonl, write_parquet
from tests.stages.annotate_pools import counts, quarantine_of, rows_of, run, run_config, status_of

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (NAN, "NAN_SCORE"),
        (INF, "INF_SCORE"),
        (-INF, "INF_SCORE"),
        (1e300, "INF_SCORE"),  # no float32
        (None, "NULL_SCORE"),
        (-0.25, "SCORE_RANGE"),
        (1.5, "SCORE_RANGE"),
        (0.0, "ok"),
        (1.0, "ok"),
    ],
)
def test_a_score_that_is_none_quarantines_its_row(tmp_path: Path, form: str, value: float | None, reason: str) -> None:
    rows = documents(9)
    rows[4]["score"] = value
    (write_jsonl if form == "jsonl" else write_parquet)(tmp_path / "in" / f"a.{form}", rows)
    scorer = {"kind": "columns", "columns": {"score": "score"}, "ranges": {"score": [0, 1]}}
    done = run(run_config(tmp_path, annotate={"scorers": [scorer]}))
    assert [status for status in status_of(done).values() if status != "ok"] == ([] if reason == "ok" else [reason])
    assert status_of(done)[rows[4]["id"]] == reason
    if reason != "ok":
        assert rows_of(done)["score_score"].to_pylist()[4] is None


def test_the_upper_end_of_a_range_is_inside_it(tmp_path: Path) -> None:
    """float32(0.1) is above 0.1: the range is read as float32 too."""
    write_jsonl(tmp_path / "in" / "a.jsonl", [{**row, "score": 0.1} for row in documents(3)])
    scorer = {"kind": "columns", "columns": {"score": "score"}, "ranges": {"score": [0, 0.1]}}
    assert counts(run(run_config(tmp_path, annotate={"scorers": [scorer]}))) == {}


def test_the_first_fault_of_a_row_is_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [*documents(3), {"id": "x", "text": "", "domain": None, "n_tokens": -1}])
    done = run(run_config(tmp_path))
    assert counts(done) == {"EMPTY_TEXT": 1}


def test_a_bad_score_among_bad_texts_hits_its_own_row(tmp_path: Path) -> None:
    rows = documents(12)
    rows[1]["text"], rows[5]["score"], rows[6]["domain"], rows[9]["score"] = None, NAN, "", None
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    done = run(run_config(tmp_path))
    wanted = {
        rows[1]["id"]: "NULL_TEXT",
        rows[5]["id"]: "NAN_SCORE",
        rows[6]["id"]: "NULL_DOMAIN",
        rows[9]["id"]: "NULL_SCORE",
    }
    assert {doc_id: status for doc_id, status in status_of(done).items() if status != "ok"} == wanted
    assert all("score is" in row["detail"] for row in quarantine_of(done) if row["reason"].endswith("_SCORE"))


def domains(**settings: Any) -> dict[str, Any]:
    return {"domains": {"kind": "column", **settings}}


def test_a_domain_that_is_not_allowed_stops_the_run_with_counts(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(9))
    with pytest.raises(InputError) as caught:
        run(run_config(tmp_path, annotate=domains(allowed=["books", "code"])))
    assert "UNKNOWN_DOMAIN: 3 document(s)" in str(caught.value)
    assert "'news' 3" in str(caught.value)


def test_unknown_domains_may_be_ignored_or_renamed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(9))
    ignored = run(
        run_config(
            tmp_path,
            annotate=domains(allowed=["books", "code"], unknown="ignore"),
            pool={"max_quarantine_fraction": 0.0},
        )
    )
    assert counts(ignored) == {"UNKNOWN_DOMAIN": 3}
    assert sorted(ignored.record.summary["domains"]) == ["books", "code"]
    renamed = run(run_config(tmp_path, annotate=domains(allowed=["books", "code"], unknown="default", default="books")))
    assert {name: tally["docs"] for name, tally in renamed.record.summary["domains"].items()} == {"books": 6, "code": 3}
    assert any("put into 'books': 'news' 3" in warning for warning in renamed.record.summary["warnings"])


def test_null_and_empty_domains_are_never_unknown(tmp_path: Path) -> None:
    rows = documents(9)
    rows[2]["domain"], rows[5]["domain"] = None, ""
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    done = run(run_config(tmp_path, annotate=domains(allowed=["books", "code", "news"])))
    assert counts(done) == {"NULL_DOMAIN": 2}


def test_an_allowed_domain_without_documents_is_a_config_error(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(9))
    with pytest.raises(ConfigError, match=r"EMPTY_DOMAIN 'new'.*did you mean 'news'"):
        run(run_config(tmp_path, annotate=domains(allowed=["books", "code", "news", "new"])))


def test_domains_that_look_alike_are_reported_and_kept_apart(tmp_path: Path) -> None:
    rows = documents(4)
    for row, name in zip(rows, ("caf\u00e9", "cafe\u0301", "caf\u00e9", "cafe"), strict=True):
        row["domain"] = name
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    said = run(run_config(tmp_path)).record.summary
    assert len(said["domains"]) == 3
    assert [warning for warning in said["warnings"] if warning.startswith("CONFUSABLE_DOMAIN")] == [
        "CONFUSABLE_DOMAIN: 'cafe\\u0301' and 'caf\\xe9' look alike but are counted apart"
    ]


def target(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    path = write_jsonl(tmp_path / "targets" / "t.jsonl", rows)
    return {"name": "goal", "path": str(path), **settings}


def test_a_target_document_in_the_pool_is_refused(tmp_path: Path) -> None:
    rows = documents(30)
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    copies = [{"id": f"t{n}", "text": f"Held out text number {n}"} for n in range(20)]
    copies[5]["text"] = "  " + rows[7]["text"].replace(" ", "\n")
    copies[9]["text"] = rows[8]["text"]
    config = run_config(tmp_path, targets=[target(tmp_path, copies)])
    with pytest.raises(InputError, match="TARGET_LEAK: 2 document") as caught:
        run(config)
    assert caught.value.exit_code == 3
    done = run(
        run_config(
            tmp_path,
            targets=[target(tmp_path, copies)],
            annotate={"leakage": "exclude"},
            pool={"max_quarantine_fraction": 0.0},
        )
    )
    assert counts(done) == {"TARGET_LEAK": 2}
    assert [row["doc_id"] for row in quarantine_of(done)] == [rows[7]["id"], rows[8]["id"]]
    assert {row["detail"] for row in quarantine_of(done)} == {"target goal"}


def test_an_id_shared_with_a_target_is_reported_only(tmp_path: Path) -> None:
    rows = documents(30)
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    copies = [{"id": row["id"], "text": f"Held out: {row['text']}"} for row in rows[:20]]
    done = run(run_config(tmp_path, targets=[target(tmp_path, copies)]))
    assert counts(done) == {}
    assert any(warning.startswith("TARGET_ID: 20 usable") for warning in done.record.summary["warnings"])


def test_no_target_document_no_complaint(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(30))
    held_out = [{"id": f"t{n}", "text": f"Held out text number {n}"} for n in range(20)]
    done = run(run_config(tmp_path, targets=[target(tmp_path, held_out)]))
    assert done.record.summary["warnings"] == []
