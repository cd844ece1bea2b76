"""QuaDMix as a plan: expectations that add up, realised copies that follow them, budgets refused with numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.budget import copies_taken
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.mixture import expected_tokens
from quadmix.core.normalise import fit_score_map, heavy_bins
from quadmix.core.param_space import Params, ParamSpace, sample_params
from quadmix.core.quality import merged_quality, quality_interval
from quadmix.core.sampling import draw_copies, interval_mean, sampling_value
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT
from quadmix.errors import BudgetError
from quadmix.hashing import hash_words, uniform
from quadmix.selectors.base import DocBatch
from quadmix.selectors.in_memory import select
from quadmix.selectors.quadmix import QuadmixPlan, QualityBinning, fit_quadmix, params_by_name, theta_by_name

DOMAINS = ("a", "b", "c")
CRITERIA = ("one", "two")


def pool(n: int, seed: int = 0, *, integer_scores: bool = False, tail: float = 1.0) -> DocBatch:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 2)) + 0.5
    if integer_scores:
        scores = np.floor(scores)
    tokens = np.maximum(rng.lognormal(6, tail, n), 1).astype(np.int64)
    domain = rng.choice(3, n, p=[0.7, 0.2, 0.1]).astype(np.int32)
    domain[:3] = (0, 1, 2)
    return DocBatch(hash_words(np.arange(n, dtype=np.uint64), seed), domain, tokens, scores.astype(np.float32))


def fit(batch: DocBatch, params: Params, budget: int, *, max_copies: int = 4, **rules: str) -> QuadmixPlan:
    maps = []
    for column, name in enumerate(CRITERIA):
        scores = np.ascontiguousarray(batch.scores[:, column])
        sketch = TokenHistogram.of(order_key(scores) >> np.uint32(COARSE_SHIFT), batch.n_tokens)
        maps.append(fit_score_map(name, sketch, FineHistogram.of(scores, batch.n_tokens, heavy_bins(sketch))))
    docs = np.bincount(batch.domain, minlength=3).astype(np.int64)
    binning = QualityBinning.of(tuple(maps), params.merge_weights[0], docs)
    return fit_quadmix(
        params, domains=DOMAINS, domain_tokens=domain_tokens(batch), criteria=CRITERIA, binning=binning,
        cells=binning.histogram(batch), budget=budget, max_copies=max_copies, **rules,  # type: ignore[arg-type]
    )  # fmt: skip


def domain_tokens(batch: DocBatch, weights: np.ndarray | None = None) -> np.ndarray:
    tokens = batch.n_tokens if weights is None else batch.n_tokens * weights
    return np.bincount(batch.domain, weights=tokens, minlength=3).astype(np.int64)


def theta(seed: int = 0) -> Params:
    return sample_params(ParamSpace(3, 2), 1, seed)


def given_theta(steepness: float, cutoff: float, exponent: float, floor: float) -> Params:
    row = np.ones((1, 3))
    return Params(np.full((1, 3, 2), 0.5), row * steepness, row * cutoff, row * exponent, row * floor)


seeds, shares = st.integers(0, 10**6), st.floats(0.02, 1.5)


@settings(max_examples=15)
@given(seeds, shares, st.booleans(), st.sampled_from(["omega", "scale"]), st.sampled_from([1, 2, 4]))
def test_a_domains_expected_tokens_are_its_tokens_times_the_integral(
    seed: int, share: float, integer_scores: bool, rule: str, max_copies: int
) -> None:
    batch = pool(400, seed, integer_scores=integer_scores, tail=2.0)
    try:
        plan = fit(batch, theta(seed), int(batch.n_tokens.sum() * share), rule=rule, max_copies=max_copies)
    except BudgetError:
        return  # refused: nothing to check
    expected = plan.expected_copies(batch)
    realised = np.bincount(batch.domain, weights=batch.n_tokens * expected, minlength=3)
    stretch = plan.multiplier if rule == "omega" else 1.0
    if rule == "omega":
        given_ = plan.params.with_cutoff(np.minimum(plan.params.cutoff * stretch, 1.0))
        wanted = expected_tokens(given_, domain_tokens(batch), float(max_copies))[0]
        assert np.allclose(realised, wanted, rtol=1e-8)
    assert np.allclose(realised, plan.domain_quotas, atol=1.0 + 1e-8 * batch.n_tokens.sum())
    assert sum(plan.domain_quotas) == int(batch.n_tokens.sum() * share)
    assert (expected <= max_copies).all()


def test_expected_copies_and_ranks_are_those_of_the_definitions_on_floats() -> None:
    batch = pool(3000, 1)
    params = theta(5)
    plan = fit(batch, params, int(batch.n_tokens.sum() * 0.3))
    # normalise by brute force
    ranks = np.empty(batch.scores.shape)
    for column in range(2):
        score = batch.scores[:, column]
        order = np.argsort(score, kind="stable")
        tokens = batch.n_tokens[order]
        ranks[order, column] = (np.cumsum(tokens) - tokens / 2) / tokens.sum()  # no ties among normal scores
    quality = merged_quality(ranks, params.merge_weights[0], batch.domain)
    low, high = quality_interval(quality, batch.n_tokens, batch.domain)
    found = plan.quality_rank(batch)
    assert np.abs(found - high).max() <= plan.resolution + 2e-3
    cutoff = np.minimum(params.cutoff[0] * plan.multiplier, 1.0)
    fields = (params.steepness[0], cutoff, params.exponent[0], params.floor[0])
    wanted = interval_mean(low, high, *(field[batch.domain] for field in fields), cap=4.0)
    off = np.abs(plan.expected_copies(batch) - wanted)
    assert np.average(off, weights=batch.n_tokens) < 0.02


@settings(max_examples=8)
@given(seeds, st.booleans())
def test_mean_copies_equal_the_expectation_within_sampling_error(seed: int, integer_scores: bool) -> None:
    """Ties and long documents included: over many draws each document's mean is its f, each domain's its quota."""
    batch = pool(300, seed, integer_scores=integer_scores, tail=1.5)
    try:
        plan = fit(batch, theta(seed), int(batch.n_tokens.sum() * 0.4))
    except BudgetError:
        return  # refused: nothing to check
    expected = plan.expected_copies(batch)
    rounds = 400
    copies = np.stack([draw_copies(expected, uniform(batch.doc_hash, s, "mean")) for s in range(rounds)])
    fraction = expected - np.floor(expected)
    error = np.sqrt(fraction * (1 - fraction) / rounds)
    assert (np.abs(copies.mean(axis=0) - expected) <= 6 * error + 5 / rounds).all()  # rare copies come whole
    per_domain = np.stack([np.bincount(batch.domain, weights=batch.n_tokens * c, minlength=3) for c in copies])
    # known, not estimated: a long document of a small domain may never have been drawn
    variance = np.bincount(batch.domain, weights=(batch.n_tokens * error) ** 2, minlength=3)
    longest = np.array([batch.n_tokens[batch.domain == d].max(initial=0) for d in range(3)])
    room = 6 * np.sqrt(variance) + 5 * longest / rounds + 1.0
    assert (np.abs(per_domain.mean(axis=0) - plan.domain_quotas) <= room).all()


@settings(max_examples=12)
@given(seeds, shares, st.booleans(), st.sampled_from(["interval", "paper"]), st.sampled_from(["omega", "scale"]))
def test_the_budget_is_met_to_half_the_boundary_document_and_copies_follow_the_expectation(
    seed: int, share: float, integer_scores: bool, rank_rule: str, rule: str
) -> None:
    batch = pool(300, seed, integer_scores=integer_scores)
    budget = int(batch.n_tokens.sum() * share)
    try:
        plan = fit(batch, theta(seed), budget, rank_rule=rank_rule, rule=rule)
    except BudgetError:
        return  # refused: nothing to check
    copies = select(plan, batch, uniform(batch.doc_hash, seed, "select"))
    expected = plan.expected_copies(batch)
    assert abs(int((batch.n_tokens * copies).sum()) - budget) <= batch.n_tokens.max() / 2
    assert copies.max() <= plan.max_copies
    assert (copies[expected == 0] == 0).all()


@pytest.mark.parametrize("rule", ["omega", "scale"])
def test_below_key_one_lie_the_copies_that_the_draw_gives(rule: str) -> None:
    batch = pool(2000, 1)
    plan = fit(batch, theta(1), int(batch.n_tokens.sum() * 1.1), rule=rule)
    u, expected = uniform(batch.doc_hash, 0, "select"), plan.expected_copies(batch)
    key = np.where(plan.stratum(batch) >= 0, plan.key(batch, u), np.inf)
    below = copies_taken(key, plan.step(batch), batch.doc_hash, np.nextafter(1.0, 0.0), np.uint64(2**64 - 1), 4)
    assert np.array_equal(below, draw_copies(expected, u))
    assert below.max() > 1


@pytest.mark.parametrize("tail", [0.5, 1.0])
def test_integer_scores_select_what_the_integral_says_in_every_domain(tail: float) -> None:
    batch = pool(20_000, 3, integer_scores=True, tail=tail)
    params = given_theta(20.0, 0.1, 1.0, 1e-3)
    plan = fit(batch, params, int(batch.n_tokens.sum() * 0.25))
    copies = select(plan, batch, uniform(batch.doc_hash, 0, "select"))
    wanted = expected_tokens(
        params.with_cutoff(np.minimum(params.cutoff * plan.multiplier, 1)), domain_tokens(batch), 4.0
    )
    found = domain_tokens(batch, copies)
    largest = np.array([batch.n_tokens[batch.domain == d].max() for d in range(3)])
    # half of this stratum's boundary document, half of the one before as residual
    assert (np.abs(found - wanted[0]) <= largest + 2).all()


def test_one_document_and_a_giant_among_small_ones() -> None:
    one = DocBatch(np.array([9], dtype=np.uint64), np.zeros(1, np.int32), np.array([1000]), np.float32([[1.0, 2.0]]))
    params = given_theta(100.0, 0.5, 1.0, 0.0)
    for budget, wanted in ((1000, 1), (1900, 2), (400, 0), (1980, 2)):
        plan = fit(one, params, budget)
        assert select(plan, one, np.array([0.5]))[0] == wanted
    giant = pool(50, 0)
    giant.n_tokens[7] = 100 * giant.n_tokens.sum()
    plan = fit(giant, theta(3), int(giant.n_tokens.sum() * 0.3))
    assert np.isfinite(plan.expected).all()
    copies = select(plan, giant, uniform(giant.doc_hash, 0, "select"))
    assert abs(int((copies * giant.n_tokens).sum()) - int(giant.n_tokens.sum() * 0.3)) <= giant.n_tokens.max() / 2


def test_under_the_paper_rule_a_tie_group_beyond_the_cutoff_gets_the_floor() -> None:
    batch = pool(500, 2)
    params = given_theta(50.0, 0.2, 1.0, 0.1)
    plan = fit(batch, params, int(batch.n_tokens.sum() * 0.4), rank_rule="paper")
    rank = plan.quality_rank(batch)
    cutoff = np.full(len(batch), min(0.2 * plan.multiplier, 1.0))
    shape = (np.full(len(batch), 50.0), cutoff, np.ones(len(batch)), np.full(len(batch), 0.1))
    assert np.array_equal(plan.expected_copies(batch), np.minimum(sampling_value(rank, *shape), 4.0))
    assert sum(plan.domain_quotas) == int(batch.n_tokens.sum() * 0.4)


def test_the_paper_rule_refuses_a_pool_of_ties_that_it_cannot_reach() -> None:
    """Every document of a domain ties, so rank is 1 for all, beyond any cutoff: nothing would be selected."""
    batch = pool(60, 0)
    batch.scores[:] = 1.0
    with pytest.raises(BudgetError, match=r"`rank: paper` .* documents of 0 tokens at 4 copies"):
        fit(batch, given_theta(50.0, 0.2, 1.0, 0.0), 1000, rank_rule="paper")
    plan = fit(batch, given_theta(50.0, 0.2, 1.0, 0.0), 1000)
    assert plan.expected_copies(batch).min() > 0


@pytest.mark.parametrize("rule", ["omega", "scale"])
def test_a_budget_out_of_reach_is_refused_with_the_numbers(rule: str) -> None:
    batch = pool(200, 0)
    total = int(batch.n_tokens.sum())
    with pytest.raises(BudgetError) as refused:
        fit(batch, given_theta(10.0, 0.3, 1.0, 1e-3), 4 * total + 1, rule=rule)
    message = str(refused.value)
    for number in (4 * total + 1, total, 4 * total):
        assert f"{number:,}" in message
    assert all(f"{name} " in message for name in DOMAINS)
    assert "max_copies" in message


def test_floors_above_the_budget_are_refused_with_the_numbers() -> None:
    batch = pool(200, 0)
    with pytest.raises(BudgetError, match="floors of theta alone"):
        fit(batch, given_theta(10.0, 0.3, 1.0, 0.5), int(batch.n_tokens.sum()) // 10)


def test_one_token_more_than_all_copies_is_refused_in_a_pool_of_ten_to_the_thirteen() -> None:
    batch = pool(100, 0)
    batch.n_tokens[:] *= 10**9
    total = int(batch.n_tokens.sum())
    params = given_theta(0.0, 1.0, 0.0, 0.0)
    assert sum(fit(batch, params, total, max_copies=1).domain_quotas) == total
    with pytest.raises(BudgetError, match=f"{total + 1:,}"):
        fit(batch, params, total + 1, max_copies=1)


def test_the_message_of_many_domains_lists_some() -> None:
    from quadmix.selectors.quadmix import _infeasible

    many = tuple(f"d{i:05d}" for i in range(1000))
    row = np.ones((1, 1000))
    params = Params(np.ones((1, 1000, 1)), row, row * 0.1, row, row * 0)
    message = _infeasible(params, many, np.full(1000, 5), 10**9, 4, "omega")
    assert "and 980 more" in message
    assert len(message) < 2000


def test_a_plan_does_not_answer_with_another_plans_columns() -> None:
    batch = pool(200, 0)
    budget = int(batch.n_tokens.sum() * 0.3)
    first, second = fit(batch, theta(1), budget), fit(batch, theta(2), budget)
    first.expected_copies(batch)
    fresh = DocBatch(batch.doc_hash, batch.domain, batch.n_tokens, batch.scores)
    assert np.array_equal(second.expected_copies(batch), second.expected_copies(fresh))
    assert not np.array_equal(first.expected_copies(batch), second.expected_copies(batch))


def test_a_theta_survives_its_names() -> None:
    params = theta(4)
    again = params_by_name(theta_by_name(params, DOMAINS, CRITERIA), DOMAINS, CRITERIA)
    for field in ("merge_weights", "steepness", "cutoff", "exponent", "floor"):
        assert np.allclose(getattr(again, field), getattr(params, field), rtol=1e-15)


def test_fitting_fifty_thousand_domains_takes_little_memory() -> None:
    m = 50_000
    rng = np.random.default_rng(0)
    n = 100_000
    domain = np.arange(n, dtype=np.int32) % m
    normal = rng.normal(size=(n, 1)).astype(np.float32)
    batch = DocBatch(hash_words(np.arange(n, dtype=np.uint64), 0), domain, rng.integers(1, 500, n), normal)
    scores = np.ascontiguousarray(batch.scores[:, 0])
    sketch = TokenHistogram.of(order_key(scores) >> np.uint32(COARSE_SHIFT), batch.n_tokens)
    score_map = fit_score_map("q", sketch, FineHistogram.of(scores, batch.n_tokens, heavy_bins(sketch)))
    params = sample_params(ParamSpace(m, 1), 1, 0)
    binning = QualityBinning.of((score_map,), params.merge_weights[0], np.bincount(domain).astype(np.int64))
    tokens = np.bincount(domain, weights=batch.n_tokens).astype(np.int64)
    budget = int(tokens.sum()) // 4
    plan = fit_quadmix(
        params, domains=tuple(f"{i:05d}" for i in range(m)), domain_tokens=tokens, criteria=("q",), binning=binning,
        cells=binning.histogram(batch), budget=budget, max_copies=4,
    )  # fmt: skip
    assert plan.expected.nbytes + plan.rank.nbytes < 200e6
    assert sum(plan.domain_quotas) == budget
    realised = np.bincount(domain, weights=batch.n_tokens * plan.expected_copies(batch))
    assert np.abs(realised - plan.domain_quotas).max() < 1.01
