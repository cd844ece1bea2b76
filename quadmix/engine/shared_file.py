"""A value shared with the worker processes of this machine through one memory-mapped file.

Arrays are written out of band (pickle protocol 5) and come back as read-only views of the mapping, so ten workers
hold one copy. The file is a message between processes of one run and never an artefact: it lives in a
directory that only this user can enter and goes when the handle or the engine goes.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any, Generic, TypeVar

V = TypeVar("V")

_ALIGN = 64  # a cache line: vector loads on the mapped arrays are aligned
_KEEP = 16  # values that a worker keeps loaded

_loaded: OrderedDict[str, Any] = OrderedDict()


class SharedFile(Generic[V]):
    """The handle: pickles as the file's path; `get` loads at most once a process (arrays are read-only)."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self) -> V:
        """The value; must not be changed."""
        if self.path in _loaded:
            _loaded.move_to_end(self.path)
        else:
            _remember(self.path, _read(self.path))
        value: V = _loaded[self.path]
        return value


def share_value(value: V, path: Path) -> SharedFile[V]:
    """Write `value` to `path` for the workers; here `get` returns the very object."""
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    blocks = [memoryview(stream), *(buffer.raw() for buffer in buffers)]
    with path.open("wb") as handle:
        handle.write(struct.pack(f"<{1 + len(blocks)}Q", len(blocks), *(block.nbytes for block in blocks)))
        for block in blocks:
            handle.write(b"\0" * (-handle.tell() % _ALIGN))
            handle.write(block)
    shared: SharedFile[V] = SharedFile(str(path))
    _remember(shared.path, value)
    weakref.finalize(shared, _forget, shared.path)
    return shared


def _read(path: str) -> Any:
    with open(path, "rb") as handle:
        mapped = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    (count,) = struct.unpack_from("<Q", mapped)
    offset = 8 * (1 + count)
    blocks = []
    for length in struct.unpack_from(f"<{count}Q", mapped, 8):
        offset += -offset % _ALIGN
        blocks.append(mapped[offset : offset + length])
        offset += length
    return pickle.loads(blocks[0], buffers=blocks[1:])


def _remember(path: str, value: Any) -> None:
    _loaded[path] = value
    while len(_loaded) > _KEEP:
        _loaded.popitem(last=False)


def _forget(path: str) -> None:
    _loaded.pop(path, None)
    if os.path.exists(path):
        os.unlink(path)
