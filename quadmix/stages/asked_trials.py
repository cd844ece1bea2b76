"""The directory of `search ask`: what was asked, what was made of it, what was told; an append-only journal.

`ask.json` says what the trials belong to: another pool, mixture or seed needs another directory. Constraints are no
part of it: they decide what is proposed, not what is trained. The journal holds one line a batch of thetas, one a
finished manifest, one a run whose losses came back. A failed run may be told again, and a trial may have a run a seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quadmix.errors import ConfigError, InputError, VerificationError
from quadmix.manifest.durable import write_atomically
from quadmix.search.journal import Journal
from quadmix.search.repeated_runs import mean_loss
from quadmix.search.result import MixtureByName, ThetaByName
from quadmix.search.run_table import RunTable, number, read_table
from quadmix.search.trial_files import ID, table_csv

ASK_FILE, JOURNAL_FILE, LOSSES_FILE = "ask.json", "journal.jsonl", "losses.csv"
MIXTURE = "mixture"  # the part of a study's identity that is JSON
NATURAL = "natural"  # the trial that the worst case is measured against
SEED = "seed"  # the column that tells a trial's runs apart; runs without a seed have the empty one
_SHOWN = 20
_HOW = f"; give each run of a trial a seed of its own, in a column {SEED!r}"


@dataclass(frozen=True)
class Study:
    """What a directory's trials belong to. identity: named parts that must not change; tokens: of a trial.

    pool_tokens, trial_tokens: tokens of every domain, of the whole pool and of the trials' own. quality: path of the
    documents for mean qualities, relative to the directory.
    """

    identity: dict[str, str]
    domains: list[str]
    criteria: list[str]
    targets: list[str]
    tokens: int
    pool_tokens: dict[str, int]
    trial_tokens: dict[str, int]
    quality: str


@dataclass(frozen=True)
class AskedTrial:
    """origin: prior | acquisition | natural; round: of asking, from 1 (0: natural); cube: the point of the draws that
    theta came from. The natural mixture has neither theta nor point."""

    name: str
    round: int
    origin: str
    theta: ThetaByName | None
    cube: list[float]
    attempts: int
    predicted: float | None  # joint loss that the acquisition expected


@dataclass(frozen=True)
class MadeTrial:
    """A trial's manifest (folder and digest) and the mixture that it holds."""

    manifest: str
    digest: str
    documents: int
    mixture: MixtureByName


