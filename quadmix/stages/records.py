"""What a stage did, on disk: a finished stage is reused only if its inputs are the same and its bytes re-verify.

`stages/<stage>-<fp16>/` holds a stage's files and its `record.json`; `stages/<stage>.json` points to the current
record. The fingerprint is taken over named parts (config sections, digests of upstream records, code version), so a
rerun can say which part changed. A marker is never believed: `find` reads every listed file again (reliability.md,
P5). Inside a stage, `save_piece` and `load_piece` do the same for one task's work.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quadmix.errors import ConfigError, LockedError
from quadmix.hashing import fingerprint, sha256_file
from quadmix.manifest.durable import inside, relative_path, resource_errors, write_atomically
from quadmix.schema import SCHEMA_VERSION

__all__ = [
    "FileEntry",
    "Reuse",
    "StageRecord",
    "begin",
    "commit",
    "current",
    "file_entry",
    "find",
    "load_piece",
    "peek",
    "record_digest",
    "run_lock",
    "save_piece",
    "stage_directory",
    "stage_fingerprint",
    "write_atomically",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHOWN = 120  # characters of a changed value that a sentence quotes
_MAX_CHANGES = 3  # of one part, as a log shows them


@dataclass(frozen=True)
class FileEntry:
    """A file that a stage produced; `path` is relative to the folder of its record."""

    path: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        relative_path(self.path)


@dataclass(frozen=True)
class StageRecord:
    """A finished stage. `summary` is JSON and holds nothing that differs between two runs on the same input."""

    stage: str
    fingerprint: str
    parts: dict[str, str]
    files: tuple[FileEntry, ...]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Reuse:
    """A record whose bytes were just verified, or None; `why` is a sentence for the log either way."""

    record: StageRecord | None
    why: str


def file_entry(directory: Path, path: str, rows: int) -> FileEntry:
    """Describe a file that was written under `directory`; reads it once for its sha256."""
    found = inside(directory, path)
    return FileEntry(path, rows, found.stat().st_size, sha256_file(str(found)))


def stage_fingerprint(stage: str, parts: Mapping[str, str]) -> str:
    """32 hex digits over the stage's name and its parts in the order of their names."""
    flat = [text for name in sorted(parts) for text in (name, parts[name])]
    return fingerprint(stage, *flat)


def stage_directory(root: Path, stage: str, stage_print: str) -> Path:
    """stages/<stage>-<first 16 digits of the fingerprint>, whether it exists or not."""
    return Path(root) / "stages" / f"{_checked_name(stage)}-{stage_print[:16]}"


def record_digest(record: StageRecord) -> str:
    """32 hex digits over everything that a record says: what a later stage names as its upstream."""
    return fingerprint(_record_bytes(record).decode("utf-8"))


def peek(root: Path, stage: str, parts: Mapping[str, str]) -> Reuse:
    """As `find`, but writes nothing at all: for `quadmix plan`."""
    wanted = stage_fingerprint(stage, parts)
    directory = stage_directory(root, stage, wanted)
    record, trouble = _read_record(directory)
    if record is None:
        last = current(root, stage)
        if last is not None and last.fingerprint != wanted:
            return Reuse(None, f"{stage}: {'; '.join(_changes(last.parts, parts))}")
        return Reuse(None, f"{stage}: {trouble}" if directory.exists() else f"{stage}: not done before")
    if record.stage != stage or record.fingerprint != wanted or record.parts != dict(parts):
        return Reuse(None, f"{stage}: {directory / 'record.json'} describes something else: {record.fingerprint}")
    broken = _first_broken(directory, record.files)
    if broken:
        return Reuse(None, f"{stage}: {broken}")
    return Reuse(record, f"{stage}: nothing changed, {len(record.files)} files verified")


