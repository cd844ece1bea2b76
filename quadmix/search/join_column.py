"""Which column names a run in two files of somebody else's: found only where every reading of them agrees.

A column joins two files when both have it and it names the same runs in both. Where several do (`run, name, index`,
as Olmix writes them), they must pair the rows alike, else the user has to say which one is meant. A column that only
counts the rows (1, 2, 3 from top to bottom, which pandas writes without being asked and without a name) joins nothing
as long as either file has any other name of a run: two files that were sorted differently have the same counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from quadmix.errors import ConfigError
from quadmix.search.bookkeeping import is_bookkeeping
from quadmix.search.run_table import RunTable

# names of columns that name a run, and are neither a domain nor a metric unless somebody says so
RUN_NAMES = ("run_id", "trial_id", "run", "trial", "id", "name", "run_name", "mixture_id", "index")
_UNNAMED = re.compile(r"|unnamed: ?\d+(_level_\d+)?|__index_level_\d+__")
_ALIKE = 0.5  # of the values of a column: with fewer in common, or fewer that differ, it names something else than runs


@dataclass(frozen=True)
class RunColumn:
    """column: None where one file has none, and its runs are called by their lines. note: for the log, or empty."""

    column: str | None
    note: str = ""


def is_unnamed(column: str) -> bool:
    """Whether a column has no name of its own: an empty header, or what pandas calls such a column."""
    return _UNNAMED.fullmatch(column.strip().lower()) is not None


def names_runs(column: str) -> bool:
    """Whether a column is known by its name to name a run."""
    return column.strip().lower() in RUN_NAMES


def column_of_runs(table: RunTable, taken: Collection[str] = ()) -> RunColumn:
    """The column that names the runs of one file. taken: columns that the user has chosen for something else."""
    free = [name for name in table.columns if name not in taken]
    known = sorted((name for name in free if names_runs(name) and _tells_apart(table, name)), key=_rank)
    first = [name for name in free[:1] if not is_unnamed(name) and _whole(table, name) and _unique(table, name)]
    text = [name for name in free if not is_unnamed(name) and not table.holds_numbers(name) and _unique(table, name)]
    # a known name whose ids are repeated comes last: the user is told which rows repeat them
    ranked = [*(name for name in known if _unique(table, name)), *text, *first, *known]
    if ranked:
        return RunColumn(ranked[0])
    return RunColumn(None, f"{table.path.name}: no column names the runs, so they are called by their place in it")


def joining_column(left: RunTable, right: RunTable, taken: Collection[str] = ()) -> RunColumn:
    """The column that joins two files. taken: columns that the user has chosen for something else.

    Raises ConfigError, which names the candidates, where none can be told from the files or several disagree.
    """
    tables = (left, right)
    own = [[name for name in table.columns if name not in taken and _may_name(table, name)] for table in tables]
    shared = [name for name in own[0] if name in own[1]]
    shared.sort(key=_rank)
    counting = [name for name in shared if all(_counts_rows(table, name) for table in tables)]
    telling = [name for name in shared if name not in counting and (names_runs(name) or _alike(left, right, name))]
    if telling:
        return RunColumn(_agreed(left, right, telling))
    free = [name for name in left.columns if name in right.columns and name not in taken and not is_unnamed(name)]
    whole = [
        name
        for name in free
        if name not in counting and not is_bookkeeping(name) and _whole(left, name) and _same_ids(left, right, name)
    ]
    if whole:
        return RunColumn(_agreed(left, right, whole))
    strangers = [
        name
        for table, mine in zip(tables, own, strict=True)
        for name in mine
        if name not in shared and not is_bookkeeping(name) and not _counts_rows(table, name)
    ]
    if counting and not strangers:
        return RunColumn(counting[0], _by_number(left, right, counting[0]))
    unnamed = [[name for name in table.columns if is_unnamed(name)] for table in tables]
    alone = unnamed[0] == unnamed[1] and len(unnamed[0]) == 1 and not shared and not strangers
    if alone and _same_ids(left, right, unnamed[0][0]):
        return RunColumn(unnamed[0][0], _by_number(left, right, unnamed[0][0]))
    candidates = [
        f"{table.path.name} has {', '.join(map(repr, mine))}" if mine else f"{table.path.name} has none"
        for table, mine in zip(tables, own, strict=True)
    ]
    guess = "; joining them by row number would be a guess" if counting or all(unnamed) else ""
    raise ConfigError(
        f"which column joins {left.path.name} and {right.path.name}? Of columns that name runs, "
        f"{', '.join(candidates)}{guess}. Give both files a column of the same ids and name it with --id-column"
    )


def _agreed(left: RunTable, right: RunTable, columns: list[str]) -> str:
    """The first of them that has the same ids in both files, else the first; they must pair the rows alike."""
    pairs = {name: _pairs(left, right, name) for name in columns}
    chosen = next((name for name in columns if _same_ids(left, right, name)), columns[0])
    for name, found in pairs.items():
        if any(found[row] != other for row, other in pairs[chosen].items() if row in found):
            raise ConfigError(
                f"which column joins {left.path.name} and {right.path.name}? {chosen!r} and {name!r} stand in both and "
                "pair the rows differently; name the right one with --id-column"
            )
    return chosen


def _pairs(left: RunTable, right: RunTable, column: str) -> dict[int, int]:
    """Of rows of the first file, the row of the second with the same id; nothing where ids are repeated."""
    if not (_unique(left, column) and _unique(right, column)):
        return {}
    place = {key: row for row, key in enumerate(right.ids(column))}
    return {row: place[key] for row, key in enumerate(left.ids(column)) if key in place}


def _by_number(left: RunTable, right: RunTable, column: str) -> str:
    name = "a column without a name" if is_unnamed(column) else repr(column)
    return (
        f"{left.path.name} and {right.path.name} are joined by {name}, the only one that names a run in both; "
        "if the files were sorted differently after it was written, give them ids and --id-column"
    )


def _may_name(table: RunTable, column: str) -> bool:
    text = not is_unnamed(column) and not table.holds_numbers(column) and _unique(table, column)
    return text or (names_runs(column) and _tells_apart(table, column))


def _tells_apart(table: RunTable, column: str) -> bool:
    """Whether it can be meant to name each run: a few repeated ids are a fault, one name for all runs is a label."""
    return len(set(table.ids(column))) >= _ALIKE * table.rows


def _rank(column: str) -> int:
    key = column.strip().lower()
    return RUN_NAMES.index(key) if key in RUN_NAMES else len(RUN_NAMES)


def _unique(table: RunTable, column: str) -> bool:
    ids = table.ids(column)
    return all(ids) and len(set(ids)) == len(ids)


def _same_ids(left: RunTable, right: RunTable, column: str) -> bool:
    return all(_unique(table, column) for table in (left, right)) and set(left.ids(column)) == set(right.ids(column))


def _alike(left: RunTable, right: RunTable, column: str) -> bool:
    first, second = set(left.ids(column)), set(right.ids(column))
    return len(first & second) >= _ALIKE * max(len(first), len(second))


def _whole(table: RunTable, column: str) -> bool:
    return all(key.removeprefix("-").isdecimal() for key in table.ids(column))


def _counts_rows(table: RunTable, column: str) -> bool:
    ids = table.ids(column)
    return any(ids == [str(row + start) for row in range(table.rows)] for start in (0, 1))
