"""A stage is reused only when nothing changed and every byte verifies; the sentence says what did change."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from quadmix.errors import ConfigError, LockedError, ResourceError
from quadmix.stages.records import (
    FileEntry,
    StageRecord,
    begin,
    commit,
    current,
    file_entry,
    find,
    load_piece,
    peek,
    record_digest,
    run_lock,
    save_piece,
    stage_directory,
    stage_fingerprint,
    write_atomically,
)

PARTS = {"config.annotate": json.dumps({"scorers": [{"kind": "columns"}], "leakage": "refuse"}), "version": "0.1.0"}


def finish(root: Path, parts: dict[str, str], text: str = "rows", stage: str = "annotate") -> StageRecord:
    directory = begin(root, stage, parts)
    (directory / "part.parquet").write_text(text)
    files = (file_entry(directory, "part.parquet", rows=1),)
    record = StageRecord(stage, stage_fingerprint(stage, parts), dict(parts), files, {"rows": 1})
    commit(root, record)
    return record


def test_a_finished_stage_is_found_again(tmp_path: Path) -> None:
    assert find(tmp_path, "annotate", PARTS).why == "annotate: not done before"
    record = finish(tmp_path, PARTS)
    reuse = find(tmp_path, "annotate", PARTS)
    assert reuse.record == record
    assert "verified" in reuse.why
    assert current(tmp_path, "annotate") == record


def test_a_part_that_changed_in_many_places_is_cut_short(tmp_path: Path) -> None:
    old, new = ({"choice": json.dumps({f"k{n}": n + add for n in range(9)})} for add in (0, 1))
    finish(tmp_path, old)
    why = find(tmp_path, "annotate", new).why
    assert why.startswith("annotate: choice.k0 changed: 0 -> 1; choice.k1")
    assert why.endswith("; 6 more in choice changed")


def test_an_interrupted_stage_is_not_reused_but_its_files_stay(tmp_path: Path) -> None:
    directory = begin(tmp_path, "annotate", PARTS)
    (directory / "unit.parquet").write_text("done")
    reuse = find(tmp_path, "annotate", PARTS)
    assert reuse.record is None
    assert "interrupted" in reuse.why
    assert (begin(tmp_path, "annotate", PARTS) / "unit.parquet").read_text() == "done"


def test_the_sentence_names_the_changed_leaf_and_both_values(tmp_path: Path) -> None:
    finish(tmp_path, PARTS)
    changed = {**PARTS, "config.annotate": json.dumps({"scorers": [{"kind": "linear"}], "leakage": "refuse"})}
    reuse = find(tmp_path, "annotate", changed)
    assert reuse.record is None
    assert reuse.why == "annotate: config.annotate.scorers[0].kind changed: columns -> linear"
    assert "version changed: 0.1.0 -> 0.2.0" in find(tmp_path, "annotate", {**PARTS, "version": "0.2.0"}).why
    assert "upstream is new" in find(tmp_path, "annotate", {**PARTS, "upstream": "abc"}).why


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "link"])
def test_a_damaged_file_is_never_reused_and_is_named(tmp_path: Path, damage: str) -> None:
    record = finish(tmp_path, PARTS)
    path = stage_directory(tmp_path, "annotate", record.fingerprint) / "part.parquet"
    if damage == "flip":
        path.write_text("rowS")
    elif damage == "cut":
        path.write_text("ro")
    else:
        path.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_text("rows")
        path.symlink_to(tmp_path / "elsewhere")
    reuse = find(tmp_path, "annotate", PARTS)
    assert reuse.record is None
    assert "part.parquet" in reuse.why


@pytest.mark.parametrize("field", ["fingerprint", "parts", "files", "schema_version", "all"])
def test_an_edited_record_is_never_reused(tmp_path: Path, field: str) -> None:
    record = finish(tmp_path, PARTS)
    path = stage_directory(tmp_path, "annotate", record.fingerprint) / "record.json"
    raw = json.loads(path.read_text())
    edits = {"fingerprint": "0" * 32, "parts": {}, "files": [{"path": "../../x"}], "schema_version": 99, "all": None}
    path.write_text("{" if field == "all" else json.dumps({**raw, field: edits[field]}))
    assert find(tmp_path, "annotate", PARTS).record is None


def test_going_back_to_an_earlier_config_reuses_its_work_and_moves_the_pointer(tmp_path: Path) -> None:
    first = finish(tmp_path, PARTS)
    second = finish(tmp_path, {**PARTS, "version": "2"})
    assert current(tmp_path, "annotate") == second
    assert peek(tmp_path, "annotate", PARTS).record == first
    assert current(tmp_path, "annotate") == second, "peek must write nothing"
    assert find(tmp_path, "annotate", PARTS).record == first
    assert current(tmp_path, "annotate") == first


def test_a_refused_record_is_gone_once_the_stage_begins_again(tmp_path: Path) -> None:
    record = finish(tmp_path, PARTS)
    directory = stage_directory(tmp_path, "annotate", record.fingerprint)
    (directory / "part.parquet").write_text("rowS")
    assert find(tmp_path, "annotate", PARTS).record is None
    begin(tmp_path, "annotate", PARTS)
    (directory / "part.parquet").write_text("rows")
    assert find(tmp_path, "annotate", PARTS).record is None


def test_commit_refuses_a_file_that_is_not_as_described(tmp_path: Path) -> None:
    directory = begin(tmp_path, "annotate", PARTS)
    (directory / "part.parquet").write_text("rows")
    entry = file_entry(directory, "part.parquet", rows=1)
    (directory / "part.parquet").write_text("row")
    with pytest.raises(ValueError, match="found 3 bytes"):
        commit(tmp_path, StageRecord("annotate", stage_fingerprint("annotate", PARTS), PARTS, (entry,), {}))
    assert find(tmp_path, "annotate", PARTS).record is None


def test_the_digest_of_a_record_depends_on_everything_that_it_says(tmp_path: Path) -> None:
    record = finish(tmp_path / "a", PARTS)
    assert record_digest(record) == record_digest(finish(tmp_path / "b", PARTS))
    assert record_digest(record) != record_digest(finish(tmp_path / "c", PARTS, text="Rows"))


def test_fingerprints_do_not_depend_on_the_order_of_parts_but_on_their_names() -> None:
    reversed_parts = dict(reversed(PARTS.items()))
    assert stage_fingerprint("annotate", PARTS) == stage_fingerprint("annotate", reversed_parts)
    assert stage_fingerprint("annotate", {"a": "b", "c": "d"}) != stage_fingerprint("annotate", {"a": "bc", "": "d"})
    assert stage_fingerprint("annotate", PARTS) != stage_fingerprint("select", PARTS)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "C:\\x", "a\\b", "a\0b", "C:x"])
def test_paths_that_leave_their_folder_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="PATH_ESCAPE"):
        FileEntry(path, 0, 0, "")


# ------------------------------------------------------------------------------------------- pieces


def test_a_piece_comes_back_only_under_its_own_name_and_key(tmp_path: Path) -> None:
    (tmp_path / "unit-0.parquet").write_bytes(b"abc")
    payload = {"rows": 3, "files": [file_entry(tmp_path, "unit-0.parquet", rows=3)]}
    save_piece(tmp_path, "unit-00000", "key", payload)
    loaded = load_piece(tmp_path, "unit-00000", "key")
    assert loaded is not None
    assert loaded["rows"] == 3
    assert FileEntry(**loaded["files"][0]) == payload["files"][0]
    assert load_piece(tmp_path, "unit-00000", "other key") is None
    assert load_piece(tmp_path, "unit-00001", "key") is None


@pytest.mark.parametrize("damage", ["file", "missing", "payload", "torn"])
def test_a_damaged_piece_is_not_trusted(tmp_path: Path, damage: str) -> None:
    (tmp_path / "unit-0.parquet").write_bytes(b"abc")
    save_piece(tmp_path, "u", "key", {"rows": 3, "files": [file_entry(tmp_path, "unit-0.parquet", rows=3)]})
    piece = next((tmp_path / "pieces").iterdir())
    if damage == "file":
        (tmp_path / "unit-0.parquet").write_bytes(b"abd")
    elif damage == "missing":
        (tmp_path / "unit-0.parquet").unlink()
    elif damage == "payload":
        piece.write_text(piece.read_text().replace('"rows":3', '"rows":4'))
    else:
        piece.write_text(piece.read_text()[:20])
    assert load_piece(tmp_path, "u", "key") is None


# ------------------------------------------------------------------------------------------- atomic writes


def test_a_reader_sees_the_old_or_the_new_bytes_never_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "pointer.json"
    versions = [letter.encode() * 200_000 for letter in "abcdefgh"]
    write_atomically(path, versions[0])
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        for version in versions:
            write_atomically(path, version)
    stop.set()
    reader.join()
    assert seen <= set(versions)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pointer.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_leaves_the_old_bytes_and_says_exit_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "pointer.json"
    write_atomically(path, b"old")

    def write(handle: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(ResourceError, match=r"pointer\.json") as caught:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert caught.value.exit_code == 5
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["pointer.json"]


# ------------------------------------------------------------------------------------------- lock


def test_a_second_run_is_told_who_holds_the_output(tmp_path: Path) -> None:
    with run_lock(tmp_path, run="first"), pytest.raises(LockedError, match=r"run first, pid .*, host .*, since"):  # noqa: SIM117
        with run_lock(tmp_path):
            pass
    with run_lock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_simply_taken(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom quadmix.stages.records import run_lock\n"
        "with run_lock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"pid {holder.pid}"), run_lock(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with run_lock(tmp_path):
            assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    finally:
        holder.kill()
        holder.wait()


def _race(root: str, barrier: object, wins: object) -> None:
    for _ in range(20):
        barrier.wait()  # type: ignore[attr-defined]
        try:
            with run_lock(Path(root)):
                value = int(Path(root, "counter").read_text())
                Path(root, "counter").write_text(str(value + 1))
                wins.put(1)  # type: ignore[attr-defined]
        except LockedError:
            wins.put(0)  # type: ignore[attr-defined]


def test_two_processes_never_hold_the_lock_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    (tmp_path / "counter").write_text("0")
    barrier, wins = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), barrier, wins)) for _ in range(2)]
    for racer in racers:
        racer.start()
    results = [wins.get(timeout=20) for _ in range(40)]
    for racer in racers:
        racer.join()
    assert sum(results) >= 20, "each time at least one of the two must get in"
    assert int((tmp_path / "counter").read_text()) == sum(results)