def find(root: Path, stage: str, parts: Mapping[str, str]) -> Reuse:
    """The record of exactly this work, if there is one and every file of it still has its bytes.

    Looks under the fingerprint, not under the pointer, so going back to an earlier config reuses the earlier
    work; the pointer is then moved to it. Call it while holding `run_lock`.
    """
    reuse = peek(root, stage, parts)
    if reuse.record is not None and current(root, stage) != reuse.record:
        _point(Path(root), reuse.record)
    return reuse


def begin(root: Path, stage: str, parts: Mapping[str, str]) -> Path:
    """The folder for this work, made if need be; what an interrupted run finished in it is still there.

    A record that `find` refused is taken away first, so that a half-redone stage can never look finished.
    """
    directory = stage_directory(root, stage, stage_fingerprint(stage, parts))
    with resource_errors(f"cannot make {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "record.json").unlink(missing_ok=True)
    return directory


def commit(root: Path, record: StageRecord) -> None:
    """Publish a finished stage: `record.json`, then the pointer; each by atomic replace.

    The listed files are made durable first; one that is missing or of another size is a bug and raises.
    """
    directory = stage_directory(root, record.stage, record.fingerprint)
    with resource_errors(f"cannot commit stage {record.stage}"):
        for entry in record.files:
            _sync_listed(inside(directory, entry.path), entry)
    write_atomically(directory / "record.json", _record_bytes(record))
    _point(Path(root), record)


def current(root: Path, stage: str) -> StageRecord | None:
    """The record that the stage's pointer names, unverified; None if there is none that can be read."""
    pointer = _read_json(Path(root) / "stages" / f"{_checked_name(stage)}.json")
    if not isinstance(pointer, dict) or not isinstance(pointer.get("fingerprint"), str):
        return None
    return _read_record(stage_directory(root, stage, pointer["fingerprint"]))[0]


def save_piece(directory: Path, name: str, key: str, payload: Mapping[str, Any]) -> None:
    """Record one finished piece of work as an immutable JSON file `pieces/<name>-<hash of key>.json`.

    payload: JSON; its optional `files` is a list of `FileEntry` (or their dicts), relative to `directory`, which must
    be complete on disk. `key` is whatever identifies the work: the unit's fingerprint, the model's, the config's.
    """
    files = [asdict(entry) if isinstance(entry, FileEntry) else dict(entry) for entry in payload.get("files", [])]
    for entry in files:
        _sync_listed(inside(directory, entry["path"]), FileEntry(**entry))
    body = {**payload, **({"files": files} if "files" in payload else {})}
    text = _json(body)
    path = _piece_path(directory, name, key)
    with resource_errors(f"cannot make {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    sealed = _json({"key": key, "payload": body, "seal": fingerprint(key, text)})
    write_atomically(path, sealed.encode("utf-8"))


def load_piece(directory: Path, name: str, key: str) -> dict[str, Any] | None:
    """The payload saved under (name, key), or None unless its seal and every file that it lists verify."""
    record = _read_json(_piece_path(directory, name, key))
    if not isinstance(record, dict) or record.get("key") != key or not isinstance(record.get("payload"), dict):
        return None
    payload: dict[str, Any] = record["payload"]
    if record.get("seal") != fingerprint(key, _json(payload)):
        return None
    try:
        files = [FileEntry(**entry) for entry in payload.get("files", [])]
    except (TypeError, ConfigError):
        return None
    return None if _first_broken(directory, files) else payload


@contextmanager
def run_lock(root: Path, run: str | None = None) -> Iterator[None]:
    """Hold the output for one run; `LockedError` (exit 4) names the run that has it.

    flock on `run.lock`: the kernel lets go of a dead process's lock, so a stale file never locks anybody out.
    """
    root = Path(root)
    with resource_errors(f"cannot lock the output {root}"):
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with resource_errors(f"cannot lock {root / 'run.lock'}"):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(_held_by(root)) from None
            since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            owner = {"run": run or f"{since}-{os.getpid()}", "pid": os.getpid(), "host": socket.gethostname()}
            os.ftruncate(handle, 0)
            os.pwrite(handle, _json({**owner, "since": since}).encode("utf-8"), 0)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _held_by(root: Path) -> str:
    owner = _read_json(root / "run.lock")
    owner = owner if isinstance(owner, dict) else {}
    who = ", ".join(f"{name} {owner.get(name, 'unknown')}" for name in ("run", "pid", "host", "since"))
    return f"output {root} is locked by {who}; nothing was changed; wait for that run to end, or give another output"


def _point(root: Path, record: StageRecord) -> None:
    directory = stage_directory(root, record.stage, record.fingerprint)
    pointer = {"stage": record.stage, "fingerprint": record.fingerprint, "directory": directory.name}
    write_atomically(root / "stages" / f"{record.stage}.json", _json(pointer).encode("utf-8"))


def _sync_listed(path: Path, entry: FileEntry) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        if size != entry.bytes:
            raise ValueError(f"{path}: found {size} bytes, the record says {entry.bytes}")
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_broken(directory: Path, files: tuple[FileEntry, ...] | list[FileEntry]) -> str | None:
    """A sentence about the first listed file that is not what the record says, or None."""
    for entry in files:
        try:
            path = inside(directory, entry.path)
            size = path.stat().st_size
            if size != entry.bytes:
                return f"{entry.path} has {size} bytes, its record says {entry.bytes}"
            digest = sha256_file(str(path))
        except (OSError, ConfigError) as error:
            return f"{entry.path} cannot be read: {error}"
        if digest != entry.sha256:
            return f"{entry.path} has sha256 {digest[:16]}…, its record says {entry.sha256[:16]}…"
    return None


def _read_record(directory: Path) -> tuple[StageRecord | None, str]:
    """(record, "") or (None, what is wrong)."""
    path = directory / "record.json"
    raw = _read_json(path)
    if raw is None:
        return None, f"{path} is missing or unreadable: the work was interrupted"
    try:
        if raw["schema_version"] != SCHEMA_VERSION:
            return None, f"{path} has schema version {raw['schema_version']}, wanted {SCHEMA_VERSION}"
        files = tuple(FileEntry(**entry) for entry in raw["files"])
        return StageRecord(raw["stage"], raw["fingerprint"], dict(raw["parts"]), files, dict(raw["summary"])), ""
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        return None, f"{path} is not a record: {error}"


def _record_bytes(record: StageRecord) -> bytes:
    return _json({"schema_version": SCHEMA_VERSION, **asdict(record)}).encode("utf-8")


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """One clause for each part that differs: its name (down to the JSON key), the old and the new value."""
    clauses = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            clauses.append(f"{name} is new: {_shown(new[name])}")
        elif name not in new:
            clauses.append(f"{name} is gone, was {_shown(old[name])}")
        elif old[name] != new[name]:
            clauses.extend(_change(name, old[name], new[name]))
    return clauses or ["the record is older than this version"]


def _change(name: str, old: str, new: str) -> list[str]:
    try:
        pairs = list(_leaves(name, json.loads(old), json.loads(new)))
    except json.JSONDecodeError:
        pairs = []
    changes = [
        f"{path} changed: {_shown(before)} -> {_shown(after)}" for path, before, after in pairs or [(name, old, new)]
    ]
    hidden = len(changes) - _MAX_CHANGES
    return changes if hidden <= 1 else [*changes[:_MAX_CHANGES], f"{hidden} more in {name} changed"]


def _leaves(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """(path, old, new) of every differing leaf of two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _leaves(f"{path}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _leaves(f"{path}[{index}]", before, after)
    elif old != new:
        yield path, old, new


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value).strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _piece_path(directory: Path, name: str, key: str) -> Path:
    return Path(directory) / "pieces" / f"{_checked_name(name)}-{fingerprint(key)[:16]}.json"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"found the name {name!r}, wanted letters, digits, '.', '_' or '-', at most 128")
    return name


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
