"""Constraints: what is proposed is what is built, what cannot be is explained, what binds has a price."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from quadmix.config import ConstraintsConfig, MixtureConfig
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import fit_score_map, heavy_bins
from quadmix.core.param_space import Params, ParamSpace, sample_params
from quadmix.core.summary import PoolSummary
from quadmix.errors import BudgetError, ConfigError
from quadmix.hashing import hash_words, uniform
from quadmix.search.constraints import Bound, Limits, bounds_of, limits_of, violations
from quadmix.search.feasibility import check, conflict, largest
from quadmix.search.features import closed_form
from quadmix.search.proposals import buildable, params_of, theta_by_name
from quadmix.selectors.base import DocBatch
from quadmix.selectors.in_memory import select
from quadmix.selectors.quadmix import QualityBinning, fit_quadmix

NAMES = ("a", "b", "c", "d")
CRITERIA = ("x", "y")


class Pool:
    """A pool of documents of which every domain has its own size and its own lengths."""

    def __init__(self, seed: int, n: int = 1200, levels: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.domain = rng.choice(4, n, p=rng.dirichlet([2.0] * 4)).astype(np.int32)
        self.domain[:4] = range(4)
        typical = rng.uniform(3, 7, 4)
        self.n_tokens = (rng.lognormal(typical[self.domain], rng.uniform(0.2, 1.2)) + 1).astype(np.int64)
        scores = rng.normal(size=(n, 2)) + self.domain[:, None] * 0.3
        self.scores = (np.round(scores * levels) / levels if levels else scores).astype(np.float32)
        self.hash = hash_words(np.arange(n, dtype=np.uint64), seed)
        sizes = self.n_tokens
        self.summary = PoolSummary.of_rows(NAMES, self.domain, sizes, sizes, self.scores, CRITERIA)
        self.tokens = self.summary.tokens
        columns = [np.ascontiguousarray(self.scores[:, n]) for n in range(2)]
        self.maps = tuple(
            fit_score_map(name, sketch, FineHistogram.of(column, sizes, heavy_bins(sketch)))
            for name, sketch, column in zip(CRITERIA, self.summary.sketches, columns, strict=True)
        )

    def realised(self, theta: Params, mixture: MixtureConfig, seed: int) -> NDArray[np.int64]:
        """Tokens of each domain in the selection of one theta: what `select` does, in memory."""
        batch = DocBatch(self.hash, self.domain, self.n_tokens, self.scores)
        binning = QualityBinning.of(self.maps, theta.merge_weights[0], self.summary.docs)
        plan = fit_quadmix(
            theta, domains=NAMES, domain_tokens=self.tokens, criteria=CRITERIA, binning=binning,
            cells=binning.histogram(batch), budget=mixture.budget, max_copies=mixture.max_copies,
        )  # fmt: skip
        copies = select(plan, batch, uniform(self.hash, seed, "select"))
        return np.bincount(self.domain, weights=copies * self.n_tokens, minlength=4).astype(np.int64)


def random_constraints(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {"min_share": {}, "max_share": {}, "fixed_share": {}, "max_repeats": {}}
    for name in NAMES:
        kind = rng.integers(0, 6)
        if kind == 0:
            found["min_share"][name] = float(rng.uniform(0.0, 0.35))
        elif kind == 1:
            found["max_share"][name] = float(rng.choice([0.0, rng.uniform(0.0, 0.5)]))
        elif kind == 2:
            found["fixed_share"][name] = float(rng.choice([0.0, rng.uniform(0.0, 0.3)]))
        elif kind == 3:
            found["max_repeats"][name] = float(rng.uniform(0.1, 1.2))
        elif kind == 4:
            low = float(rng.uniform(0.0, 0.2))
            found["min_share"][name], found["max_share"][name] = low, low + 0.1
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.1), st.sampled_from([1, 2, 4]), st.sampled_from([None, 2]))
def test_what_is_predicted_is_what_select_builds(seed: int, share: float, max_copies: int, levels: int | None) -> None:
    pool = Pool(seed, levels=levels)
    given_ = {"criteria": CRITERIA, "budget": max(int(pool.tokens.sum() * share), 1), "max_copies": max_copies}
    mixture = MixtureConfig.model_validate({**given_, "constraints": random_constraints(seed)})
    bounds, limits = limits_of(mixture, NAMES, pool.tokens)
    params = sample_params(ParamSpace(4, 2), 30, seed)
    found = closed_form(params, pool.tokens, mixture, limits)
    longest = np.array([pool.n_tokens[pool.domain == m].max() for m in range(4)])
    for row in np.flatnonzero(found.feasible)[:3]:
        predicted = found.mixtures.share[row] * mixture.budget
        assert not violations(bounds, dict(zip(NAMES, found.mixtures.share[row].tolist(), strict=True)), mixture.budget)
        theta = theta_by_name(buildable(params.one(row), pool.tokens, mixture, limits), NAMES, CRITERIA)
        theta = type(theta)(**json.loads(theta.as_config().model_dump_json()))  # as it goes through the result's file
        realised = pool.realised(params_of(theta, NAMES, CRITERIA), mixture, seed)
        assert (np.abs(realised - predicted) <= np.maximum(0.005 * predicted, longest)).all(), (realised, predicted)
        assert abs(int(realised.sum()) - mixture.budget) <= longest.max()


def test_a_theta_that_keeps_the_constraints_is_left_alone_and_another_changes_its_shares_only() -> None:
    pool = Pool(1)
    mixture = MixtureConfig.model_validate(
        {"criteria": CRITERIA, "budget": int(pool.tokens.sum()) // 4, "constraints": {"max_share": {"a": 0.3}}}
    )
    _, limits = limits_of(mixture, NAMES, pool.tokens)
    params = sample_params(ParamSpace(4, 2), 60, 4)
    free, bound = closed_form(params, pool.tokens, mixture), closed_form(params, pool.tokens, mixture, limits)
    over = free.mixtures.share[:, 0] > 0.3
    assert 0 < over.sum() < 60
    assert np.array_equal(bound.mixtures.share[~over], free.mixtures.share[~over])
    assert np.allclose(bound.mixtures.share[over, 0], 0.3)
    kept = params.one(int(np.flatnonzero(~over)[0]))
    assert buildable(kept, pool.tokens, mixture, limits) is kept
    moved = params.one(int(np.flatnonzero(over)[0]))
    built = buildable(moved, pool.tokens, mixture, limits)
    for field in ("merge_weights", "steepness", "exponent", "floor"):
        assert np.array_equal(getattr(built, field), getattr(moved, field))
    assert not np.array_equal(built.cutoff, moved.cutoff)


# ---------------------------------------------------------------------------------------------- infeasible sets


def solvable(bounds: list[Bound], most: dict[str, float], budget: int) -> bool:
    """HiGHS over domain tokens."""
    low = {name: max([b.tokens for b in bounds if b.domain == name and b.is_floor], default=0.0) for name in most}
    high = {n: min([b.tokens for b in bounds if b.domain == n and b.is_ceiling], default=most[n]) for n in most}
    names = sorted(most)
    if any(low[name] > min(high[name], most[name]) for name in names):
        return False  # linprog refuses such boxes as input
    box = [(low[name], min(high[name], most[name])) for name in names]
    return bool(linprog(np.zeros(len(names)), A_eq=np.ones((1, len(names))), b_eq=[budget], bounds=box).status == 0)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 2.5))
def test_a_conflict_is_found_when_there_is_one_and_every_part_of_it_is_needed(seed: int, share: float) -> None:
    tokens = np.array([5_000_000, 400_000, 70_000, 2_500_000])
    budget = int(tokens.sum() * share)
    constraints = ConstraintsConfig.model_validate(random_constraints(seed))
    bounds = bounds_of(constraints, NAMES, tokens, budget)
    most = dict(zip(NAMES, largest(ParamSpace(4, 2), tokens, 4).tolist(), strict=True))
    found = conflict(bounds, most, budget)
    assert (found is None) == solvable(bounds, most, budget)
    if found is None:
        return
    assert found.short > 0
    assert not solvable(list(found.bounds), most, budget)
    for left_out in found.bounds:
        assert solvable([b for b in found.bounds if b is not left_out], most, budget)
    # no smaller set conflicts
    for fewer in range(len(found.bounds)):
        assert all(solvable(list(part), most, budget) for part in itertools.combinations(bounds, fewer))


@pytest.mark.parametrize(
    ("constraints", "budget", "said"),
    [
        ({"min_share": {"b": 0.4}}, 1_000_000, ["min_share.b", "400,000", "200,", "short", "Lower it to 0.1999"]),
        (
            {"min_share": {"a": 0.3}, "max_repeats": {"a": 0.1}},
            1_000_000,
            ["min_share.a 0.3", "max_repeats.a 0.1", "200,000 short", "Lower min_share.a to 0.1", "0.3"],
        ),
        ({"max_share": {"a": 0.2, "c": 0.1}}, 1_000_000, ["max_share.a 0.2", "max_share.c 0.1", "short"]),
        ({"max_repeats": 0.5}, 800_000, ["max_repeats.a 0.5", "50,000 short", "lower the budget to 750,000"]),
    ],
)
def test_messages_say_which_constraint_and_how_many_tokens(
    constraints: dict[str, Any], budget: int, said: list[str]
) -> None:
    names, tokens = ("a", "b", "c"), np.array([1_000_000, 100_000, 400_000])
    mixture = MixtureConfig.model_validate({"criteria": CRITERIA, "budget": budget, "constraints": constraints})
    bounds = bounds_of(mixture.constraints, names, tokens, budget)
    with pytest.raises(BudgetError) as refused:
        check(bounds, names, tokens, ParamSpace(3, 2), mixture)
    for words in said:
        assert words in str(refused.value), str(refused.value)


def test_names_that_are_no_domain_are_all_refused_with_the_nearest() -> None:
    constraints = ConstraintsConfig(min_share={"cod": 0.1}, max_repeats={"lawe": 2.0})
    with pytest.raises(ConfigError) as refused:
        bounds_of(constraints, ("code", "law"), np.array([10, 10]), 5)
    assert len(refused.value.problems) == 2
    assert "min_share.cod" in refused.value.problems[0]
    assert "'code'" in refused.value.problems[0]
    assert "'law'" in refused.value.problems[1]


def test_one_number_of_repeats_bounds_every_domain() -> None:
    bounds = bounds_of(ConstraintsConfig(max_repeats=1.5), ("a", "b"), np.array([100, 30]), 50)
    assert [(bound.name, bound.tokens) for bound in bounds] == [("max_repeats.a", 150.0), ("max_repeats.b", 45.0)]


def test_the_penalty_is_the_divergence_from_the_natural_mixture() -> None:
    limits = Limits.of([], NAMES, np.array([10, 20, 30, 40]), 0.05)
    natural = np.array([[0.1, 0.2, 0.3, 0.4]])
    assert limits.penalty(natural) == pytest.approx([0.0])
    one = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert limits.penalty(one) == pytest.approx([0.05 * np.log(10.0)])
    assert not limits.bounded


def test_a_penalty_is_never_negative_and_infinite_off_the_natural_mixture() -> None:
    limits = Limits.of([], NAMES, np.array([10, 0, 30, 60]), 0.05)
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(4), 500)
    assert np.isposinf(limits.penalty(share)).all()
    share[:, 1] = 0.0
    share /= share.sum(axis=1, keepdims=True)
    share[0] = [0.1, 0.0, 0.3, 0.6]
    share[1] = [0.1, 1e-17, 0.3, 0.6 - 1e-12]
    found = limits.penalty(share)
    assert (found >= 0).all()
    assert np.isfinite(found).all()
    assert found[:2] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_violations_name_the_bound_and_what_the_mixture_has() -> None:
    bounds = bounds_of(
        ConstraintsConfig(min_share={"a": 0.3}, max_repeats={"b": 2.0}), ("a", "b"), np.array([100, 10]), 100
    )
    assert violations(bounds, {"a": 0.5, "b": 0.2}, 100) == []
    assert violations(bounds, {"a": 0.25, "b": 0.75}, 100) == [
        "min_share.a is 0.3, it has 0.25", "max_repeats.b is 2, it has 7.5"
    ]  # fmt: skip
    assert violations(bounds, {"a": 0.25, "b": 0.2}, 100, {"a": 5.0}) == []
