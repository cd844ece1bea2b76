"""All or nothing: whatever stops a publication, a reader finds the previous manifest or the new one, whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quadmix.errors import InputError, QuadmixError, ResourceError, VerificationError
from quadmix.hashing import sha256_file
from quadmix.manifest import Manifest
from quadmix.manifest.publish import publish


class Crash(BaseException):
    """Power cut or kill -9: nothing in the process may react to it."""


class FaultyDisk:
    """Counts file-system effects through `os` and crashes before effect number `stop`.

    mode: "kill" keeps everything that was done; "torn" also does half of a write that is the stopped effect;
    "power" loses what was not made durable: bytes since the last fsync of their file, renames since the last fsync
    of their folder.
    """

    def __init__(self, patch: pytest.MonkeyPatch, stop: int, mode: str) -> None:
        self.stop, self.mode, self.done = stop, mode, 0
        self.paths: dict[int, str] = {}
        self.dirty: set[str] = set()
        self.renames: list[tuple[str, str, bytes | None]] = []
        self.real = {name: getattr(os, name) for name in ("open", "write", "fsync", "close")}
        for name in ("mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, self._plain(getattr(os, name)))
        for name in ("replace", "rename"):
            patch.setattr(os, name, self._rename(getattr(os, name)))
        patch.setattr(os, "open", self._open)
        patch.setattr(os, "write", self._write)
        patch.setattr(os, "fsync", self._fsync)

    def _effect(self) -> None:
        if self.done == self.stop:
            self.lose()
            raise Crash
        self.done += 1

    def lose(self) -> None:
        """What the power cut takes: everything that was not made durable."""
        if self.mode != "power":
            return
        for path in self.dirty:
            if os.path.exists(path):
                os.truncate(path, 0)
        for source, target, old in reversed(self.renames):
            if not os.path.exists(target):
                continue
            self.undo(target, source)
            if old is not None:
                Path(target).write_bytes(old)

    def _plain(self, call: Callable[..., None]) -> Callable[..., None]:
        def effect(*args: Any, **kwargs: Any) -> None:
            self._effect()
            call(*args, **kwargs)

        return effect

    def _rename(self, call: Callable[..., None]) -> Callable[..., None]:
        self.undo = call

        def effect(source: Any, target: Any) -> None:
            self._effect()
            old = Path(target).read_bytes() if os.path.isfile(target) else None
            call(source, target)
            self.renames.append((str(source), str(target), old))
            self.dirty = {path.replace(str(source), str(target), 1) for path in self.dirty}

        return effect

    def _open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            self._effect()
        handle: int = self.real["open"](path, flags, *args, **kwargs)
        self.paths[handle] = str(path)
        return handle

    def _write(self, handle: int, data: Any) -> int:
        if self.done == self.stop and self.mode == "torn":
            self.real["write"](handle, bytes(data)[: len(data) // 2])
        self._effect()
        self.dirty.add(self.paths[handle])
        written: int = self.real["write"](handle, data)
        return written

    def _fsync(self, handle: int) -> None:
        self._effect()
        path = self.paths[handle]
        self.dirty.discard(path)
        self.renames = [entry for entry in self.renames if os.path.dirname(entry[1]) != path]
        self.real["fsync"](handle)


def assert_whole(manifest: Manifest) -> None:
    for entry in (*manifest.files, *manifest.artefacts):
        assert sha256_file(str(manifest.part_path(entry))) == entry.sha256


def crash_at(stop: int, mode: str, work: Callable[[], object]) -> bool:
    """Run `work` and stop it before effect `stop`; False if it ended by itself (the power fails right after)."""
    with pytest.MonkeyPatch.context() as patch:
        disk = FaultyDisk(patch, stop, mode)
        try:
            work()
        except Crash:
            return True
    disk.lose()
    return False


@pytest.mark.parametrize("mode", ["kill", "torn", "power"])
def test_a_crash_before_any_effect_leaves_the_old_manifest_or_the_new_one(
    fast_dir: Path, draft: Callable[..., Any], mode: str
) -> None:
    old, new = draft(fast_dir / "old", "old"), draft(fast_dir / "new", "new")
    seen: list[str] = []
    for stop in range(1000):
        root = fast_dir / f"out{stop}"
        publish(root, *old)
        crashed = crash_at(stop, mode, lambda root=root: publish(root, *new))
        found = Manifest.load(root)
        assert found in (old[0], new[0])
        assert_whole(found)
        seen.append(found.run_fingerprint)
        for again in (stop // 2, stop):  # and again during recovery
            crash_at(again, mode, lambda root=root: publish(root, *new))
            assert_whole(Manifest.load(root))
        assert publish(root, *new) == new[0]
        assert_whole(Manifest.load(root))
        assert not list(root.rglob("*.tmp")), "leftovers of crashed runs must be swept"
        if not crashed:
            break
    assert not crashed
    assert stop >= 20, "positive control: the sweep must have met the effects of publishing"
    assert {"old", "new"} == set(seen)
    assert seen == sorted(seen, reverse=True), "once the new one was seen, every later crash must keep it"


def test_the_sweep_notices_a_publisher_that_skips_fsync(
    fast_dir: Path, draft: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control: without fsync the same power cuts must be seen to lose data."""
    monkeypatch.setattr("quadmix.manifest.publish.sync_folder", lambda folder: None)
    old, new = draft(fast_dir / "old", "old"), draft(fast_dir / "new", "new")
    broken = 0
    for stop in range(60):
        root = fast_dir / f"out{stop}"
        publish(root, *old)
        crash_at(stop, "power", lambda root=root: publish(root, *new))
        try:
            assert_whole(Manifest.load(root))
        except (QuadmixError, OSError):
            broken += 1
    assert broken > 0


