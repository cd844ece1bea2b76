"""Regressors: deterministic, able to split a small swarm, and level with what was published on RegMix's own swarm."""

from __future__ import annotations

import csv
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from quadmix.search import regressors
from quadmix.search.cross_validation import cross_validate, scores
from quadmix.search.objective import Objective
from quadmix.search.regressors import REGRESSORS, fit_targets, make_regressor
from quadmix.search.result import JOINT

REGMIX = Path(__file__).parents[3] / "shared" / "data" / "regmix"


def _swarm(rows: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    features = rng.random((rows, 6))
    losses = np.stack([5 - features[:, 0] - 0.3 * features[:, 1], 6 + np.abs(features[:, 2] - 0.4)], axis=1)
    return features, losses + rng.normal(0, 0.02, losses.shape)


def _regmix() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not REGMIX.exists():
        pytest.skip(f"RegMix's swarm is not here: {REGMIX}")

    def rows(name: str) -> dict[int, list[float]]:
        with open(REGMIX / name, newline="") as handle:
            return {int(row[0]): [float(value) for value in row[1:]] for row in list(csv.reader(handle))[1:]}

    mixtures, losses = rows("train_mixture_1m.csv"), rows("train_pile_loss_1m.csv")
    index = sorted(losses)
    return np.array([mixtures[i] for i in index]), np.array([losses[i] for i in index])


@pytest.mark.parametrize(("rows", "wanted"), [(40, 0.93), (64, 0.95), (400, 0.98)])
def test_unseen_mixtures_of_regmix_are_ranked(rows: int, wanted: float) -> None:
    features, losses = _regmix()
    order = np.random.default_rng(1).permutation(len(losses))
    train, test, targets = order[:rows], order[-100:], [0, 4, 8]
    models = fit_targets(["a", "b", "c"], features[train], losses[np.ix_(train, targets)])
    predicted = models.predict(features[test])
    found = [spearmanr(predicted[:, k], losses[test, target])[0] for k, target in enumerate(targets)]
    assert np.mean(found) > wanted


@pytest.mark.parametrize("kind", REGRESSORS)
@pytest.mark.parametrize("preset", ["small", "regmix"])
def test_the_same_rows_give_the_same_bits_also_after_pickling(kind: str, preset: str) -> None:
    features, losses = _swarm(40)
    first = make_regressor(kind, preset).fit(features, losses[:, 0])
    second = pickle.loads(pickle.dumps(make_regressor(kind, preset).fit(features, losses[:, 0])))
    assert np.array_equal(first.predict(features), second.predict(features))
    assert np.ptp(first.predict(features)) > 0.5


def test_a_swarm_of_eight_can_be_fitted() -> None:
    features, losses = _swarm(8)
    assert np.isfinite(make_regressor().fit(features, losses[:, 0]).predict(features)).all()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="lightgbm"):
        make_regressor("ridge")
    with pytest.raises(ValueError, match="regmix"):
        make_regressor("lightgbm", "large")


def test_held_out_scores_find_a_signal_and_the_permuted_control_finds_none() -> None:
    features, losses = _swarm(64)
    found = cross_validate(["a", "b"], Objective({"a": 0.5, "b": 0.5}), features, losses, folds=3, seed=3)
    assert found.scores["a"].spearman > 0.8
    assert found.scores["a"].r2 > 0.6
    assert found.scores[JOINT].spearman > 0.6
    assert abs(found.permuted[JOINT].spearman) < 0.35
    assert found.permuted["a"].r2 < 0.1
    joint = np.array(found.out_of_fold["a"]) * 0.5 + np.array(found.out_of_fold["b"]) * 0.5
    assert np.allclose(joint, found.out_of_fold[JOINT])


@dataclass
class Memory:
    """Remembers the losses of the rows it was fitted on, by their first feature; elsewhere it predicts -1."""

    known: dict[float, float] = field(default_factory=dict)

    def fit(self, features: NDArray[np.float64], losses: NDArray[np.float64]) -> Memory:
        self.known = dict(zip(features[:, 0].tolist(), losses.tolist(), strict=True))
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([self.known.get(key, -1.0) for key in features[:, 0].tolist()])


def test_every_trial_is_predicted_once_by_a_model_that_never_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regressors, "REGRESSORS", {"memory": lambda preset: Memory()})
    features, losses = np.arange(23.0)[:, None], np.arange(23.0)[:, None]
    found = cross_validate(["a"], Objective({"a": 1.0}), features, losses, folds=4, seed=0, kind="memory")
    assert found.out_of_fold["a"] == [-1.0] * 23
    # the control: the same model does know the rows that it was fitted on
    assert Memory().fit(features, losses[:, 0]).predict(features).tolist() == losses[:, 0].tolist()


def test_scores_agree_with_scipy_on_ties() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 6, 200).astype(float), rng.integers(0, 5, 200).astype(float)
    assert scores(a, a + b).spearman == pytest.approx(spearmanr(a, a + b)[0])
    assert scores(a, np.zeros(200)).spearman == 0.0
