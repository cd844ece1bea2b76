"""An append-only journal: one JSON object a line, each line with its own checksum.

The driver appends a line (and syncs it) for everything that finished, so a killed search knows what it need not do
again. A process that dies in the middle of a write leaves a torn last line: it is cut off when the journal is opened.
A line that was damaged later is skipped and counted; its work is simply done again. Nothing is ever rewritten.

Lines come in the order of completion, which differs from run to run; nothing that decides may depend on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from quadmix.errors import ResourceError


class Journal:
    """Entries by key, kept in a file of JSON lines. One writer at a time (the run's lock sees to that)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        self.damaged = 0
        self._read()

    def append(self, key: str, value: Mapping[str, Any]) -> None:
        """Add one entry and sync it to disk. value: JSON without NaN (a failed trial has nulls)."""
        body = _canonical({"key": key, "value": dict(value)})
        line = f'{{"entry":{body},"xxh64":"{_checksum(body)}"}}\n'.encode()
        try:
            with open(self.path, "ab") as handle:
                handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise ResourceError(
                f"{self.path}: cannot append to the journal ({error.strerror}); free the disk or check its "
                "permissions, then rerun the same command: what is finished is kept"
            ) from error
        self.entries[key] = json.loads(body)["value"]

    def _read(self) -> None:
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            os.truncate(self.path, whole)
        for line in raw[:whole].splitlines():
            entry = _parse(line)
            if entry is None:
                self.damaged += 1
            else:
                # the same key twice means the same work done twice, with the same result: the first stays
                self.entries.setdefault(entry["key"], entry["value"])


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
        entry, checksum = parsed["entry"], parsed["xxh64"]
        intact = checksum == _checksum(_canonical(entry)) and isinstance(entry["key"], str)
    except (ValueError, KeyError, TypeError):
        return None
    return dict(entry) if intact else None


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def _checksum(body: str) -> str:
    return str(xxhash.xxh64_hexdigest(body.encode("utf-8")))