class AskedTrials:
    """The journal, replayed. One writer at a time, under the directory's lock. VerificationError for damaged lines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal = Journal(root / JOURNAL_FILE)
        if self.journal.damaged:
            # a lost batch would give its names, and the losses told under them, to other thetas
            raise VerificationError(
                f"{root / JOURNAL_FILE}: {self.journal.damaged} line(s) are damaged; restore the file from a copy, or "
                "ask again into a new directory (its first trials will be the same)"
            )
        self.asked: list[AskedTrial] = []
        self.made: dict[str, MadeTrial] = {}
        self.runs: dict[str, dict[str, dict[str, float] | None]] = {}  # of a trial, by seed; None = failed
        self._tellings: dict[str, int] = {}
        for key, value in self.journal.entries.items():
            self._replay(key, value)
        self.asked.sort(key=lambda trial: trial.name)

    @property
    def told(self) -> dict[str, dict[str, float] | None]:
        """Mean losses of the trials' finished runs; None = all failed."""
        return {name: mean_loss(runs) for name, runs in self.runs.items()}

    @property
    def open(self) -> list[AskedTrial]:
        """Trials of which no run was told."""
        return [trial for trial in self.asked if trial.name not in self.runs]

    @property
    def usable(self) -> list[AskedTrial]:
        """Thetas with finite losses."""
        told = self.told
        return [trial for trial in self.thetas if told.get(trial.name) is not None and trial.name in self.made]

    @property
    def thetas(self) -> list[AskedTrial]:
        """Trials other than the natural mixture."""
        return [trial for trial in self.asked if trial.theta is not None]

    @property
    def round(self) -> int:
        """How often something was asked."""
        return max((trial.round for trial in self.asked), default=0)

    def ask(self, trials: Sequence[AskedTrial]) -> None:
        """Add a batch, all or nothing."""
        self._append(f"ask/{trials[0].round:05d}", {"trials": [asdict(trial) for trial in trials]})

    def ask_natural(self) -> None:
        """Add the natural mixture, once."""
        if not any(trial.name == NATURAL for trial in self.asked):
            self._append(f"ask/{NATURAL}", {"trials": [asdict(AskedTrial(NATURAL, 0, NATURAL, None, [], 1, None))]})
            self.asked.sort(key=lambda trial: trial.name)

    def make(self, name: str, made: MadeTrial) -> None:
        if self.made.get(name) != made:
            tries = sum(key.startswith(f"made/{name}/") for key in self.journal.entries)
            self._append(f"made/{name}/{tries:05d}", asdict(made))

    def tell(self, name: str, losses: Mapping[str, float] | None, seed: str = "") -> None:
        """losses: by target; None = the run failed. A run that was told without a seed may be given one."""
        value = {"losses": dict(losses) if losses else None, "seed": seed}
        self._append(f"loss/{name}/{self._tellings.get(name, 0):05d}", value)

    def _append(self, key: str, value: dict[str, Any]) -> None:
        self.journal.append(key, value)
        self._replay(key, self.journal.entries[key])

    def _replay(self, key: str, value: dict[str, Any]) -> None:
        kind, name, *_ = key.split("/")
        if kind == "ask":
            self.asked += [
                AskedTrial(**{**one, "theta": None if one["theta"] is None else ThetaByName(**one["theta"])})
                for one in value["trials"]
            ]
        elif kind == "made":
            self.made[name] = MadeTrial(**{**value, "mixture": MixtureByName(**value["mixture"])})
        else:
            runs, seed = self.runs.setdefault(name, {}), value.get("seed", "")
            if seed and "" in runs and runs[""] == value["losses"]:
                del runs[""]  # the same run, now with its seed
            if not seed and any(one and losses == value["losses"] for one, losses in runs.items()):
                runs.pop("", None)  # the same run as one with a seed, whichever was told first
            else:
                runs[seed] = value["losses"]
            self._tellings[name] = self._tellings.get(name, 0) + 1


