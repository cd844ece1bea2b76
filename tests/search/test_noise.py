"""Noise by repeated seeds: what is planted is found, what a seed does to all is none of it, and fits are told."""

from __future__ import annotations

import numpy as np
import pytest

from quadmix.search.gaussian_process import GaussianProcess
from quadmix.search.noise import NoisePrior, factors, measure_noise, paired_sd, prior_of, told_apart
from quadmix.search.objective import Objective
from quadmix.search.regressors import make_regressor
from quadmix.search.result import JOINT

OBJECTIVE = Objective({"a": 0.5, "b": 0.5})


def swarm(
    seed: int, mixtures: int, seeds: int, noise: float, shift: float = 0.3
) -> list[list[dict[str, float] | None]]:
    rng = np.random.default_rng(seed)
    of_seed, of_mixture = rng.normal(0, shift, seeds), rng.normal(5, 0.4, mixtures)
    losses = of_mixture[:, None] + of_seed + rng.normal(0, noise, (2, mixtures, seeds))
    return [[{"a": float(a), "b": float(b)} for a, b in zip(*row, strict=True)] for row in losses.transpose(1, 0, 2)]


def test_the_noise_between_mixtures_of_one_seed_is_found_whatever_seeds_and_mixtures_do_to_all() -> None:
    found = [measure_noise(swarm(seed, 6, 2, 0.05), OBJECTIVE) for seed in range(200)]
    noises = [one for one in found if one is not None]
    assert len(noises) == 200
    assert np.sqrt(np.mean([one.paired["a"] ** 2 for one in noises])) == pytest.approx(0.05, rel=0.1)
    # the mean of two targets with noise of their own
    assert np.sqrt(np.mean([one.paired[JOINT] ** 2 for one in noises])) == pytest.approx(0.05 / np.sqrt(2), rel=0.1)
    # 90 % intervals hold
    held = np.mean([one.low["a"] <= 0.05 <= one.high["a"] for one in noises])
    assert 0.83 < held < 0.96
    # seeds that shift all mixtures by 0.3 show in what a proxy varies by alone
    assert np.sqrt(np.mean([one.alone["a"] ** 2 for one in noises])) > 0.2


def test_two_seeds_are_the_spread_of_differences() -> None:
    table = np.array([[1.0, 1.3], [2.0, 2.1], [3.0, 3.5], [4.0, 3.9]])
    difference = table[:, 1] - table[:, 0]
    assert paired_sd(table) == pytest.approx(float(difference.std(ddof=1)) / np.sqrt(2))
    assert paired_sd(table + np.array([0.0, 7.0])) == pytest.approx(paired_sd(table))


def test_failed_proxies_leave_their_mixture_out_and_too_few_are_no_measurement() -> None:
    rows = swarm(1, 4, 2, 0.05)
    broken = [[rows[0][0], None], *rows[1:]]
    assert measure_noise(broken, OBJECTIVE) == measure_noise(rows[1:], OBJECTIVE)
    assert measure_noise([[rows[0][0], None], rows[1]], OBJECTIVE) is None
    assert measure_noise([row[:1] for row in rows], OBJECTIVE) is None


def test_what_a_confirmation_tells_apart_is_the_width_of_its_paired_intervals() -> None:
    noise = measure_noise(swarm(2, 50, 20, 0.05), OBJECTIVE)
    assert noise is not None
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(300):
        gap = rng.normal(0, 0.05 / np.sqrt(2), (2, 5))
        halves.append(2.776 * (gap[0] - gap[1]).std(ddof=1) / np.sqrt(5))
    assert told_apart(noise, 5) == pytest.approx(float(np.sqrt(np.mean(np.square(halves)))), rel=0.1)


def test_a_gaussian_process_that_is_told_its_noise_believes_it() -> None:
    rng = np.random.default_rng(3)
    features = rng.dirichlet(np.ones(4), 30)
    losses = 5 - features[:, 0] + rng.normal(0, 0.15, 30)
    columns = tuple(f"share:{name}" for name in "abcd")

    def noise_of(prior: NoisePrior | None) -> float:
        fitted = GaussianProcess(columns, noise=prior).fit(features, losses).fitted
        assert fitted is not None
        return float(np.sqrt(fitted.noise)) * fitted.scale

    told = {sd: noise_of(NoisePrior(sd, 100)) for sd in (0.02, 0.15)}
    assert told[0.02] < noise_of(None) < 0.3
    assert told[0.02] < 0.1 < told[0.15] < 0.2


def test_no_interval_of_a_new_proxy_is_narrower_than_its_noise() -> None:
    features = np.random.default_rng(4).dirichlet(np.ones(3), 40)
    losses = features @ np.array([5.0, 4.0, 3.0])  # a loss that is predicted without error
    columns = tuple(f"share:{name}" for name in "abc")
    prior = NoisePrior(0.05, 8)
    model = make_regressor("gaussian_process", columns=columns, noise=prior).fit(features, losses)
    assert prior.least == pytest.approx(0.05 * factors(8)[0])
    assert (model.predict_std(features) >= prior.least).all()
    low, high = model.predict_interval(features, 0.9)
    assert (high - low >= 2 * 1.64 * prior.least).all()


def test_without_repeats_there_is_no_prior() -> None:
    assert prior_of(None, JOINT) is None
