"""Projection onto bounds against scipy's optimiser, and cutoffs that give every domain its quota to the last digits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from quadmix.core.mixture import expected_tokens, meet_budget
from quadmix.core.param_space import ParamSpace, sample_params
from quadmix.core.portable import FAST
from quadmix.core.quotas import project, reach, with_quotas

POOL = np.array([10_000_000, 400_000, 70_000, 2_500_000], dtype=np.int64)
Floats = NDArray[np.float64]


def boxes(seed: int, k: int = 20, m: int = 5, alpha: float = 1.0) -> tuple[Floats, Floats, Floats, float]:
    """alpha: the lower, the more domains have next to nothing."""
    rng = np.random.default_rng(seed)
    tokens, total = rng.dirichlet(np.full(m, alpha), k) * 1000.0, 1000.0
    low = rng.random((k, m)) * 300.0 * (rng.random((k, m)) < 0.4)
    high = low + rng.random((k, m)) * 600.0
    return tokens, low, high, total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.05, 0.01]))
def test_projected_tokens_keep_the_bounds_and_the_sum_or_there_are_none(seed: int, alpha: float) -> None:
    tokens, low, high, total = boxes(seed, alpha=alpha)
    found = project(tokens, low, high, total)
    held = tokens > 1e-200 * tokens.max(axis=1, keepdims=True)
    possible = (low.sum(axis=1) <= total) & (np.where(held, high, low).sum(axis=1) >= total)
    assert np.array_equal(np.isfinite(found).all(axis=1), possible)
    assert (found[possible] >= low[possible]).all()
    assert (found[possible] <= high[possible]).all()
    assert np.allclose(found[possible].sum(axis=1), total, rtol=1e-12)
    # domains away from their bounds keep their proportions
    for row in np.flatnonzero(possible):
        free = held[row] & (found[row] > low[row] * (1 + 1e-9)) & (found[row] < high[row] * (1 - 1e-9))
        if free.sum() > 1:
            assert np.ptp(found[row, free] / tokens[row, free]) < 1e-8 * (found[row, free] / tokens[row, free]).max()


def test_the_projection_is_the_closest_in_kullback_leibler_divergence() -> None:
    tokens, low, high, total = boxes(7, k=12, m=4)
    found = project(tokens, low, high, total)
    for row in np.flatnonzero(np.isfinite(found[:, 0])):
        p = tokens[row] / total

        def divergence(x: Floats, p: Floats = p) -> float:
            x = np.maximum(x, 1e-12)
            return float((x * np.log(x / p)).sum())

        best = minimize(
            divergence, np.clip(p, low[row] / total, high[row] / total), method="SLSQP",
            bounds=list(zip(low[row] / total, high[row] / total, strict=True)),
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1.0}, options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert divergence(found[row] / total) <= best.fun + 1e-7


def test_tokens_within_their_bounds_stay() -> None:
    tokens = np.array([[1.0, 2.0, 3.0]])
    assert np.allclose(project(tokens, np.zeros((1, 3)), np.full((1, 3), 9.0), 6.0), tokens)


def test_domains_without_tokens_get_none_and_zero_is_a_bound_like_any_other() -> None:
    tokens = np.array([[0.0, 2.0, 4.0]])
    found = project(tokens, np.zeros((1, 3)), np.array([[9.0, 0.0, 9.0]]), 6.0)
    assert found.tolist() == [[0.0, 0.0, 6.0]]
    assert np.isnan(project(tokens, np.array([[1.0, 0.0, 0.0]]), np.full((1, 3), 3.0), 6.0 + 2.0)).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["log", "paper"]), st.sampled_from([1.0, 1.3, 4.0]))
def test_every_domain_gets_its_quota_and_the_budgets_multiplier_is_then_one(seed: int, preset: str, cap: float) -> None:
    params = sample_params(ParamSpace(4, 2, preset=preset), 10, seed)  # type: ignore[arg-type]
    most = reach(params, POOL, cap)
    quotas = most * np.random.default_rng(seed).random(most.shape) ** 3
    quotas[0, 1] = 0.0  # a domain that is shut out
    quotas[1, 2] = most[1, 2]  # and one that is emptied
    quotas[2] = POOL * params.floor[2] * 0.5  # below what the floors alone select
    found = with_quotas(params, POOL, quotas, cap)
    assert np.allclose(expected_tokens(found, POOL, cap), quotas, rtol=1e-11)
    assert (found.cutoff <= 1.0).all()
    for row in range(len(params)):
        budget = int(quotas[row].sum())
        met = meet_budget(found.one(row), POOL, budget, cap)
        if np.isfinite(met.multiplier[0]):
            assert np.allclose(met.tokens[0], quotas[row], rtol=1e-9, atol=2.0)  # the budget was rounded


def test_fast_arithmetic_agrees_with_the_portable_one() -> None:
    params = sample_params(ParamSpace(4, 2), 200, 3)
    quotas = reach(params, POOL, 4.0, FAST) * np.random.default_rng(0).random((200, 4))
    slow, fast = with_quotas(params, POOL, quotas, 4.0), with_quotas(params, POOL, quotas, 4.0, FAST)
    assert np.allclose(slow.cutoff, fast.cutoff, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steepness", [0.0, 1e-9, 1e6])
def test_flat_and_steep_curves_have_cutoffs_too(steepness: float) -> None:
    params = sample_params(ParamSpace(4, 2, steepness=(steepness, steepness)), 5, 1)
    quotas = np.tile(POOL * 0.37, (5, 1))
    assert np.allclose(expected_tokens(with_quotas(params, POOL, quotas, 4.0), POOL, 4.0), quotas, rtol=1e-11)
