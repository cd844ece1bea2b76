"""Microseconds per candidate mixture: draw, meet the budget, expected shares and repeats. Bar: at most 50.

    python benchmarks/candidates.py [--candidates 20000] [--domains 8] [--criteria 4] [--profile]

Beside it a plain numpy loop, which takes one candidate at a time, integrates the sampling function on a grid and
bisects for the multiplier; both must agree on the shares. CPU time, rounds interleaved, the median of them. The bar
includes predicting two targets by what screens for a swarm of 56: one kind of model, the one that `auto` leans on.
LightGBM is timed beside it, and the closed form under bounds on every domain's share. Exit code 1 when the bar is
missed.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import Params, ParamSpace, sample_params
from quadmix.search.constraints import Limits
from quadmix.search.features import FeatureSet
from quadmix.search.regressors import fit_targets
from quadmix.search.screening import screen

BAR_MICROSECONDS = 50.0
ROUNDS = 5
GRID = 2048
LOOPED = 200
TARGETS = ("one", "two")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--domains", type=int, default=8)
    parser.add_argument("--criteria", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    names = tuple(f"domain{index:02d}" for index in range(asked.domains))
    criteria = tuple(f"criterion{index}" for index in range(asked.criteria))
    space, features = ParamSpace(asked.domains, asked.criteria), FeatureSet("screening", names, criteria)
    tokens = np.random.default_rng(0).lognormal(14, 1, asked.domains).astype(np.int64)
    mixture = MixtureConfig(criteria=criteria, budget=int(tokens.sum()) // 5)

    def closed() -> NDArray[np.float64]:
        return screen(sample_params(space, asked.candidates, 1), tokens, mixture, features)[1]

    # every domain between a quarter of its natural share and twice it: most candidates break a bound
    natural = tokens / tokens.sum()
    limits = Limits(natural / 4 * mixture.budget, np.minimum(2 * natural, 1.0) * mixture.budget, natural, 0.05)

    def constrained() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        feasible, _, share = screen(sample_params(space, asked.candidates, 1), tokens, mixture, features, limits)
        return feasible, limits.penalty(share)

    def looped() -> NDArray[np.float64]:
        return plain_loop(sample_params(space, LOOPED, 1), tokens, mixture.budget)

    if asked.profile:
        profile = cProfile.Profile()
        profile.runcall(closed)
        pstats.Stats(profile).sort_stats("tottime").print_stats(12)
    worst = float(np.abs(closed()[:LOOPED, : asked.domains] - looped()).max())
    moved = float(limits.broken(closed()[:, : asked.domains] * mixture.budget).mean())
    ours, theirs, bound = [], [], []
    for _ in range(ROUNDS):
        ours.append(cpu_seconds(closed) / asked.candidates * 1e6)
        bound.append(cpu_seconds(constrained) / asked.candidates * 1e6)
        theirs.append(cpu_seconds(looped) / LOOPED * 1e6)
    matrix = closed()
    rows, losses = matrix[:56], 5.0 - np.log(matrix[:56, :2] + 1e-2)

    def predicting(kind: str) -> float:
        models = fit_targets(TARGETS, rows, losses, kind, columns=features.names, calibrate=False)
        return (
            float(np.median([cpu_seconds(lambda: models.predict(matrix)) for _ in range(ROUNDS)])) / len(matrix) * 1e6
        )

    full = fit_targets(TARGETS, rows, losses, "auto", columns=features.names)
    leaning = max(full.shares_of_models(), key=lambda kind: full.shares_of_models()[kind])
    screening, trees = predicting(leaning), predicting("lightgbm")
    found = float(np.median(ours)) + screening
    print(f"{asked.domains} domains, {asked.criteria} criteria, {asked.candidates} candidates, {ROUNDS} rounds")
    print(
        f"in all        {found:8.1f} us per candidate (bar {BAR_MICROSECONDS:.0f}): closed form {np.median(ours):.1f} "
        f"(rounds {min(ours):.1f}..{max(ours):.1f}), {leaning} {screening:.1f}"
    )
    print(
        f"constrained   {np.median(bound):8.1f} us per candidate, {moved:.0%} of them projected, "
        f"{constrained()[0].mean():.0%} feasible"
    )
    slower = np.median(theirs) / np.median(ours)
    print(f"numpy loop    {np.median(theirs):8.1f} us per candidate, {slower:.0f} times the closed form")
    print(f"largest difference of a share between the two: {worst:.1e}")
    print(f"LightGBM      {trees:8.1f} us per candidate for {len(TARGETS)} targets, were it to screen")
    return 0 if found <= BAR_MICROSECONDS and worst < 2e-3 else 1


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def plain_loop(params: Params, tokens: NDArray[np.int64], budget: int) -> NDArray[np.float64]:
    """(k, n_domains) shares, one candidate at a time."""
    ranks = (np.arange(GRID) + 0.5) / GRID
    shares = np.empty(params.cutoff.shape)
    for row in range(len(params)):
        steepness, exponent, floor = (
            getattr(params, name)[row][:, None] for name in ("steepness", "exponent", "floor")
        )

        def expected(multiplier: float, row: int = row, shape: tuple[NDArray[np.float64], ...] = (
            steepness, exponent, floor
        )) -> NDArray[np.float64]:  # fmt: skip
            cutoff = np.minimum(params.cutoff[row][:, None] * multiplier, 1.0)
            slope, power, base = shape
            inside = np.clip(cutoff * GRID - np.arange(GRID), 0.0, 1.0)  # part of each grid cell below the cutoff
            risen = (2.0 / (1.0 + np.exp(-slope * np.maximum(cutoff - ranks, 0.0)))) ** power
            return np.asarray(tokens * (inside * risen + base).mean(axis=1))

        low, high = 1e-6, 1.0 / float(params.cutoff[row].min())
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if expected(middle).sum() > budget else (middle, high)
        found = expected(high)
        shares[row] = found / found.sum()
    return shares


if __name__ == "__main__":
    sys.exit(main())
