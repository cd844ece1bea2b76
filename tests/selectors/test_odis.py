"""ODiS against a literal one: components by numpy, quantiles and strata by loops, quotas and cuts document by
document."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.budget import capped_shares, whole_shares
from quadmix.errors import BudgetError, ConfigError
from quadmix.hashing import uniform
from quadmix.selectors.base import DocBatch
from quadmix.selectors.in_memory import select
from quadmix.selectors.odis import OdisPlan
from quadmix.selectors.odis_outcome import Outcome
from tests.selectors.odis_fits import DOMAINS, fit, made_up, rows_of, rules


def draws(batch: DocBatch) -> np.ndarray:
    return uniform(batch.doc_hash, 1, "select")


def literal_components(batch: DocBatch, kept: int) -> np.ndarray:
    """(n, kept) by numpy, from the definition."""
    x = batch.scores.astype(np.float64)
    values, vectors = np.linalg.eigh(np.corrcoef(x.T))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    columns = []
    for k in range(kept):
        vector = vectors[:, -1 - k] * np.sign(vectors[:, -1 - k].sum())
        columns.append(z @ vector / np.sqrt(values[-1 - k]))
    return np.stack(columns, axis=1)


def literal_quantiles(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Tokens below plus half of the ties, over all tokens."""
    found = np.empty(values.shape)
    for (x, k), value in np.ndenumerate(values):
        below, tied = tokens[values[:, k] < value].sum(), tokens[values[:, k] == value].sum()
        found[x, k] = (below + tied / 2) / tokens.sum()
    return found


def literal_choice(plan: OdisPlan, batch: DocBatch, values: np.ndarray, stratum: np.ndarray) -> set[int]:
    """Every stratum's prefix nearest to its quota and what those before it missed, in the order of the strata."""
    chosen: set[int] = set()
    missed = 0
    for index, quota in plan.quotas.items():
        mine = [x for x in range(len(batch)) if stratum[x] == index]
        column = int(plan.strata[index][-1]) - 1
        mine.sort(key=lambda x: (-values[x, column], int(batch.doc_hash[x])))
        sums = np.concatenate([[0], np.cumsum(batch.n_tokens[mine])])
        after = int(np.searchsorted(sums, quota))
        around = [take for take in (after - 1, after) if 0 <= take < sums.size] if quota else [0]
        take = min(around, key=lambda t: (abs(int(sums[t]) - quota - missed), t))
        chosen |= set(mine[:take])
        missed += quota - int(sums[take])
    return chosen


