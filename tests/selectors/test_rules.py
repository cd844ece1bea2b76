"""Each rule against its definition, written as a loop over documents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadmix.config_rules import MemberConfig
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import heavy_bins
from quadmix.core.score_depth import ScoreDepth
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT
from quadmix.errors import BudgetError, ConfigError, InputError
from quadmix.hashing import doc_hash, hash_words, uniform
from quadmix.selectors.base import DocBatch
from quadmix.selectors.baselines import weights_plan
from quadmix.selectors.cluster_quality import cluster_quality_plan_within
from quadmix.selectors.in_memory import select
from quadmix.selectors.rules import (
    CriteriaMix,
    Density,
    Gumbel,
    InDrawOrder,
    Threshold,
    TopK,
    rule_plan,
    rule_plan_within,
)
from quadmix.selectors.union import member_budgets, member_quotas, union_plan
from tests.selectors.contract_pools import SEED, Documents, annotate, copies_of, documents, make, rule


@pytest.fixture(scope="module")
def docs() -> Documents:
    return documents("plain")


def taken(folder: Path, docs: Documents, chosen: dict[str, object], budget: int) -> set[int]:
    annotated = annotate(folder, docs)
    copies = copies_of(docs, make(annotated, chosen, budget), annotated.summary.domains)
    return set(np.flatnonzero(copies).tolist())


def nearest_prefix(order: list[int], tokens: np.ndarray, budget: int) -> set[int]:
    sums = [0, *np.cumsum(tokens[order]).tolist()]
    return set(order[: min(range(len(sums)), key=lambda n: (abs(sums[n] - budget), n))])


def draws(docs: Documents) -> np.ndarray:
    return uniform(doc_hash(docs.ids), SEED, "select")


def test_gumbel_is_the_largest_tempered_score_plus_gumbel(docs: Documents, tmp_path: Path) -> None:
    u, score, n = draws(docs), docs.scores[:, 0], len(docs.ids) - 1
    key = [-(float(score[i]) / 0.5 - math.log(-math.log(u[i]))) for i in range(n)]
    wanted = nearest_prefix(sorted(range(n), key=key.__getitem__), docs.tokens, 4_000)
    found = taken(tmp_path, docs, rule("gumbel", criterion="clean", gumbel={"temperature": 0.5}), 4_000)
    assert found == wanted


def one_token_each(scores: list[float]) -> DocBatch:
    n = len(scores)
    column = np.array(scores, dtype=np.float32)[:, None]
    return DocBatch(hash_words(np.arange(n, dtype=np.uint64), 1), np.zeros(n, np.int32), np.ones(n, np.int64), column)


def test_gumbel_draws_without_replacement_in_proportion_to_the_exponentials() -> None:
    """The first of five documents in proportion to exp(score / T), the second among the rest."""
    scores, temperature, times = [0.0, 0.5, 1.0, 1.5, -1.0], 0.8, 20_000
    batch = one_token_each(scores * times)
    key = Gumbel("q", temperature).key(batch, uniform(batch.doc_hash, 0, "select"))
    order = np.argsort(key.reshape(times, 5), axis=1)
    pair = np.bincount(5 * order[:, 0] + order[:, 1], minlength=25).reshape(5, 5)
    weight = np.exp(np.array(scores) / temperature)
    share = weight / weight.sum()
    assert np.abs(pair.sum(axis=1) / times - share).max() < 5 * math.sqrt(0.25 / times)
    both = share[:, None] * weight[None, :] / (weight.sum() - weight)[:, None]
    np.fill_diagonal(both, 0.0)
    assert np.abs(pair / times - both).max() < 5 * math.sqrt(0.25 / times)


def test_density_keeps_in_proportion_to_one_over_density() -> None:
    """Below a fixed cut a document lies with probability c * density ** -exponent: the right way round."""
    densities = [0.5, 1.0, 2.0, 4.0, 8.0]
    times = 20_000
    many = one_token_each(densities * times)
    key = Density("d", "density", 1.0).key(many, uniform(many.doc_hash, 0, "select"))
    kept = (key <= math.log(0.4)).reshape(times, 5).sum(axis=0)
    assert np.abs(kept / times - 0.4 / np.array(densities)).max() < 5 * math.sqrt(0.25 / times)
    batch = one_token_each(densities)
    u = uniform(batch.doc_hash, 1, "select")
    logs = DocBatch(batch.doc_hash, batch.domain, batch.n_tokens, np.log(batch.scores))
    wanted = Density("d", "density", 0.5).key(batch, u)
    assert np.allclose(wanted, Density("d", "log_density", 0.5).key(logs, u), rtol=1e-6)
    flipped = DocBatch(batch.doc_hash, batch.domain, batch.n_tokens, -logs.scores)
    assert np.allclose(wanted, Density("d", "minus_log_density", 0.5).key(flipped, u), rtol=1e-6)


def test_densities_that_are_none_are_refused(docs: Documents, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rarity that are not above 0.*measures: log_density"):
        make(annotate(tmp_path, docs), rule("density", criterion="rarity"), 1_000)


def test_a_criteria_mix_is_the_union_of_top_sets_of_one_depth(docs: Documents, tmp_path: Path) -> None:
    n, budget = len(docs.ids) - 1, 3_000
    tokens, whole = docs.tokens[:n], int(docs.tokens[:n].sum())
    settings = {"criteria": ["clean", "useful"], "shares": [2.0, 1.0]}
    found = taken(tmp_path, docs, rule("criteria_mix", criteria_mix=settings), budget)
    depth = np.array(
        [[tokens[docs.scores[:n, c] >= docs.scores[i, c]].sum() / whole for c in (0, 1)] for i in range(n)]
    )
    reach = max(float(min(depth[i] / [2.0, 1.0])) for i in found)
    united = {i for i in range(n) if depth[i, 0] <= 2.0 * reach or depth[i, 1] <= reach}
    assert found == united
    assert any((depth[i] <= [2.0 * reach, reach]).all() for i in found)  # there is an overlap, counted once
    alone = taken(tmp_path / "a", docs, rule("criteria_mix", criteria_mix={**settings, "shares": [1e6, 1e-3]}), budget)
    assert alone == taken(tmp_path / "b", docs, rule("topk", criterion="clean"), budget)


def test_a_threshold_takes_what_passes_in_draw_order(docs: Documents, tmp_path: Path) -> None:
    n, u, score = len(docs.ids) - 1, draws(docs), docs.scores[:, 0].astype(np.float64)
    least = float(np.float32(0.7))
    passing = sorted((i for i in range(n) if score[i] >= least), key=u.__getitem__)
    held = int(docs.tokens[passing].sum())
    chosen = rule("threshold", criterion="clean", threshold={"least_score": 0.7})
    assert taken(tmp_path, docs, chosen, held // 2) == nearest_prefix(passing, docs.tokens, held // 2)
    assert taken(tmp_path / "all", docs, chosen, held) == set(passing)
    with pytest.raises(BudgetError, match=rf"asked {held + 1:,} tokens, the pool holds {held:,} in documents whose"):
        make(annotate(tmp_path / "short", docs), chosen, held + 1)
    with pytest.raises(BudgetError, match=r"domain 'code' has a quota of .* holds .* in documents whose clean"):
        make(annotate(tmp_path / "within", docs), {**chosen, "mixture": "natural"}, held)


def test_a_threshold_by_quantile_is_the_score_at_it(docs: Documents, tmp_path: Path) -> None:
    n = len(docs.ids) - 1
    tokens, score = docs.tokens[:n], docs.scores[:n, 0]
    for quantile in (0.1, 0.5, 0.93):
        chosen = rule("threshold", criterion="clean", threshold={"least_quantile": quantile})
        plan = make(annotate(tmp_path / str(quantile), docs), chosen, 100)
        least = plan.describe()["rule"]["least_score"]
        order = np.argsort(score)
        at = int(np.flatnonzero(np.cumsum(tokens[order]) >= quantile * tokens.sum())[0])
        # a class of scores is at most 2**-11 wide, relative
        assert score[order[at]] * (1 - np.sign(score[order[at]]) * 2.0**-11) <= least <= score[order[at]]
        assert tokens[score >= least].sum() >= (1 - quantile) * tokens.sum()
    assert float(np.float32(0.7)) < 0.7  # so a score of 0.7 passes only because the bound is a float32 too
    same = one_token_each([0.7])
    bound = make(annotate(tmp_path, docs), rule("threshold", criterion="clean", threshold={"least_score": 0.7}), 10)
    assert bound.rule.passes(same).all()  # type: ignore[attr-defined]


def test_clusters_give_by_size_and_draw_by_quality(docs: Documents, tmp_path: Path) -> None:
    n, u, budget = len(docs.ids) - 1, draws(docs), 5_000
    annotated = annotate(tmp_path, docs)
    plan = make(annotated, rule("cluster_quality", criterion="clean", cluster_quality={"temperature": 2.0}), budget)
    copies = copies_of(docs, plan, annotated.summary.domains)
    whole = int(docs.tokens[:n].sum())
    for name, quota in zip(plan.strata, plan.quotas.values(), strict=True):
        mine = [i for i in range(n) if docs.cluster[i] == name]
        assert abs(quota - budget * int(docs.tokens[mine].sum()) / whole) < 1
        order = sorted(mine, key=lambda i: -(float(docs.scores[i, 0]) / 2.0 - math.log(-math.log(u[i]))))
        count = int(copies[mine].sum())
        assert set(np.flatnonzero(copies)) & set(mine) == set(order[:count])


def test_members_of_a_union_choose_one_after_the_other() -> None:
    rng = np.random.default_rng(3)
    n = 200
    batch = DocBatch(
        hash_words(np.arange(n, dtype=np.uint64), 5), np.zeros(n, np.int32), rng.integers(1, 40, n),
        rng.normal(size=(n, 2)).astype(np.float32),
    )  # fmt: skip
    u, whole = uniform(batch.doc_hash, 9, "select"), int(batch.n_tokens.sum())
    shares = {"b_useful": 1.0, "a_clean": 2.0, "c_rest": 1.0}
    rules = {"a_clean": TopK("clean"), "b_useful": TopK("useful"), "c_rest": InDrawOrder()}
    budget = whole // 2
    asked = {"a_clean": budget / 2, "b_useful": budget / 4, "c_rest": budget / 4}
    plan = union_plan(
        {name: (shares[name], rule_plan(one, int(asked[name]), whole)) for name, one in rules.items()},
        budget,
        9,
        "select",
    )
    copies = select(plan, batch, u)
    rest = uniform(batch.doc_hash, 9, "select/c_rest")
    keys = {"a_clean": -batch.scores[:, 0], "b_useful": -batch.scores[:, 1], "c_rest": rest}
    left, missing = set(range(n)), 0
    for name in sorted(rules):
        order = sorted(left, key=lambda i, name=name: (keys[name][i], int(batch.doc_hash[i])))  # type: ignore[misc]
        quota = int(asked[name])
        sums = [0, *np.cumsum(batch.n_tokens[order]).tolist()]
        least = next(k for k, tokens in enumerate(sums) if tokens >= quota)
        prefix = min((least - 1, least), key=lambda k: (abs(sums[k] - quota - missing), k))
        missing += quota - sums[prefix]
        left -= set(order[:prefix])
    assert set(np.flatnonzero(copies)) == set(range(n)) - left
    both = set(np.argsort(-batch.scores[:, 0])[:40].tolist()) & set(np.argsort(-batch.scores[:, 1])[:40].tolist())
    assert both <= set(np.flatnonzero(copies))


@pytest.mark.parametrize(
    ("first", "chance"),
    [
        (Gumbel("clean", 0.5), "random"),
        (Density("clean", "log_density", 1.0), "random"),
        (Threshold("clean", 0.0), "random"),
        (InDrawOrder(), "tempered"),
    ],
)
def test_a_member_draws_afresh_from_what_is_left(first: Any, chance: str) -> None:
    """What an earlier member left has no fair draws: by the same ones, the next member would prefer documents that the
    first did not want although its draw was small. One token each, so means of scores tell."""
    n = 40_000
    scores = np.random.default_rng(8).normal(size=(n, 1)).astype(np.float32)
    batch = DocBatch(hash_words(np.arange(n, dtype=np.uint64), 5), np.zeros(n, np.int32), np.ones(n, np.int64), scores)
    second = InDrawOrder() if chance == "random" else Gumbel("clean", 1.0)
    budget = n // 5
    plan = union_plan(
        {"a": (1.0, rule_plan(first, budget // 2, n)), "b": (1.0, rule_plan(second, budget // 2, n))},
        budget, 9, "select",
    )  # fmt: skip
    u = [uniform(batch.doc_hash, 9, purpose) for purpose in ("select", "select/a")]
    chosen = select(plan, batch, u[0]) > 0
    of_a = select(rule_plan(first, budget // 2, n), batch, u[1]) > 0
    assert chosen.sum() == budget
    assert (chosen | of_a).sum() == budget  # the first member takes what it would take alone
    of_b, left = np.flatnonzero(chosen & ~of_a), np.flatnonzero(~of_a)
    score = scores[:, 0].astype(np.float64)
    if chance == "random":
        wanted, spread = score[left].mean(), score[left].std()
    else:  # the best of perturbed scores, with fresh noise
        fresh = score[left] + np.random.default_rng(9).gumbel(size=left.size)
        best = score[left][np.argsort(-fresh)[: budget // 2]]
        wanted, spread = best.mean(), best.std() * np.sqrt(2.0)
    assert abs(score[of_b].mean() - wanted) < 4.5 * spread / np.sqrt(budget // 2)


def test_a_member_that_is_left_too_little_is_refused(docs: Documents, tmp_path: Path) -> None:
    n = len(docs.ids) - 1
    score = docs.scores[:n, 0]
    held = int(docs.tokens[:n][score >= 0.5].sum())
    members = {
        "a": {"share": 1.0, "selector": "topk", "criterion": "clean"},
        "b": {"share": 1.0, "selector": "threshold", "criterion": "clean", "threshold": {"least_score": 0.5}},
    }
    annotated = annotate(tmp_path, docs)
    plan = make(annotated, rule("union", union=members), 2 * int(0.8 * held))
    with pytest.raises(BudgetError, match=r"select\.union\.b: its share is .* leave .* rename it"):
        copies_of(docs, plan, annotated.summary.domains)


def test_domain_weights_give_domains_their_tokens() -> None:
    tokens = np.array([1_000, 500, 10])
    plan = weights_plan({"a": 3, "b": 1}, ("a", "b", "c"), tokens, 2_000, 2)
    assert plan.stratum_quotas == (1_500, 500, 0)
    with pytest.raises(BudgetError, match=r"more than 2 copies.*a 2,250 of 1,000"):
        weights_plan({"a": 3, "b": 1}, ("a", "b", "c"), tokens, 3_000, 2)
    with pytest.raises(ConfigError, match=r"found d, but the pool has no documents of that name; its domains are a, b"):
        weights_plan({"d": 3}, ("a", "b", "c"), tokens, 100, 2)
    with pytest.raises(ConfigError, match="no weight above 0"):
        weights_plan({"d": 0}, ("a", "b", "c"), tokens, 100, 2)


def test_settings_that_do_nothing_are_refused() -> None:
    for wrong, told in (
        ({"selector": "topk"}, "needs `criterion`"),
        ({"selector": "random", "criterion": "q"}, "does not read it"),
        ({"selector": "gumbel", "criterion": "q", "density": {}}, "section `density`"),
        ({"selector": "threshold", "criterion": "q"}, "needs the section `threshold`"),
        ({"selector": "criteria_mix", "criteria_mix": {"criteria": ["a", "b"], "shares": [1.0]}}, "1 shares for 2"),
        ({"selector": "threshold", "criterion": "q", "threshold": {}}, "either `least_score` or"),
        ({"selector": "union"}, "selector"),
        ({"selector": "mixture"}, "selector"),
    ):
        with pytest.raises(ValueError, match=told):
            MemberConfig.model_validate({"share": 1.0, **wrong})
    assert Threshold("q", 0.5).settings() == {"least_score": 0.5, "least_quantile": None}


def test_a_union_keeps_the_quotas_of_domains_where_a_member_runs_dry() -> None:
    """In both domains the best documents are one small cluster, which the first member takes whole."""
    size = 200
    index = np.arange(2 * size)
    cluster = (index % 10 == 0).astype(np.int32)
    domain = (index >= size).astype(np.int32)
    batch = DocBatch(
        (index + 1).astype(np.uint64) * np.uint64(2**40), domain, np.full(2 * size, 10), 
        np.where(cluster == 1, 9.0, 0.0).astype(np.float32)[:, None] + (index[:, None] % 7).astype(np.float32) / 100,
        cluster,
    )  # fmt: skip
    tokens = np.array([[1800, 200], [1800, 200]])
    wanted = (0, 1800)
    parts = member_quotas([1.0, 1.0], wanted)
    plan = union_plan(
        {
            "a_best": (1.0, rule_plan_within(TopK("q"), ("A", "B"), parts[0].tolist(), tokens.sum(axis=1))),
            "b_clusters": (
                1.0,
                cluster_quality_plan_within(Gumbel("q", 1.0), ("most", "rare"), ("A", "B"), parts[1].tolist(), tokens),
            ),
        },
        1800, 3, "select", tuple(zip(("A", "B"), wanted, strict=True)),
    )  # fmt: skip
    copies = select(plan, batch, uniform(batch.doc_hash, 3, "select"))
    assert [int(10 * copies[domain == index].sum()) for index in (0, 1)] == [0, 1800]


def test_a_union_may_take_everything() -> None:
    """Whatever half a document the first member takes too much, the second is not refused for it."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(5, 500, 60)
        batch = DocBatch(
            rng.integers(1, 2**62, 60).astype(np.uint64), np.zeros(60, dtype=np.int32), tokens,
            rng.normal(size=(60, 1)).astype(np.float32),
        )  # fmt: skip
        budgets = member_budgets([1.0, 1.0], int(tokens.sum()))
        members = {
            name: (1.0, rule_plan(rule, int(budget), int(tokens.sum())))
            for (name, rule), budget in zip((("a", TopK("q")), ("b", InDrawOrder())), budgets, strict=True)
        }
        plan = union_plan(members, int(tokens.sum()), seed, "select")
        copies = select(plan, batch, uniform(batch.doc_hash, seed, "select"))
        assert 2 * int(tokens[copies == 0].sum()) <= int(tokens.max())


def test_a_rating_has_its_part_in_a_criteria_mix(tmp_path: Path) -> None:
    """Half of the pool has the best rating: its documents come by their draws, beside the best of the other score."""
    rng = np.random.default_rng(2)
    n = 1_000
    scores = np.stack([np.arange(n) % 2, rng.normal(size=n)], axis=1).astype(np.float32)
    hashes = hash_words(np.arange(n, dtype=np.uint64), 5)
    tokens = np.full(n, 10)
    depths = []
    for column in np.ascontiguousarray(scores.T):
        sketch = TokenHistogram.of(order_key(column) >> COARSE_SHIFT, tokens)
        depths.append(ScoreDepth.of(sketch, FineHistogram.of(column, tokens, heavy_bins(sketch))))
    batch = DocBatch(hashes, np.zeros(n, np.int32), tokens, scores)
    plan = rule_plan(CriteriaMix(("rating", "score"), (1.0, 1.0), tuple(depths)), 2_000, 10_000)
    found = select(plan, batch, uniform(hashes, 9, "select")).astype(bool)
    best = set(np.argsort(-scores[:, 1])[:100].tolist())
    assert best <= set(np.flatnonzero(found))
    assert 0.6 < scores[found, 0].mean() < 0.9  # all of one half of it, half of the other; .5 without the rating
