"""The inventory: which files a run reads, found before any work, with every doubt about them said at once.

Files are known by `shard`, their path below their input, made unique with as much of the input's own path as that
takes, and sorted by it. Bad files are collected, not raised, so that all can be named together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from quadmix.config import PoolConfig
from quadmix.errors import ConfigError, InputError
from quadmix.pool.jsonl_reader import peek_documents
from quadmix.pool.listing import Found, list_input
from quadmix.pool.parquet_footer import read_footer
from quadmix.pool.refusals import FileRefused, Refusal, refused_error
from quadmix.pool.schema_check import FileColumns, check_columns
from quadmix.pool.storage import shown, tail_digest
from quadmix.pool.unit_plan import plan_units
from quadmix.pool.units import InputFile
from quadmix.schema import FileReason

__all__ = ["Inventory", "find_inputs", "plan_units"]

_LOOKERS = 8  # threads: looking into a file is waiting for storage


@dataclass(frozen=True)
class Inventory:
    """files: sorted by shard. refused: files that cannot be used. warnings: sentences that belong in the report."""

    files: tuple[InputFile, ...]
    refused: tuple[Refusal, ...]
    warnings: tuple[str, ...]

    def accepted(self, skip_bad_files: bool) -> tuple[InputFile, ...]:
        """The files to go on with. Raises InputError, naming every bad file, unless told to skip them."""
        if self.refused and not skip_bad_files:
            raise refused_error(self.refused)
        if not self.files:
            raise refused_error(self.refused) if self.refused else InputError("no input file is left")
        return self.files


def find_inputs(config: PoolConfig, extra_columns: Sequence[str] = ()) -> Inventory:
    """List the inputs and look into each file: whole, readable, and with the configured columns?

    extra_columns: further columns that scorers and labellers read. Raises ConfigError for inputs that do not exist
    or hold nothing (NO_INPUT), come twice (DUPLICATE_INPUT), lack a success marker that is required
    (INCOMPLETE_UPSTREAM), and for columns that no file has (UNKNOWN_COLUMN).
    """
    if config.id_from == "column" and config.columns.id is None:
        raise ConfigError("pool.columns.id: found null, wanted a column name (or pool.id_from: content | position)")
    found, refused = _list_all(config)
    inspected = _in_threads(_inspect, _named(found))
    columns: list[FileColumns] = []
    for result in inspected:
        if isinstance(result, Refusal):
            refused.append(result)
        else:
            columns.append(result)
    checked = check_columns(columns, config, tuple(extra_columns))
    refused.extend(checked.refused)
    bad = {refusal.shard for refusal in checked.refused}
    files = tuple(column.file for column in columns if column.file.shard not in bad)
    warnings = [*checked.warnings, *_checksum_warning(columns)]
    return Inventory(files, tuple(sorted(refused, key=lambda item: (item.shard, item.path))), tuple(warnings))


def _list_all(config: PoolConfig) -> tuple[list[Found], list[Refusal]]:
    found: list[Found] = []
    refused: list[Refusal] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for root in config.inputs:
        try:
            listing = list_input(root, recursive=config.recursive, follow_symlinks=config.follow_symlinks)
        except (OSError, pa.ArrowException) as error:
            problems.append(f"pool.inputs: NO_INPUT {shown(root)!r} cannot be looked at: {error}")
            continue
        if listing.missing:
            problems.append(f"pool.inputs: NO_INPUT {shown(root)!r} does not exist")
        elif not listing.files and not listing.refused:
            problems.append(
                f"pool.inputs: NO_INPUT {shown(root)!r} holds no *.parquet, *.jsonl, *.jsonl.gz or *.jsonl.zst"
            )
        if config.require_success_marker and not listing.marked:
            problems.append(
                f"pool.inputs: INCOMPLETE_UPSTREAM {shown(root)!r} has no _SUCCESS or manifest.json, so its writer may "
                "not have finished; wait for it, or set pool.require_success_marker: false"
            )
        for file in listing.files:
            if file.real in seen:
                problems.append(
                    f"pool.inputs: DUPLICATE_INPUT {shown(file.entry.path)!r} is read twice, "
                    f"by {shown(seen[file.real])!r} and {shown(root)!r}; list it once"
                )
            seen[file.real] = root
        found.extend(listing.files)
        refused.extend(listing.refused)
    if problems:
        raise ConfigError(problems)
    return found, refused


def _named(found: Iterable[Found]) -> list[tuple[str, Found]]:
    """(shard, file) sorted by shard; files of one relative name in several inputs get more of the inputs' paths."""
    names = {file.real: file.relative for file in found}
    by_real = {file.real: file for file in found}
    depth = 0
    while True:
        holders: dict[str, list[str]] = {}
        for real, name in names.items():
            holders.setdefault(name, []).append(real)
        clashing = [real for reals in holders.values() if len(reals) > 1 for real in reals]
        if not clashing:
            return sorted((name, by_real[real]) for real, name in names.items())
        depth += 1
        for real in clashing:
            parts = _above(by_real[real])
            names[real] = "/".join([*parts[-depth:], by_real[real].relative]) if depth <= len(parts) else real


def _above(file: Found) -> list[str]:
    """The components of the path above a file's relative name."""
    root = os.path.abspath(file.root) if "://" not in file.root else file.root
    parts = [part for part in root.split("/") if part]
    return parts[:-1] if file.entry.path == file.root else parts


def _inspect(named: tuple[str, Found]) -> FileColumns | Refusal:
    """Look into one file: its identity and its columns, or why it is refused."""
    shard, found = named
    entry = found.entry
    try:
        if entry.size == 0:
            return Refusal(shard, shown(entry.path), FileReason.EMPTY_FILE, "found 0 bytes; copy the file again")
        tail = tail_digest(entry.path, entry.size)
        file = InputFile(
            entry.path, shard, entry.size, entry.mtime_ns, tail, found.format, found.compression, found.root
        )
        if found.format == "parquet":
            footer = read_footer(file.path, shard, file.size, file.mtime_ns)
            return FileColumns(file, footer.schema, None, footer.page_checksums)
        return FileColumns(file, None, peek_documents(file), True)
    except FileRefused as refused:
        return refused.refusal
    except PermissionError as error:
        message = f"cannot be read ({error.strerror or error}); grant read permission to the user who runs this"
        return Refusal(shard, shown(entry.path), FileReason.PERMISSION, message)
    except (OSError, pa.ArrowException) as error:
        message = f"was listed and cannot be read now: {error}"
        return Refusal(shard, shown(entry.path), FileReason.CHANGED_DURING_RUN, message)


def _in_threads(
    task: Callable[[tuple[str, Found]], FileColumns | Refusal], items: list[tuple[str, Found]]
) -> list[FileColumns | Refusal]:
    with ThreadPoolExecutor(_LOOKERS) as pool:
        return list(pool.map(task, items))


def _checksum_warning(columns: Sequence[FileColumns]) -> list[str]:
    bare = [column.file.shard for column in columns if not column.page_checksums]
    if not bare:
        return []
    return [
        f"NO_CHECKSUM: {len(bare)} Parquet file(s) carry no page checksums (first: {bare[0]}), so a flipped bit in "
        "them cannot be noticed; their sha256 is recorded. Writers have an option for it (write_page_checksum)"
    ]
