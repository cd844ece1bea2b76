"""Does a cheap first fidelity save proxies? One-shot searches with and without one, on the problems of `search`.

    python -m benchmarks.first_fidelity [--seeds 5] [--spearman 0.92] [--problems 6x3 8x4] [--trials 32 64 128]

The first fidelity is a counting proxy (`benchmarks.ngram_proxy`): a loss of any mixture for tens of milliseconds, which
ranks mixtures as transformer proxies of 1.6M tokens do with Spearman .92. Here it is the planted loss with other worths
of domains and criteria, disturbed until it ranks fresh draws so. It is used as the search uses it: of a few draws a
trial the one that it likes best is trained, and finalists are judged by a Gaussian process of what it leaves over
(`quadmix.search.beside_counts`). Printed: regret in nats, mean and 95 % interval over seeds, and how many
trials the first fidelity saves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from scipy.stats import t as student

from benchmarks.search import CANDIDATES, FINALISTS, NOISE, PROBLEMS, TOP, Problem, one_shot, tried
from quadmix.config import CountingConfig
from quadmix.core.param_space import draw_cube, params_from_cube
from quadmix.hashing import seed_for
from quadmix.search.proposals import average
from quadmix.search.regressors import TargetModels, fit_targets
from quadmix.search.screening import screen

Floats = NDArray[np.float64]

DRAWS = CountingConfig().draws


def disturbed(problem: Problem, spearman: float, seed: int) -> Problem:
    """The problem with other worths and gains, whose loss ranks draws as the true one does with that Spearman."""
    rng = np.random.default_rng(seed_for(seed, "counted"))
    moves = [rng.normal(size=part.shape) for part in (problem.worth, problem.gain)]
    mixtures = problem.mixtures(problem.draw(400, seed_for(seed, "rank")))
    true = problem.loss(mixtures)
    low, high = 0.0, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        other = replace(problem, worth=problem.worth * np.exp(middle * moves[0]), gain=problem.gain + middle * moves[1])
        if spearmanr(true, other.loss(mixtures)).statistic > spearman:
            low = middle
        else:
            high = middle
    return other


def with_counts(problem: Problem, counted: Problem, seed: int, noise: float, n: int) -> float:
    """True loss of what a one-shot search with `n` trials proposes when it may ask the counting proxy."""
    draws = problem.draw(DRAWS * n, seed_for(seed, "trials"))
    told = counted.loss(counted.mixtures(draws)).reshape(n, DRAWS)
    cube = draws.reshape(n, DRAWS, -1)[np.arange(n), told.argmin(axis=1)]
    trials = tried(problem, cube, seed, noise)
    points = draw_cube(problem.space, CANDIDATES, seed_for(seed, "candidates"))
    params = params_from_cube(problem.space, points)
    feasible, features, _ = screen(params, problem.tokens, problem.mixture, problem.cheap)
    points, features = points[feasible], features[feasible]

    def fit(columns: Floats, names: Sequence[str], losses: Floats) -> TargetModels:
        return fit_targets(["t"], columns, losses[:, None], "gaussian_process", columns=names, calibrate=False)

    own = params_from_cube(problem.space, trials.cube)
    cheap = fit(problem.cheap.matrix(trials.mixtures, own), problem.cheap.names, trials.joint)
    points = points[np.argsort(cheap.predict(features)[:, 0], kind="stable")[:FINALISTS]]
    full = replace(problem.full, counted=("t",))
    known = replace(trials.mixtures, counted=counted.loss(trials.mixtures)[:, None])
    models = fit(full.matrix(known, own), full.names, trials.joint)
    mixtures = problem.mixtures(points)
    mixtures = replace(mixtures, counted=counted.loss(mixtures)[:, None])
    guess = models.predict(full.matrix(mixtures, params_from_cube(problem.space, points)))[:, 0]
    point = average(points, guess, TOP)
    if not problem.feasible(point)[0]:
        point = average(points, guess, 1)
    return float(problem.loss(problem.mixtures(point))[0])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [f"{domains}x{criteria}" for domains, criteria in PROBLEMS]
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--noise", type=float, default=NOISE)
    arguments.add_argument("--spearman", type=float, default=0.92)
    arguments.add_argument("--problems", nargs="+", choices=known, default=["6x3", "8x4"])
    arguments.add_argument("--trials", nargs="+", type=int, default=[32, 64, 128])
    given = arguments.parse_args()
    print(f"regret in nats, mean and 95 % interval over {given.seeds} seeds; noise {given.noise}")
    for name in given.problems:
        problem = Problem.planted(*PROBLEMS[known.index(name)])
        found: dict[tuple[str, int], Floats] = {}
        for n in given.trials:
            plain = [
                one_shot(problem, seed, given.noise, n, "gaussian_process", theta=False) for seed in range(given.seeds)
            ]
            helped = [
                with_counts(problem, disturbed(problem, given.spearman, seed), seed, given.noise, n)
                for seed in range(given.seeds)
            ]
            found["alone", n], found["with counts", n] = np.array(plain), np.array(helped)
        lowest = min(problem.optimum(), *(float(values.min()) for values in found.values()))
        for (how, n), values in found.items():
            half = student.ppf(0.975, given.seeds - 1) * values.std(ddof=1) / np.sqrt(given.seeds)
            print(f"{name:8}{n:>5} trials, {how:12}{values.mean() - lowest:>10.4f} ±{half:.4f}", flush=True)
        for few, many in zip(given.trials, given.trials[1:], strict=False):
            gap = found["with counts", few] - found["alone", many]
            half = student.ppf(0.975, given.seeds - 1) * gap.std(ddof=1) / np.sqrt(given.seeds)
            print(f"{name:8}{few} with counts less {many} alone: {gap.mean():+.4f} ±{half:.4f}", flush=True)


if __name__ == "__main__":
    main()
