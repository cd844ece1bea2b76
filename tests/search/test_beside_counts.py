"""Regression beside a counting proxy: what it takes from the counts, and when it leaves them alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace, params_from_cube
from quadmix.search.acquisition import fit_belief
from quadmix.search.beside_counts import BesideCounts, slope_of, split_columns
from quadmix.search.features import FeatureSet, Mixtures, QualitySample
from quadmix.search.gaussian_process import GaussianProcess
from quadmix.search.learning import Trained
from quadmix.search.proposals import theta_by_name
from quadmix.search.regressors import fit_targets
from quadmix.search.result import MixtureByName
from quadmix.search.rounds import NextRound, Tried

Floats = NDArray[np.float64]

OWN = ("share:a", "share:b", "share:c", "quality:q")
COLUMNS = (*OWN, "counted:one", "counted:two")


def swarm(n: int, seed: int) -> tuple[Floats, Floats]:
    """Features of n mixtures, and (n, 2) losses of which the counts know a rugged part."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(3), size=n)
    quality = rng.random((n, 1))
    rugged = rng.normal(size=(n, 2))  # no function of the own columns
    losses = 4.0 - 0.3 * np.log(share[:, :1] + 0.05) - 0.2 * quality + 0.5 * rugged
    return np.concatenate([share, quality, 7.0 + rugged], axis=1), losses


def test_counted_columns_stand_behind_the_others() -> None:
    assert split_columns(COLUMNS) == (OWN, COLUMNS[4:])
    assert split_columns(OWN) == (OWN, ())


def test_each_target_leans_on_its_own_counts() -> None:
    features, losses = swarm(60, 0)
    later, truth = swarm(200, 1)
    errors = {}
    for names in (OWN, COLUMNS):
        models = fit_targets(["one", "two"], features[:, : len(names)], losses, "gaussian_process", columns=names)
        errors[len(names)] = np.abs(models.predict(later[:, : len(names)]) - truth).mean()
    assert errors[len(COLUMNS)] < 0.1 * errors[len(OWN)]
    swapped = fit_targets(["two", "one"], features, losses, "gaussian_process", columns=COLUMNS)
    assert np.abs(swapped.predict(later) - truth).mean() > 0.5 * errors[len(OWN)]


def test_the_model_is_the_slope_and_a_model_of_what_is_left() -> None:
    features, losses = swarm(30, 2)
    model = BesideCounts(lambda: GaussianProcess(OWN), len(OWN), 4).fit(features, losses[:, 0])
    plain, left = (np.polyfit(features[:, 4], losses[:, 0], 1, full=True)[index] for index in (0, 1))
    explained = np.sum((losses[:, 0] - losses[:, 0].mean()) ** 2) - left[0]
    assert model.slope == pytest.approx(plain[0] * (1.0 - left[0] / 28 / explained))
    rest = GaussianProcess(OWN).fit(features[:, :4], losses[:, 0] - model.slope * features[:, 4])
    later = swarm(5, 3)[0]
    wanted = rest.predict(later[:, :4]) + model.slope * later[:, 4]
    assert model.predict(later) == pytest.approx(wanted, rel=1e-12)
    assert model.predict_std(later) == pytest.approx(rest.predict_std(later[:, :4]), rel=1e-12)


def test_a_slope_is_never_negative_nor_above_one_and_nothing_by_chance() -> None:
    told = np.array([1.0, 2.0, 3.0])
    assert slope_of(told, np.array([3.0, 2.0, 1.0])) == 0.0
    assert slope_of(np.ones(3), told) == 0.0
    assert slope_of(told, 0.5 * told) == pytest.approx(0.5)
    assert slope_of(told, 2.0 * told) == 1.0
    rng = np.random.default_rng(0)
    chance = [slope_of(rng.normal(size=40), rng.normal(size=40)) for _ in range(400)]
    assert np.mean(np.array(chance) == 0.0) > 0.75  # half would be negative, and most others no more than chance
    assert np.mean(chance) < 0.06


def test_counts_that_say_nothing_cost_little() -> None:
    features, _ = swarm(60, 4)
    later, _ = swarm(300, 5)
    for rows, seed in ((features, 6), (later, 7)):
        rows[:, 4:] = np.random.default_rng(seed).normal(size=(len(rows), 2))
    smooth = [4.0 - 0.3 * np.log(rows[:, :1] + 0.05) for rows in (features, later)]
    noisy = smooth[0] + 0.02 * np.random.default_rng(8).normal(size=smooth[0].shape)
    errors = []
    for names in (OWN, COLUMNS):
        models = fit_targets(["one"], features[:, : len(names)], noisy, "gaussian_process", columns=names)
        errors.append(np.sqrt(np.mean((models.predict(later[:, : len(names)]) - smooth[1]) ** 2)))
    assert errors[1] < errors[0] + 0.03


def test_the_joint_belief_of_rounds_leans_on_the_targets_as_the_objective_weighs_them() -> None:
    """One target alone counts, and its counts alone tell the joint loss; the other target's are chance."""
    space, rng = ParamSpace(2, 1), np.random.default_rng(1)
    rugged, chance = rng.normal(size=(2, 40))
    full = FeatureSet("realised", ("a", "b"), ("q",), ("one", "two"))
    mixtures = Mixtures(
        np.ones(40),
        np.full((40, 2), 0.5),
        np.ones((40, 2)),
        np.full((40, 2, 1), 0.5),
        np.stack([rugged, chance], axis=1),
    )
    tried = Tried(rng.random((40, space.dim)), mixtures, 5.0 + 0.8 * rugged)
    empty = QualitySample(
        *(np.zeros(0, dtype=kind) for kind in (np.int32, np.int64)), np.zeros((0, 1)), np.zeros((2, 1))
    )
    cheap, config = FeatureSet("screening", ("a", "b"), ("q",)), MixtureConfig(criteria=("q",), budget=10)
    asking = NextRound(space, config, np.array([50, 50]), cheap, full, empty, weights=(1.0, 0.0))
    assert asking.columns.names[-1] == "counted:joint"
    matrix = asking.matrix(asking.columns, tried)
    assert np.array_equal(matrix[:, -1], rugged)
    belief = fit_belief(matrix[:30], tried.joint[:30], asking.columns.names)
    assert belief.predict(matrix[30:])[:, 0] == pytest.approx(tried.joint[30:], abs=0.05)


def test_raw_thetas_stand_beside_counts_too() -> None:
    rng = np.random.default_rng(2)
    params = params_from_cube(ParamSpace(2, 1), rng.random((5, ParamSpace(2, 1).dim)))
    domains, criteria = ("a", "b"), ("q",)
    thetas = [theta_by_name(params.one(row), domains, criteria) for row in range(5)]
    by_domain = {"a": 0.5, "b": 0.5}
    made = [
        MixtureByName(1.0, by_domain, by_domain, {d: {"q": 0.5} for d in domains}, {"t": float(row)})
        for row in range(5)
    ]
    full = FeatureSet("theta", domains, criteria, ("t",))
    matrix = Trained(made, thetas, np.zeros((5, 1))).matrix(full)
    assert matrix.shape == (5, len(full.names))
    assert matrix[:, -1].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert np.array_equal(matrix[:, :-1], FeatureSet("theta", domains, criteria).matrix(made, params))  # type: ignore[arg-type]
