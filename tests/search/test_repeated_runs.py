"""Repeated runs of somebody else's trials: what is fitted, and which spread is noise."""

from __future__ import annotations

import numpy as np
import pytest

from quadmix.search.noise import measure_noise
from quadmix.search.objective import Objective
from quadmix.search.repeated_runs import Repeats, Runs, mean_loss, noise_of_means
from quadmix.search.result import JOINT

TARGETS = ("math", "code")
OBJECTIVE = Objective({"math": 0.5, "code": 0.5})


def made_up(trials: int, seeds: tuple[str, ...], noise: float, of_seed: float, random: int = 1) -> list[Runs]:
    """Losses m_i + s_j + e_ij on both targets."""
    rng = np.random.default_rng(random)
    level, effect = rng.normal(3, 0.1, (trials, 2)), rng.normal(0, of_seed, (len(seeds), 2))
    losses = level[:, None] + effect[None] + rng.normal(0, noise, (trials, len(seeds), 2))
    return [
        {seed: dict(zip(TARGETS, losses[i, j].tolist(), strict=True)) for j, seed in enumerate(seeds)}
        for i in range(trials)
    ]


def test_a_single_run_keeps_its_bits_and_several_are_averaged() -> None:
    one = {"math": 0.1 + 0.2, "code": 1 / 3}
    assert mean_loss({"": one, "7": None}) == one
    assert mean_loss({"1": {"math": 1.0}, "2": {"math": 2.0}}) == {"math": 1.5}
    assert mean_loss({"1": None}) is None


def test_a_repeated_trial_is_fitted_as_the_mean_of_its_runs() -> None:
    trials = made_up(5, ("1", "2", "3"), 0.01, 0.1)
    found = Repeats.of(trials, TARGETS)
    for trial in trials:
        assert found.fitted(trial) == pytest.approx(mean_loss(trial), abs=1e-12)


def test_single_runs_come_to_the_level_of_the_means() -> None:
    """Without noise of the fit, a trial has the same loss whether it was trained under one seed or under all."""
    whole = made_up(6, ("1", "2", "3"), 0.0, 0.1)
    partly = [*whole[:3], *({"2": trial["2"]} for trial in whole[3:])]
    found, full = Repeats.of(partly, TARGETS), Repeats.of(whole, TARGETS)
    assert abs(partly[4]["2"]["math"] - mean_loss(whole[4])["math"]) > 0.005  # type: ignore[index]
    for one, other in zip(partly, whole, strict=True):
        assert found.fitted(one) == pytest.approx(full.fitted(other), abs=1e-12)


def test_the_noise_is_the_search_stage_s() -> None:
    trials = made_up(6, ("1", "2"), 0.02, 0.1)
    rows = [[trial["1"], trial["2"]] for trial in trials]
    assert Repeats.of([*trials, {"1": trials[0]["1"]}], TARGETS).noise(OBJECTIVE) == measure_noise(rows, OBJECTIVE)


def test_seeds_of_one_s_own_are_noise_as_well() -> None:
    """Trials that share no seed: what a seed does is in every difference between them, so it is in the noise."""
    trials: list[Runs] = []
    for number in range(400):
        trials += made_up(1, (f"{number}a", f"{number}b"), 0.03, 0.04, random=number)
    found = Repeats.of(trials, TARGETS)
    noise = found.noise(OBJECTIVE)
    assert noise is not None
    assert found.effects == {}
    assert (noise.mixtures, noise.seeds) == (400, 2)
    assert noise.paired["math"] == pytest.approx(0.05, rel=0.1)


def test_one_repeated_trial_tells_no_noise_and_failed_runs_count_for_nothing() -> None:
    first, second = made_up(2, ("1", "2"), 0.01, 0.1)
    assert Repeats.of([first, {"1": second["1"]}], TARGETS).noise(OBJECTIVE) is None
    assert Repeats.of([first, {**second, "2": None}], TARGETS).noise(OBJECTIVE) is None


def test_a_mean_of_runs_has_less_noise_than_a_run() -> None:
    trials = made_up(6, ("1", "2", "3", "4"), 0.02, 0.1)
    noise = Repeats.of(trials, TARGETS).noise(OBJECTIVE)
    assert noise is not None
    of_means, of_runs = noise_of_means(noise, trials), noise_of_means(noise, [{"1": trials[0]["1"]}])
    assert of_means is not None
    assert of_runs == noise
    assert of_means.paired[JOINT] == pytest.approx(noise.paired[JOINT] / 2)
    assert noise_of_means(None, trials) is None
    for field in ("low", "high", "alone"):
        assert getattr(of_means, field)["math"] == pytest.approx(getattr(noise, field)["math"] / 2)


