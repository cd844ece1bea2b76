"""Meeting a budget in closed form: exact, feasible when it can be, NaN when it cannot, both rules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.mixture import expected_tokens, meet_budget
from quadmix.core.param_space import Params, ParamSpace, sample_params
from quadmix.core.portable import FAST
from quadmix.core.sampling import sampling_integral, sampling_value

POOL = np.array([10_000_000, 400_000, 7, 2_500_000], dtype=np.int64)


def params(steepness: float, cutoff: float, exponent: float, floor: float, n: int = 4) -> Params:
    row = np.ones((1, n))
    return Params(np.ones((1, n, 1)), row * steepness, row * cutoff, row * exponent, row * floor)


draws = st.builds(
    lambda preset, seed: sample_params(ParamSpace(4, 2, preset=preset), 6, seed),
    st.sampled_from(["log", "paper"]),
    st.integers(0, 10**6),
)


@settings(max_examples=10)
@given(draws)
def test_expected_tokens_are_pool_tokens_times_the_integral(theta: Params) -> None:
    wanted = POOL * sampling_integral(theta.steepness, theta.cutoff, theta.exponent, theta.floor)
    assert np.allclose(expected_tokens(theta, POOL), wanted, rtol=1e-11)
    capped = expected_tokens(theta, POOL, 1.2)
    grid = (np.arange(20_000) + 0.5) / 20_000
    for k in range(1):
        for m in range(4):
            shape = [np.array([getattr(theta, f)[k, m]]) for f in ("steepness", "cutoff", "exponent", "floor")]
            dense = np.minimum(sampling_value(grid, *shape), 1.2).mean() * POOL[m]
            assert capped[k, m] == pytest.approx(dense, rel=3e-3, abs=POOL[m] * 2e-4)


@settings(max_examples=12)
@given(draws, st.floats(0.01, 3.9), st.sampled_from(["omega", "scale"]))
def test_a_met_budget_is_met_to_the_last_digits(theta: Params, share: float, rule: str) -> None:
    budget = int(POOL.sum() * share)
    met = meet_budget(theta, POOL, budget, 4.0, rule)  # type: ignore[arg-type]
    for k in range(len(theta)):
        if np.isnan(met.multiplier[k]):
            continue
        assert met.tokens[k].sum() == pytest.approx(budget, rel=1e-12)
        assert (met.tokens[k] <= POOL * 4.0 * (1 + 1e-12)).all()
        if rule == "omega":
            stretched = theta.one(k).with_cutoff(np.minimum(theta.one(k).cutoff * met.multiplier[k], 1.0))
            again = expected_tokens(stretched, POOL, 4.0)
            assert np.allclose(again, met.tokens[k], rtol=1e-9)


@settings(max_examples=8)
@given(draws, st.sampled_from(["omega", "scale"]), st.lists(st.floats(0.005, 3.5), min_size=2, max_size=5))
def test_a_larger_budget_never_has_a_smaller_multiplier_or_fewer_tokens_of_a_domain(
    theta: Params, rule: str, shares: list[float]
) -> None:
    found = [meet_budget(theta, POOL, int(POOL.sum() * share), 4.0, rule) for share in sorted(shares)]  # type: ignore[arg-type]
    for less, more in itertools.pairwise(found):
        both = np.isfinite(less.multiplier) & np.isfinite(more.multiplier)
        assert (more.multiplier[both] >= less.multiplier[both] * (1 - 1e-9)).all()
        assert (more.tokens[both] >= less.tokens[both] * (1 - 1e-9)).all()


@settings(max_examples=8)
@given(draws, st.sampled_from(["omega", "scale"]), st.floats(0.01, 5.0))
def test_a_budget_is_refused_when_and_only_when_it_is_out_of_reach(theta: Params, rule: str, share: float) -> None:
    cap, budget = 2.0, int(POOL.sum() * share)
    met = meet_budget(theta, POOL, budget, cap, rule)  # type: ignore[arg-type]
    for k in range(len(theta)):
        one = theta.one(k)
        if rule == "omega":
            most = expected_tokens(one.with_cutoff(np.ones((1, 4))), POOL, cap).sum()
            least = expected_tokens(one.with_cutoff(np.zeros((1, 4))), POOL, cap).sum()
        else:
            most, least = (POOL * np.where(one.floor > 0, 1.0, one.cutoff) * cap).sum(), 0.0
        if least * (1 + 1e-9) < budget < most * (1 - 1e-9):
            assert np.isfinite(met.multiplier[k])
        if budget > most * (1 + 1e-9) or budget < least * (1 - 1e-9):
            assert np.isnan(met.multiplier[k])
            assert np.isnan(met.tokens[k]).all()


@pytest.mark.parametrize("rule", ["omega", "scale"])
@pytest.mark.parametrize("steepness", [0.0, 1e-9, 5.0, 1e6])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("cap", [1.0, 4.0])
def test_the_whole_pool_once_is_a_budget_like_any_other(
    rule: str, steepness: float, exponent: float, cap: float
) -> None:
    total = int(POOL.sum())
    met = meet_budget(params(steepness, 0.3, exponent, 1e-3), POOL, total, cap, rule)  # type: ignore[arg-type]
    assert met.tokens.sum() == pytest.approx(total, rel=1e-11)
    more = meet_budget(params(steepness, 0.3, exponent, 0.0), POOL, total + 1, 1.0, rule)  # type: ignore[arg-type]
    assert np.isnan(more.multiplier[0])


def test_every_document_at_its_cap_is_the_largest_budget() -> None:
    total = int(POOL.sum())
    met = meet_budget(params(10.0, 0.3, 2.0, 1.0), POOL, 3 * total, 3.0, "scale")
    assert met.tokens.sum() == pytest.approx(3 * total)
    assert np.isnan(meet_budget(params(10.0, 0.3, 2.0, 1.0), POOL, 3 * total + 40, 3.0, "scale").multiplier[0])


def test_floors_above_the_cap_are_capped_too() -> None:
    assert expected_tokens(params(10.0, 0.3, 1.0, 3.0), POOL, 2.0)[0] == pytest.approx(2.0 * POOL)


def test_closed_cutoffs_leave_the_floors_alone() -> None:
    only_floor = params(10.0, 0.0, 1.0, 0.01)
    assert np.isnan(meet_budget(only_floor, POOL, int(POOL.sum()) // 10, 4.0).multiplier[0])
    assert np.isfinite(meet_budget(only_floor, POOL, int(POOL.sum()) // 10, 4.0, "scale").multiplier[0])
    assert np.isnan(meet_budget(params(10.0, 0.3, 1.0, 0.01), POOL, 1000, 4.0).multiplier[0])  # floors alone exceed it


def test_domains_without_tokens_and_pools_of_many_domains() -> None:
    met = meet_budget(params(10.0, 0.3, 1.0, 0.0), np.array([0, 0, 1000, 0]), 500, 4.0)
    assert met.tokens.tolist()[0] == pytest.approx([0, 0, 500, 0])
    wide = sample_params(ParamSpace(50_000, 1), 1, 0)
    pool = np.arange(1, 50_001, dtype=np.int64)
    assert meet_budget(wide, pool, int(pool.sum()) // 3, 4.0).tokens.sum() == pytest.approx(int(pool.sum()) // 3)


def test_a_batch_gets_what_each_mixture_gets_alone() -> None:
    theta = sample_params(ParamSpace(4, 2), 20, 3)
    together = meet_budget(theta, POOL, 3_000_000, 4.0)
    for k in range(20):
        alone = meet_budget(theta.one(k), POOL, 3_000_000, 4.0)
        assert np.array_equal(alone.multiplier, together.multiplier[k : k + 1], equal_nan=True)
        assert np.array_equal(alone.tokens, together.tokens[k : k + 1], equal_nan=True)


def test_fast_arithmetic_agrees_with_the_portable_one() -> None:
    theta = sample_params(ParamSpace(4, 2), 50, 5)
    slow, fast = meet_budget(theta, POOL, 3_000_000, 4.0), meet_budget(theta, POOL, 3_000_000, 4.0, arithmetic=FAST)
    assert np.allclose(slow.tokens, fast.tokens, rtol=1e-9, equal_nan=True)


def test_budgets_of_ten_to_the_fifteen() -> None:
    pool = np.array([10**15, 3 * 10**14], dtype=np.int64)
    met = meet_budget(params(50.0, 0.1, 1.0, 1e-4, n=2), pool, 4 * 10**14, 4.0)
    assert abs(met.tokens.sum() - 4e14) < 1000
