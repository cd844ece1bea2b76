"""Which columns of a swarm's files are what: the id, the domains, the losses; by name, never by position.

What the user names is taken. Else prefixes decide (`share:` and `loss:`; in one file `train_`, `metric/` too), and
without them all numbers that name no run and are no bookkeeping (quadmix.search.join_column, .bookkeeping).
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import ConfigError
from quadmix.search.bookkeeping import is_bookkeeping, no_loss
from quadmix.search.join_column import column_of_runs, is_unnamed, joining_column, names_runs
from quadmix.search.listing import listed
from quadmix.search.run_table import RunTable, parsed

Floats = NDArray[np.float64]

SHARE, LOSS = "share:", "loss:"  # of our own files
_DOMAIN_PREFIXES = (SHARE, "train_")
_TARGET_PREFIXES = (LOSS, "valid_", "metric/", "eval/")


@dataclass(frozen=True)
class ColumnChoice:
    """What the user says about the columns; patterns as in a shell (`train_*`). None and () leave it to the files
    (quadmix.search.join_column, quadmix.search.bookkeeping)."""

    id_column: str | None = None
    domains: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


def matching(patterns: Sequence[str], names: Sequence[str], flag: str) -> list[str]:
    """The names that patterns choose, in their own order. Raises ConfigError for each pattern that chooses none."""
    chosen, problems = _match(patterns, names, flag)
    if problems:
        raise ConfigError(problems)
    return chosen


@dataclass(frozen=True)
class Columns:
    """id: None where one file has none. skipped: numbers beside the domains that are none by their names."""

    id: str | None
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def columns_of(left: RunTable, right: RunTable, choice: ColumnChoice) -> Columns:
    """The columns of the mixtures' file and of the losses' file, which may be one. Raises ConfigError for columns that
    are not there or cannot be told apart, all at once."""
    one_file = left is right
    (id_column, joined), problems = _id_column(left, right, choice)
    free = {id(table): [name for name in table.columns if name != id_column] for table in (left, right)}
    domains, wrong = _match(choice.domains, free[id(left)], "--domains")
    problems += wrong
    targets, wrong = _match(choice.targets, _measurable(right, free[id(right)], LOSS), "--targets")
    problems += wrong
    if problems:
        raise ConfigError(problems)
    ours, theirs = (_numeric(table, free[id(table)]) for table in (left, right))
    skipped: list[str] = []
    fill: list[str] = []
    ignored: dict[str, str] = {}
    if not choice.domains:
        domains = _prefixed(ours, _DOMAIN_PREFIXES if one_file else (SHARE,))
    if not choice.targets:
        targets = _prefixed(theirs, _TARGET_PREFIXES if one_file else (LOSS,))
    if one_file and not domains and not targets:
        raise ConfigError(
            f"{left.path.name}: which columns are domains and which are losses? Name them, patterns allowed: "
            f"--domains 'train_*' --targets 'valid_*'; it has {', '.join(ours) or 'no column of numbers'}"
        )
    if not domains:
        rest = [name for name in ours if name not in targets]
        fill = _that_fill(left, rest)
        domains = [name for name in rest if not is_bookkeeping(name) or name in fill]
        skipped = [name for name in rest if name not in domains]
    if not targets:
        rest = [name for name in theirs if not one_file or name not in domains]
        ignored = _no_losses(right, rest)
        targets = [name for name in rest if name not in ignored]
    if both := sorted(set(domains) & set(targets)) if one_file else []:
        problems.append(f"{left.path.name}: {listed(both)} chosen as domain and as loss; wanted each column once")
    if len(domains) < 2:
        problems.append(f"{left.path.name}: found {len(domains)} domain column(s), wanted at least 2 (see --domains)")
    if not targets:
        but = f"; not taken for losses: {_with_reasons(ignored)}" if ignored else ""
        problems.append(f"{right.path.name}: found no column of losses, wanted at least 1 (see --targets){but}")
    for names, prefix in ((domains, SHARE), (targets, LOSS)):
        short = [short_name(name, prefix) for name in names]
        problems += [f"two columns stand for {name!r}" for name in sorted({n for n in short if short.count(n) > 1})]
    if problems:
        raise ConfigError(problems)
    used = {*domains, *targets, *ignored, *skipped}
    unused = [name for table in ([left] if one_file else [left, right]) for name in free[id(table)] if name not in used]
    notes = [joined] if joined else []
    if unused:
        names = [name or "(one without a name)" for name in dict.fromkeys(unused)]
        notes.append(f"columns that are neither a domain nor a loss are ignored: {listed(names)}")
    if fill:
        notes.append(
            f"taken for domains although bookkeeping has such names: {listed(fill)}; with them the shares sum to 1"
        )
    if no_domains := [name for name in skipped if not one_file or name not in {*targets, *ignored}]:
        notes.append(
            f"not taken for domains, bookkeeping by their names: {listed(no_domains)}. Name them with --domains if "
            "they are meant"
        )
    if ignored:
        notes.append(f"not taken for losses: {_with_reasons(ignored)}. Name them with --targets if they are meant")
    return Columns(id_column, tuple(domains), tuple(targets), tuple(skipped), tuple(notes))


def _id_column(left: RunTable, right: RunTable, choice: ColumnChoice) -> tuple[tuple[str | None, str], list[str]]:
    """(the id column, a word on how it was found where that is worth one), problems."""
    if choice.id_column is None:
        taken = {*choice.domains, *choice.targets}
        found = column_of_runs(left, taken) if left is right else joining_column(left, right, taken)
        return (found.column, found.note), []
    return (choice.id_column, ""), [
        f"{table.path.name}: no id column {choice.id_column!r}{nearest(choice.id_column, list(table.columns))}; "
        "name the column that joins the files with --id-column"
        for table in ([left] if left is right else [left, right])
        if choice.id_column not in table.columns
    ]


def _that_fill(table: RunTable, names: Sequence[str]) -> list[str]:
    """Of columns with the names of bookkeeping those that are domains by what they hold: shares that the others leave
    out of 1. Such a column brings the sums of the rows nearer to 1 by at least half of what it holds."""
    cells = {name: np.array([parsed(table, row, name, []) for row in range(table.rows)]) for name in names}
    left_out = 1.0 - sum((cells[name] for name in names if not is_bookkeeping(name)), np.zeros(table.rows))
    known = np.isfinite(left_out)
    may = [name for name in names if is_bookkeeping(name) and _are_shares(cells[name][known])]
    found: list[str] = []
    while may:
        gain = {name: float((np.abs(left_out) - np.abs(left_out - cells[name]))[known].mean()) for name in may}
        best = max(may, key=lambda name: gain[name])
        if not gain[best] >= 0.5 * float(cells[best][known].mean()):
            break
        found.append(best)
        may.remove(best)
        left_out = left_out - cells[best]
    return [name for name in names if name in found]


def _are_shares(values: Floats) -> bool:
    return bool(values.size and ((values >= 0) & (values <= 1)).all() and values.any())


def _no_losses(table: RunTable, names: Sequence[str]) -> dict[str, str]:
    """column -> why it is taken for no loss, of columns that nobody has chosen."""
    found = {}
    for name in names:
        faults: list[str] = []
        values = np.array([parsed(table, row, name, faults) for row in range(table.rows)])
        reason = "bookkeeping, by its name" if is_bookkeeping(name) else None
        if reason is None and not faults:  # with faults it stays: each is named later
            reason = no_loss(values)
        if reason is not None:
            found[name] = reason
    return found


def _with_reasons(ignored: Mapping[str, str]) -> str:
    return listed([f"{name} ({reason})" for name, reason in ignored.items()])


def _match(patterns: Sequence[str], names: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    found: set[str] = set()
    problems = []
    for pattern in patterns:
        # a name that holds [ or * stands for itself before it is a pattern
        hits = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        hits = hits or [name for name in names if short_name(short_name(name, SHARE), LOSS) == pattern]
        if not hits:
            problems.append(f"{flag}: no column {pattern!r}{nearest(pattern, names)}")
        found |= set(hits)
    return [name for name in names if name in found], problems


def _measurable(table: RunTable, names: Sequence[str], prefix: str) -> list[str]:
    return [name for name in names if table.holds_numbers(name) or name.startswith(prefix)]


def _numeric(table: RunTable, names: Sequence[str]) -> list[str]:
    """Columns of numbers that name no run."""
    return [name for name in names if not (names_runs(name) or is_unnamed(name)) and table.holds_numbers(name)]


def _prefixed(names: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """The names with the first prefix that any has."""
    for prefix in prefixes:
        if found := [name for name in names if name.startswith(prefix)]:
            return found
    return []


def short_name(name: str, prefix: str) -> str:
    """A column's name without the prefix of our own files."""
    return name.removeprefix(prefix)


def nearest(name: str, names: Sequence[str]) -> str:
    """What a message adds to a name that is not there."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (there are: {listed(names)})"
