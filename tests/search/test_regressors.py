"""Regressors: deterministic, fit for small swarms, true to their intervals, level with the bars on RegMix's swarm."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.regressors import REGMIX, SPEARMAN, Swarm, bars_missed, mean_of, read_swarm
from quadmix.search import regressors
from quadmix.search.cross_validation import cross_validate, scores
from quadmix.search.noise import NoisePrior
from quadmix.search.objective import Objective
from quadmix.search.regressors import REGRESSORS, TargetModels, fit_screening, fit_targets, make_regressor
from quadmix.search.result import JOINT

ROOT = str(Path(__file__).resolve().parents[2])
COLUMNS = tuple(f"share:{name}" for name in "abcdef")


def _swarm(rows: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    features = rng.random((rows, 6))
    losses = np.stack([5 - features[:, 0] - 0.3 * features[:, 1], 6 + np.abs(features[:, 2] - 0.4)], axis=1)
    return features, losses + rng.normal(0, 0.02, losses.shape)


@pytest.fixture(scope="module")
def regmix() -> Swarm:
    if not REGMIX.exists():
        pytest.skip(f"RegMix's swarm is not here: {REGMIX}")
    return read_swarm(REGMIX)


@pytest.mark.parametrize(
    ("kind", "rows", "wanted"),
    [("lightgbm", 64, 0.95), ("gaussian_process", 32, 0.93), ("gaussian_process", 128, 0.975), ("auto", 64, 0.97)],
)
def test_unseen_mixtures_of_regmix_are_ranked_and_lie_in_their_intervals(
    regmix: Swarm, kind: str, rows: int, wanted: float
) -> None:
    order, targets = np.random.default_rng(1).permutation(len(regmix.losses)), [0, 4, 8]
    train, test, losses = order[:rows], order[rows:], regmix.losses[:, targets]
    models = fit_targets(["a", "b", "c"], regmix.shares[train], losses[train], kind, columns=regmix.columns)
    predicted = models.predict(regmix.shares[test])
    found = [spearmanr(predicted[:, k], losses[test, k])[0] for k in range(3)]
    assert np.mean(found) > wanted
    low, high = models.predict_interval(regmix.shares[test])
    assert 0.8 < np.mean((low <= losses[test]) & (losses[test] <= high)) < 0.98
    weights = np.array([0.5, 0.3, 0.2])
    low, high = models.joint_interval(regmix.shares[test], weights)
    assert 0.75 < np.mean((low <= losses[test] @ weights) & (losses[test] @ weights <= high)) < 0.99


@pytest.mark.long
@pytest.mark.parametrize("size", list(SPEARMAN))
def test_auto_meets_every_bar_on_regmix(regmix: Swarm, size: int) -> None:
    found = mean_of(regmix, size, 5, "auto")
    assert bars_missed(size, found) == [], found


@pytest.mark.parametrize(("kind", "preset"), [*((kind, "small") for kind in REGRESSORS), ("lightgbm", "regmix")])
def test_the_same_rows_give_the_same_bits_also_after_pickling(kind: str, preset: str) -> None:
    features, losses = _swarm(40)
    first = fit_targets(["a"], features, losses, kind, preset, COLUMNS)
    second = pickle.loads(pickle.dumps(fit_targets(["a"], features, losses, kind, preset, COLUMNS)))
    assert np.array_equal(first.predict(features), second.predict(features))
    for a, b in zip(first.predict_interval(features), second.predict_interval(features), strict=True):
        assert np.array_equal(a, b)
    assert np.ptp(first.predict(features)[:, 0]) > 0.5


@pytest.mark.parametrize("kind", ["gaussian_process", "auto"])
def test_bits_do_not_depend_on_memory_layout_or_on_what_a_process_did_before(kind: str, tmp_path: Path) -> None:
    features, losses = _swarm(128)
    here = fit_targets(["a", "b"], features, losses, kind, columns=COLUMNS)
    turned = fit_targets(["a", "b"], np.asfortranarray(features), np.asfortranarray(losses), kind, columns=COLUMNS)
    assert _bits(*_predictions(turned, np.asfortranarray(features))) == _bits(*_predictions(here, features))
    # scipy's linear algebra comes with threads of its own, and is loaded by the first fit of a fresh process
    for name, values in (("features", features), ("losses", losses)):
        np.save(tmp_path / f"{name}.npy", values)
    program = (
        "import numpy as np\n"
        "from quadmix.search.regressors import fit_targets\n"
        "features, losses = np.load('features.npy'), np.load('losses.npy')\n"
        f"models = fit_targets(['a', 'b'], features, losses, {kind!r}, columns={COLUMNS!r})\n"
        "for name, part in zip('abc', (models.predict(features), *models.predict_interval(features))):\n"
        "    np.save(f'{name}.npy', part)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ROOT})
    assert _bits(*(np.load(tmp_path / f"{name}.npy") for name in "abc")) == _bits(*_predictions(here, features))


def _predictions(models: TargetModels, features: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    return models.predict(features), *models.predict_interval(features)


def _bits(*parts: NDArray[np.float64]) -> list[bytes]:
    return [np.ascontiguousarray(part).tobytes() for part in parts]


@pytest.mark.parametrize("kind", REGRESSORS)
def test_a_swarm_of_eight_and_losses_that_never_vary_can_be_fitted(kind: str) -> None:
    features, losses = _swarm(8)
    features[:, 3] = 0.25
    losses[:, 1] = 3.0
    models = fit_targets(["a", "b"], features, losses, kind, columns=COLUMNS)
    low, high = models.predict_interval(features)
    assert np.isfinite(models.predict(features)).all()
    assert (low <= high).all()
    assert np.allclose(models.predict(features)[:, 1], 3.0, atol=1e-3)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="lightgbm"):
        make_regressor("ridge")
    with pytest.raises(ValueError, match="regmix"):
        make_regressor("lightgbm", "large")


def test_the_law_of_shares_is_refused_without_shares_and_auto_does_without_it() -> None:
    with pytest.raises(ValueError, match="share:DOMAIN"):
        make_regressor("log_linear", columns=["cutoff:a", "cutoff:b"])
    assert set(make_regressor("auto", columns=["cutoff:a"]).candidates) == {"gaussian_process", "lightgbm"}
    assert set(make_regressor("auto", columns=["share:a"]).candidates) == set(REGRESSORS["auto"])
    with pytest.raises(ValueError, match="named columns"):
        fit_targets(["a", "b"], *_swarm(8), columns=["share:a"])


def test_models_without_calibration_predict_the_same_and_refuse_intervals() -> None:
    features, losses = _swarm(24)
    known = fit_targets(["a", "b"], features, losses, "gaussian_process", columns=COLUMNS)
    plain = fit_targets(["a", "b"], features, losses, "gaussian_process", columns=COLUMNS, calibrate=False)
    assert np.array_equal(known.predict(features), plain.predict(features))
    with pytest.raises(ValueError, match="calibration"):
        plain.predict_interval(features)


def test_one_kind_screens_and_it_is_the_one_that_auto_leans_on() -> None:
    features, losses = _swarm(40)
    full = fit_targets(["a", "b"], features, losses, "auto", columns=COLUMNS)
    cheap = fit_screening(["a", "b"], features[:, :3], losses, "auto", "small", COLUMNS[:3], full)
    (only,) = cheap.shares_of_models()
    counts = full.shares_of_models()
    assert counts[only] == max(counts.values())
    assert sum(counts.values()) == pytest.approx(1.0)


def test_a_mixture_far_from_the_swarm_is_less_certain() -> None:
    features, losses = _swarm(40)
    models = fit_targets(["a", "b"], features, losses, "gaussian_process", columns=COLUMNS)
    far = features[:5] + 30.0
    assert (models.predict_std(far) > models.predict_std(features).max(axis=0)).all()


def test_held_out_scores_find_a_signal_and_the_permuted_control_finds_none() -> None:
    features, losses = _swarm(64)
    objective = Objective({"a": 0.5, "b": 0.5})
    found = cross_validate(["a", "b"], objective, features, losses, folds=3, seed=3, kind="gaussian_process")
    assert found.scores["a"].spearman > 0.8
    assert found.scores["a"].r2 > 0.6
    assert found.scores[JOINT].spearman > 0.6
    assert abs(found.permuted[JOINT].spearman) < 0.35
    assert found.permuted["a"].r2 < 0.1
    joint = np.array(found.out_of_fold["a"]) * 0.5 + np.array(found.out_of_fold["b"]) * 0.5
    assert np.allclose(joint, found.out_of_fold[JOINT])
    assert all(0.75 <= found.coverage[name] <= 1.0 for name in ("a", "b", JOINT))


@dataclass
class Memory:
    """Remembers the losses of the rows it was fitted on, by their first feature; elsewhere it predicts -1."""

    known: dict[float, float] = field(default_factory=dict)

    def fit(self, features: NDArray[np.float64], losses: NDArray[np.float64]) -> Memory:
        self.known = dict(zip(features[:, 0].tolist(), losses.tolist(), strict=True))
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([self.known.get(key, -1.0) for key in features[:, 0].tolist()])

    def predict_std(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.zeros(len(features))


def _forget(preset: str, columns: Sequence[str], noise: NoisePrior | None) -> Memory:
    return Memory()


@pytest.mark.parametrize("kind", ["memory", "both"])
def test_every_trial_is_predicted_once_by_a_model_that_never_saw_it(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(regressors, "MODELS", {"memory": _forget, "again": _forget})
    monkeypatch.setattr(regressors, "REGRESSORS", {"memory": ("memory",), "both": ("memory", "again")})
    features, losses = np.arange(23.0)[:, None], np.arange(23.0)[:, None]
    found = cross_validate(["a"], Objective({"a": 1.0}), features, losses, folds=4, seed=0, kind=kind)
    assert np.allclose(found.out_of_fold["a"], -1.0)
    # the control: the same model does know the rows that it was fitted on
    assert Memory().fit(features, losses[:, 0]).predict(features).tolist() == losses[:, 0].tolist()


def test_scores_agree_with_scipy_on_ties() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 6, 200).astype(float), rng.integers(0, 5, 200).astype(float)
    assert scores(a, a + b).spearman == pytest.approx(spearmanr(a, a + b)[0])
    assert scores(a, np.zeros(200)).spearman == 0.0


@pytest.mark.parametrize(
    ("columns", "counted", "law"),
    [
        (["share:a", "share:b"], [], True),
        (["share:a", "share:b", "repeats:a", "repeats:b"], [], True),
        (["share:a", "share:b", "quality:x", "lift:a:x"], [], False),
        (["share:a", "share:b", "quality:x", "lift:a:x"], ["counted:t"], True),
        (["cutoff:a", "cutoff:b"], ["counted:t"], False),
    ],
)
def test_auto_asks_a_law_of_shares_only_where_shares_or_counts_tell_all(
    columns: list[str], counted: list[str], law: bool
) -> None:
    made = make_regressor("auto", columns=[*columns, *counted], target="t")
    assert ("log_linear" in made.candidates) == law
    assert {"gaussian_process", "lightgbm"} <= set(made.candidates)
