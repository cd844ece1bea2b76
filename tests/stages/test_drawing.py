"""Which thetas the first round trains: each trial's own draws, the best of them by counted loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace
from quadmix.search.features import QualitySample
from quadmix.search.objective import Objective
from quadmix.search.trials import Drawn, draw_theta, draw_thetas
from quadmix.stages.drawing import Drawing
from tests.stages.inline_engine import InlineEngine

Floats = NDArray[np.float64]

POOL = np.array([40_000, 10_000, 50_000], dtype=np.int64)
MIXTURE = MixtureConfig(criteria=("x", "y"), budget=30_000)
SPACE = ParamSpace(3, 2)
TRIALS, DRAWS = 30, 3


@dataclass(frozen=True)
class LikesDomainTwo:
    """A counting proxy whose losses fall with what a mixture takes of domain 2 (first target) and domain 0."""

    domain: NDArray[np.int32]
    targets: tuple[str, ...] = ("b", "a")

    def losses(self, copies: Floats) -> Floats:
        return np.stack([9.0 - copies[:, self.domain == index].sum(axis=1) for index in (2, 0)], axis=1)


@pytest.fixture
def sample() -> QualitySample:
    rng = np.random.default_rng(0)
    domain = rng.integers(0, 3, 400).astype(np.int32)
    found = QualitySample.of(domain, rng.integers(50, 300, 400), rng.random((400, 2)), 3)
    return QualitySample(found.domain, found.n_tokens, found.normalised, found.whole, LikesDomainTwo(domain))  # type: ignore[arg-type]


def drawing(sample: QualitySample) -> Drawing:
    return Drawing(InlineEngine(), SPACE, MIXTURE, POOL, 7, sample)


def point(drawn: Drawn) -> bytes:
    assert drawn.params.cube is not None
    return drawn.params.cube.tobytes()


def test_without_counts_every_trial_has_its_first_draw(sample: QualitySample) -> None:
    plain = QualitySample(sample.domain, sample.n_tokens, sample.normalised, sample.whole)
    chosen, counted = drawing(plain).choose(range(TRIALS), 1, Objective({"a": 1.0}))
    assert counted is None
    assert [point(one) for one in chosen] == [point(draw_theta(SPACE, i, 7, POOL, MIXTURE)) for i in range(TRIALS)]


def test_a_trial_is_that_of_its_own_draws_which_the_counts_like_best(sample: QualitySample) -> None:
    made = drawing(sample)
    chosen, counted = made.choose(range(TRIALS), DRAWS, Objective({"a": 0.25, "b": 0.75}))
    assert counted is not None
    changed = 0
    for index, one in enumerate(chosen):
        own = draw_thetas(SPACE, index, 7, POOL, MIXTURE, DRAWS)
        assert point(own[0]) == point(draw_theta(SPACE, index, 7, POOL, MIXTURE))
        losses = made.counted(np.concatenate([each.params.cube for each in own if each.params.cube is not None]))
        joint = losses @ np.array([0.75, 0.25])  # columns are those of the counting proxy: b, then a
        best = int(np.argmin(joint))
        assert point(one) == point(own[best])
        assert np.array_equal(counted[index], losses[best])
        changed += best > 0
    assert 0.4 * TRIALS < changed < 0.95 * TRIALS
    # a longer swarm begins with the shorter one
    fewer, _ = made.choose(range(5), DRAWS, Objective({"a": 0.25, "b": 0.75}))
    assert [point(one) for one in fewer] == [point(one) for one in chosen[:5]]


def test_draws_of_a_trial_can_all_meet_the_budget_and_be_fewer_than_asked_for() -> None:
    tight = MIXTURE.model_copy(update={"budget": 150_000})
    own = draw_thetas(SPACE, 3, 1, POOL, tight, 4)
    assert [one.attempts for one in own] == sorted(one.attempts for one in own)
    assert point(own[0]) == point(draw_theta(SPACE, 3, 1, POOL, tight))
    assert len({point(one) for one in own}) == len(own) == 4
