"""Screening finds the best candidates however they are chunked; averages are valid mixtures; names carry thetas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.config import MixtureConfig, Theta
from quadmix.core.param_space import ParamSpace, params_from_cube, sample_params
from quadmix.search.features import FeatureSet, QualitySample
from quadmix.search.objective import Objective
from quadmix.search.proposals import average, params_of, propose, theta_by_name
from quadmix.search.regressors import TargetModels
from quadmix.search.result import JOINT
from quadmix.search.screening import (
    CHUNK,
    ScreenChunk,
    SearchModels,
    chunk_params,
    chunks,
    finalists,
    screen,
)

DOMAINS, CRITERIA = ("a", "b", "c"), ("x", "y")
SPACE = ParamSpace(3, 2)
TOKENS = np.array([40_000, 10_000, 50_000], dtype=np.int64)
MIXTURE = MixtureConfig(criteria=CRITERIA, budget=120_000, max_copies=2)


@dataclass(frozen=True)
class Linear:
    """A regressor whose answer is known: one feature, times a factor."""

    column: int
    factor: float
    calibration: None = None  # knows no uncertainty

    def fit(self, features: NDArray[np.float64], losses: NDArray[np.float64]) -> Linear:
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.factor * features[:, self.column]


@dataclass(frozen=True)
class Here:
    value: SearchModels

    def get(self) -> SearchModels:
        return self.value


@pytest.fixture
def models() -> SearchModels:
    rng = np.random.default_rng(0)
    sample = QualitySample.of(rng.integers(0, 3, 90).astype(np.int32), np.full(90, 10), rng.random((90, 2)), 3)
    both = TargetModels(("one", "two"), (Linear(0, -1.0), Linear(1, 1.0)))
    return SearchModels(
        both, both, FeatureSet("screening", DOMAINS, CRITERIA), FeatureSet("realised", DOMAINS, CRITERIA),
        Objective({"one": 0.75, "two": 0.25}), sample,
    )  # fmt: skip


def test_finalists_are_the_best_feasible_candidates_of_all_chunks(models: SearchModels) -> None:
    candidates, keep = CHUNK + 700, 40
    task = ScreenChunk(SPACE, MIXTURE, TOKENS, 3, keep, Here(models))
    parts = [task(item) for item in reversed(chunks(candidates))]
    found = finalists(parts, keep)
    everything = []
    for chunk, size in chunks(candidates):
        feasible, matrix, _ = screen(chunk_params(SPACE, 3, chunk, size), TOKENS, MIXTURE, models.screening_features)
        joint = -0.75 * matrix[:, 0] + 0.25 * matrix[:, 1]
        everything += [(joint[row], chunk, row) for row in range(size) if feasible[row]]
    assert found == [(chunk, row) for _, chunk, row in sorted(everything)[:keep]]
    assert sum(part.drawn for part in parts) == candidates
    assert sum(part.infeasible for part in parts) == candidates - len(everything) > 0


def test_the_average_is_taken_in_the_cube_and_its_merge_weights_sum_to_one(models: SearchModels) -> None:
    cube = sample_params(SPACE, 50, 1).cube
    assert cube is not None
    joint = np.random.default_rng(0).random(50)
    point = average(cube, joint, 10)
    assert np.allclose(point[0], cube[np.argsort(joint)[:10]].mean(axis=0))
    assert np.allclose(params_from_cube(SPACE, point).merge_weights.sum(axis=2), 1.0)
    small = MIXTURE.model_copy(update={"budget": 20_000})
    found = propose(SPACE, cube, joint, 10, TOKENS, small, models)
    assert [one.origin for one in found] == ["average", "argmin"]
    assert sum(found[0].mixture.share.values()) == pytest.approx(1.0)
    assert found[0].predicted[JOINT] == pytest.approx(
        0.75 * -found[0].mixture.share["a"] + 0.25 * found[0].mixture.share["b"]
    )
    best = params_from_cube(SPACE, cube[[int(np.argmin(joint))]])
    assert found[1].theta == theta_by_name(best, DOMAINS, CRITERIA)


def test_theta_goes_through_names_and_the_config_without_losing_a_bit() -> None:
    params = sample_params(SPACE, 1, 9)
    theta = theta_by_name(params, DOMAINS, CRITERIA)
    back = params_of(theta, DOMAINS, CRITERIA)
    for field in ("merge_weights", "steepness", "cutoff", "exponent", "floor"):
        assert np.array_equal(getattr(back, field), getattr(params, field))
    assert Theta.model_validate_json(theta.as_config().model_dump_json()).cutoff == theta.cutoff
    turned = params_of(theta, DOMAINS[::-1], CRITERIA)
    assert np.array_equal(turned.cutoff[0, ::-1], params.cutoff[0])
