"""Reading a unit: its rows in input order, whatever the format, in batches of at most 32 MiB.

Columns of a batch: shard (string), row (int64, its number in the shard), doc_id (string, null if unknown), text
(large_string, null if unusable), domain (string) and tokens (int64) if the config names such columns, every extra
column under its configured path, reason (string, null = fine so far) and detail (string).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import pyarrow as pa

from quadmix.config import PoolConfig
from quadmix.pool.batches import split_by_bytes
from quadmix.pool.jsonl_reader import read_jsonl
from quadmix.pool.parquet_reader import read_parquet
from quadmix.pool.prepared import read_prepared
from quadmix.pool.refusals import FileRefused
from quadmix.pool.row_checks import ReadLog, checked_batch
from quadmix.pool.storage import look, shown, tail_digest
from quadmix.pool.units import InputFile, Unit
from quadmix.schema import FileReason

MAX_BATCH_BYTES = 32 << 20


def read_unit(
    unit: Unit, config: PoolConfig, extra_columns: tuple[str, ...] = (), log: ReadLog | None = None
) -> Iterator[pa.RecordBatch]:
    """The unit's rows. `log` collects what was put right. Raises FileRefused when a file cannot be read to its end."""
    log = ReadLog() if log is None else log
    for file, run in groupby(unit.pieces, key=lambda piece: piece.file):
        pieces = list(run)
        _require_unchanged(file, "before it was read")
        try:
            if file.format == "prepared":
                batches = read_prepared(file, pieces, extra_columns)
            else:
                raws = (
                    read_jsonl(file, config, extra_columns, log)
                    if file.format == "jsonl"
                    else read_parquet(file, pieces, config, extra_columns, log)
                )
                batches = (checked_batch(raw, config, log) for raw in raws)
            for batch in batches:
                yield from split_by_bytes(batch, MAX_BATCH_BYTES)
        except PermissionError as error:
            message = f"cannot be read ({error.strerror or error}); grant read permission to the user who runs this"
            raise FileRefused(file.shard, shown(file.path), FileReason.PERMISSION, message) from error
        except FileNotFoundError as error:
            message = "vanished after it was listed; put it back and run again"
            raise FileRefused(file.shard, shown(file.path), FileReason.CHANGED_DURING_RUN, message) from error
        _require_unchanged(file, "while it was read")


def _require_unchanged(file: InputFile, when: str) -> None:
    """Raise FileRefused unless size, modification time and the last 64 KiB are those of the inventory."""
    try:
        now = look(file.path)
        same = (now.size, now.mtime_ns) == (file.size, file.mtime_ns)
        if now.kind == "file" and same and tail_digest(file.path, file.size) == file.footer:
            return
        what = "vanished" if now.kind == "missing" else f"changed: {file.size} bytes then, {now.size} now"
    except PermissionError as error:
        raise FileRefused(file.shard, shown(file.path), FileReason.PERMISSION, str(error)) from error
    except OSError as error:
        what = f"can no longer be read ({error})"
    message = f"{what}, after it was listed and {when}; wait until its writer is done and run again"
    raise FileRefused(file.shard, shown(file.path), FileReason.CHANGED_DURING_RUN, message)