def test_published_files_are_never_touched_again(tmp_path: Path, draft: Callable[..., Any]) -> None:
    first = publish(tmp_path / "out", *draft(tmp_path / "a", "a"))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in first.folder.rglob("*")}
    publish(tmp_path / "out", *draft(tmp_path / "b", "b"))
    publish(tmp_path / "out", *draft(tmp_path / "a", "a"))  # which writes its sources again, in place
    assert Manifest.load(tmp_path / "out") == first
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in first.folder.rglob("*")}
    assert len(list((tmp_path / "out" / "manifests").iterdir())) == 2


@pytest.mark.parametrize("target", ["part-00000.parquet", "maps/map.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_publishing_the_same_again_repairs_a_damaged_folder(
    tmp_path: Path, draft: Callable[..., Any], target: str, damage: str
) -> None:
    first = publish(tmp_path / "out", *draft(tmp_path / "a", "a"))
    path = first.folder / target
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    if damage == "flip":
        path.write_bytes(bytes(raw))
    else:
        path.unlink()
    publish(tmp_path / "out", *draft(tmp_path / "a", "a"))
    assert_whole(Manifest.load(tmp_path / "out"))


def test_what_differs_from_its_description_is_not_published(tmp_path: Path, draft: Callable[..., Any]) -> None:
    first = publish(tmp_path / "out", *draft(tmp_path / "a", "a"))
    manifest, sources = draft(tmp_path / "b", "b")
    raw = bytearray(sources["part-00001.parquet"].read_bytes())
    raw[10] ^= 1
    sources["part-00001.parquet"].write_bytes(bytes(raw))
    with pytest.raises(VerificationError, match=r"part-00001\.parquet.*sha256"):
        publish(tmp_path / "out", manifest, sources)
    with pytest.raises(VerificationError, match="exactly once"):
        publish(tmp_path / "out", manifest, {"part-00000.parquet": sources["part-00000.parquet"]})
    assert Manifest.load(tmp_path / "out") == first


def test_nothing_selected_and_credentials_are_refused(tmp_path: Path, draft: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="nothing was selected"):
        publish(tmp_path / "out", *draft(tmp_path / "a", "a", documents=0))
    with pytest.raises(QuadmixError, match="credential"):
        publish(tmp_path / "out", *draft(tmp_path / "a", "a", config={"x": "s3://user:pass@bucket"}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("effect", ["write", "fsync", "rename", "mkdir", "replace"])
def test_a_full_disk_is_exit_5_and_the_old_manifest_stays(
    tmp_path: Path, draft: Callable[..., Any], effect: str
) -> None:
    first = publish(tmp_path / "out", *draft(tmp_path / "a", "a"))
    second = draft(tmp_path / "b", "b")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, effect, full)
        with pytest.raises(ResourceError, match="what was published before is untouched") as caught:
            publish(tmp_path / "out", *second)
    assert caught.value.exit_code == 5
    assert Manifest.load(tmp_path / "out") == first
    assert_whole(first)
    assert publish(tmp_path / "out", *second) == second[0]


def _publish_forever(root: str, drafts: list[Any]) -> None:
    while True:
        for manifest, sources in drafts:
            publish(Path(root), manifest, sources)


def test_a_concurrent_reader_and_real_kills_see_only_whole_manifests(fast_dir: Path, draft: Callable[..., Any]) -> None:
    """Publish in another process, kill it at arbitrary moments, read all the while."""
    drafts = [draft(fast_dir / tag, tag) for tag in ("a", "b", "c")]
    root = fast_dir / "out"
    publish(root, *drafts[0])
    known, seen = {manifest.digest for manifest, _ in drafts}, set()
    context = multiprocessing.get_context("fork")
    deadline = time.monotonic() + 60
    kills = 0
    while kills < 12 or seen != known:
        assert time.monotonic() < deadline, "positive control: the reader must meet every version"
        writer = context.Process(target=_publish_forever, args=(str(root), drafts), daemon=True)
        writer.start()
        for _ in range(3 + kills % 4):  # counted in reads, so that a slow machine tests the same
            found = Manifest.load(root)
            assert_whole(found)
            seen.add(found.digest)
        time.sleep(0.007 * kills)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        kills += 1
        assert_whole(Manifest.load(root))
    assert publish(root, *drafts[1]) == drafts[1][0]
