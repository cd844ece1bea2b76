"""Regression beside a counting proxy: what it takes from the counts, and when it leaves them alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.search.beside_counts import BesideCounts, judge, slope_of, split_columns, told_of
from quadmix.search.gaussian_process import GaussianProcess
from quadmix.search.regressors import fit_targets
from quadmix.search.stacking import Model

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


def gaussian(features: Floats, names: Sequence[str], losses: Floats) -> Model:
    return fit_targets(["joint"], features, losses[:, None], "gaussian_process", columns=names, calibrate=False).models[
        0
    ]


def test_columns_of_a_target_are_its_own_and_of_the_joint_objective_all() -> None:
    assert split_columns(COLUMNS) == (OWN, COLUMNS[4:])
    assert told_of(COLUMNS, "two") == [5]
    assert told_of(COLUMNS, "joint") == [4, 5]


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
    model = BesideCounts(lambda: GaussianProcess(OWN), len(OWN), [4]).fit(features, losses[:, 0])
    slope = np.polyfit(features[:, 4], losses[:, 0], 1)[0]
    assert model.slope == pytest.approx(slope)
    rest = GaussianProcess(OWN).fit(features[:, :4], losses[:, 0] - model.slope * features[:, 4])
    later = swarm(5, 3)[0]
    wanted = rest.predict(later[:, :4]) + model.slope * later[:, 4]
    assert model.predict(later) == pytest.approx(wanted, rel=1e-12)
    assert model.predict_std(later) == pytest.approx(rest.predict_std(later[:, :4]), rel=1e-12)


def test_a_slope_is_never_negative() -> None:
    told = np.array([1.0, 2.0, 3.0])
    assert slope_of(told, np.array([3.0, 2.0, 1.0])) == 0.0
    assert slope_of(np.ones(3), told) == 0.0
    assert slope_of(told, 2.0 * told) == pytest.approx(2.0)


def test_counts_are_used_where_they_help_and_not_where_they_are_chance() -> None:
    features, losses = swarm(40, 4)
    found = judge(features, COLUMNS, losses.mean(axis=1), gaussian, 0)
    assert found.helps
    assert found.together < 0.3 * found.alone
    chance = features.copy()
    chance[:, 4:] = np.random.default_rng(5).normal(size=(40, 2))
    smooth = 4.0 - 0.3 * np.log(features[:, 0] + 0.05) + 0.01 * np.random.default_rng(6).normal(size=40)
    assert not judge(chance, COLUMNS, smooth, gaussian, 0).helps