@settings(max_examples=14)
@given(st.integers(0, 10**6), st.floats(0.01, 0.6), st.sampled_from([None, 0.3, 0.6]), st.booleans())
def test_the_selection_is_the_literal_one(seed: int, share: float, floor: float | None, within: bool) -> None:
    batch = made_up(seed, 160)
    held = np.bincount(batch.domain, weights=batch.n_tokens, minlength=3)
    budget = max(int(share * held.sum()), 1)
    quotas = whole_shares(held, budget).tolist() if within else None
    plan = fit(batch, rules(floor=floor, explained_variance=0.95), budget, domain_quotas=quotas)
    kept = len(plan.outcome.components)
    values = literal_components(batch, kept)
    np.testing.assert_allclose(plan.membership.projection.apply(batch.scores), values, atol=2e-5)
    values = plan.membership.projection.apply(batch.scores).astype(np.float64)  # from here on the last bits matter
    quantiles = literal_quantiles(values, batch.n_tokens)
    component = quantiles.argmax(axis=1)
    moved = (component > 0) & (quantiles[:, 0] < (floor or 0.0))
    component[moved] = 0
    cells = zip(batch.domain, component, strict=True)
    names = [f"{DOMAINS[d]} / PC{k + 1}" if within else f"PC{k + 1}" for d, k in cells]
    stratum = np.array([plan.strata.index(name) for name in names])
    assert plan.stratum(batch).tolist() == stratum.tolist()
    assert plan.outcome.below_floor == (moved.sum(), batch.n_tokens[moved].sum())
    copies = select(plan, batch, draws(batch))
    if all(quota < batch.n_tokens[stratum == index].sum() for index, quota in plan.quotas.items()):
        assert set(np.flatnonzero(copies).tolist()) == literal_choice(plan, batch, values, stratum)
    for index, found in enumerate(plan.outcome.components):
        mine = component == index
        assert (found.documents, found.tokens) == (mine.sum(), batch.n_tokens[mine].sum())
        for other in range(kept):
            tops = [quantiles[:, k] >= 1 - plan.outcome.components[k].asked / held.sum() for k in (index, other)]
            assert found.shared[other] == batch.n_tokens[tops[0] & tops[1]].sum()


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.02, 0.5), st.booleans(), st.sampled_from(["equal", "explained_variance"]))
def test_the_plan_keeps_the_contract(seed: int, share: float, ties: bool, shares: Any) -> None:
    batch = made_up(seed, 250, ties=ties)
    budget = max(int(batch.n_tokens.sum() * share), 1)
    plan = fit(batch, rules(shares=shares), budget)
    assert list(plan.strata) == sorted(set(plan.strata))
    assert sum(plan.quotas.values()) == budget
    stratum = plan.stratum(batch)
    held = np.bincount(stratum[stratum >= 0], weights=batch.n_tokens[stratum >= 0], minlength=len(plan.strata))
    assert all(quota <= held[index] for index, quota in plan.quotas.items())
    again = pickle.loads(pickle.dumps(plan))
    copies = select(again, batch, draws(batch))
    assert copies.max() <= plan.max_copies == 1
    assert abs(int((copies * batch.n_tokens).sum()) - budget) <= batch.n_tokens.max() / 2
    assert not copies[stratum < 0].any()
    described = json.loads(json.dumps(plan.describe()))
    assert described["kind"] == plan.selector == "odis"
    assert Outcome.from_json(described["odis"]) == plan.outcome


