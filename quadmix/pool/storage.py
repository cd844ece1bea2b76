"""Where input bytes come from: local paths, taken literally, or any URI that pyarrow's file systems know (`s3://…`).

Local paths never pass through a URI or glob parser, so `[1]`, `*`, `#`, `%20`, `:` and spaces in names mean themselves.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat as stat_module
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pyarrow import fs

from quadmix.credentials import hide_credentials

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BLOCK = 1 << 20
FOOTER_BYTES = 64 * 1024
Kind = Literal["file", "directory", "symlink", "other", "missing"]


@dataclass(frozen=True)
class Entry:
    """A directory's member, or the thing that a path names."""

    path: str
    name: str
    kind: Kind
    size: int = 0
    mtime_ns: int = 0


def is_uri(path: str) -> bool:
    """Whether `path` is `scheme://…`; anything else is a local path."""
    return _URI.match(path) is not None


def shown(path: str) -> str:
    """`path` as messages may show it: without what a URI holds of credentials."""
    return hide_credentials(path) if is_uri(path) else path


def look(path: str, *, follow: bool = True) -> Entry:
    """What `path` is. `follow`: a local symlink counts as what it points to."""
    name = path.split("?")[0].rstrip("/").rsplit("/", 1)[-1] if is_uri(path) else os.path.basename(path.rstrip("/"))
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        return _entry_of(filesystem.get_file_info(inner), path, name)
    try:
        status = os.stat(path) if follow else os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entry(path, name, "missing")
    return Entry(path, name, _kind(status.st_mode), status.st_size, status.st_mtime_ns)


def members(path: str) -> list[Entry]:
    """The members of a directory in name order; local symlinks are told as such, not followed."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        base, _, query = path.partition("?")
        found = []
        for info in filesystem.get_file_info(fs.FileSelector(inner, recursive=False)):
            uri = f"{base.rstrip('/')}/{info.base_name}" + (f"?{query}" if query else "")
            found.append(_entry_of(info, uri, info.base_name))
        return sorted(found, key=lambda entry: entry.name)
    return [look(os.path.join(path, name), follow=False) for name in sorted(os.listdir(path))]


def open_input(path: str) -> pa.NativeFile:
    """A seekable handle for reading."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        return filesystem.open_input_file(inner)
    return pa.OSFile(path, "rb")


def tail_digest(path: str, size: int) -> str:
    """32 hex digits of sha256 over the last 64 KiB of a file of `size` bytes."""
    with open_input(path) as handle:
        length = min(size, FOOTER_BYTES)
        return hashlib.sha256(handle.read_at(length, size - length)).hexdigest()[:32]


def full_digest(path: str) -> str:
    """Hex sha256 over the whole file, read in blocks."""
    digest = hashlib.sha256()
    with open_input(path) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _filesystem(path: str) -> tuple[fs.FileSystem, str]:
    # Hadoop's name for S3; pyarrow knows the same store as s3
    uri = "s3" + path[3:] if path[:6].lower() in ("s3a://", "s3n://") else path
    filesystem, inner = fs.FileSystem.from_uri(uri)
    return filesystem, inner


def _entry_of(info: fs.FileInfo, path: str, name: str) -> Entry:
    kinds: dict[fs.FileType, Kind] = {
        fs.FileType.File: "file",
        fs.FileType.Directory: "directory",
        fs.FileType.NotFound: "missing",
    }
    return Entry(path, name, kinds.get(info.type, "other"), info.size or 0, info.mtime_ns or 0)


def _kind(mode: int) -> Kind:
    if stat_module.S_ISLNK(mode):
        return "symlink"
    if stat_module.S_ISREG(mode):
        return "file"
    return "directory" if stat_module.S_ISDIR(mode) else "other"
