"""The acquisition: expected improvement is the integral, batches keep apart, and it beats asking at random."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace, draw_cube, params_from_cube
from quadmix.search.acquisition import averages_of_best, candidates, choose_batch, expected_improvement, fit_belief
from quadmix.search.features import FeatureSet
from quadmix.search.screening import screen

Floats = NDArray[np.float64]

DOMAINS = ("code", "forum", "law", "news", "web")
TOKENS = np.array([300, 900, 500, 800, 1500]) * 1000
SPACE = ParamSpace(len(DOMAINS), 2)
MIXTURE = MixtureConfig.model_validate({"criteria": ["a", "b"], "budget": 800_000})
FEATURES = FeatureSet("screening", DOMAINS, ("a", "b"))
BEST = np.array([0.35, 0.05, 0.3, 0.05, 0.25])


@pytest.mark.parametrize(("mean", "deviation"), [(3.0, 0.5), (2.0, 0.1), (2.4, 1.5), (9.0, 0.3)])
def test_expected_improvement_is_the_integral(mean: float, deviation: float) -> None:
    best = 2.5
    wanted, _ = quad(lambda x: (best - x) * norm.pdf(x, mean, deviation), mean - 12 * deviation, best)
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)[0]
    assert found == pytest.approx(wanted if mean - 12 * deviation < best else 0.0, rel=1e-6, abs=1e-12)


def test_without_doubt_the_improvement_is_the_difference() -> None:
    assert expected_improvement(np.array([1.0, 3.0]), np.zeros(2), 2.0).tolist() == [1.0, 0.0]


def test_a_batch_keeps_apart_and_away_from_what_runs() -> None:
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(0, 0.01, (50, 3)), rng.normal(5, 0.01, (50, 3))])
    worth = np.concatenate([np.full(50, 1.0), np.full(50, 0.5)])
    first = choose_batch(features, worth, -worth, 2, np.zeros((0, 3)))
    assert [row < 50 for row in first] == [True, False]  # the best place, then the other one
    assert choose_batch(features, worth, -worth, 1, features[:1])[0] >= 50
    everything = choose_batch(features, np.zeros(100), np.arange(100.0), 100, np.zeros((0, 3)))
    assert everything == list(range(100))  # nothing promises anything: by the mean, and none twice


def test_candidates_are_fresh_draws_and_steps_from_the_best() -> None:
    around = draw_cube(SPACE, 3, 9)
    points = candidates(SPACE, 600, 4, around)
    assert points.shape == (600, SPACE.dim)
    assert points.min() > 0 < 1 - points.max()
    assert np.array_equal(points, candidates(SPACE, 600, 4, around))
    nearest = np.abs(points[:, None] - around[None]).mean(axis=2).min(axis=1)
    assert nearest[300:].mean() < 0.1 < nearest[:300].mean()
    assert np.array_equal(candidates(SPACE, 8, 4, np.zeros((0, SPACE.dim))), draw_cube(SPACE, 8, _fresh_seed()))


def test_averages_are_means_of_ten_of_the_forty_best() -> None:
    ordered = np.eye(60)
    found = averages_of_best(ordered, 500, 3)
    assert found.shape == (500, 60)
    assert (np.count_nonzero(found, axis=1) == 10).all()
    assert found[found > 0] == pytest.approx(0.1)
    used = np.count_nonzero(found, axis=0)
    assert not used[40:].any()
    assert used[:40].min() > 80  # 125 each, were they all alike
    assert len(np.unique(found, axis=0)) == 500
    assert np.array_equal(averages_of_best(ordered[:4], 2, 3)[0, :4], np.full(4, 0.25))  # fewer than ten: all of them


def _fresh_seed() -> int:
    from quadmix.hashing import seed_for

    return seed_for(4, "fresh")


def test_the_belief_is_the_same_bits_again_and_doubts_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(3)
    features = rng.uniform(0, 1, (60, 4))
    features[:, 0] *= 0.5
    joint = features @ [1.0, 2.0, 1.0, 0.0]

    def believed() -> tuple[Floats, Floats]:
        belief = fit_belief(features, joint, ["w", "x", "y", "z"])
        return belief.predict(features + shift)[:, 0], belief.predict_std(features + shift)[:, 0]

    shift = 0.0
    (mean, deviation), again = believed(), believed()
    assert np.array_equal(mean, again[0])
    assert np.array_equal(deviation, again[1])
    assert np.corrcoef(mean, joint)[0, 1] > 0.95
    assert (deviation > 0).all()
    shift = 3.0
    assert believed()[1].min() > deviation.max()


def loss(features: Floats) -> Floats:
    """A planted optimum at BEST, told by the mixture's shares alone."""
    return np.asarray(((features[:, : len(DOMAINS)] - BEST) ** 2).sum(axis=1))


def seen(cube: Floats) -> tuple[Floats, Floats]:
    """(points that can meet the budget, their features)"""
    feasible, matrix, _ = screen(params_from_cube(SPACE, cube), TOKENS, MIXTURE, FEATURES)
    return cube[feasible], matrix[feasible]


def regrets(seed: int, first: int = 24, batch: int = 12) -> tuple[float, float]:
    """The lowest true loss of `batch` more trials after `first` random ones: by the acquisition, and at random."""
    cube, features = seen(draw_cube(SPACE, 400, 1000 + seed))
    noise = np.random.default_rng(seed).normal(0, 0.01, first)
    losses = loss(features[:first]) + noise
    belief = fit_belief(features[:first], losses, FEATURES.names)
    around = cube[:first][np.argsort(losses)[:5]]
    _, offered = seen(candidates(SPACE, 2000, seed, around))
    mean, deviation = belief.predict(offered)[:, 0], belief.predict_std(offered)[:, 0]
    worth = expected_improvement(mean, deviation, float(belief.predict(features[:first]).min()))
    chosen = choose_batch(offered, worth, mean, batch, np.zeros((0, offered.shape[1])))
    return float(loss(offered[chosen]).min()), float(loss(features[first : first + batch]).min())


def test_it_beats_fresh_draws_on_a_planted_problem() -> None:
    found = np.array([regrets(seed) for seed in range(6)])
    by_acquisition, at_random = found.mean(axis=0)
    assert by_acquisition < 0.7 * at_random, found
    assert (found[:, 0] < found[:, 1]).sum() >= 4, found
