"""Where a configured column lies in a file: an exact name, a dotted path into structs, or the same in another case.

`meta.url` is first looked for as a column of that very name, then as field `url` of struct `meta`. A path that fits
nothing exactly but one field when case is ignored is taken, and reported, because shards of one data set often
differ so (reliability.md, 34).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MISSING: Any = object()


@dataclass(frozen=True)
class ColumnPath:
    """Names from the top-level column inwards; `folded` when case had to be ignored to find it."""

    names: tuple[str, ...]
    type: pa.DataType
    folded: bool

    @property
    def dotted(self) -> str:
        return ".".join(self.names)

    def take(self, batch: pa.RecordBatch) -> pa.Array:
        """The column's values: (n_rows,), null where a parent is null."""
        column = batch.column(batch.schema.get_field_index(self.names[0]))
        for name in self.names[1:]:
            column = pc.struct_field(column, name)
        return column


def resolve(schema: pa.Schema, path: str) -> ColumnPath | None:
    """Find `path` in a schema; None when it is not there (or not uniquely so when case is ignored)."""
    for names in ((path,), tuple(path.split("."))):
        for folded in (False, True):
            found = _descend(schema, names, folded)
            if found is not None:
                return found
    return None


def lookup(document: Mapping[str, Any], path: str) -> tuple[Any, bool]:
    """(value of `path` in a JSON object, or MISSING; whether case had to be ignored)."""
    value = document.get(path, MISSING)
    if value is not MISSING:
        return value, False
    for folded in (False, True):
        current: Any = document
        for name in path.split("."):
            current = _member(current, name, folded)
            if current is MISSING:
                break
        else:
            return current, folded
    return MISSING, False


def dotted_names(schema: pa.Schema) -> list[str]:
    """All paths that `resolve` would find exactly, structs walked."""
    found: list[str] = []

    def walk(prefix: str, fields: Iterable[pa.Field]) -> None:
        for field in fields:
            found.append(prefix + field.name)
            if pa.types.is_struct(field.type):
                walk(f"{prefix}{field.name}.", [field.type.field(index) for index in range(field.type.num_fields)])

    walk("", schema)
    return found


def dotted_keys(document: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All paths that `lookup` would find in a JSON object."""
    found: list[str] = []
    for key, value in document.items():
        found.append(prefix + key)
        if isinstance(value, Mapping):
            found.extend(dotted_keys(value, f"{prefix}{key}."))
    return found


def nearest(path: str, known: Iterable[str]) -> str:
    """`; did you mean 'n_tokens'?`, or nothing when no name is near."""
    close = get_close_matches(path, sorted(set(known)), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _descend(schema: pa.Schema, names: tuple[str, ...], folded: bool) -> ColumnPath | None:
    fields = list(schema)
    taken: list[str] = []
    kind: pa.DataType | None = None
    for name in names:
        matches = [field for field in fields if _same(field.name, name, folded)]
        if len(matches) != 1:
            return None
        taken.append(matches[0].name)
        kind = matches[0].type
        fields = [kind.field(index) for index in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    return ColumnPath(tuple(taken), kind, folded)


def _member(value: Any, name: str, folded: bool) -> Any:
    if not isinstance(value, Mapping):
        return MISSING
    if not folded:
        return value.get(name, MISSING)
    matches = [key for key in value if _same(key, name, True)]
    return value[matches[0]] if len(matches) == 1 else MISSING


def _same(found: str, wanted: str, folded: bool) -> bool:
    return found.casefold() == wanted.casefold() if folded else found == wanted
