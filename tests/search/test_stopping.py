"""What more trials would be worth: the gains are those of a literal simulation, and stop where nothing is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.planted_mixtures import Problem, tried
from quadmix.search.gaussian_process import Fitted, GaussianProcess
from quadmix.search.rounds import NextRound
from quadmix.search.stopping import MORE, imagined_gains, normal, posterior, posterior_variance, worth_of_more

Floats = NDArray[np.float64]

COLUMNS = ("share:a", "share:b", "share:c")


def belief(rows: int, noise: float, seed: int = 0) -> tuple[Fitted, Floats]:
    rng = np.random.default_rng(seed)
    features = rng.dirichlet(np.ones(3), rows)
    losses = 4 + 0.5 * np.sin(6 * features[:, 0]) - features[:, 1] + rng.normal(0, noise, rows)
    fitted = GaussianProcess(COLUMNS).fit(features, losses).fitted
    assert fitted is not None
    return fitted, features


def test_the_posterior_is_that_of_conditioning_on_the_trials() -> None:
    fitted, features = belief(15, 0.1)
    new = np.random.default_rng(1).dirichlet(np.ones(3), 6)
    kernel = fitted.covariance(features, features) + (fitted.noise + 1e-8) * np.eye(15)
    cross = fitted.covariance(new, features)
    wanted = fitted.covariance(new, new) - cross @ np.linalg.inv(kernel) @ cross.T
    found = posterior(fitted, new, new)
    assert np.allclose(found, wanted * fitted.scale**2, rtol=1e-6, atol=1e-10)
    assert np.allclose(posterior_variance(fitted, new), np.diag(found), rtol=1e-5, atol=1e-8)


def test_imagined_gains_are_those_of_drawing_a_truth_measuring_it_and_believing_again() -> None:
    fitted, _ = belief(12, 0.1)
    rng = np.random.default_rng(2)
    offered, asked = rng.dirichlet(np.ones(3), 40), rng.dirichlet(np.ones(3), 5)
    both = np.concatenate([offered, asked])
    covariance = posterior(fitted, both, both) + 1e-10 * np.eye(45)
    mean = fitted.predict(both)
    noise = fitted.noise * fitted.scale**2
    weights = covariance[:40, 40:] @ np.linalg.inv(covariance[40:, 40:] + noise * np.eye(5))
    gains = []
    for truth in rng.multivariate_normal(mean, covariance, 4000, method="cholesky"):
        measured = truth[40:] + rng.normal(0, np.sqrt(noise), 5)
        after = mean[:40] + weights @ (measured - mean[40:])
        gains.append(truth[mean[:40].argmin()] - truth[after.argmin()])
    found = imagined_gains(fitted, offered, asked, 7)
    error = float(np.std(gains)) / np.sqrt(4000)
    assert found.mean() == pytest.approx(float(np.mean(gains)), abs=5 * error)
    assert found.std() == pytest.approx(float(np.std(gains)), rel=0.12)
    assert found.mean() > 0


def test_what_is_asked_far_away_or_known_already_is_worth_less() -> None:
    fitted, features = belief(12, 0.1)
    offered = np.random.default_rng(2).dirichlet(np.ones(3), 40)
    good = offered[np.argsort(fitted.predict(offered))[:5]]
    near = imagined_gains(fitted, offered, good, 1).mean()
    one = imagined_gains(fitted, offered, good[:1], 1).mean()
    assert near > one >= 0
    sure, features = belief(200, 0.01)
    assert imagined_gains(sure, offered, features[:5], 1).mean() < 0.2 * near


def test_draws_are_a_function_of_the_seed() -> None:
    draws = normal((3000, 2), 5)
    assert np.array_equal(draws, normal((3000, 2), 5))
    assert not np.array_equal(draws, normal((3000, 2), 6))
    assert abs(draws.mean()) < 0.05
    assert draws.std() == pytest.approx(1.0, abs=0.05)


def test_more_trials_of_a_swarm_are_worth_less_the_more_there_are() -> None:
    problem = Problem.planted(4, 2)
    asking = NextRound(
        problem.space, problem.mixture, problem.tokens, problem.cheap, problem.full, problem.quality, candidates=1500
    )
    cube = problem.draw(160 + MORE, 3)
    worths = [worth_of_more(asking, tried(problem, cube[:n], 1, 0.05), cube[160:], 9) for n in (16, 160)]
    assert worths[0].trials == MORE
    assert worths[0].mean > worths[1].mean > 0
    assert worths[0].low < worths[0].mean < worths[0].high
    again = worth_of_more(asking, tried(problem, cube[:16], 1, 0.05), cube[160:], 9)
    assert again == worths[0]
