"""Bounds on domain weights: the closest mixture that keeps them, for every candidate, or a word on why none does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from quadmix.errors import BudgetError
from quadmix.search.constraints import Bound, Kind
from quadmix.search.share_bounds import ShareBounds

DOMAINS = ("a", "b", "c", "d")
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
FREE = np.ones(4)


def bounds(kl: float = 0.0, most: np.ndarray = FREE, prior: np.ndarray = PRIOR, **asked: float) -> ShareBounds:
    """`bounds(min_a=0.1)`"""
    kinds: dict[str, Kind] = {"min": "min_share", "max": "max_share", "fixed": "fixed_share"}
    made = [Bound(kinds[key[:-2]], key[-1], share, share) for key, share in asked.items()]
    return ShareBounds.of(made, DOMAINS, most, prior, kl)


def test_a_candidate_becomes_the_closest_mixture_within_the_bounds() -> None:
    """Against scipy's solution of the same convex problem, min KL(x || p)."""
    kept = bounds(min_a=0.3, max_b=0.2, fixed_c=0.25)
    for p in np.random.default_rng(0).dirichlet(np.ones(4), 20):
        found = kept.keep(p[None])[0]
        solved = minimize(
            lambda x, p=p: float(np.sum(x * np.log(x / p))),
            [0.3, 0.2, 0.25, 0.25],
            bounds=[(0.3, 1), (1e-9, 0.2), (0.25, 0.25), (1e-9, 1)],
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            options={"ftol": 1e-14},
        )
        assert found == pytest.approx(solved.x, abs=1e-5)
        assert kept.broken(found) == []


@settings(max_examples=200, deadline=None)
@example(18954, 0.0, 0.75)  # a share of 1e-17 beside one of nearly 1
@given(st.integers(0, 2**32), st.floats(0, 0.25), st.floats(0.3, 1))
def test_what_is_kept_sums_to_one_within_the_bounds_also_with_domains_at_0(seed: int, low: float, high: float) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(4, 0.2), 50)
    weights[rng.random(weights.shape) < 0.5] = 0.0
    weights = weights[weights.sum(axis=1) > 0]
    weights /= weights.sum(axis=1, keepdims=True)
    found = bounds(min_a=low, max_b=high, max_c=high, max_a=high, max_d=high).keep(weights)
    assert found.shape == weights.shape
    assert found.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert (found[:, 0] >= low - 1e-12).all()
    assert (found <= high + 1e-12).all()


def test_a_mixture_that_keeps_the_bounds_stays_what_it_is() -> None:
    assert bounds(min_a=0.1, max_d=0.5).keep(PRIOR[None])[0] == pytest.approx(PRIOR, abs=1e-15)


def test_the_cap_on_repeats_is_one_of_the_bounds() -> None:
    most = np.array([1.0, 0.1, 1.0, 0.0])
    found = bounds(most=most, min_c=0.5).keep(np.array([[0.1, 0.6, 0.1, 0.2], [0.0, 0.5, 0.0, 0.5]]))
    assert (found <= most + 1e-12).all()
    assert (found[:, 2] >= 0.5 - 1e-12).all()
    assert found.sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"min_a": 0.6, "min_b": 0.3, "fixed_c": 0.2}, "--min-share a=0.6, --min-share b=0.3, --fixed-share c=0.2 sum"),
        ({"fixed_a": 0.6, "max_a": 0.5}, "--fixed-share a=0.6, --max-share a=0.5 exclude each other: 0.1 apart"),
        ({"max_a": 0.1, "max_c": 0.2, "max_d": 0.2}, "can be 0.6 of the mixture at most, wanted 1: 0.4 short"),
        ({"min_b": 0.2}, "of 'b' there are tokens for a share of 0.1 at most"),
    ],
)
def test_what_no_mixture_keeps_is_said_in_shares(asked: dict[str, float], said: str) -> None:
    most = np.array([1.0, 0.1, 1.0, 1.0])
    if "min_a" in asked:
        most = FREE
    with pytest.raises(BudgetError) as refused:
        bounds(most=most, **asked)
    assert said in str(refused.value)


def test_the_pull_is_the_divergence_from_the_prior() -> None:
    other = np.array([0.1, 0.2, 0.3, 0.4])
    assert bounds(kl=0.5).penalty(np.stack([PRIOR, other])) == pytest.approx(
        [0.0, 0.5 * float(np.sum(other * np.log(other / PRIOR)))]
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"min_d": 0.1}, "--min-share d=0.1: the prior of 'd' is 0"),
        ({"fixed_d": 0.2, "max_a": 0.5}, "--fixed-share d=0.2: the prior of 'd' is 0"),
        ({"max_a": 0.2, "max_b": 0.2, "max_c": 0.2}, "can be 0.6 of the mixture at most, wanted 1; the others (d)"),
    ],
)
def test_what_the_prior_has_not_cannot_be_asked_for_together_with_a_pull(asked: dict[str, float], said: str) -> None:
    prior = np.array([0.5, 0.3, 0.2, 0.0])
    with pytest.raises(BudgetError) as refused:
        bounds(0.1, prior=prior, **asked)
    assert said in str(refused.value)
    assert "--kl" in str(refused.value)
    assert "--prior" in str(refused.value)
    bounds(0.0, prior=prior, **asked)
    within = bounds(0.1, prior=prior, max_a=0.2)
    kept = within.keep(np.array([[1.0, 0.0, 0.0, 0.0], [0.1, 0.5, 0.4, 0.0]]))  # the first is filled with others
    assert kept[:, 3].tolist() == [0.0, 0.0]
    assert np.isfinite(within.penalty(kept)).all()


def test_a_floor_on_a_domain_without_tokens_is_told_from_one_that_is_too_high() -> None:
    with pytest.raises(BudgetError) as refused:
        bounds(most=np.array([1.0, 1.0, 1.0, 0.0]), min_d=0.1)
    assert "--min-share d=0.1: 'd' has 0 tokens in --domain-tokens" in str(refused.value)
    assert "--max-copies" not in str(refused.value)
    assert "--budget" not in str(refused.value)
