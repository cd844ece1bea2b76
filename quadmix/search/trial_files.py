"""Swarms as files: read anybody's mixtures and losses, write ours in the same layout.

One row a run; a file of mixtures with an id column and one column a domain (shares that sum to 1), a file of losses
with the same ids and one column a metric, or both in one file. That is how RegMix publishes its swarm (`index`,
`train_the_pile_*`, `metric/*`) and how Olmix reads one (`ratios.csv` and `metrics.csv`, joined by `run_id`). Columns
are keyed by name, never by position.

An empty, NaN or infinite loss is a failed run: counted, left out, never a winner.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadmix.config import LEAST_TRIALS
from quadmix.errors import ConfigError, InputError
from quadmix.search.bookkeeping import is_constant
from quadmix.search.join_column import is_unnamed
from quadmix.search.listing import listed, listed_faults
from quadmix.search.result import Trial
from quadmix.search.run_table import RunTable, parsed, read_table
from quadmix.search.trial_columns import LOSS, SHARE, ColumnChoice, Columns, columns_of, nearest, short_name

Floats = NDArray[np.float64]

MIXTURES_FILE, LOSSES_FILE = "trials_mixtures.csv", "trials_losses.csv"
ID = "trial"
_RUN = "run"  # what an id column is called that has no name of its own
SUM_TOLERANCE = 0.01
_EXACT = 1e-9  # sums nearer to 1 than this are not worth a word

# pairs of files that a directory may hold: ours, Olmix's, those of `search ask`
_PAIRS = ((MIXTURES_FILE, LOSSES_FILE), ("ratios.csv", "metrics.csv"), ("trials.csv", "losses.csv"))


@dataclass(frozen=True)
class Swarm:
    """n finished runs. shares: (n, n_domains), rows summing to 1; losses: (n, n_targets), finite, as in the file.

    id_column: `run` where it has no name. domain_columns: the file's names of `domains`. failed: ids of runs without a
    loss. notes: what was done, in words.
    """

    ids: tuple[str, ...]
    id_column: str
    domains: tuple[str, ...]
    domain_columns: tuple[str, ...]
    shares: Floats
    targets: tuple[str, ...]
    losses: Floats
    failed: tuple[str, ...]
    notes: tuple[str, ...]


def swarm_files(mixtures: Path, losses: Path | None) -> tuple[Path, Path | None]:
    """The file of mixtures and that of losses; `mixtures` may be a directory that holds a known pair."""
    if not mixtures.is_dir():
        return mixtures, losses
    if losses is not None:
        raise ConfigError(f"{mixtures} is a directory; wanted two files, or the directory alone")
    for pair in _PAIRS:
        first, second = (mixtures / name for name in pair)
        if first.is_file() and second.is_file():
            return first, second
    known = "; ".join(" and ".join(pair) for pair in _PAIRS)
    raise ConfigError(f"{mixtures}: found none of the known pairs of files ({known}); name the two files instead")


def read_swarm(mixtures: Path, losses: Path | None, choice: ColumnChoice) -> Swarm:
    """Read and check a swarm. losses None: in the file of the mixtures.

    Raises ConfigError for columns that are not there or cannot be told apart, InputError for rows; all at once each.
    """
    left = read_table(mixtures)
    right = left if losses is None else read_table(losses)
    columns = columns_of(left, right, choice)
    joined = _join(left, right, columns.id)
    values = _values(left, right, columns, joined)
    ids = _ids(left, columns.id)
    failed = tuple(ids[row] for row in values.failed)
    kept = [row for row in range(len(joined)) if row not in set(values.failed)]
    if len(kept) < LEAST_TRIALS:
        lost = f" ({len(failed)} failed)" if failed else ""
        raise InputError(f"{mixtures.name}: {len(kept)} finished runs{lost}, wanted at least {LEAST_TRIALS} to fit on")
    fitted, constant = _that_vary(values.losses[kept], columns, right, set(choice.targets))
    shares = values.shares[kept]
    sums = shares.sum(axis=1, keepdims=True)
    notes = [*columns.notes, *constant]
    off = np.abs(sums[:, 0] - 1.0) > _EXACT
    if off.any():
        notes.append(
            f"{int(off.sum())} of {len(kept)} mixtures sum to {sums.min():.4f} .. {sums.max():.4f} instead of 1; "
            "each was divided by its sum"
        )
    if failed:
        notes.append(f"{len(failed)} failed run(s) without a loss are left out: {listed(failed)}")
    return Swarm(
        ids=tuple(ids[row] for row in kept),
        id_column=columns.id or _RUN,
        domains=tuple(short_name(name, SHARE) for name in columns.domains),
        domain_columns=columns.domains,
        shares=shares / sums,
        targets=tuple(short_name(columns.targets[place], LOSS) for place in fitted),
        losses=values.losses[kept][:, fitted],
        failed=failed,
        notes=tuple(notes),
    )


def _that_vary(losses: Floats, columns: Columns, table: RunTable, asked: set[str]) -> tuple[list[int], list[str]]:
    """Places of the targets that differ between runs, and a note on the others. losses: (n, n_targets), finite.

    Raises ConfigError where one of them is `asked` for by its whole name, or where none differs.
    """
    constant = [place for place in range(losses.shape[1]) if is_constant(losses[:, place])]
    named = [place for place in constant if {columns.targets[place], short_name(columns.targets[place], LOSS)} & asked]
    if not constant:
        return list(range(losses.shape[1])), []
    said = listed([f"{columns.targets[place]} ({losses[0, place]:g})" for place in constant])
    if named or len(constant) == losses.shape[1]:
        raise ConfigError(
            f"{table.path.name}: the same in all {len(losses)} finished runs: {said}. Nothing can be fitted to that; "
            "choose losses that the mixtures change, with --targets"
        )
    left = [place for place in range(losses.shape[1]) if place not in constant]
    return left, [f"losses that are the same in every finished run are left out: {said}"]


def trials_csv(trials: Sequence[Trial], domains: Sequence[str], targets: Sequence[str]) -> tuple[bytes, bytes]:
    """(mixtures, losses) of a search in the layout that `read_swarm` reads; a failed trial has empty losses."""
    mixtures = table_csv(
        [ID, "kind", *(SHARE + name for name in domains)],
        ([t.name, t.kind, *(t.mixture.share[name] if t.mixture else None for name in domains)] for t in trials),
    )
    losses = table_csv(
        [ID, *(LOSS + name for name in targets)],
        ([t.name, *(t.losses[name] if t.losses else None for name in targets)] for t in trials),
    )
    return mixtures, losses


def table_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file; floats read back to the same bits, None is an empty cell."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return stream.getvalue().encode("utf-8")


# ---------------------------------------------------------------------------------------------- rows


def _ids(table: RunTable, column: str | None) -> list[str]:
    return list(table.places) if column is None else table.ids(column)


def _join(left: RunTable, right: RunTable, column: str | None) -> list[int]:
    """Of every row of the mixtures, the row of the losses with the same id."""
    if column is None:
        return list(range(left.rows))
    problems: list[str] = []
    places = []
    for table in [left] if left is right else [left, right]:
        place: dict[str, int] = {}
        faults = []
        for row, key in enumerate(table.ids(column)):
            if not key:
                faults.append(f"{table.at(row, column)}: found no id")
            elif key in place:
                faults.append(f"{table.at(row, column)}: id {key!r} is there already, in {table.places[place[key]]}")
            else:
                place[key] = row
        problems += listed_faults(faults)
        places.append(place)
    if left is not right:
        first, second = places
        for table, mine, other, lacks in (
            (left, first, second, f"has no losses in {right.path.name}; give a failed run an empty loss"),
            (right, second, first, f"has no mixture in {left.path.name}"),
        ):
            faults = [f"{table.at(row, column)}: id {key!r} {lacks}" for key, row in mine.items() if key not in other]
            problems += listed_faults(faults)
    if problems:
        raise InputError("\n".join(problems))
    return [places[-1][key] for key in left.ids(column)]


@dataclass(frozen=True)
class _Values:
    shares: Floats
    losses: Floats
    failed: tuple[int, ...]


def _values(left: RunTable, right: RunTable, columns: Columns, joined: Sequence[int]) -> _Values:
    shares, losses = np.full((left.rows, len(columns.domains)), np.nan), np.zeros((left.rows, len(columns.targets)))
    faults: list[str] = []
    for place, name in enumerate(columns.targets):
        for row, other in enumerate(joined):
            losses[row, place] = parsed(right, other, name, faults)
    failed = tuple(int(row) for row in np.flatnonzero(np.isnan(losses).any(axis=1)))
    sums: list[str] = []
    skipped = f"; no domains by their names: {listed(columns.skipped)}, see --domains" if columns.skipped else ""
    for row in range(left.rows):
        for place, name in enumerate(columns.domains):
            known = len(faults)
            value = parsed(left, row, name, faults)
            if math.isnan(value) and row not in failed and len(faults) == known:
                faults.append(f"{left.at(row, name)}: found no share, wanted a number of at least 0")
            elif value < 0:
                faults.append(f"{left.at(row, name)}: found {value:g}, wanted a share of at least 0")
            shares[row, place] = value
        total = float(shares[row].sum())
        if not abs(total - 1.0) <= SUM_TOLERANCE and not math.isnan(total):
            hint = "; these look like percentages or tokens" if total > 2 else ""
            sums.append(
                f"{left.at(row)}: the shares sum to {total:.6g}, wanted 1 to within {SUM_TOLERANCE:.0%}{hint} "
                f"(domains: {listed(columns.domains)}{skipped})"
            )
    if faults or sums:
        raise InputError("\n".join(listed_faults(faults) + listed_faults(sums)))
    return _Values(shares, losses, failed)


def read_named_numbers(path: Path, wanted: Mapping[str, str], what: str) -> dict[str, float]:
    """A file of two columns, a domain and its number, to {domain: number >= 0}.

    wanted: domain -> another spelling of it that the file may use. Raises InputError with every problem.
    """
    table = read_table(path)
    # three columns and the first without a name: pandas' row numbers
    name_column, *numbers = [name for name in table.columns if len(table.columns) < 3 or not is_unnamed(name)]
    numbers = [name for name in numbers if table.holds_numbers(name)]
    if len(numbers) != 1:
        raise InputError(f"{path}: wanted two columns, a domain and {what}; found {', '.join(table.columns)}")
    known = {spelling: domain for domain, other in wanted.items() for spelling in (domain, other)}
    found: dict[str, float] = {}
    faults: list[str] = []
    for row, name in enumerate(table.ids(name_column)):
        value = parsed(table, row, numbers[0], faults)
        if name not in known:
            faults.append(f"{table.at(row)}: the swarm has no domain {name!r}{nearest(name, sorted(known))}")
        elif known[name] in found:
            faults.append(f"{table.at(row)}: domain {name!r} is there already")
        elif math.isnan(value) or value < 0:
            faults.append(f"{table.at(row, numbers[0])}: wanted {what}, a number of at least 0")
        else:
            found[known[name]] = value
    missing = [domain for domain in wanted if domain not in found]
    if missing and not faults:
        faults.append(f"{path.name}: no row for the domains {listed(missing)}")
    if not faults and not sum(found.values()) > 0:
        faults.append(f"{path.name}: all numbers are 0")
    if faults:
        raise InputError("\n".join(listed_faults(faults)))
    return {domain: found[domain] for domain in wanted}
