"""`verify` agrees with what select publishes, and names the row when one number in it is changed.

Every tampering here also repairs what a careful forger would: sizes, sha256, row counts, sums, digest, pointer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.errors import VerificationError
from quadmix.hashing import sha256_file
from quadmix.manifest import Manifest
from quadmix.manifest.findings import Finding, Verification
from quadmix.manifest.verify import verify

Json = dict[str, Any]
Rows = list[Json]


def tamper(
    manifest: Manifest,
    root: Path,
    rows: Callable[[int, Rows], Rows] = lambda part, rows: rows,
    content: Callable[[Json], None] = lambda content: None,
) -> Manifest:
    """A copy of a run whose manifest rows and JSON were edited and everything derived from them repaired."""
    shutil.copytree(manifest.run_directory, root)
    folder = root / "manifests" / manifest.folder.name
    raw = json.loads((folder / "manifest.json").read_text())
    everything: Rows = []
    for number, part in enumerate(raw["files"]):
        path = folder / part["path"]
        table = pq.read_table(path)
        edited = rows(number, table.to_pylist())
        everything += edited
        pq.write_table(pa.Table.from_pylist(edited, schema=table.schema), path, write_page_checksum=True)
        part["rows"], part["tokens"] = len(edited), tokens_of(edited)
        part["bytes"], part["sha256"] = path.stat().st_size, sha256_file(str(path))
    repair_sums(raw, everything)
    content(raw)
    return republish(root, folder, raw)


def tokens_of(rows: Rows) -> int:
    return sum(row["n_tokens"] * row["copies"] for row in rows)


def repair_sums(raw: Json, rows: Rows) -> None:
    def share(chosen: Rows) -> Json:
        return {
            "realised": tokens_of(chosen),
            "documents": len(chosen),
            "copies": sum(row["copies"] for row in chosen),
        }

    for name, entry in raw["domains"].items():
        entry.update(share([row for row in rows if row["domain"] == name]))
    for name, entry in raw["selectors"].items():
        entry.update(share([row for row in rows if row["selector"] == name]))
    for name, entry in raw["plan"]["strata"].items():
        entry["taken"] = tokens_of([row for row in rows if row["stratum"] == name])
    whole = share(rows)
    raw["realised_tokens"], raw["documents"], raw["copies"] = whole["realised"], whole["documents"], whole["copies"]
    raw["repeats"] = {str(n): docs for n, docs in Counter(row["copies"] for row in rows).items()}


def republish(root: Path, folder: Path, raw: Json) -> Manifest:
    (folder / "manifest.json").write_text(json.dumps(raw))
    digest = sha256_file(str(folder / "manifest.json"))
    os.rename(folder, folder.parent / digest[:16])
    pointer = {"manifest": f"manifests/{digest[:16]}/manifest.json", "digest": digest}
    (root / "CURRENT.json").write_text(json.dumps(pointer))
    return Manifest.load(root)


def change_row(at: tuple[int, int], change: Callable[[Json], None]) -> Callable[[int, Rows], Rows]:
    def edit(part: int, rows: Rows) -> Rows:
        if part == at[0]:
            change(rows[at[1]])
        return rows

    return edit


def names(outcome: Verification, manifest: Manifest, at: tuple[int, int], column: str) -> Finding:
    """The finding about that row and column; fails with everything that was found if there is none."""
    part = manifest.files[at[0]].path
    found = [f for f in outcome.findings if f.file == part and f.row == at[1] and f.column == column]
    assert found, "\n".join(outcome.lines())
    return found[0]


MIXTURES: dict[str, Json] = {
    "quadmix": {},
    "tied scores": {"ties": True},
    "paper ranks": {"rank": "paper"},
    "scaled": {"meet_budget": "scale"},
    "z-scores": {"normalise": "zscore"},
    "min-max, ties": {"normalise": "minmax", "ties": True},
    "one copy": {"max_copies": 1},
    "one file a part": {"part_rows": 1},
    "natural": {"select": {"mixture": "natural"}},
    "natural, repeated": {"select": {"mixture": "natural"}, "budget": 270_000},
    "uniform, one domain dry": {"select": {"mixture": "uniform"}, "budget": 100_000, "max_copies": 2},
    "top-k": {"select": {"mixture": "topk", "criterion": "clean"}},
    "top-k, ties": {"select": {"mixture": "topk", "criterion": "clean"}, "ties": True},
}


@pytest.mark.parametrize("options", MIXTURES.values(), ids=MIXTURES)
def test_what_select_publishes_verifies(selected: Callable[..., Manifest], options: Json) -> None:
    manifest = selected(**options)
    outcome = verify(manifest)
    assert outcome.ok, "\n".join(outcome.lines())
    assert outcome.rows == manifest.documents > 100
    outcome.require()


def test_the_repairs_themselves_are_not_what_is_found(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    """Positive control of the tampering tests: repairing without changing anything verifies."""
    outcome = verify(tamper(selected(), tmp_path / "out"))
    assert outcome.ok, "\n".join(outcome.lines())


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "doc_id": ("doc_id", lambda value: "doc-from-elsewhere"),
    "shard, another": ("shard", lambda value: "a0.parquet" if value != "a0.parquet" else "b0.parquet"),
    "shard, unknown": ("shard", lambda value: "../secret.parquet"),
    "row, another": ("row", lambda value: value + 1),
    "row, beyond the end": ("row", lambda value: 10**9),
    "row, negative": ("row", lambda value: -1),
    "domain": ("domain", lambda value: "code" if value != "code" else "web"),
    "n_tokens": ("n_tokens", lambda value: value + 1),
    "one copy more": ("copies", lambda value: value + 1),
    "one copy less": ("copies", lambda value: value - 1),
    "copies, huge": ("copies", lambda value: 2**31 - 1),
    "key, last bit": ("key", lambda value: float(np.nextafter(value, 9.0))),
    "draw, last bit": ("draw", lambda value: float(np.nextafter(value, 9.0))),
    "draw, another": ("draw", lambda value: 1.0 - value),
    "selector": ("selector", lambda value: "natural"),
    "stratum": ("stratum", lambda value: "code" if value != "code" else "web"),
    "expected_copies": ("expected_copies", lambda value: value * (1 + 1e-8)),
    "quality_rank": ("quality_rank", lambda value: value * (1 + 1e-8)),
    "draw, NaN": ("draw", lambda value: float("nan")),
    "quality_rank, NaN": ("quality_rank", lambda value: float("nan")),
    "copies, null": ("copies", lambda value: None),
    "key, null": ("key", lambda value: None),
}


FIRST, INSIDE = (0, 0), (1, 7)


@pytest.mark.parametrize(
    ("change", "at"),
    [(name, INSIDE) for name in CHANGES] + [(name, FIRST) for name in ("one copy more", "draw, another", "doc_id")],
)
def test_one_changed_value_is_named_by_row_and_column(
    selected: Callable[..., Manifest], tmp_path: Path, change: str, at: tuple[int, int]
) -> None:
    column, value = CHANGES[change]

    def edit(row: Json) -> None:
        row[column] = value(row[column])

    try:
        forged = tamper(selected(), tmp_path / "out", change_row(at, edit))
    except TypeError:  # nulls cannot be summed: leave the sums of the other rows
        forged = tamper_without_sums(selected(), tmp_path / "out2", change_row(at, edit))
    outcome = verify(forged)
    # a row that claims another place in the input is found by its place or by what does not fit there
    columns = ("row", "doc_id") if column in ("shard", "row") else (column,)
    assert any(
        finding.file == forged.files[at[0]].path and finding.row == at[1] and finding.column in columns
        for finding in outcome.findings
    ), "\n".join(outcome.lines())
    with pytest.raises(VerificationError, match="do not train"):
        outcome.require()
    assert json.loads(json.dumps(outcome.to_json(), allow_nan=False))["problems"] == outcome.total


def tamper_without_sums(manifest: Manifest, root: Path, rows: Callable[[int, Rows], Rows]) -> Manifest:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "tokens_of", lambda rows: 0)
        patch.setitem(globals(), "repair_sums", lambda raw, rows: None)
        return tamper(manifest, root, rows)


@pytest.mark.parametrize("mixture", ["natural", "top-k", "top-k, ties", "uniform, one domain dry", "paper ranks"])
@pytest.mark.parametrize("column", ["copies", "draw", "key"])
def test_other_selectors_rows_are_recomputed_too(
    selected: Callable[..., Manifest], tmp_path: Path, mixture: str, column: str
) -> None:
    def edit(row: Json) -> None:
        row[column] = row[column] + 1 if column == "copies" else float(np.nextafter(row[column], 9.0))

    forged = tamper(selected(**MIXTURES[mixture]), tmp_path / "out", change_row((0, 3), edit))
    names(verify(forged), forged, (0, 3), column)


def test_a_deleted_row_is_named_by_its_place_in_the_input(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    gone: Rows = []

    def edit(part: int, rows: Rows) -> Rows:
        if part == 1:
            gone.append(rows.pop(5))
        return rows

    outcome = verify(tamper(selected(), tmp_path / "out", edit))
    wanted = Finding(gone[0]["shard"], gone[0]["row"], gone[0]["doc_id"], "copies", "no row", gone[0]["copies"])
    assert wanted in outcome.findings, "\n".join(outcome.lines())


@pytest.mark.parametrize(
    ("source", "target"), [((0, 4), (0, 5)), ((0, 4), (0, 30)), ((0, 4), (1, 3)), ((1, 4), (0, 0))]
)
def test_a_duplicated_row_is_named_wherever_it_is_put(
    selected: Callable[..., Manifest], tmp_path: Path, source: tuple[int, int], target: tuple[int, int]
) -> None:
    manifest = selected()
    copied = pq.read_table(manifest.part_path(manifest.files[source[0]])).to_pylist()[source[1]]

    def edit(part: int, rows: Rows) -> Rows:
        return [*rows[: target[1]], copied, *rows[target[1] :]] if part == target[0] else rows

    outcome = verify(tamper(manifest, tmp_path / "out", edit))
    assert not outcome.ok
    assert any(finding.doc_id == copied["doc_id"] and finding.row is not None for finding in outcome.findings)


def test_swapped_rows_are_named(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    def edit(part: int, rows: Rows) -> Rows:
        if part == 0:
            rows[3], rows[4] = rows[4], rows[3]
        return rows

    forged = tamper(selected(), tmp_path / "out", edit)
    assert names(verify(forged), forged, (0, 4), "doc_id").wanted == "the order of the annotations"


def test_a_document_that_does_not_belong_is_named(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    """A good document of the pool, left out by its key, put in with all its own numbers."""
    manifest = selected(select={"mixture": "natural"})
    entry = manifest.annotations.files[0]
    pool = pq.read_table(manifest.annotation_path(entry)).to_pylist()
    rows = pq.read_table(manifest.part_path(manifest.files[0])).to_pylist()
    chosen = {row["doc_id"] for row in rows}
    other = next(row for row in pool if row["status"] == "ok" and row["doc_id"] not in chosen)
    from quadmix.hashing import uniform

    draw = float(uniform(np.array([other["doc_hash"]], dtype=np.uint64), manifest.seed, "select")[0])
    forged_row = {
        **{name: other[name] for name in ("doc_id", "shard", "row", "domain", "n_tokens")},
        "copies": 1, "key": draw, "draw": draw, "selector": "natural", "stratum": "pool",
    }  # fmt: skip
    order = {row["doc_id"]: at for at, row in enumerate(pool)}
    place = sum(order.get(row["doc_id"], 10**9) < order[other["doc_id"]] for row in rows)

    def edit(part: int, rows: Rows) -> Rows:
        return [*rows[:place], forged_row, *rows[place:]] if part == 0 else rows

    forged = tamper(manifest, tmp_path / "out", edit)
    finding = names(verify(forged), forged, (0, place), "copies")
    assert (finding.found, finding.wanted, finding.doc_id) == (1, 0, other["doc_id"])


@pytest.mark.parametrize("mixture", ["quadmix", "natural", "top-k, ties"])
def test_a_cut_moved_by_one_document_is_found(selected: Callable[..., Manifest], tmp_path: Path, mixture: str) -> None:
    """Take away the last copy of a stratum and move its cut to the one before: every row agrees with the cut, but
    the prefix is no longer the one nearest to the quota."""
    manifest = selected(**MIXTURES[mixture])
    name = sorted(manifest.plan["strata"])[-1]
    all_rows = [row for part in manifest.files for row in pq.read_table(manifest.part_path(part)).to_pylist()]
    from quadmix.hashing import doc_hash

    copies = []
    for row in all_rows:
        if row["stratum"] == name:
            step = 1.0 / row["expected_copies"] if "expected_copies" in row else 1.0
            number = int(doc_hash([row["doc_id"]])[0])
            copies += [
                (row["key"] + k * step if k else row["key"], number, row["doc_id"]) for k in range(row["copies"])
            ]
    copies.sort()
    last, before = copies[-1], copies[-2]

    def edit(part: int, rows: Rows) -> Rows:
        for row in rows:
            if row["doc_id"] == last[2]:
                row["copies"] -= 1
        return [row for row in rows if row["copies"]]

    def content(raw: Json) -> None:
        raw["plan"]["strata"][name].update(cut_key=before[0], cut_hash=str(before[1]))
        lost = next(row for row in all_rows if row["doc_id"] == last[2])
        if lost["copies"] == 1:
            raw["exclusions"]["BEYOND_CUT"]["docs"] += 1
            raw["exclusions"]["BEYOND_CUT"]["tokens"] += lost["n_tokens"]

    outcome = verify(tamper(manifest, tmp_path / "out", edit, content))
    assert [finding.column for finding in outcome.findings] == [
        f"plan.strata.{name}: tokens of the prefix nearest to the quota"
    ], "\n".join(outcome.lines())


def set_path(path: str, change: Callable[[Any], Any]) -> Callable[[Json], None]:
    def edit(raw: Json) -> None:
        *steps, last = path.split("/")
        for step in steps:
            raw = raw[int(step)] if isinstance(raw, list) else raw[step]
        raw[last] = change(raw[last])

    return edit


JSON_CHANGES: dict[str, Callable[[Any], Any]] = {
    "realised_tokens": lambda value: value + 1,
    "requested_tokens": lambda value: value + 1,
    "documents": lambda value: value - 1,
    "copies": lambda value: value + 1,
    "selector": lambda value: "natural",
    "seed": lambda value: value + 1,
    "domains/web/realised": lambda value: value + 1,
    "domains/web/requested": lambda value: value + 1,
    "domains/web/available": lambda value: value - 1,
    "domains/web/documents": lambda value: value - 1,
    "selectors/quadmix/copies": lambda value: value + 1,
    "repeats/1": lambda value: value + 1,
    "quarantine/NULL_TEXT": lambda value: {"docs": 1, "tokens": 0},
    "exclusions/BEYOND_CUT": lambda value: {"docs": 1, "tokens": 0},
    "files/0/tokens": lambda value: value + 1,
    "files/0/rows": lambda value: value + 1,
    "plan/multiplier": lambda value: value * (1 + 1e-7),
    "plan/purpose": lambda value: "other",
    "plan/domains": lambda value: value[:-1],
    "plan/max_copies": lambda value: 1,
    "plan/normalise": lambda value: "zscore",
    "plan/rank": lambda value: "paper",
    "plan/theta/cutoff/books": lambda value: value * 1.001,
    "plan/theta/merge_weights/web": lambda value: {"clean": 0.5, "useful": 0.5},
    "plan/strata/web/quota": lambda value: value + 10,
    "plan/strata/web/taken": lambda value: value + 1,
    "plan/strata/web/cut_key": lambda value: value * 1.1,
    "plan/strata/web/cut_hash": lambda value: "all",
    "plan/theta": lambda value: {},
}


@pytest.mark.parametrize("path", JSON_CHANGES)
def test_one_changed_value_in_the_manifest_is_found(
    selected: Callable[..., Manifest], tmp_path: Path, path: str
) -> None:
    forged = tamper(selected(), tmp_path / "out", content=set_path(path, JSON_CHANGES[path]))
    assert not verify(forged).ok


# ------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("target", ["part", "annotation"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damaged_bytes_are_named(selected: Callable[..., Manifest], tmp_path: Path, target: str, damage: str) -> None:
    shutil.copytree(selected().run_directory, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    path = (
        manifest.part_path(manifest.files[1])
        if target == "part"
        else manifest.annotation_path(manifest.annotations.files[2])
    )
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 3] ^= 4
        path.write_bytes(bytes(raw))
    elif damage == "cut":
        path.write_bytes(bytes(raw[:-7]))
    else:
        path.unlink()
    outcome = verify(manifest)
    assert [Path(finding.file).name for finding in outcome.findings] == [path.name]
    assert outcome.findings[0].column == {"flip": "sha256", "cut": "bytes", "delete": "file"}[damage]


def test_a_file_that_nobody_listed_is_named(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    shutil.copytree(selected().run_directory, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    shutil.copy(manifest.part_path(manifest.files[0]), manifest.folder / "part-99999.parquet")
    assert [finding.file for finding in verify(manifest).findings] == ["part-99999.parquet"]


def test_a_part_without_a_column_is_named(selected: Callable[..., Manifest], tmp_path: Path) -> None:
    shutil.copytree(selected().run_directory, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    raw = json.loads((manifest.folder / "manifest.json").read_text())
    path = manifest.part_path(manifest.files[0])
    pq.write_table(pq.read_table(path).drop_columns(["draw"]), path)
    raw["files"][0].update(bytes=path.stat().st_size, sha256=sha256_file(str(path)))
    outcome = verify(republish(tmp_path / "out", manifest.folder, raw))
    assert [(finding.file, finding.column) for finding in outcome.findings] == [(path.name, "columns")]
