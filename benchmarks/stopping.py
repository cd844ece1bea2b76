"""Is what more trials are said to be worth what they bring? On the planted problems of benchmarks/planted_mixtures.py.

    python -m benchmarks.stopping [--seeds 8] [--noise 0.08] [--problems 2]

For every problem, seed and number of trials (24 and 64 by Algorithm 1, then 16 more): the predicted worth of the 16 and
its 90 % interval, beside the true loss of the proposal before minus after. The proposal is the average of the best ten
of 10,000 candidates by a Gaussian process. Printed: means over seeds with standard errors, and how many of the true
gains lay in their intervals. `given`: the noise is told as repeated seeds would measure it, with 6 degrees of freedom.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.planted_mixtures import PROBLEMS, Problem, tried
from quadmix.core.param_space import params_from_cube
from quadmix.hashing import seed_for
from quadmix.search.acquisition import candidates
from quadmix.search.features import Mixtures
from quadmix.search.noise import NoisePrior
from quadmix.search.proposals import average
from quadmix.search.regressors import fit_targets
from quadmix.search.rounds import NextRound, Tried, best_points
from quadmix.search.screening import screen
from quadmix.search.stopping import MORE, worth_of_more

Floats = NDArray[np.float64]

FINALISTS = 300
TOP = 10
SIZES = (24, 64)


def proposed(problem: Problem, trials: Tried, seed: int) -> float:
    """True loss of the proposal."""
    cube = candidates(problem.space, 10_000, seed, best_points(trials))
    params = params_from_cube(problem.space, cube)
    feasible, features, _ = screen(params, problem.tokens, problem.mixture, problem.cheap)
    cube, features = cube[feasible], features[feasible]
    for columns in (problem.cheap, problem.full):
        known = columns.matrix(trials.mixtures, params_from_cube(problem.space, trials.cube))
        names, losses = columns.names, trials.joint[:, None]
        model = fit_targets(["t"], known, losses, "gaussian_process", columns=names, calibrate=False)
        if columns is problem.full:
            features = columns.matrix(problem.mixtures(cube), params_from_cube(problem.space, cube))
        guess = model.predict(features)[:, 0]
        cube, guess = (part[np.argsort(guess, kind="stable")[:FINALISTS]] for part in (cube, guess))
    point = average(cube, np.sort(guess), TOP)
    if not problem.feasible(point)[0]:
        point = cube[:1]
    return float(problem.loss(problem.mixtures(point))[0])


def first(trials: Tried, n: int) -> Tried:
    parts = (getattr(trials.mixtures, name)[:n] for name in ("tokens", "share", "repeats", "quality"))
    return Tried(trials.cube[:n], Mixtures(*parts), trials.joint[:n])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=8)
    arguments.add_argument("--noise", type=float, default=0.08)
    arguments.add_argument("--problems", type=int, default=2, help="the first so many")
    given = arguments.parse_args()
    inside, all_ = {"": 0, "given": 0}, 0
    for shape in PROBLEMS[: given.problems]:
        problem = Problem.planted(*shape)
        asking = NextRound(problem.space, problem.mixture, problem.tokens, problem.cheap, problem.full, problem.quality)
        for size in SIZES:
            started = time.process_time()
            rows: dict[str, list[tuple[float, float, float]]] = {"": [], "given": []}
            gains = []
            for seed in range(given.seeds):
                cube = problem.draw(size + MORE, seed_for(seed, "trials"))
                trials = tried(problem, cube, seed, given.noise)
                before = first(trials, size)
                told = np.random.default_rng(seed).chisquare(6)
                prior = NoisePrior(given.noise * float(np.sqrt(told / 6)), 6)
                for name, noise in (("", None), ("given", prior)):
                    worth = worth_of_more(replace(asking, noise=noise), before, cube[size:], seed)
                    rows[name].append((worth.mean, worth.low, worth.high))
                gains.append(proposed(problem, before, seed) - proposed(problem, trials, seed))
            true = np.array(gains)
            all_ += len(gains)
            text = f"{shape[0]:2d} x {shape[1]}, {size:3d} trials: true gain {true.mean():+.4f} ± {_error(true):.4f}"
            for name, found in rows.items():
                values = np.array(found)
                within = int(((values[:, 1] <= true) & (true <= values[:, 2])).sum())
                inside[name] += within
                text += f"; {name or 'predicted'} {values[:, 0].mean():.4f} ± {_error(values[:, 0]):.4f}"
                text += f" ({values[:, 1].mean():+.3f} to {values[:, 2].mean():+.3f}), {within} of {len(gains)} inside"
            print(f"{text}; {time.process_time() - started:.0f} CPU s", flush=True)
    for name, count in inside.items():
        print(f"{name or 'predicted'}: {count} of {all_} true gains in their 90 % intervals")


def _error(values: Floats) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