EFFECTS = {"1": 0.0, "2": 0.3, "3": -0.1}


def planted(seeds: list[tuple[str, ...]], noise: float = 0.0, effects: dict[str, float] = EFFECTS) -> list[Runs]:
    """Trials of loss 3, 3.1, 3.2, ... plus the effects of the seeds that each has, on both targets."""
    rng = np.random.default_rng(5)
    return [
        {seed: dict.fromkeys(TARGETS, 3 + k / 10 + effects[seed] + noise * float(rng.normal())) for seed in own}
        for k, own in enumerate(seeds)
    ]


def off(trials: list[Runs]) -> list[float]:
    """Fitted less true."""
    found = Repeats.of(trials, TARGETS)
    return [found.fitted(trial)["math"] - 3 - k / 10 for k, trial in enumerate(trials)]


def test_a_failed_run_leaves_the_seeds_effects_known() -> None:
    every = ("1", "2", "3")
    trials = planted([*[every] * 5, ("2",), ("1",)])
    trials[0] = {**trials[0], "2": None}
    assert off(trials) == pytest.approx([0.2 / 3] * 7, abs=1e-12)
    # no two trials have the same seeds, and all are joined by some
    assert off(planted([("1", "2"), ("2", "3"), ("1", "3"), ("3",)])) == pytest.approx([0.2 / 3] * 4, abs=1e-12)


def test_the_noise_of_a_layout_with_gaps_has_its_own_degrees_of_freedom() -> None:
    rng = np.random.default_rng(3)
    seeds = [tuple(sorted(rng.choice(["1", "2", "3"], 2 + k % 2, replace=False))) for k in range(600)]
    noise = Repeats.of(planted(seeds, 0.02), TARGETS).noise(OBJECTIVE)
    assert noise is not None
    assert (noise.mixtures, noise.seeds, noise.freedom) == (600, 3, 1500 - 600 - 2)
    for name in (*TARGETS, JOINT):
        assert noise.paired[name] == pytest.approx(0.02, rel=0.06)
        assert noise.low[name] < noise.paired[name] < noise.high[name]
        assert noise.alone[name] > 0.1


def test_runs_without_a_seed_share_nothing() -> None:
    """Two of twenty trials were run again under seed 1: their first runs are no runs of one seed."""
    trials = planted([*[("", "1")] * 2, *[("",)] * 18], 0.02, {"": 0.0, "1": 0.0})
    found = Repeats.of(trials, TARGETS)
    assert found.effects == {}
    assert found.fitted(trials[7]) == trials[7][""]
    noise = found.noise(OBJECTIVE)
    assert noise is not None
    assert noise.freedom == 2
    differences = [trial[""]["math"] - trial["1"]["math"] for trial in trials[:2]]  # type: ignore[index]
    assert noise.paired["math"] == pytest.approx(np.sqrt(np.mean(np.square(differences)) / 2))


def test_a_trial_under_seeds_of_its_own_takes_nothing_from_the_others() -> None:
    effects = {"1": 0.0, "2": 0.3, "8": 0.05, "9": -0.4}
    others = planted([("1", "2")] * 6, 0.01, effects)
    one = planted([("8", "9")], 0.01, effects)
    found, alone = Repeats.of([*others, *one], TARGETS), Repeats.of(others, TARGETS)
    assert found.effects == alone.effects
    assert sorted(found.effects) == ["1", "2"]
    assert found.fitted(one[0]) == mean_loss(one[0])
    assert found.noise(OBJECTIVE) == alone.noise(OBJECTIVE)
    # two groups, each with seeds of its own: each is centred, and both tell of the noise
    both = Repeats.of([*others, *planted([("8", "9")] * 3, 0.01, effects)], TARGETS)
    assert both.effects["9"]["math"] == pytest.approx(-0.225, abs=0.01)
    noise = both.noise(OBJECTIVE)
    assert noise is not None
    assert noise.freedom == 5 + 2
    assert noise.paired["math"] < 0.03
