"""`explain` agrees with the manifest about who is in, and gives every document a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from quadmix.errors import ConfigError
from quadmix.manifest import Manifest
from quadmix.manifest.explain import explain


def annotated(manifest: Manifest) -> list[dict[str, Any]]:
    return pq.read_table(manifest.annotation_path(manifest.annotations.files[1])).to_pylist()


def selected_rows(manifest: Manifest) -> dict[str, dict[str, Any]]:
    rows = (row for part in manifest.files for row in pq.read_table(manifest.part_path(part)).to_pylist())
    return {row["doc_id"]: row for row in rows}


def test_a_selected_document_has_the_manifests_own_numbers(selected: Callable[..., Manifest]) -> None:
    manifest = selected()
    row = next(iter(selected_rows(manifest).values()))
    found = explain(manifest, row["doc_id"])
    assert (found.copies, found.draw, found.shard, found.row) == (row["copies"], row["draw"], row["shard"], row["row"])
    assert found.key == pytest.approx(row["key"], rel=1e-9)
    assert found.quality_rank == pytest.approx(row["quality_rank"], rel=1e-9)
    assert found.expected_copies == pytest.approx(row["expected_copies"], rel=1e-9)
    assert found.cut == manifest.plan["strata"][row["stratum"]]["cut_key"]
    assert found.why.startswith("Selected")
    assert any("quality rank" in line for line in found.lines())


def test_a_document_beyond_the_cut_and_one_without_copies_are_told_apart(selected: Callable[..., Manifest]) -> None:
    manifest = selected()
    chosen = selected_rows(manifest)
    out = [row for row in annotated(manifest) if row["status"] == "ok" and row["doc_id"] not in chosen]
    beyond = explain(manifest, next(row["doc_id"] for row in out if row["domain"] == "web"))
    assert beyond.copies == 0
    assert beyond.key is not None
    assert beyond.key > manifest.plan["strata"]["web"]["cut_key"]
    assert "was cut at key" in beyond.why
    worst = min(
        (row for row in out if row["domain"] == "books"), key=lambda row: row["score_clean"] + row["score_useful"]
    )
    never = explain(manifest, worst["doc_id"])
    assert (never.expected_copies, never.key, never.stratum) == (0.0, None, None)
    assert "beyond the cutoff" in never.why


def test_a_quarantined_row_says_its_reason(selected: Callable[..., Manifest]) -> None:
    manifest = selected()
    row = next(row for row in annotated(manifest) if row["status"] != "ok")
    found = explain(manifest, row["doc_id"])
    assert found.status == "NULL_TEXT"
    assert "quarantined (NULL_TEXT)" in found.lines()[-1]


@pytest.mark.parametrize(
    "options", [{"select": {"mixture": "natural"}}, {"select": {"mixture": "topk", "criterion": "clean"}}]
)
def test_other_selectors_are_explained_in_their_own_terms(selected: Callable[..., Manifest], options: Any) -> None:
    manifest = selected(**options)
    row = next(iter(selected_rows(manifest).values()))
    found = explain(manifest, row["doc_id"])
    assert found.key == row["key"]
    assert found.expected_copies is None
    assert ("minus its score clean" if manifest.selector == "topk" else "is its draw") in found.why


def test_an_unknown_id_is_refused(selected: Callable[..., Manifest]) -> None:
    with pytest.raises(ConfigError, match="no document 'nobody'"):
        explain(selected(), "nobody")
