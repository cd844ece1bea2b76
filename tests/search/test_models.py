"""The models under the regressors, against finite differences, scikit-learn, planted laws and literal definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from quadmix.search import gaussian_process, log_linear
from quadmix.search.columns import Scaling, share_mask
from quadmix.search.gaussian_process import GaussianProcess
from quadmix.search.intervals import Calibration, JointCalibration, conformal
from quadmix.search.log_linear import LogLinearLaw
from quadmix.search.stacking import folds, stack_weights, weights_by_fold

COLUMNS = ("share:a", "share:b", "share:c", "repeats:a")
Floats = NDArray[np.float64]


def _rows(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3), count)
    features = np.concatenate([shares, 1 + 3 * rng.random((count, 1))], axis=1)
    losses = 3 - 0.2 * np.log(shares[:, 0] + 1e-3) + 0.5 * shares[:, 1] * shares[:, 2] + rng.normal(0, 0.02, count)
    return features, losses


def test_shares_are_logged_and_all_columns_standardised() -> None:
    features, _ = _rows(30)
    features = np.concatenate([features, np.full((30, 1), 7.0)], axis=1)
    scaled = Scaling.of(features, (*COLUMNS, "repeats:b"))(features)
    assert np.allclose(scaled[:, :4].std(axis=0), 1.0)
    logged = np.log(features[:, 0] + 1e-3)
    assert np.allclose(scaled[:, 0], (logged - logged.mean()) / logged.std())
    assert (scaled[:, 4] == 0).all()
    assert share_mask(COLUMNS).tolist() == [True, True, True, False]


def test_the_gradient_of_the_posterior_is_that_of_finite_differences() -> None:
    features, losses = _rows(20)
    scaling = Scaling.of(features, COLUMNS)
    prior = gaussian_process._prior(scaling.shares)
    given = (scaling(features), losses - losses.mean(), prior)
    for seed in range(3):
        at = prior[0] + np.random.default_rng(seed).normal(0, 0.7, len(prior[0]))
        exact = gaussian_process.negative_log_posterior(at, *given)[1]
        near = approx_fprime(at, lambda x: gaussian_process.negative_log_posterior(x, *given)[0], 1e-6)
        assert np.allclose(exact, near, rtol=1e-3, atol=1e-4)


def test_predictions_and_deviations_are_scikit_learns_at_the_same_lengthscales() -> None:
    features, losses = _rows(40)
    ours = GaussianProcess(COLUMNS).fit(features, losses)
    found = ours.fitted
    assert found is not None
    kernel = ConstantKernel(found.signal, "fixed") * Matern(found.lengths, "fixed", nu=2.5)
    theirs = GaussianProcessRegressor(kernel + WhiteKernel(found.noise, "fixed"), alpha=1e-8, optimizer=None)
    theirs.fit(found.scaling(features), (losses - losses.mean()) / losses.std())
    fresh, _ = _rows(700, seed=1)
    mean, std = theirs.predict(found.scaling(fresh), return_std=True)
    assert np.allclose(ours.predict(fresh), losses.mean() + losses.std() * mean, atol=1e-8)
    assert np.allclose(ours.predict_std(fresh), losses.std() * std, rtol=1e-4)


def test_the_fit_is_no_worse_than_scikit_learns_optimum_of_the_likelihood_alone() -> None:
    features, losses = _rows(60)
    fresh, truth = _rows(500, seed=1)
    ours = GaussianProcess(COLUMNS).fit(features, losses)
    assert ours.fitted is not None
    scaled, scale = ours.fitted.scaling(features), losses.std()
    kernel = ConstantKernel() * Matern(np.full(4, 3.0), nu=2.5) + WhiteKernel(0.02)
    theirs = GaussianProcessRegressor(kernel, normalize_y=True).fit(scaled, losses)
    mine = np.sqrt(np.mean((ours.predict(fresh) - truth) ** 2))
    other = np.sqrt(np.mean((theirs.predict(ours.fitted.scaling(fresh)) - truth) ** 2))
    assert mine < 1.1 * other
    assert mine < 0.25 * scale


def test_a_planted_log_linear_law_is_found_again_despite_a_wild_trial() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), 60)
    truth = 2.0 + np.exp(shares @ np.array([0.8, -1.0, -3.0, 0.1]))
    losses = truth + rng.normal(0, 0.005, 60)
    losses[7] += 2.0
    columns = tuple(f"share:{name}" for name in "abcd")
    fresh = rng.dirichlet(np.ones(4), 300)
    error = LogLinearLaw(columns).fit(shares, losses).predict(fresh) - (
        2.0 + np.exp(fresh @ np.array([0.8, -1.0, -3.0, 0.1]))
    )
    assert np.sqrt(np.mean(error**2)) < 0.03 * truth.std()
    at = np.array([-1.0, 0.3, -0.5, 0.2, 0.1])
    given = (shares, (losses - losses.mean()) / losses.std())
    near = approx_fprime(at, lambda x: log_linear.objective(x, *given, 0.8)[0], 1e-6)
    assert np.allclose(log_linear.objective(at, *given, 0.8)[1], near, atol=1e-5)


def test_stack_weights_are_the_best_average_on_a_grid() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(0, 1, 200)
    predicted = np.stack([losses + rng.normal(0, sd, 200) for sd in (0.5, 0.55, 0.6)], axis=1)
    found = stack_weights(predicted, losses)
    steps = np.arange(0, 1.001, 0.02)
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]
    best = min(grid, key=lambda w: float(np.mean((predicted @ np.array(w) - losses) ** 2)))
    assert np.allclose(found, best, atol=0.03)
    worse = np.concatenate([predicted, (losses + rng.normal(0, 2, 200))[:, None]], axis=1)
    assert np.allclose(stack_weights(worse, losses), [*found, 0.0])
    assert stack_weights(np.repeat(losses[:, None], 2, axis=1), losses).sum() == pytest.approx(1.0)


def test_a_rows_own_loss_has_no_part_in_the_weights_that_its_error_is_told_with() -> None:
    rng = np.random.default_rng(3)
    losses = rng.normal(size=40)
    predicted = np.stack([losses + rng.normal(0, 0.5, 40) for _ in range(3)], axis=1)
    fold = folds(40, 5, 0, "stack")
    found = weights_by_fold(predicted, losses, fold)
    for index in range(5):
        moved = np.where(fold == index, losses + rng.normal(0, 1, 40), losses)
        again = weights_by_fold(predicted, moved, fold)
        assert np.array_equal(again[index], found[index])
        others = np.arange(5) != index
        assert not np.allclose(again[others], found[others])


def test_folds_are_level_and_cover_every_row() -> None:
    assert np.ptp(np.bincount(folds(23, 5, 0, "stack"))) <= 1
    assert sorted(folds(3, 5, 0, "stack")) == [0, 1, 2]


def test_the_conformal_quantile_is_the_rank_that_the_theorem_names() -> None:
    scores = np.random.default_rng(0).random(19)
    assert conformal(scores, 0.9) == np.sort(scores)[17]  # ceil(20 * .9) = 18th
    assert conformal(scores[:5], 0.9) == scores[:5].max()
    with pytest.raises(ValueError, match="level"):
        conformal(scores, 1.0)


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_intervals_hold_their_level_however_wrong_the_model_is_about_its_own_uncertainty(size: float) -> None:
    rng = np.random.default_rng(1)
    covered, joint, joint_std = [], [], []
    weights = np.array([0.7, 0.3])
    for _ in range(150):
        own = 0.5 + rng.random((61, 2))
        error = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 61) * own
        parts = tuple(Calibration.of(error[:60, t], size * own[:60, t]) for t in range(2))
        covered.append(abs(error[60, 0]) <= parts[0].half_width(size * own[60:, 0], 0.9)[0])
        both = JointCalibration.of(parts, weights)
        stds = np.stack([part.std(size * own[60:, t]) for t, part in enumerate(parts)], axis=1)
        joint.append(abs(error[60] @ weights) <= both.half_width(stds, 0.9)[0])
        joint_std.append(
            both.std(stds)[0] / np.sqrt(weights @ (np.outer(own[60], own[60]) * [[1, 0.8], [0.8, 1]]) @ weights)
        )
    assert 0.84 <= np.mean(covered) <= 0.96
    assert 0.84 <= np.mean(joint) <= 0.96
    assert np.mean(joint_std) == pytest.approx(1.0, abs=0.1)