def load_study(root: Path) -> Study:
    """Raises ConfigError where nothing was asked."""
    path = root / ASK_FILE
    if not path.is_file():
        raise ConfigError(f"{root}: no {ASK_FILE}; wanted a directory that `quadmix search ask` wrote")
    try:
        return Study(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise VerificationError(f"{path}: not readable ({error}); ask again into a new directory") from error


def open_study(root: Path, study: Study) -> None:
    """Write `ask.json`, or check that the directory belongs to the same study. Raises ConfigError with differences."""
    path = root / ASK_FILE
    if not path.is_file():
        write_atomically(path, (json.dumps(asdict(study), ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
        return
    check_identity(root, load_study(root), study.identity)


def check_identity(root: Path, study: Study, found: Mapping[str, str]) -> None:
    """found: the parts that can be known now. Raises ConfigError for those that are not what they were."""
    problems = [
        f"{root}: its trials were asked with {difference}; give another directory for other trials"
        for name, value in found.items()
        for difference in _differences(name, study.identity.get(name), value)
    ]
    if problems:
        raise ConfigError(problems)


def _differences(name: str, asked: str | None, found: str) -> list[str]:
    """`seed 3, found 4`, for every key of a section that is not what it was."""
    if asked == found:
        return []
    if name != MIXTURE or asked is None:
        return [f"{name} {asked}, found {found}"]
    before, now = json.loads(asked), json.loads(found)
    keys = sorted({*before, *now} - {"constraints"})  # which earlier versions wrote down as well
    return [
        f"{name}.{key} {json.dumps(before.get(key))}, found {json.dumps(now.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def new_losses(
    file: Path, trials: AskedTrials, targets: Sequence[str]
) -> dict[tuple[str, str], dict[str, float] | None]:
    """Runs that a file adds to what was told: (trial, seed) -> losses by target, None = failed.

    The seed is that of the column `seed`, empty without one; a run that stands there with its seed and without is one,
    in whatever order. A row without any loss waits; `nan` in a row is a failed
    run. Raises ConfigError for columns, InputError for every row that cannot be: unknown trials, repeated runs, cells
    that are no numbers, losses other than those told before.
    """
    table = read_table(file)
    missing = [name for name in (ID, *targets) if name not in table.columns]
    if missing:
        raise ConfigError(
            f"{file}: no column {', '.join(map(repr, missing))}; wanted {ID!r} and one column a target "
            f"({', '.join(targets)}); it has {', '.join(table.columns)}"
        )
    has_seeds = SEED in table.columns and SEED not in targets
    seeds = table.ids(SEED) if has_seeds else [""] * table.rows
    known = {trial.name for trial in trials.asked}
    first: dict[tuple[str, str], int] = {}
    problems: list[str] = []
    found: dict[tuple[str, str], dict[str, float] | None] = {}
    for row, (name, seed) in enumerate(zip(table.ids(ID), seeds, strict=True)):
        run = (name, seed)
        if name not in known:
            problems.append(f"{table.at(row, ID)}: trial {name!r} was never asked")
        elif run in first:
            under = f" under seed {seed!r}" if seed else ""
            problems.append(
                f"{table.at(row, ID)}: trial {name!r} is there already{under}, in {table.places[first[run]]}{_HOW}"
            )
        else:
            first[run] = row
            before = len(problems)
            waits, losses = _losses(table, row, targets, problems)
            if not waits and len(problems) == before:
                _compare(table.at(row), run, losses, trials, found, problems)
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise InputError("\n".join([*problems[:_SHOWN], *more, "nothing was told; correct the file and tell again"]))
    seeded: dict[str, list[dict[str, float] | None]] = {}
    for (name, seed), losses in found.items():
        if seed:
            seeded.setdefault(name, []).append(losses)
    return {run: losses for run, losses in found.items() if run[1] or losses not in seeded.get(run[0], [])}


def _losses(
    table: RunTable, row: int, targets: Sequence[str], problems: list[str]
) -> tuple[bool, dict[str, float] | None]:
    """(whether the row waits for its losses, the losses or None for a failed run)"""
    cells = {name: table.columns[name][row] for name in targets}
    blank = [name for name, cell in cells.items() if cell is None or not str(cell).strip()]
    if len(blank) == len(cells):
        return True, None
    values: dict[str, float] = {}
    for name, cell in cells.items():
        try:
            values[name] = number(cell)
        except ValueError as error:
            problems.append(f"{table.at(row, name)}: {error}; write nan for a failed run")
    failed = any(math.isnan(value) for name, value in values.items() if name not in blank)
    if blank and not failed:
        problems.extend(f"{table.at(row, name)}: found no loss beside others; wanted a number" for name in blank)
    return False, None if failed else values


def _compare(
    place: str,
    run: tuple[str, str],
    losses: dict[str, float] | None,
    trials: AskedTrials,
    found: dict[tuple[str, str], dict[str, float] | None],
    problems: list[str],
) -> None:
    """Whether a row says something new: a run that was not told, or the repetition of one that failed."""
    name, seed = run
    runs = trials.runs.get(name, {})
    if not seed and losses in runs.values():
        return  # told before, under whatever seed
    told = mean_loss(runs) if not seed else runs.get(seed)
    known = bool(runs) if not seed else seed in runs
    if not known or (told is None and losses is not None):
        found[run] = losses
    elif told != losses:
        under = f" under seed {seed!r}" if seed else ""
        problems.append(
            f"{place}: trial {name!r} was told before{under}, with {told or 'nan'}; found {losses or 'nan'}{_HOW}"
        )


def write_template(root: Path, trials: AskedTrials, targets: Sequence[str]) -> None:
    """`losses.csv`: a row without losses for every trial that waits. Never over losses that were not told yet."""
    rows = [[trial.name, *(None for _ in targets)] for trial in trials.open]
    write_atomically(root / LOSSES_FILE, table_csv([ID, *targets], rows))


def check_template(root: Path, trials: AskedTrials, targets: Sequence[str]) -> None:
    """Raises ConfigError when `losses.csv` holds losses that were not told: it would be written over."""
    path = root / LOSSES_FILE
    if not path.is_file() or path.read_bytes().count(b"\n") < 2:
        return
    waiting = new_losses(path, trials, targets)
    if waiting:
        raise ConfigError(
            f"{path} holds losses of {len(waiting)} trial(s) that were not told; tell them first "
            f"(`quadmix search tell CONFIG {path} --from {root}`), or move the file away"
        )
