"""From configured inputs to files: every path taken literally, every member of a directory accounted for.

Nothing is skipped in silence: a name that is not a known format, a hidden file, a nested directory or a symlink is
a refusal with its reason, except the marker files that data systems leave beside their output.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from quadmix.pool.refusals import Refusal
from quadmix.pool.storage import Entry, is_uri, look, members, shown
from quadmix.schema import FileReason

_FORMATS = (
    (re.compile(r".+\.(?:parquet|parq)", re.IGNORECASE), "parquet", ""),
    (re.compile(r".+\.(?:jsonl|ndjson)", re.IGNORECASE), "jsonl", ""),
    (re.compile(r".+\.(?:jsonl|ndjson|json)\.gz", re.IGNORECASE), "jsonl", "gz"),
    (re.compile(r".+\.(?:jsonl|ndjson|json)\.(?:zst|zstd)", re.IGNORECASE), "jsonl", "zst"),
)
# left by Spark, Hadoop and Databricks beside data; they hold no documents
_MARKER = re.compile(r"_SUCCESS|manifest\.json|_metadata|_common_metadata|_started_.*|_committed_.*|\..+\.crc")
SUCCESS_MARKERS = ("_SUCCESS", "manifest.json")


@dataclass(frozen=True)
class Found:
    """A file with a known format. `relative` is its path below the input `root`, `real` tells two names of one file."""

    entry: Entry
    root: str
    relative: str
    real: str
    format: str
    compression: str


@dataclass(frozen=True)
class Listing:
    """Everything that one configured input led to. `missing`: the input does not exist."""

    files: tuple[Found, ...]
    refused: tuple[Refusal, ...]
    missing: bool = False
    marked: bool = True  # a directory holds a success marker; single files need none


def format_of(name: str) -> tuple[str, str] | None:
    """(format, compression) of a file name, None when it is not an input's."""
    if name.startswith(("_", ".")):
        return None
    for pattern, kind, compression in _FORMATS:
        if pattern.fullmatch(name):
            return kind, compression
    return None


def list_input(root: str, *, recursive: bool, follow_symlinks: bool) -> Listing:
    """List one configured input, a file or a directory. A symlink that the config itself names is followed."""
    top = look(root)
    if top.kind == "missing":
        return Listing((), (), missing=True)
    if top.kind != "directory":
        found = list(_judge(top, root, top.name))
        return _listing(found)
    walked = list(_walk(root, root, "", recursive, follow_symlinks, {_real(root)}))
    marked = any(member.name in SUCCESS_MARKERS for member in members(root))
    return _listing(walked, marked)


def _listing(found: list[Found | Refusal], marked: bool = True) -> Listing:
    return Listing(
        tuple(item for item in found if isinstance(item, Found)),
        tuple(item for item in found if isinstance(item, Refusal)),
        marked=marked,
    )


def _walk(
    root: str, directory: str, prefix: str, recursive: bool, follow_symlinks: bool, visited: set[str]
) -> Iterator[Found | Refusal]:
    try:
        entries = members(directory)
    except PermissionError as error:
        yield Refusal(prefix.rstrip("/") or directory, shown(directory), FileReason.PERMISSION, _why(error))
        return
    for entry in entries:
        relative = prefix + entry.name
        if entry.kind == "symlink":
            if not follow_symlinks:
                message = "found a symbolic link, which may lead anywhere; set pool.follow_symlinks: true to allow it"
                yield Refusal(relative, shown(entry.path), FileReason.SYMLINK, message)
                continue
            entry = look(entry.path)
        if entry.kind == "directory":
            if not recursive:
                message = "found a directory inside the input; set pool.recursive: true to read it"
                yield Refusal(relative, shown(entry.path), FileReason.NESTED_DIR, message)
            elif _real(entry.path) not in visited:  # a link back to where we are would never end
                yield from _walk(
                    root, entry.path, f"{relative}/", recursive, follow_symlinks, visited | {_real(entry.path)}
                )
        elif not (_MARKER.fullmatch(entry.name) and format_of(entry.name) is None):
            yield from _judge(entry, root, relative)


def _judge(entry: Entry, root: str, relative: str) -> Iterator[Found | Refusal]:
    kind = format_of(entry.name)
    if entry.kind == "missing":
        yield Refusal(relative, shown(entry.path), FileReason.CHANGED_DURING_RUN, "the file vanished while listing")
    elif kind is None or entry.kind != "file":
        message = "wanted a regular file named *.parquet, *.jsonl, *.jsonl.gz or *.jsonl.zst; move it elsewhere"
        yield Refusal(relative, shown(entry.path), FileReason.UNEXPECTED_EXTENSION, message)
    else:
        yield Found(entry, root, relative, _real(entry.path), *kind)


def _real(path: str) -> str:
    return path if is_uri(path) else os.path.realpath(path)


def _why(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error}); grant read permission to the user who runs this"