@settings(max_examples=6)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 250), max_size=4), st.booleans())
def test_any_partition_and_order_gives_the_same_plan(seed: int, cuts: list[int], ties: bool) -> None:
    batch = made_up(seed, 250, ties=ties)
    budget = int(batch.n_tokens.sum() // 7)
    order = np.random.default_rng(seed).permutation(250)
    parts = [part for part in np.split(order, sorted(cuts)) if part.size]
    plan, again = fit(batch, rules(), budget), fit(batch, rules(), budget, parts)
    assert again.outcome == plan.outcome
    assert again.quotas == plan.quotas
    whole = plan.key(batch, draws(batch))
    for part in parts:
        few = rows_of(batch, part)
        assert again.stratum(few).tolist() == plan.stratum(batch)[part].tolist()
        assert again.key(few, draws(few)).tobytes() == whole[part].tobytes()


def test_equal_quotas_and_strata_that_share_nothing() -> None:
    batch = made_up(3, 3_000)
    budget = int(batch.n_tokens.sum() // 20)
    plan = fit(batch, rules(explained_variance=0.95), budget)
    kept = len(plan.outcome.components)
    assert kept > 1
    assert max(plan.quotas.values()) - min(plan.quotas.values()) <= 1
    copies, stratum = select(plan, batch, draws(batch)), plan.stratum(batch)
    for index in range(kept):
        taken = int((copies * batch.n_tokens)[stratum == index].sum())
        assert abs(taken - budget / kept) <= batch.n_tokens.max()


def test_a_component_that_holds_too_little_gives_all_and_says_so() -> None:
    batch = made_up(4, 400)
    plan = fit(batch, rules(explained_variance=0.95, floor=0.4), int(batch.n_tokens.sum() * 0.6))
    quotas = [plan.quotas[index] for index in range(len(plan.strata))]
    short = [one for one, quota in zip(plan.outcome.components, quotas, strict=True) if quota == one.tokens < one.asked]
    assert short
    lines = plan.outcome.messages(quotas)
    assert any(line.startswith(f"{short[0].name} has {short[0].tokens:,} tokens, fewer than its") for line in lines)
    copies = select(plan, batch, draws(batch))
    assert abs(int((copies * batch.n_tokens).sum()) - plan.outcome.budget) <= batch.n_tokens.max() / 2


def test_a_budget_that_cannot_be_met_is_refused_with_its_numbers() -> None:
    batch = made_up(5, 400)
    total = int(batch.n_tokens.sum())
    everything = fit(batch, rules(floor=0.9, explained_variance=0.95), total)
    assert select(everything, batch, draws(batch)).all()
    unshared = rules(shares=(0.0, 1.0), most_components=2, explained_variance=1.0)
    with pytest.raises(BudgetError, match=rf"the pool has a quota of {total:,} tokens, its components"):
        fit(batch, unshared, total)
    with pytest.raises(BudgetError, match="domain 'code' has a quota"):
        fit(batch, rules(), 10, domain_quotas=[0, total, 0])


def test_shares_are_weights_and_their_number_is_checked() -> None:
    batch = made_up(6, 400)
    asked = rules(shares=(3.0, 1.0), most_components=2, explained_variance=1.0)
    plan = fit(batch, asked, 4_000)
    assert plan.quotas == {0: 3_000, 1: 1_000}
    with pytest.raises(ConfigError, match=r"odis.shares: found 3 weights, but 2 components are kept"):
        fit(batch, rules(shares=(1.0, 1.0, 1.0), most_components=2, explained_variance=1.0), 4_000)
    varied = fit(batch, rules(shares="explained_variance", most_components=2, explained_variance=1.0), 4_000)
    ratio = varied.outcome.eigenvalues[0] / sum(varied.outcome.eigenvalues[:2])
    assert varied.quotas[0] == pytest.approx(4_000 * ratio, abs=1)


def test_all_tied_scores_but_one_still_fill_the_budget() -> None:
    batch = made_up(7, 200)
    scores = np.zeros((200, 2), dtype=np.float32, order="F")
    scores[0] = (1.0, 2.0)
    scores[1] = (2.0, 1.0)
    tied = DocBatch(batch.doc_hash, batch.domain, batch.n_tokens, scores)
    plan = fit(tied, rules(2, floor=None), 2_000)
    copies = select(plan, tied, draws(tied))
    assert abs(int((copies * tied.n_tokens).sum()) - 2_000) <= tied.n_tokens.max() / 2
    assert copies[:2].all()


def test_domains_that_are_empty_or_hold_one_document() -> None:
    batch = made_up(8, 200, domains=1)
    domain = batch.domain.copy()
    domain[17] = 2
    lonely = DocBatch(batch.doc_hash, domain, batch.n_tokens, batch.scores)
    own = int(batch.n_tokens[17])
    plan = fit(lonely, rules(floor=None), 1_000 + own, domain_quotas=[1_000, 0, own])
    assert sum(name.startswith("web") for name in plan.strata) == 1
    assert not any(name.startswith("code") for name in plan.strata)
    copies = select(plan, lonely, draws(lonely))
    assert copies[17] == 1


def test_scores_that_are_not_numbers_are_refused() -> None:
    batch = made_up(9)
    batch.scores[5, 1] = np.nan
    with pytest.raises(ValueError, match="column 1 of the scores has a value that is not finite"):
        fit(batch, rules(), 1_000)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 500)), min_size=1, max_size=6), st.floats(0, 1))
def test_capped_shares_fill_what_is_short_and_keep_proportions(cells: list[tuple[float, int]], part: float) -> None:
    weights = np.array([weight for weight, _ in cells])
    weights[weights < 1e-3] = 0.0
    room = np.array([held for _, held in cells], dtype=np.int64)
    total = int(part * room[weights > 0].sum())
    found = capped_shares(weights, total, room)
    assert found.sum() == total
    assert ((found >= 0) & (found <= room)).all()
    assert not found[weights == 0].any()
    free = np.flatnonzero((found < room) & (weights > 0))
    wanted = weights[free] * found[free].sum() / max(weights[free].sum(), 1e-9)
    assert (np.abs(found[free] - wanted) <= 1).all()
    with pytest.raises(ValueError, match="tokens to share where there is room"):
        capped_shares(weights, int(room.sum()) + 1, room)
