"""`diff` counts what changed as a literal loop does; `export` writes every document once and overwrites nothing."""

from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from quadmix.errors import ConfigError, ResourceError
from quadmix.manifest import Manifest
from quadmix.manifest.diff import diff
from quadmix.manifest.export import COLUMNS, export


def rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for part in manifest.files for row in pq.read_table(manifest.part_path(part)).to_pylist()]


def test_a_manifest_does_not_differ_from_itself(selected: Callable[..., Manifest]) -> None:
    found = diff(selected(), selected())
    assert found.empty
    assert found.documents.same == selected().documents
    assert "no difference" in found.lines()[0]


@pytest.mark.parametrize("rows_at_once", [10_000_000, 50])
def test_documents_and_tokens_are_counted_as_a_loop_counts_them(
    selected: Callable[..., Manifest], rows_at_once: int
) -> None:
    old, new = selected(), selected(budget=60_000)
    before, after = ({row["doc_id"]: row for row in rows(manifest)} for manifest in (old, new))
    found = diff(old, new, rows_at_once)
    counts = found.documents
    assert counts.added == len(after.keys() - before.keys())
    assert counts.removed == len(before.keys() - after.keys())
    both = before.keys() & after.keys()
    assert counts.more_copies == sum(after[name]["copies"] > before[name]["copies"] for name in both)
    assert counts.fewer_copies == sum(after[name]["copies"] < before[name]["copies"] for name in both)
    assert counts.same == sum(after[name]["copies"] == before[name]["copies"] for name in both)
    added = (after[name] for name in after.keys() - before.keys())
    assert counts.added_tokens == sum(row["n_tokens"] * row["copies"] for row in added)
    assert counts.added > 0
    assert found.tokens is not None
    assert (found.tokens.old, found.tokens.new) == (old.realised_tokens, new.realised_tokens)
    assert {change.path for change in found.domains} == {"books", "code", "web"}


def test_changed_settings_are_named_down_to_the_key(selected: Callable[..., Manifest]) -> None:
    found = diff(selected(), selected(budget=60_000))
    settings = {change.path: (change.old, change.new) for change in found.settings}
    assert settings["config.mixture.budget"] == (40_000, 60_000)
    assert "plan.multiplier" in settings
    assert any("config.mixture.budget: 40000 -> 60000" in line for line in found.lines())
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_jsonl_holds_every_document_in_order(selected: Callable[..., Manifest], tmp_path: Path, name: str) -> None:
    manifest = selected()
    assert export(manifest, "jsonl", tmp_path / name) == manifest.documents
    raw = (tmp_path / name).read_bytes()
    if name.endswith("gz"):
        raw = gzip.decompress(raw)
    elif name.endswith("zst"):
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    wanted = [{column: row[column] for column in COLUMNS} for row in rows(manifest)]
    assert [json.loads(line) for line in raw.decode().splitlines()] == wanted


def test_parquet_holds_every_document_in_order(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    manifest = selected()
    export(manifest, "parquet", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == [{column: row[column] for column in COLUMNS} for row in rows(manifest)]
    assert str(table.schema.field("domain").type) == "string"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_export_refuses_to_overwrite_and_unknown_formats(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        export(selected(), "jsonl", tmp_path / "there")
    with pytest.raises(ConfigError, match="wanted one of jsonl, parquet"):
        export(selected(), "csv", tmp_path / "new")
    with pytest.raises(ConfigError, match="inside the published manifests"):
        export(selected(), "jsonl", selected().folder / "extra.jsonl")
    assert (tmp_path / "there").read_text() == "mine"


def test_a_failed_export_leaves_nothing_behind(
    selected: Callable[..., Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        export(selected(), "parquet", tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []
