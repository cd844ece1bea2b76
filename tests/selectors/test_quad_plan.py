"""Quad's plan: the contract of selectors, exact quotas alone and inside domain quotas, columns read where needed."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.budget import whole_shares
from quadmix.errors import BudgetError, ConfigError, InputError
from quadmix.hashing import hash_words, uniform
from quadmix.selectors.base import DocBatch
from quadmix.selectors.in_memory import select
from quadmix.selectors.quad import Bandit, BanditSettings
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_outcome import Outcome
from quadmix.selectors.quad_plan import quad_plan, quad_plan_within, within_domains
from quadmix.stages.rows import RowReader

DOMAINS = ("books", "code", "web")


def pool(seed: int, n: int = 400, clusters: int = 6) -> DocBatch:
    rng = np.random.default_rng(seed)
    return DocBatch(
        hash_words(np.arange(n, dtype=np.uint64), seed), rng.integers(0, 3, n).astype(np.int32),
        rng.integers(1, 300, n), np.zeros((n, 0), dtype=np.float32), rng.integers(0, clusters, n).astype(np.int32),
    )  # fmt: skip


def cell_tokens(batch: DocBatch, codes: Sequence[int]) -> np.ndarray:
    assert batch.cluster is not None
    return np.array(
        [[batch.n_tokens[(batch.domain == d) & (batch.cluster == c)].sum() for c in codes] for d in range(3)]
    )


def chosen(batch: DocBatch, share: float, seed: int = 0, scored: int = 150) -> Outcome:
    """Of names that sort in another order than the codes."""
    assert batch.cluster is not None
    codes = np.unique(batch.cluster)
    documents = np.array([(batch.cluster == code).sum() for code in codes])
    tokens = np.array([batch.n_tokens[batch.cluster == code].sum() for code in codes])
    arms = Arms.of([f"topic {9 - code}" for code in codes], codes, documents, tokens, documents)
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=10)
    bandit = Bandit(arms, BanditSettings(max(int(tokens.sum() * share), 1), scored, docs_per_pull=4))
    while (asked := bandit.ask()) is not None:
        bandit.tell(asked.number, np.concatenate([rng.normal(mean[p.cluster], 1.0, p.count) for p in asked.pulls]))
    return bandit.outcome()


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.01, 1.0), st.booleans())
def test_the_plan_keeps_the_contract(seed: int, share: float, within: bool) -> None:
    batch = pool(seed)
    outcome = chosen(batch, share)
    codes = [cluster.code for cluster in outcome.clusters]
    tokens = cell_tokens(batch, codes)
    quotas = whole_shares(tokens.sum(axis=1).astype(np.float64), outcome.budget)
    plan = quad_plan_within(outcome, DOMAINS, quotas.tolist(), tokens) if within else quad_plan(outcome)
    assert list(plan.strata) == sorted(set(plan.strata))
    assert sum(plan.quotas.values()) == outcome.budget
    u = uniform(batch.doc_hash, 1, "select")
    stratum = plan.stratum(batch)
    assert stratum.dtype == np.int32
    held = np.bincount(stratum, weights=batch.n_tokens, minlength=len(plan.strata))
    assert all(quota <= held[index] for index, quota in plan.quotas.items())
    assert np.isinf(plan.step(batch)).all()
    again = pickle.loads(pickle.dumps(plan))
    copies = select(again, batch, u)
    assert copies.max() <= plan.max_copies == 1
    assert abs(int((copies * batch.n_tokens).sum()) - outcome.budget) <= batch.n_tokens.max() / 2
    # of each stratum a prefix in the order of the draws
    for index in range(len(plan.strata)):
        mine = copies[stratum == index][np.argsort(u[stratum == index])]
        assert mine.tolist() == sorted(mine.tolist(), reverse=True)
    described = plan.describe()
    assert described["kind"] == plan.selector == "quad"
    assert Outcome.from_json({**described["outcome"], "rounds": outcome.to_json()["rounds"]}) == outcome


def test_a_document_is_in_the_stratum_of_its_clusters_name() -> None:
    batch = pool(1)
    plan = quad_plan(chosen(batch, 0.2))
    assert batch.cluster is not None
    names = [plan.strata[index] for index in plan.stratum(batch)]
    assert names == [f"topic {9 - code}" for code in batch.cluster.tolist()]


def test_documents_without_a_cluster_or_of_one_that_was_not_there_are_not_eligible() -> None:
    batch = pool(2)
    plan = quad_plan(chosen(batch, 0.2))
    assert batch.cluster is not None
    odd = batch.cluster.copy()
    odd[:3] = (-1, 6, 10_000)
    assert plan.stratum(replace(batch, cluster=odd))[:3].tolist() == [-1] * 3
    with pytest.raises(ValueError, match="needs the documents' clusters"):
        plan.stratum(replace(batch, cluster=None))


def literal_within(outcome: Outcome, quotas: Sequence[int], tokens: np.ndarray) -> list[list[int]]:
    rows = []
    for domain, quota in enumerate(quotas):
        weights = [c.granted * (tokens[domain, i] / c.tokens) for i, c in enumerate(outcome.clusters)]
        wanted = whole_shares(np.array(weights), quota) if sum(weights) else [0] * len(weights)
        row = [min(int(w), int(t)) for w, t in zip(wanted, tokens[domain], strict=True)]
        ranks = [(not cluster.kept, -cluster.mean) for cluster in outcome.clusters]  # type: ignore[operator]
        for rank in sorted(set(ranks)):
            free = np.array([t - r if k == rank else 0 for t, r, k in zip(tokens[domain], row, ranks, strict=True)])
            shares = whole_shares(free.astype(float), min(int(free.sum()), quota - sum(row)))
            row = [r + int(share) for r, share in zip(row, shares, strict=True)]
        rows.append(row)
    return rows


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), st.integers(10, 300))
def test_domain_quotas_are_met_to_the_token_in_proportion_to_the_grants(
    seed: int, shares: list[float], scored: int
) -> None:
    batch = pool(seed, 200)
    outcome = chosen(batch, 0.3, seed, scored)
    tokens = cell_tokens(batch, [cluster.code for cluster in outcome.clusters])
    quotas = [int(share * held) for share, held in zip(shares, tokens.sum(axis=1), strict=True)]
    granted, fill = within_domains(outcome, DOMAINS, quotas, tokens)
    assert (granted >= 0).all()
    assert not granted[:, [not cluster.granted for cluster in outcome.clusters]].any()
    found = granted + fill
    assert found.sum(axis=1).tolist() == quotas
    assert (found >= 0).all()
    assert (found <= tokens).all()
    assert found.tolist() == literal_within(outcome, quotas, tokens)


def test_a_domain_whose_clusters_were_granted_nothing_is_all_fill_and_said_to_be() -> None:
    names, held = ("bad", "good"), np.array([100_000, 100_000])
    arms = Arms.of(names, np.arange(2), held // 100, held, held // 100)
    bandit = Bandit(arms, BanditSettings(60_000, 500, docs_per_pull=8))
    while (asked := bandit.ask()) is not None:
        bandit.tell(asked.number, np.concatenate([np.full(p.count, 2.0 * p.arm - 1.0) for p in asked.pulls]))
    outcome = bandit.outcome()
    assert (outcome.granted_tokens, outcome.fill_tokens) == (60_000, 0)
    tokens = np.array([[0, 100_000], [100_000, 0]])
    plan = quad_plan_within(outcome, ("x", "y"), (30_000, 30_000), tokens)
    assert plan.describe()["fill"] == {"x / good": 0, "y / bad": 30_000}
    assert "30,000 tokens (50.0 % of the budget) are fill" in plan.describe()["stop"]
    assert "fill" not in quad_plan(outcome).describe()["stop"]


def test_quotas_that_domains_cannot_give_are_refused_with_numbers() -> None:
    batch = pool(3)
    outcome = chosen(batch, 0.3)
    tokens = cell_tokens(batch, [cluster.code for cluster in outcome.clusters])
    held = int(tokens[1].sum())
    with pytest.raises(BudgetError, match=rf"domain 'code' has a quota of {held + 1:,} tokens and holds {held:,}"):
        within_domains(outcome, DOMAINS, [0, held + 1, 0], tokens)
    tokens[0, 0] += 1
    with pytest.raises(InputError, match=f"cluster {outcome.clusters[0].name!r} has"):
        within_domains(outcome, DOMAINS, [0, 0, 0], tokens)


def test_names_that_would_be_one_stratum_are_refused() -> None:
    batch = pool(4, clusters=2)
    outcome = chosen(batch, 0.3)
    names = ("b / c", "c")
    renamed = replace(outcome, clusters=tuple(
        replace(cluster, name=name) for cluster, name in zip(outcome.clusters, names, strict=True)))  # fmt: skip
    tokens = cell_tokens(batch, [cluster.code for cluster in outcome.clusters])
    with pytest.raises(ConfigError, match="both called 'a / b / c'"):
        quad_plan_within(renamed, ("a", "a / b", "z"), [1, 1, 1], tokens)


def test_clusters_are_read_where_a_plan_needs_them(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "status": ["ok", "NULL_TEXT", "ok", "ok"], "domain": ["web"] * 4, "n_tokens": [3, 0, 4, 5],
        "doc_hash": pa.array([1, 2, 3, 4], pa.uint64()), "cluster": ["b", None, None, "a"],
    }  # fmt: skip
    path = str(tmp_path / "unit.parquet")
    pq.write_table(pa.table(columns), path, write_page_checksum=True)
    ((batch, _),) = RowReader(("web",), (), clusters=("a", "b")).batches(path)
    assert batch.cluster is not None
    assert batch.cluster.dtype == np.int32
    assert batch.cluster.tolist() == [1, -1, 0]
    with pytest.raises(InputError, match=r"clusters \['b'\] are not in the pool"):
        list(RowReader(("web",), (), clusters=("a",)).batches(path))
    ((plain, _),) = RowReader(("web",), ()).batches(path)
    assert plain.cluster is None
    del columns["cluster"]
    pq.write_table(pa.table(columns), path, write_page_checksum=True)
    with pytest.raises(InputError, match="have no clusters; run annotate again"):
        list(RowReader(("web",), (), clusters=("a",)).batches(path))
