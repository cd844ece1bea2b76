"""Do the files agree with the config and with each other? (reliability.md, catalogue B)

Checked from footers (Parquet) and first documents (JSONL), before any work. A column that no file has is a slip in
the config; one that some files lack refuses those files when it is the text or the id, and reads as nulls otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quadmix.config import PoolConfig
from quadmix.errors import ConfigError
from quadmix.pool.column_paths import MISSING, ColumnPath, dotted_keys, dotted_names, lookup, nearest, resolve
from quadmix.pool.refusals import Refusal
from quadmix.pool.storage import open_input, shown
from quadmix.pool.units import InputFile
from quadmix.schema import FileReason


@dataclass(frozen=True)
class FileColumns:
    """What is known of one file's columns: a Parquet schema, or the first documents of a JSONL file."""

    file: InputFile
    schema: pa.Schema | None
    documents: Sequence[Mapping[str, Any]] | None
    page_checksums: bool

    def names(self) -> list[str]:
        """Every path in the file, as far as seen."""
        if self.schema is not None:
            return dotted_names(self.schema)
        return sorted({key for document in self.documents or () for key in dotted_keys(document)})

    def find(self, path: str) -> ColumnPath | bool | None:
        """The Parquet column; for JSONL whether any document seen has it; None when nothing can be said."""
        if self.schema is not None:
            return resolve(self.schema, path) or False
        if not self.documents:
            return None
        return any(lookup(document, path)[0] is not MISSING for document in self.documents)


@dataclass(frozen=True)
class Role:
    """A configured column: what for, under which key of the config, and the type classes it may have."""

    key: str
    path: str
    allowed: tuple[str, ...]
    required: bool


@dataclass(frozen=True)
class Checked:
    refused: tuple[Refusal, ...]
    warnings: tuple[str, ...]


def roles_of(config: PoolConfig, extra_columns: Sequence[str]) -> list[Role]:
    """Every column that a run reads."""
    columns = config.columns
    roles = [Role("pool.columns.text", columns.text, ("text", "null"), True)]
    if config.id_from == "column" and columns.id is not None:
        roles.append(Role("pool.columns.id", columns.id, ("text", "integer"), True))
    if columns.domain is not None:
        roles.append(Role("pool.columns.domain", columns.domain, ("text", "integer", "null"), False))
    if columns.tokens is not None:
        roles.append(Role("pool.columns.tokens", columns.tokens, ("integer", "float", "null"), False))
    roles.extend(Role("annotate", path, (), False) for path in dict.fromkeys(extra_columns))
    return roles


def check_columns(files: Sequence[FileColumns], config: PoolConfig, extra_columns: Sequence[str]) -> Checked:
    """Refusals and warnings; raises ConfigError with every column that no file has."""
    problems: list[str] = []
    refused: dict[str, Refusal] = {}
    warnings: list[str] = []
    for role in roles_of(config, extra_columns):
        found = [(file, file.find(role.path)) for file in files]
        known = [(file, what) for file, what in found if what is not None]
        if known and not any(what for _, what in known):
            names = [name for file, _ in known for name in file.names()]
            shown_names = ", ".join(sorted(set(names))[:20])
            problems.append(
                f"{role.key}: UNKNOWN_COLUMN {role.path!r} is in none of the {len(known)} input file(s), "
                f"which hold {shown_names}{nearest(role.path, names)}"
            )
            continue
        lacking = [file.file for file, what in known if not what]
        for file in lacking if role.required else ():
            message = f"{role.path!r} ({role.key}) is not in this file, though in {len(known) - len(lacking)} other(s)"
            refused.setdefault(file.shard, _refusal(file, FileReason.MISSING_COLUMN, message))
        if lacking and not role.required:
            warnings.append(
                f"MISSING_COLUMN: {role.path!r} is absent from {len(lacking)} of {len(known)} files (first: "
                f"{lacking[0].shard}); their rows have no value there"
            )
        for refusal in _type_drift(role, known):
            refused.setdefault(refusal.shard, refusal)
        folded = [file.file.shard for file, what in known if isinstance(what, ColumnPath) and what.folded]
        if folded:
            warnings.append(
                f"CASE_FOLDED: {role.path!r} is spelled in another case in {len(folded)} file(s) (first: {folded[0]}) "
                "and was taken as the same column"
            )
    if problems:
        raise ConfigError(problems)
    return Checked(tuple(refused.values()), (*warnings, *_unshared_columns(files)))


def type_class(kind: pa.DataType) -> str:
    """text | integer | float | boolean | null | other: types of one class are read alike."""
    types = pa.types
    if types.is_dictionary(kind):
        return type_class(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "text"  # Hive and old Spark write text so; whether it is UTF-8 is checked row by row
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind):
        return "float"
    if types.is_boolean(kind):
        return "boolean"
    return "null" if types.is_null(kind) else "other"


def _type_drift(role: Role, known: Sequence[tuple[FileColumns, ColumnPath | bool | None]]) -> list[Refusal]:
    """Files whose column has a type that the role cannot have, or another one than most files have."""
    typed = [(file.file, what, type_class(what.type)) for file, what in known if isinstance(what, ColumnPath)]
    refusals = [
        _refusal(file, FileReason.TYPE_DRIFT, f"{role.path!r} has type {what.type}, wanted {' or '.join(role.allowed)}")
        for file, what, kind in typed
        if role.allowed and kind not in role.allowed
    ]
    fitting = [item for item in typed if (not role.allowed or item[2] in role.allowed) and item[2] != "null"]
    classes = Counter(kind for _, _, kind in fitting)
    if len(classes) < 2:
        return refusals
    usual = max(classes, key=lambda kind: (classes[kind], kind))
    for file, what, kind in fitting:
        numbers = {kind, usual} <= {"integer", "float", "boolean"}
        if kind == usual or (numbers and (kind != "float" or not role.allowed or _all_integral(file, what))):
            continue
        message = f"{role.path!r} has type {what.type}, while {classes[usual]} other file(s) hold {usual}"
        refusals.append(_refusal(file, FileReason.TYPE_DRIFT, message))
    return refusals


def _all_integral(file: InputFile, column: ColumnPath) -> bool:
    """Whether a float column that should hold counts does so; reads this one column of this one file."""
    with open_input(file.path) as handle:
        parquet = pq.ParquetFile(handle, page_checksum_verification=True)
        for batch in parquet.iter_batches(columns=[column.dotted], use_threads=False):
            values = pc.drop_null(column.take(batch))
            if len(values) and not pc.all(pc.equal(values, pc.floor(values))).as_py():
                return False
    return True


def _unshared_columns(files: Sequence[FileColumns]) -> list[str]:
    """One sentence on Parquet columns that only some files have (31): they are not read."""
    schemas = [file.schema for file in files if file.schema is not None]
    counts = Counter(name for schema in schemas for name in dict.fromkeys(schema.names))
    unshared = sorted(name for name, count in counts.items() if count < len(schemas))
    if not unshared:
        return []
    return [f"EXTRA_COLUMN: only some of the {len(schemas)} Parquet files have {', '.join(unshared[:20])}"]


def _refusal(file: InputFile, reason: FileReason, message: str) -> Refusal:
    return Refusal(file.shard, shown(file.path), reason, message)
