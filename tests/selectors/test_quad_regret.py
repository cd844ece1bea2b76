"""On planted clusters the bandit loses less true benefit per token than even or random pulls at the same cost.

The rivals scored as many documents at most, and share the pilot, the keep rule, the grants and the fill: only which arm
is pulled next differs. Regret is against the best quotas possible.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from benchmarks.planted_arms import OneByOne, Planted, Shape, at_random, plant, quotas, round_robin
from quadmix.selectors.quad import Bandit
from quadmix.selectors.quad_baselines import cluster_uniform, random_tokens

TOLD_APART: tuple[Shape, ...] = ("one good", "spread", "smooth", "heavy tails", "all positive")


def regrets(planted: Planted, seed: int) -> tuple[float, float, float]:
    """Of the bandit, of round-robin, of random pulls."""
    settings = planted.settings()
    return (
        planted.regret(quotas(planted.told(Bandit(planted.arms, settings)).outcome())),
        planted.regret(OneByOne(planted, settings, 8, round_robin).run()),
        planted.regret(OneByOne(planted, settings, 8, at_random(seed)).run()),
    )


def interval(gains: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    return float(gains.mean()), 1.99 * float(gains.std(ddof=1)) / np.sqrt(gains.size)


def test_regret_is_below_round_robin_and_below_random() -> None:
    """20 seeds of five shapes, paired."""
    found = np.array([[regrets(plant(shape, seed, 20), seed) for seed in range(20)] for shape in TOLD_APART])
    for rival in (1, 2):
        mean, half = interval((found[:, :, rival] - found[:, :, 0]).reshape(-1))
        assert mean - half > 0, (rival, mean, half)


@pytest.mark.long
@pytest.mark.parametrize("shape", TOLD_APART)
def test_regret_is_below_both_in_every_shape(shape: Shape) -> None:
    """80 seeds, paired; the intervals of the differences exclude 0."""
    found = np.array([regrets(plant(shape, seed), seed) for seed in range(80)])
    for rival in (1, 2):
        mean, half = interval(found[:, rival] - found[:, 0])
        assert mean - half > 0, (rival, mean, half)


@pytest.mark.parametrize("shape", get_args(Shape))
def test_no_shape_makes_it_worse_than_choosing_without_scores(shape: Shape) -> None:
    """Ten seeds; where clusters hardly differ (`equal`, realised means alone) it may only not lose."""
    gains = []
    for seed in range(10):
        planted = plant(shape, seed, 20)
        settings = planted.settings()
        ours = planted.regret(quotas(planted.told(Bandit(planted.arms, settings)).outcome()))
        without = (cluster_uniform(planted.arms, settings.budget), random_tokens(planted.arms, settings.budget))
        gains.append(min(planted.regret(quotas(other)) for other in without) - ours)
    mean, half = interval(np.array(gains))
    assert mean + half > 0 if shape == "equal" else mean - half > 0
