"""Searches on planted problems: from trials to the true loss of what they propose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.planted_mixtures import Problem, tried
from quadmix.config import CountingConfig
from quadmix.core.param_space import draw_cube, params_from_cube
from quadmix.hashing import seed_for
from quadmix.search.features import FeatureSet, Mixtures
from quadmix.search.proposals import average
from quadmix.search.regressors import fit_screening, fit_targets
from quadmix.search.rounds import NextRound, Tried, round_sizes
from quadmix.search.screening import screen

Floats = NDArray[np.float64]

CANDIDATES = 100_000
FINALISTS = 500
TOP = 10
ROUNDS = 3
DRAWS = CountingConfig().draws
SHIPPED = "auto"  # the regressor of a search that names none


def interval(values: Floats) -> float:
    """Half of the 95 % interval of a mean over seeds."""
    return float(student.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))


def propose(
    problem: Problem, trials: Tried, kind: str, seed: int, *, theta: bool = False, counted: Problem | None = None
) -> float:
    """True loss of the average of the best candidates. theta: learn from raw theta, as the paper does; counted: a first
    fidelity, of which the regressor predicts what it leaves over."""
    space, losses = problem.space, trials.joint[:, None]
    own = params_from_cube(space, trials.cube)
    cube = draw_cube(space, CANDIDATES, seed)
    feasible, features, _ = screen(params_from_cube(space, cube), problem.tokens, problem.mixture, problem.cheap)
    cube, features = cube[feasible], features[feasible]
    if theta:
        columns = FeatureSet("theta", problem.full.domains, problem.full.criteria)
        known = columns.matrix(trials.mixtures, own)
        models = fit_targets(["t"], known, losses, kind, "regmix", columns.names, calibrate=False)
        guess = models.predict(columns.matrix(trials.mixtures, params_from_cube(space, cube)))[:, 0]
    else:
        full = problem.full if counted is None else replace(problem.full, counted=("t",))
        known = full.matrix(_told(trials.mixtures, counted), own)
        models = fit_targets(["t"], known, losses, kind, columns=full.names, calibrate=False)
        seen = problem.cheap.matrix(trials.mixtures, own)
        cheap = fit_screening(["t"], seen, losses, kind, "small", problem.cheap.names, models)
        cube = cube[np.argsort(cheap.predict(features)[:, 0], kind="stable")[:FINALISTS]]
        mixtures = _told(problem.mixtures(cube), counted)
        guess = models.predict(full.matrix(mixtures, params_from_cube(space, cube)))[:, 0]
    point = average(cube, guess, TOP)
    if not problem.feasible(point)[0]:
        point = average(cube, guess, 1)
    return float(problem.loss(problem.mixtures(point))[0])


def _told(mixtures: Mixtures, counted: Problem | None) -> Mixtures:
    return mixtures if counted is None else replace(mixtures, counted=counted.loss(mixtures)[:, None])


def one_shot(problem: Problem, seed: int, noise: float, n: int, kind: str = SHIPPED, *, theta: bool = False) -> float:
    """`n` draws of Algorithm 1, one fit."""
    trials = tried(problem, problem.draw(n, seed_for(seed, "trials")), seed, noise)
    return propose(problem, trials, kind, seed_for(seed, "candidates"), theta=theta)


def with_counts(problem: Problem, counted: Problem, seed: int, noise: float, n: int) -> float:
    """The shipped search: of `DRAWS` draws a trial the one that the first fidelity likes best is trained, and the
    regressor sees it."""
    draws = problem.draw(DRAWS * n, seed_for(seed, "trials"))
    told = counted.loss(counted.mixtures(draws)).reshape(n, DRAWS)
    cube = draws.reshape(n, DRAWS, -1)[np.arange(n), told.argmin(axis=1)]
    trials = tried(problem, cube, seed, noise)
    return propose(problem, trials, SHIPPED, seed_for(seed, "candidates"), counted=counted)


def sequential(problem: Problem, seed: int, noise: float, n: int) -> float:
    """Half of the trials by Algorithm 1, then rounds of equal size by a Gaussian process, as the search stage has
    them."""
    asking = NextRound(problem.space, problem.mixture, problem.tokens, problem.cheap, problem.full, problem.quality)
    first, *later = round_sizes(n, ROUNDS)
    cube = problem.draw(first, seed_for(seed, "trials"))
    trials = tried(problem, cube, seed, noise)
    for number, size in enumerate(later, start=1):
        new, _ = asking.choose(trials, size, seed_for(seed, "round", number))
        more = tried(problem, new, seed + 1000 * number, noise)
        trials = Tried(
            np.concatenate([trials.cube, more.cube]),
            Mixtures(*(np.concatenate([getattr(trials.mixtures, f), getattr(more.mixtures, f)])
                       for f in ("tokens", "share", "repeats", "quality"))),
            np.concatenate([trials.joint, more.joint]),
        )  # fmt: skip
    return propose(problem, trials, SHIPPED, seed_for(seed, "candidates"))
