"""Beliefs about clusters: against a plain loop, at their limits, and better than raw means where that can be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.moments import Moments
from quadmix.selectors.quad_arms import nearest
from quadmix.selectors.quad_shrinkage import FREEDOM, Beliefs, believe


def of(samples: list[np.ndarray], documents: list[int], neighbours: np.ndarray | None = None) -> Beliefs:
    parts = [Moments.of(np.asarray(sample, dtype=np.float64)) for sample in samples]
    n, mean, m2 = (np.array([getattr(part, name) for part in parts]) for name in ("n", "mean", "m2"))
    near = np.zeros((len(samples), 0), dtype=np.int32) if neighbours is None else neighbours
    return believe(n, mean, m2, np.array(documents), near)


def literal(samples: list[np.ndarray], documents: list[int], neighbours: list[list[int]]) -> tuple[list, list]:
    """Shrunk means and errors, arm by arm."""
    seen = [i for i, sample in enumerate(samples) if len(sample)]
    pooled = sum(np.sum((samples[i] - np.mean(samples[i])) ** 2) for i in seen) / sum(len(samples[i]) - 1 for i in seen)
    v = {}
    for i in seen:
        n, squares = len(samples[i]), np.sum((samples[i] - np.mean(samples[i])) ** 2)
        v[i] = (squares + FREEDOM * pooled) / (n - 1 + FREEDOM) / n * (1 - n / documents[i])
    means = {i: float(np.mean(samples[i])) for i in seen}
    spread = max(np.var(list(means.values()), ddof=1) - np.mean(list(v.values())), 0.0)
    weight = {i: 1 / (spread + v[i]) for i in seen}
    around, local = {}, []
    for i in range(len(samples)):
        near = [j for j in neighbours[i] if j in v]
        if near:
            total = sum(weight[j] for j in near)
            around[i] = sum(weight[j] * means[j] for j in near) / total
            if i in v:
                blur = sum(weight[j] ** 2 * v[j] for j in near) / total**2
                local.append((means[i] - around[i]) ** 2 - v[i] - blur)
    everyone = sum(weight[i] * means[i] for i in seen) / sum(weight.values())
    use = bool(local) and max(np.mean(local), 0.0) < spread
    a = max(np.mean(local), 0.0) if use else spread
    shrunk = []
    for i in range(len(samples)):
        prior = around.get(i, everyone) if use else everyone
        shrunk.append(prior + a / (a + v[i]) * (means[i] - prior) if i in v else prior)
    return shrunk, [math.sqrt(v[i]) if i in v else math.inf for i in range(len(samples))]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 12), st.booleans())
def test_beliefs_are_those_of_a_plain_loop(seed: int, size: int, smooth: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(size, 2))
    near = nearest(points, 3)
    samples = [rng.normal(points[i, 0] if smooth else 1.0, 1.0, int(rng.integers(2, 9))) for i in range(size)]
    samples[0] = np.zeros(0)
    documents = [50] * size
    found = of(samples, documents, near)
    mean, error = literal(samples, documents, near.tolist())
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert found.error == pytest.approx(error)


def test_a_cluster_scored_to_its_last_document_is_known() -> None:
    rng = np.random.default_rng(1)
    samples = [rng.normal(i, 1.0, 6) for i in range(5)]
    found = of(samples, [6, 60, 60, 60, 60])
    assert found.error[0] == 0.0
    assert found.mean[0] == pytest.approx(samples[0].mean())
    assert (found.error[1:] > 0).all()
    assert abs(found.mean[4] - found.mean.mean()) < abs(samples[4].mean() - found.mean.mean())


def test_arms_that_differ_by_noise_alone_have_one_mean() -> None:
    rng = np.random.default_rng(2)
    found = of([rng.normal(0.3, 1.0, 8) for _ in range(40)], [100] * 40)
    assert found.between < 0.15
    raw_spread = 1 / math.sqrt(8)
    assert found.mean.std() < 0.1 * raw_spread


def test_equal_small_samples_are_not_certain() -> None:
    """Two equal values say nothing of an arm's noise: it is pooled with the others'."""
    rng = np.random.default_rng(3)
    found = of([np.array([1.0, 1.0]), np.array([5.0]), *(rng.normal(size=20) for _ in range(5))], [100] * 7)
    assert found.error[0] > 0.4
    assert found.error[1] > 0.8


def test_neighbours_that_say_nothing_are_not_used() -> None:
    """With centroids unrelated to benefits the prior is the mean of all; with related ones it is the neighbours'."""
    rng = np.random.default_rng(4)
    points = rng.normal(size=(60, 2))
    documents = [200] * 60
    smooth = of([rng.normal(points[i, 0], 0.5, 8) for i in range(60)], documents, nearest(points, 8))
    rough = of([rng.normal(mean, 0.5, 8) for mean in rng.normal(size=60)], documents, nearest(points, 8))
    assert smooth.prior == "neighbours"
    assert rough.prior == "all clusters"


def test_an_arm_never_pulled_has_its_neighbours_mean_and_no_bound() -> None:
    rng = np.random.default_rng(5)
    points = np.concatenate([np.zeros((10, 2)), np.full((10, 2), 5.0)]) + 0.1 * rng.normal(size=(20, 2))
    samples = [rng.normal(points[i, 0], 0.5, 10) for i in range(20)]
    samples[3] = samples[15] = np.zeros(0)
    found = of(samples, [100] * 20, nearest(points, 8))
    assert found.mean[3] == pytest.approx(0.0, abs=0.3)
    assert found.mean[15] == pytest.approx(5.0, abs=0.3)
    assert found.bound[3] == -np.inf


@pytest.mark.parametrize("kind", ["smooth", "rough"])
def test_shrunk_means_are_nearer_to_the_truth_than_raw_ones(kind: str) -> None:
    """Mean squared error over 40 seeds, paired; the interval of the difference excludes 0."""
    gains = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(40, 3))
        truth = 0.4 * (points[:, 0] if kind == "smooth" else rng.normal(size=40))
        samples = [rng.normal(mean, 1.0, 6) for mean in truth]
        found = of(samples, [500] * 40, nearest(points, 8))
        raw = np.array([sample.mean() for sample in samples])
        gains.append(np.mean((raw - truth) ** 2) - np.mean((found.mean - truth) ** 2))
    assert np.mean(gains) - 2.02 * np.std(gains, ddof=1) / math.sqrt(40) > 0.03


def test_one_arm_and_all_equal_arms_are_fine() -> None:
    assert of([np.array([2.0, 2.0])], [10]).mean == pytest.approx([2.0])
    found = of([np.full(4, 0.5)] * 3, [4, 9, 9], np.array([[1, 2], [0, 2], [0, 1]]))
    assert found.mean == pytest.approx([0.5] * 3)
    assert found.error.tolist() == [0.0] * 3
