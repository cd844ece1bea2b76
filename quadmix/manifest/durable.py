"""Writes that survive a crash: a reader sees the old bytes or the new bytes of a file, never a mixture.

Every file-system effect of publishing goes through the functions here and plain `os` calls, so that a test can
stop the process before each one of them. The order is always: write a private name, fsync it, rename it, fsync
the directory; without the last step a power cut may take the rename back.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from quadmix.errors import ConfigError, ResourceError

CHUNK = 4 * 2**20
_TICKET = itertools.count()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def private_name(name: str) -> str:
    """A name that no other process or call of this one uses: `.name.host.pid.n.tmp`; never a published name."""
    # a file name holds at most 255 bytes and the rest takes at most about 100
    return f".{name[:100]}.{socket.gethostname()[:40]}.{os.getpid()}.{next(_TICKET)}.tmp"


def relative_path(path: str) -> str:
    """The path unchanged if it stays inside the folder that it is relative to, else `ConfigError` PATH_ESCAPE."""
    parts = PurePosixPath(path).parts
    # Windows forms are refused on every system: `C:` and `\\` would mean something else there
    escapes = PurePosixPath(path).is_absolute() or ".." in parts or PureWindowsPath(path).drive != "" or "\\" in path
    if escapes or not parts or "\0" in path:
        raise ConfigError(
            f"PATH_ESCAPE: found the path {path!r}, wanted a path inside its own folder (relative, no '..'); "
            "nothing was opened; do not trust this file, or publish it again"
        )
    return path


def inside(folder: Path, path: str) -> Path:
    """folder/path, after `relative_path` and after every symbolic link on the way has been followed."""
    joined = folder / relative_path(path)
    if not joined.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"PATH_ESCAPE: {joined} is a link to {joined.resolve()}, wanted a file inside {folder}; nothing was opened"
        )
    return joined


@contextmanager
def resource_errors(doing: str) -> Iterator[None]:
    """Turn an `OSError` into a `ResourceError` (exit 5) that says what could not be done and what is still true."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _FULL:
            cure = "free some space or give another output, then rerun the same command"
        else:
            cure = "make it writable or give another output, then rerun the same command"
        raise ResourceError(
            f"{doing}: {error.strerror or error}{where}; what was published before is untouched; {cure}"
        ) from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and fsync it; for names that nobody reads yet."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: private name in the same folder, fsync, rename, fsync of the folder.

    Raises `ResourceError` when the disk is full or the folder cannot be written; `path` then holds its old bytes.
    """
    path = Path(path)
    temporary = path.parent / private_name(path.name)
    with resource_errors(f"cannot write {path}"):
        try:
            write_durably(temporary, data)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_durably(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file to a name that nobody reads yet and fsync it; (bytes, hex sha256) of exactly what was written.

    A copy and not a hard link: a link would let a later rewrite of the source change what was published.
    """
    digest, size = hashlib.sha256(), 0
    with open(source, "rb", buffering=0) as reader:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            while chunk := reader.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
    return size, digest.hexdigest()


def sync_file(path: Path) -> None:
    """Make the bytes of a file that another library wrote survive a power cut."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
