"""Baselines: natural, uniform and top-k against brute force; the contract that every plan keeps."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.budget import whole_shares
from quadmix.errors import BudgetError
from quadmix.hashing import hash_words, uniform
from quadmix.selectors.base import DocBatch
from quadmix.selectors.baselines import natural_plan, topk_plan, uniform_plan
from quadmix.selectors.in_memory import select

DOMAINS = ("a", "b", "c", "d")
rows_of = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 20) | st.integers(1, 10**5), st.integers(-2, 2).map(float)),
    min_size=1,
    max_size=12,
)


def batch_of(rows: list[tuple[int, int, float]], scored: bool = False) -> DocBatch:
    n = len(rows)
    scores = np.array([[row[2]] for row in rows], dtype=np.float32) if scored else np.zeros((n, 0), dtype=np.float32)
    return DocBatch(
        hash_words(np.arange(n, dtype=np.uint64), 3),
        np.array([row[0] for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int64),
        scores,
    )


def totals(batch: DocBatch) -> np.ndarray:
    return np.bincount(batch.domain, weights=batch.n_tokens, minlength=4).astype(np.int64)


def nearest(order: list[int], tokens: np.ndarray, quota: int) -> int:
    sums = [0, *np.cumsum(tokens[order]).tolist()]
    return min(range(len(sums)), key=lambda n: (abs(sums[n] - quota), n))


@settings(max_examples=40)
@given(rows_of, st.integers(1, 3), st.floats(0.01, 1.0))
def test_natural_takes_documents_in_the_order_of_their_draws(
    rows: list[tuple[int, int, float]], cap: int, share: float
) -> None:
    batch = batch_of(rows)
    budget = max(int(batch.n_tokens.sum() * cap * share), 1)
    u = uniform(batch.doc_hash, 1, "select")
    order = [doc for _ in range(cap) for doc in np.argsort(u).tolist()]
    wanted = np.bincount(order[: nearest(order, batch.n_tokens, budget)], minlength=len(batch))
    assert list(select(natural_plan(totals(batch), budget, cap), batch, u)) == list(wanted)


@settings(max_examples=40)
@given(rows_of, st.floats(0.01, 1.0))
def test_topk_takes_the_best_scores_and_ties_by_hash(rows: list[tuple[int, int, float]], share: float) -> None:
    batch = batch_of(rows, scored=True)
    budget = max(int(batch.n_tokens.sum() * share), 1)
    order = sorted(range(len(rows)), key=lambda i: (-rows[i][2], int(batch.doc_hash[i])))
    wanted = np.bincount(order[: nearest(order, batch.n_tokens, budget)], minlength=len(batch))
    found = select(topk_plan("q", totals(batch), budget), batch, uniform(batch.doc_hash, 1, "select"))
    assert list(found) == list(wanted)


@settings(max_examples=40)
@given(rows_of, st.integers(1, 3), st.floats(0.01, 1.0))
def test_uniform_gives_every_domain_the_same_unless_it_runs_dry(
    rows: list[tuple[int, int, float]], cap: int, share: float
) -> None:
    batch = batch_of(rows)
    budget = max(int(batch.n_tokens.sum() * cap * share), 1)
    plan = uniform_plan(DOMAINS, totals(batch), budget, cap)
    quotas, reach = np.array(plan.stratum_quotas), totals(batch) * cap
    assert quotas.sum() == budget
    assert (quotas <= reach).all()
    short = quotas < reach
    if short.any():
        assert quotas[short].max() - quotas[short].min() <= 1
        # a domain may be full by the one token that rounding gave it
        assert quotas[~short].max(initial=0) <= quotas[short].max() + 1
    copies = select(plan, batch, uniform(batch.doc_hash, 1, "select"))
    assert abs(int((copies * batch.n_tokens).sum()) - budget) <= batch.n_tokens.max() / 2
    assert copies.max() <= cap


def test_shares_of_a_uniform_mixture_are_whole() -> None:
    plan = uniform_plan(DOMAINS, np.array([100, 100, 100, 1]), 101, 1)
    assert plan.stratum_quotas == (34, 33, 33, 1)
    assert sum(whole_shares(np.ones(3), 100)) == 100


@pytest.mark.parametrize("cap", [1, 4])
def test_all_copies_of_everything_is_the_largest_budget(cap: int) -> None:
    batch = batch_of([(0, 5, 0.0), (1, 7, 0.0), (2, 1000, 0.0)])
    most = int(batch.n_tokens.sum()) * cap
    u = uniform(batch.doc_hash, 0, "select")
    for plan in (natural_plan(totals(batch), most, cap), uniform_plan(DOMAINS, totals(batch), most, cap)):
        assert list(select(plan, batch, u)) == [cap] * 3
    for make in (natural_plan, lambda t, b, c: uniform_plan(DOMAINS, t, b, c)):
        with pytest.raises(BudgetError, match=f"asked {most + 1:,} tokens.*{most:,}"):
            make(totals(batch), most + 1, cap)
    with pytest.raises(BudgetError, match=r"asked 1,013 tokens, the pool holds 1,012"):
        topk_plan("q", totals(batch), 1013)


@settings(max_examples=20)
@given(rows_of)
def test_plans_keep_the_contract(rows: list[tuple[int, int, float]]) -> None:
    batch, u = batch_of(rows, scored=True), np.linspace(0.1, 0.9, len(rows))
    budget = max(int(batch.n_tokens.sum()) // 2, 1)
    for plan in (
        natural_plan(totals(batch), budget, 2),
        uniform_plan(DOMAINS, totals(batch), budget, 2),
        topk_plan("q", totals(batch), budget),
    ):
        again = pickle.loads(pickle.dumps(plan))
        assert sum(plan.quotas.values()) == budget
        assert sorted(plan.strata) == list(plan.strata)
        stratum, key, step = plan.stratum(batch), plan.key(batch, u), plan.step(batch)
        assert stratum.dtype == np.int32
        assert stratum.min() >= -1
        assert stratum.max() < len(plan.strata)
        assert (step > 0).all()
        assert np.isfinite(key).all()
        assert np.array_equal(select(again, batch, u), select(plan, batch, u))
        assert plan.describe()["kind"] == plan.selector


@settings(max_examples=40)
@given(rows_of, st.randoms(use_true_random=False))
def test_the_order_of_documents_changes_nothing(rows: list[tuple[int, int, float]], random) -> None:
    batch = batch_of(rows, scored=True)
    order = list(range(len(rows)))
    random.shuffle(order)
    moved = DocBatch(batch.doc_hash[order], batch.domain[order], batch.n_tokens[order], batch.scores[order])
    budget = max(int(batch.n_tokens.sum()) // 2, 1)
    for plan in (uniform_plan(DOMAINS, totals(batch), budget, 2), topk_plan("q", totals(batch), budget)):
        one = select(plan, batch, uniform(batch.doc_hash, 1, "select"))
        two = select(plan, moved, uniform(moved.doc_hash, 1, "select"))
        assert np.array_equal(one[order], two)
