"""A table of runs as somebody else wrote it: CSV or Parquet, one row a run, each cell with a place that can be named.

Cells keep what the file holds: a number is parsed only where a number is wanted, so that every cell that is none can be
reported with its line and column. Files of this kind have at most some thousand rows.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from quadmix.errors import ConfigError, InputError

_MISSING = {"", "nan", "na", "n/a", "null", "none", "inf", "-inf", "+inf", "infinity", "-infinity"}
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")

Cell = object


@dataclass(frozen=True)
class RunTable:
    """columns: name -> one cell a row; places: of every row, as a message names it (`line 4`, `row 3`)."""

    path: Path
    columns: dict[str, list[Cell]]
    places: tuple[str, ...]

    @property
    def rows(self) -> int:
        return len(self.places)

    def at(self, row: int, column: str | None = None) -> str:
        """`losses.csv line 4, column 'math'`"""
        return f"{self.path.name} {self.places[row]}" + (f", column {column!r}" if column is not None else "")

    def ids(self, column: str) -> list[str]:
        """The cells of an id column as text; 3 and 3.0 are one id, as -3 and -3.0 are. An empty cell is an empty id."""
        return [_id(cell) for cell in self.columns[column]]

    def holds_numbers(self, column: str) -> bool:
        """Whether a column can be one of numbers: some cell is a number, or none holds anything at all."""
        kinds = {_kind(cell) for cell in self.columns[column]}
        return "number" in kinds or "text" not in kinds


def number(cell: Cell) -> float:
    """A cell as a number; NaN for an empty cell, NaN, null or an infinity. Raises ValueError for anything else."""
    if cell is None:
        return math.nan
    if isinstance(cell, bool):
        raise ValueError(f"found {cell}, wanted a number")
    if isinstance(cell, int | float):
        return float(cell) if math.isfinite(cell) else math.nan
    text = str(cell).strip()
    if text.lower() in _MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"found {text!r}, wanted a number") from None
    return value if math.isfinite(value) else math.nan


def parsed(table: RunTable, row: int, column: str, faults: list[str]) -> float:
    """One cell as `number`; NaN for one that is none, with a fault that names its place."""
    try:
        return number(table.columns[column][row])
    except ValueError as error:
        faults.append(f"{table.at(row, column)}: {error}")
        return math.nan


def read_table(path: Path) -> RunTable:
    """Read a .csv or .parquet file. Raises ConfigError for a path that cannot be, InputError for a file of no use."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; wanted a CSV or Parquet file with one row a run")
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{path}: found the ending {suffix!r}, wanted .csv or .parquet")
    table = _read_csv(path) if suffix == ".csv" else _read_parquet(path)
    if not table.rows:
        raise InputError(f"{path}: found no row, wanted one row a run")
    return table


def _read_csv(path: Path) -> RunTable:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_header(path, header)
        rows: list[list[str]] = []
        places: list[str] = []
        problems: list[str] = []
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue  # editors leave blank lines
            if len(row) != len(header):
                problems.append(f"{path.name} line {reader.line_num}: {len(row)} cells, the header has {len(header)}")
                continue
            rows.append(row)
            places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV: {error}") from error
    if problems:
        raise InputError("\n".join(problems))
    return RunTable(path, {name: [row[place] for row in rows] for place, name in enumerate(header)}, tuple(places))


def _read_parquet(path: Path) -> RunTable:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from error
    _check_header(path, table.column_names)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return RunTable(path, columns, tuple(f"row {row}" for row in range(1, table.num_rows + 1)))


def _check_header(path: Path, header: Sequence[str]) -> None:
    if len(header) < 2:
        raise InputError(f"{path}: found {len(header)} column(s), wanted an id column and one a domain or metric")
    twice = sorted({name for name in header if list(header).count(name) > 1})
    if twice:
        raise InputError(f"{path}: the columns {', '.join(map(repr, twice))} occur twice; give each a name of its own")


def _id(cell: Cell) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    text = "" if cell is None else str(cell).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _kind(cell: Cell) -> str:
    try:
        return "missing" if math.isnan(number(cell)) else "number"
    except ValueError:
        return "text"
