"""Every regressor on a real swarm: RegMix's 512 mixtures of 17 domains and 13 losses of 1M-parameter models.

    python -m benchmarks.regressors [FOLDER] [--kinds auto ...] [--sizes 32 64 128 512] [--draws 5]

At 32, 64 and 128 trials: random draws, each tested on the rows that it left out. At 512: five folds. Whatever a
regressor chooses or calibrates, it does on its training rows, so no score is of a row that had a part in it.
Printed are the mean Spearman over the losses (times 100), how many held-out losses lie in their 90 % intervals (one by
one, and for the mean of all losses), and the CPU seconds of choosing and fitting all losses. The bars are for `auto`;
the exit code is 1 where one is missed. All of it takes over half an hour of CPU, most of it at 512.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadmix.search.cross_validation import scores
from quadmix.search.regressors import REGRESSORS, fit_targets

Floats = NDArray[np.float64]
Split = tuple[NDArray[np.int64], NDArray[np.int64]]

REGMIX = Path(__file__).resolve().parents[2] / "shared" / "data" / "regmix"
SPEARMAN = {32: 93.0, 64: 97.5, 128: 98.4, 512: 98.8}
SECONDS = {32: 60.0, 64: 60.0, 128: 60.0, 512: 900.0}
COVERAGE = (85.0, 95.0)
LEVEL = 0.9
FOLDS = 5


@dataclass(frozen=True)
class Swarm:
    """shares: (n, n_domains); losses: (n, n_targets); names of the columns of both."""

    shares: Floats
    losses: Floats
    columns: tuple[str, ...]
    targets: tuple[str, ...]


def read_swarm(folder: Path) -> Swarm:
    """RegMix's two files, joined by their index."""

    def table(name: str) -> tuple[list[str], dict[int, list[float]]]:
        with open(folder / name, newline="", encoding="utf-8") as handle:
            header, *rows = csv.reader(handle)
        return header[1:], {int(row[0]): [float(value) for value in row[1:]] for row in rows}

    domains, mixtures = table("train_mixture_1m.csv")
    targets, losses = table("train_pile_loss_1m.csv")
    index = sorted(losses)
    columns = tuple(f"share:{name}" for name in domains)
    return Swarm(np.array([mixtures[i] for i in index]), np.array([losses[i] for i in index]), columns, tuple(targets))


@dataclass(frozen=True)
class Found:
    """Of one training set, on rows that it does not hold. coverage, joint: percent."""

    spearman: float
    coverage: float
    joint: float
    seconds: float


def measure(swarm: Swarm, train: NDArray[np.int64], test: NDArray[np.int64], kind: str) -> Found:
    """Fit on `train` rows, choosing and calibrating included, and score the `test` rows."""
    started = time.process_time()
    models = fit_targets(swarm.targets, swarm.shares[train], swarm.losses[train], kind, columns=swarm.columns)
    seconds = time.process_time() - started
    features, losses = swarm.shares[test], swarm.losses[test]
    predicted = models.predict(features)
    low, high = models.predict_interval(features, LEVEL)
    weights = np.full(losses.shape[1], 1.0 / losses.shape[1])
    joint_low, joint_high = models.joint_interval(features, weights, LEVEL)
    joint = losses @ weights
    ranked = [scores(losses[:, column], predicted[:, column]).spearman for column in range(losses.shape[1])]
    return Found(
        spearman=100 * float(np.mean(ranked)),
        coverage=100 * float(np.mean((low <= losses) & (losses <= high))),
        joint=100 * float(np.mean((joint_low <= joint) & (joint <= joint_high))),
        seconds=seconds,
    )


def splits(rows: int, size: int, draws: int) -> Iterator[Split]:
    """(training rows, rows left out): random draws of `size`, or five folds where `size` is all of them."""
    if size < rows:
        for draw in range(draws):
            order = np.random.default_rng((size, draw)).permutation(rows)
            yield order[:size], order[size:]
        return
    order = np.random.default_rng(size).permutation(rows)
    for fold in range(FOLDS):
        yield order[np.arange(rows) % FOLDS != fold], order[np.arange(rows) % FOLDS == fold]


def bars_missed(size: int, found: Found) -> list[str]:
    """What the mean over the draws misses of the bars of `auto`."""
    missed = []
    if found.spearman < SPEARMAN[size]:
        missed.append(f"Spearman below {SPEARMAN[size]}")
    if found.seconds > SECONDS[size]:
        missed.append(f"more than {SECONDS[size]:.0f} s")
    for name, covered in (("losses", found.coverage), ("their mean", found.joint)):
        if not COVERAGE[0] <= covered <= COVERAGE[1]:
            missed.append(f"coverage of {name} outside {COVERAGE[0]:.0f}..{COVERAGE[1]:.0f} %")
    return missed


def mean_of(swarm: Swarm, size: int, draws: int, kind: str) -> Found:
    """The mean of `measure` over the draws."""
    found = [measure(swarm, train, test, kind) for train, test in splits(len(swarm.losses), size, draws)]
    return Found(
        *(float(np.mean([getattr(one, name) for one in found])) for name in Found.__dataclass_fields__),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=REGMIX)
    parser.add_argument("--kinds", nargs="+", choices=list(REGRESSORS), default=list(REGRESSORS))
    parser.add_argument("--sizes", nargs="+", type=int, choices=list(SPEARMAN), default=list(SPEARMAN))
    parser.add_argument("--draws", type=int, default=5)
    asked = parser.parse_args()
    if not asked.folder.exists():
        parser.error(f"RegMix's swarm is not in {asked.folder}; give the folder that holds train_mixture_1m.csv")
    swarm = read_swarm(asked.folder)
    missed = 0
    print("trials  regressor         Spearman  in 90 % interval: losses, mean   CPU s to choose and fit")
    for size in asked.sizes:
        for kind in asked.kinds:
            found = mean_of(swarm, size, asked.draws, kind)
            wrong = bars_missed(size, found) if kind == "auto" else []
            missed += len(wrong)
            verdict = f"MISSED: {'; '.join(wrong)}" if wrong else f"bar {SPEARMAN[size]} met" if kind == "auto" else ""
            print(
                f"{size:6d}  {kind:16}  {found.spearman:8.2f}  {found.coverage:22.1f} {found.joint:6.1f}   "
                f"{found.seconds:8.1f}  {verdict}",
                flush=True,
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
