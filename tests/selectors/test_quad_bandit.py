"""Ask and tell: the rules against a plain loop, exact budgets, replays, stops, and refusals with numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planted_arms import OneByOne, Planted, plant, quotas
from quadmix.errors import BudgetError, InputError, VerificationError
from quadmix.search.journal import Journal
from quadmix.selectors.quad import Bandit, BanditSettings, Round
from quadmix.selectors.quad_arms import Arms, nearest
from quadmix.selectors.quad_baselines import cluster_uniform, random_tokens, top_clusters
from quadmix.selectors.quad_outcome import Outcome, StopReason, filled


def outcome_of(planted: Planted, **options: Any) -> Outcome:
    return planted.told(Bandit(planted.arms, planted.settings(**options))).outcome()


def limited(planted: Planted, pullable: np.ndarray) -> Planted:
    return replace(planted, arms=replace(planted.arms, pullable=pullable.astype(np.int64)))


# ------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("shape", ["spread", "one good", "all bad"])
def test_a_round_of_k_pulls_is_k_pulls_whose_results_come_late(shape: Any, k: int) -> None:
    planted = plant(shape, 1, 15)
    options = planted.settings(arms_per_round=k)
    slow = OneByOne(planted, options, delay=k)
    wanted = slow.run()
    bandit = planted.told(Bandit(planted.arms, options))
    found = bandit.outcome()
    pulls = [(p.cluster, p.first, p.n) for one in found.rounds for p in one.pulls]
    assert pulls == [(planted.arms.names[arm], first, count) for arm, first, count in slow.pulled]
    assert quotas(found).tolist() == wanted.tolist()
    assert [c.granted for c in found.clusters] == slow.granted
    assert all(len(one.pulls) <= k for one in found.rounds[1:])


def test_the_same_rules_hold_where_a_store_has_few_documents_of_each_cluster() -> None:
    planted = plant("spread", 2, 15)
    planted = limited(planted, np.minimum(planted.arms.documents, 20))
    options = planted.settings(share=0.3)
    slow = OneByOne(planted, options, delay=8)
    assert quotas(outcome_of(planted, share=0.3)).tolist() == slow.run().tolist()


def test_the_pilot_pulls_every_arm_once_and_grants_nothing() -> None:
    planted = plant("spread", 3)
    bandit = Bandit(planted.arms, planted.settings())
    pilot = bandit.ask()
    assert pilot is not None
    assert [(p.arm, p.first, p.count) for p in pilot.pulls] == [(arm, 0, 8) for arm in range(30)]
    bandit.tell(0, planted.answers(pilot))
    assert bandit.granted_tokens == 0


def test_no_document_is_scored_twice_and_pulls_follow_one_another() -> None:
    planted = plant("one good", 4)
    following = dict.fromkeys(planted.arms.names, 0)
    for one in outcome_of(planted).rounds:
        for pull in one.pulls:
            assert pull.first == following[pull.cluster]
            following[pull.cluster] += pull.n


def test_more_noise_explores_more_and_without_exploration_it_is_greedy() -> None:
    """alpha = c * noise / sqrt(m), noise from the pilot."""
    planted = plant("spread", 5)
    wide = Planted(planted.arms, [3.0 * values for values in planted.benefits])
    small, large = outcome_of(planted), outcome_of(wide)
    assert small.exploration == pytest.approx(1.0 / np.sqrt(8), rel=0.15)
    assert large.exploration == pytest.approx(3.0 * small.exploration)  # type: ignore[operator]
    halved = outcome_of(planted, docs_per_pull=2, exploration=0.5)
    assert halved.exploration == pytest.approx(0.5 / np.sqrt(2), rel=0.3)
    assert outcome_of(planted, exploration=0.0).exploration == 0.0
    pulled = [sum(len({p.cluster for p in one.pulls}) for one in o.rounds[1:]) / len(o.rounds[1:]) for o in (
        outcome_of(planted, exploration=0.0), outcome_of(planted, exploration=3.0))]  # fmt: skip
    assert pulled[0] < pulled[1]


def test_benefits_in_other_units_change_nothing_but_units() -> None:
    """Multiplied by a power of two, every comparison comes out the same."""
    planted = plant("heavy tails", 6)
    scaled = Planted(planted.arms, [values * 2.0**-30 for values in planted.benefits])
    assert quotas(outcome_of(planted)).tolist() == quotas(outcome_of(scaled)).tolist()


# ------------------------------------------------------------------------------------------- which order, which names


def test_clusters_given_in_another_order_give_the_same_outcome_by_name() -> None:
    planted = plant("smooth", 7, 20)
    arms = planted.arms
    turn = np.random.default_rng(0).permutation(20)
    assert arms.centroids is not None
    again = Arms.of(
        [arms.names[i] for i in turn], arms.codes[turn], arms.documents[turn], arms.tokens[turn], arms.pullable[turn],
        arms.centroids[turn],
    )  # fmt: skip
    assert outcome_of(replace(planted, arms=again)) == outcome_of(planted)


def test_nearest_neighbours_are_those_of_a_sorted_distance_matrix() -> None:
    points = np.random.default_rng(1).normal(size=(700, 5))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert np.array_equal(nearest(points, 4), np.argsort(distance, axis=1, kind="stable")[:, :4])


def test_a_covering_order_begins_with_the_largest_and_visits_every_group_early() -> None:
    rng = np.random.default_rng(2)
    points = np.repeat(np.eye(4) * 10, 5, axis=0) + 0.1 * rng.normal(size=(20, 4))
    tokens = rng.integers(100, 200, 20)
    tokens[7] = 1000
    arms = Arms.of([f"c{i:02d}" for i in range(20)], np.arange(20), np.ones(20), tokens, np.ones(20), points)
    order = arms.covering_order()
    assert order[0] == 7
    assert sorted(order[:4] // 5) == [0, 1, 2, 3]
    assert sorted(order) == list(range(20))
    assert replace(arms, centroids=None).covering_order().tolist() == sorted(range(20), key=lambda i: -tokens[i])


# ------------------------------------------------------------------------------------------- budgets


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 12), st.floats(0.001, 1.0), st.floats(0.01, 1.0), st.integers(1, 9),
    st.sampled_from(["spread", "tiny", "all bad", "all positive"]), st.floats(0.0, 0.99), st.floats(0.01, 1.0),
)  # fmt: skip
def test_budgets_are_met_to_the_token(
    seed: int, size: int, share: float, scored: float, k: int, shape: Any, quantile: float, grant: float
) -> None:
    planted = plant(shape, seed, size)
    arms = planted.arms
    stored = np.random.default_rng(seed).integers(0, arms.documents + 1)
    stored[seed % size] = max(stored[seed % size], 1)
    planted = limited(planted, stored)
    options = BanditSettings(
        max(int(arms.tokens.sum() * share), 1), max(int(arms.documents.sum() * scored), 1), 4, k, grant,
        threshold_quantile=quantile,
    )  # fmt: skip
    found = planted.told(Bandit(planted.arms, options)).outcome()
    for cluster, most in zip(found.clusters, stored, strict=True):
        assert cluster.granted >= 0
        assert cluster.fill >= 0
        assert cluster.granted + cluster.fill <= cluster.tokens
        assert cluster.scored <= most
        assert cluster.pulls <= cluster.scored
    assert found.granted_tokens + found.fill_tokens == options.budget
    assert found.scored <= options.max_scored
    assert (found.fill_tokens == 0) == (found.stop is StopReason.BUDGET_MET)
    assert sum(sum(one.granted.values()) for one in found.rounds) == found.granted_tokens == found.rounds[-1].filled
    assert Outcome.from_json(json.loads(json.dumps(found.to_json()))) == found
    for baseline in (cluster_uniform(arms, options.budget), random_tokens(arms, options.budget), top_clusters(found)):
        assert quotas(baseline).sum() == options.budget
        assert (quotas(baseline) <= arms.tokens).all()
        assert Outcome.from_json(baseline.to_json()) == baseline


def test_a_grant_is_a_twentieth_of_what_an_arm_has_left_and_the_last_one_what_is_missing() -> None:
    planted = plant("all positive", 8)
    found = outcome_of(planted, share=0.01)
    assert found.stop is StopReason.BUDGET_MET
    given: dict[str, int] = {}
    sizes = dict(zip(planted.arms.names, planted.arms.tokens.tolist(), strict=True))
    for one in found.rounds[1:-1]:
        for name, tokens in one.granted.items():
            left, times = sizes[name] - given.get(name, 0), sum(p.cluster == name for p in one.pulls)
            wanted = 0
            for _ in range(times):
                wanted += -(-(left - wanted) // 20)
            assert tokens <= wanted
            assert tokens % 1 == 0
            given[name] = given.get(name, 0) + tokens
    assert found.rounds[-1].filled == found.budget


def test_the_whole_pool_as_budget_takes_everything() -> None:
    planted = plant("spread", 9, 10)
    found = outcome_of(planted, share=1.0)
    assert quotas(found).tolist() == planted.arms.tokens.tolist()


def test_a_budget_beyond_the_clusters_is_refused_with_both_numbers() -> None:
    arms = plant("spread", 10).arms
    total = int(arms.tokens.sum())
    for make in (
        lambda: Bandit(arms, BanditSettings(total + 1, 100)),
        lambda: cluster_uniform(arms, total + 1),
        lambda: random_tokens(arms, total + 1),
    ):
        with pytest.raises(BudgetError, match=rf"asked {total + 1:,} tokens, the 30 clusters hold {total:,}"):
            make()


# ------------------------------------------------------------------------------------------- keeping, filling, stopping


def test_an_arm_is_granted_only_when_its_mean_less_its_error_is_above_the_threshold() -> None:
    planted = plant("spread", 11)
    found = outcome_of(planted)
    assert found.threshold is not None
    assert found.threshold > 0
    for cluster in found.clusters:
        assert cluster.mean is not None
        assert cluster.error is not None
        assert cluster.bound == cluster.mean - cluster.error
        assert cluster.kept == (cluster.bound > found.threshold)


def test_an_arm_above_the_threshold_by_less_than_an_error_is_pulled_and_not_granted() -> None:
    planted = plant("equal", 11)
    found = outcome_of(planted, threshold_quantile=0.0, scored=0.1)
    close = [c for c in found.clusters if c.pulls > 1 and not c.granted]
    assert close
    assert all(c.mean > 0 for c in close)  # type: ignore[operator]


def test_the_threshold_leaves_clusters_for_twice_the_budget_above_it() -> None:
    planted = plant("spread", 12)
    found = outcome_of(planted, exploration=0.0)
    assert outcome_of(planted, threshold_quantile=0.0).threshold == 0.0
    bandit = Bandit(planted.arms, planted.settings())
    pilot = bandit.ask()
    assert pilot is not None
    bandit.tell(0, planted.answers(pilot))
    means = bandit._beliefs.mean  # type: ignore[union-attr]
    assert found.threshold is not None
    above = means > found.threshold
    worst = int(np.where(above, means, np.inf).argmin())
    held = int(planted.arms.tokens[above].sum())
    assert held - planted.arms.tokens[worst] < 2 * found.budget <= held
    assert found.threshold == (means[worst] + means[~above].max()) / 2


def few(sizes: list[int], means: list[float], noise: float, seed: int) -> Planted:
    """Clusters of these documents, ten tokens each."""
    rng = np.random.default_rng(seed)
    documents = np.array(sizes)
    names = [f"cluster_{i}" for i in range(len(sizes))]
    arms = Arms.of(names, np.arange(len(sizes)), documents, 10 * documents, documents)
    return Planted(arms, [m + noise * rng.normal(size=n) for m, n in zip(means, sizes, strict=True)])


@pytest.mark.parametrize(
    ("sizes", "means", "noise"),
    [
        ([2_000], [1.0], 1.0),
        ([1_700, 100, 100, 100], [1.0, -1.0, -1.2, -0.8], 1.0),
        ([1_700, 100, 100, 100], [1.0, 0.4, 0.1, 0.2], 0.5),
        ([500, 500, 500], [0.5, 0.5, 0.5], 0.0),
    ],
    ids=["one cluster", "a giant among bad ones", "a giant among good ones", "equal ones"],
)
def test_a_cluster_across_the_quantile_need_not_beat_its_own_pilot(
    sizes: list[int], means: list[float], noise: float
) -> None:
    for seed in range(6):
        found = outcome_of(few(sizes, means, noise, seed), share=0.3, scored=0.5)
        assert found.stop is StopReason.BUDGET_MET
        assert found.fill_tokens == 0


def test_when_all_clusters_are_bad_nothing_is_kept_and_the_least_bad_fill_the_budget() -> None:
    planted = plant("all bad", 13)
    found = outcome_of(planted, scored=1.0)
    assert found.stop is StopReason.BELOW_THRESHOLD
    assert found.threshold == 0.0
    assert found.granted_tokens == 0
    assert not any(cluster.kept for cluster in found.clusters)
    by_mean = sorted(found.clusters, key=lambda c: -c.mean)  # type: ignore[operator]
    partly = [0 < c.fill < c.tokens for c in by_mean]
    full = [c.fill == c.tokens for c in by_mean]
    assert sum(partly) <= 1
    assert full == sorted(full, reverse=True)
    assert "100.0 % of the budget) are fill" in found.why


def test_fill_among_clusters_believed_equal_is_shared_by_size_and_noise_is_owned_up_to() -> None:
    found = outcome_of(few([400, 200, 100], [-1.0, -1.0, -1.0], 0.0, 0), share=0.1)
    assert [cluster.fill for cluster in found.clusters] == [400, 200, 100]
    assert "differ by no more than noise" in found.why
    renamed = few([100, 400, 200], [-1.0, -1.0, -1.0], 0.0, 0)
    assert [cluster.fill for cluster in outcome_of(renamed, share=0.1).clusters] == [100, 400, 200]
    assert "no more than noise" not in outcome_of(plant("one good", 3)).why
    assert "no more than noise" not in outcome_of(few([400], [1.0], 1.0, 0)).why


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.data())
def test_fill_is_exact_and_within_what_clusters_hold(room: list[int], data: st.DataObject) -> None:
    size = len(room)
    kept = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    mean = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size))
    missing = data.draw(st.integers(0, sum(room)))
    found = filled(np.array(room), np.array(kept), np.array(mean), missing)
    assert found.sum() == missing
    assert (found >= 0).all()
    for one in range(size):
        assert found[one] <= room[one]
        for other in range(size):
            if (kept[one], mean[one]) > (kept[other], mean[other]) and found[other]:
                assert found[one] == room[one]
            if (kept[one], mean[one]) == (kept[other], mean[other]):
                assert abs(found[one] * room[other] - found[other] * room[one]) <= room[one] + room[other]


def test_fill_goes_to_kept_clusters_first() -> None:
    found = outcome_of(plant("all positive", 14), share=0.3, scored=0.16)
    assert found.stop is StopReason.SCORING_LIMIT
    assert found.fill_tokens
    kept = [c for c in found.clusters if c.kept]
    others = [c for c in found.clusters if not c.kept]
    assert kept
    assert any(c.fill for c in others)
    assert all(c.granted + c.fill == c.tokens for c in kept)


def test_a_good_cluster_of_three_documents_is_taken_though_nothing_is_left_to_score_there() -> None:
    planted = plant("spread", 15, 20)
    planted.benefits[4] = np.array([5.0, 5.1, 4.9])
    documents, tokens = planted.arms.documents.copy(), planted.arms.tokens.copy()
    documents[4], tokens[4] = 3, 600
    planted = replace(planted, arms=replace(planted.arms, documents=documents, tokens=tokens, pullable=documents))
    found = outcome_of(planted)
    assert found.stop is StopReason.BUDGET_MET
    assert (found.clusters[4].pulls, found.clusters[4].error) == (1, 0.0)
    assert found.clusters[4].granted > 300


def test_a_store_of_few_documents_does_not_cap_what_the_best_cluster_gives() -> None:
    planted = plant("one good", 16, 20)
    planted = limited(planted, np.minimum(planted.arms.documents, 32))
    best = int(planted.true.argmax())
    found = outcome_of(planted, share=0.05, scored=1.0, threshold_quantile=0.0)
    assert found.clusters[best].scored == 32
    assert quotas(found)[best] > 0.9 * planted.arms.tokens[best]


def test_arms_end_when_everything_was_scored_and_granted() -> None:
    planted = plant("spread", 17, 6)
    found = outcome_of(planted, share=1.0, scored=1.0, exploration=50.0)
    assert found.stop is StopReason.ARMS_EXHAUSTED
    assert found.scored == planted.arms.documents.sum()
    for cluster in found.clusters:
        assert cluster.error == 0.0
        assert cluster.kept == (cluster.granted == cluster.tokens)


def test_every_stop_has_words() -> None:
    for reason in StopReason:
        assert len(reason.words) > 20
    found = outcome_of(plant("spread", 18), scored=0.1)
    assert found.stop is StopReason.SCORING_LIMIT
    assert found.why.startswith(f"as many documents were scored as the limit allows, after {len(found.rounds)} rounds")
    assert found.scored == int(plant("spread", 18).arms.documents.sum() * 0.1)
    assert found.scored_fraction == pytest.approx(0.1, abs=0.001)


# ------------------------------------------------------------------------------------------- more arms than pulls


@pytest.mark.parametrize("centroids", [True, False])
def test_with_fewer_documents_to_score_than_arms_half_are_spent_on_arms_that_cover_the_rest(centroids: bool) -> None:
    planted = plant("smooth", 19, 120, centroids)
    options = BanditSettings(int(planted.arms.tokens.sum() // 10), max_scored=60, docs_per_pull=8)
    bandit = Bandit(planted.arms, options)
    pilot = bandit.ask()
    assert pilot is not None
    assert [pull.count for pull in pilot.pulls] == [1] * 30
    assert [pull.arm for pull in pilot.pulls] == planted.arms.covering_order()[:30].tolist()
    found = planted.told(bandit).outcome()
    assert found.stop is StopReason.SCORING_LIMIT
    never = [cluster for cluster in found.clusters if not cluster.pulls]
    assert len(never) > 60
    assert all(c.mean is not None and c.raw_mean is None and c.bound is None and not c.kept for c in never)
    if not centroids:
        assert len({cluster.mean for cluster in never}) == 1


def test_a_limit_below_one_pull_each_shortens_the_pilots_pulls() -> None:
    planted = plant("spread", 20)
    pilot = Bandit(planted.arms, BanditSettings(1000, max_scored=200, docs_per_pull=8)).ask()
    assert pilot is not None
    assert [pull.count for pull in pilot.pulls] == [3] * 30


def test_arms_never_pulled_are_filled_by_their_neighbours_estimate() -> None:
    """A tight limit on smooth arms still finds better clusters than chance does."""
    gains = []
    for seed in range(10):
        planted = plant("smooth", 100 + seed, 60)
        options = BanditSettings(int(planted.arms.tokens.sum() // 10), max_scored=60, docs_per_pull=4)
        found = planted.told(Bandit(planted.arms, options)).outcome()
        chance = quotas(random_tokens(planted.arms, options.budget))
        gains.append(planted.regret(chance) - planted.regret(quotas(found)))
    assert np.mean(gains) - 2.26 * np.std(gains, ddof=1) / np.sqrt(10) > 0.1


# ------------------------------------------------------------------------------------------- replays and refusals


def journaled(planted: Planted, options: BanditSettings, path: Path) -> Outcome:
    journal = Journal(path)
    bandit = Bandit.replay(planted.arms, options, journal.entries)
    while (asked := bandit.ask()) is not None:
        journal.append(asked.key, bandit.tell(asked.number, planted.answers(asked)))
    return bandit.outcome()


def test_a_journal_replays_to_the_same_outcome_from_wherever_it_was_cut(tmp_path: Path) -> None:
    planted = plant("heavy tails", 21, 12)
    options = planted.settings(arms_per_round=4)
    whole = tmp_path / "whole.jsonl"
    wanted = journaled(planted, options, whole)
    raw = whole.read_bytes()
    assert Bandit.replay(planted.arms, options, Journal(whole).entries).outcome() == wanted
    lines = raw.splitlines(keepends=True)
    assert len(lines) == len(wanted.rounds) > 5
    for cut in (0, 1, len(lines[0]), len(lines[0]) + 7, len(raw) // 2, len(raw) - 1):
        part = tmp_path / f"cut-{cut}.jsonl"
        part.write_bytes(raw[:cut])
        assert journaled(planted, options, part) == wanted
        assert part.read_bytes() == raw
    # a line damaged in the middle: its round and all after it are asked again
    (tmp_path / "hole.jsonl").write_bytes(b"".join([*lines[:3], b"{}\n", *lines[4:]]))
    assert journaled(planted, options, tmp_path / "hole.jsonl") == wanted


def test_a_journal_of_other_settings_is_refused(tmp_path: Path) -> None:
    planted = plant("spread", 22, 12)
    journaled(planted, planted.settings(), tmp_path / "j.jsonl")
    entries = Journal(tmp_path / "j.jsonl").entries
    with pytest.raises(VerificationError, match=r"round-000000 .*first difference .*belongs to other"):
        Bandit.replay(planted.arms, planted.settings(docs_per_pull=4), entries)
    with pytest.raises(VerificationError, match="cannot be read"):
        Bandit.replay(planted.arms, planted.settings(), {"round-000000": {"pulls": [["a", 1]]}})


def test_asking_again_gives_the_open_round() -> None:
    planted = plant("spread", 23)
    bandit = Bandit(planted.arms, planted.settings())
    first = bandit.ask()
    assert isinstance(first, Round)
    assert bandit.ask() is first
    with pytest.raises(ValueError, match="has not ended"):
        bandit.outcome()
    with pytest.raises(ValueError, match="told round 1, round 0 is open"):
        bandit.tell(1, planted.answers(first))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        bandit.tell(0, np.zeros(3))
    bandit.tell(0, planted.answers(first))
    with pytest.raises(ValueError, match="no round is open"):
        bandit.tell(0, planted.answers(first))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_a_benefit_that_is_no_number_is_refused_by_name_and_the_round_stays_open(bad: float) -> None:
    planted = plant("spread", 24)
    bandit = Bandit(planted.arms, planted.settings())
    asked = bandit.ask()
    assert asked is not None
    benefits = planted.answers(asked)
    spoilt = benefits.copy()
    spoilt[8 * 5 + 2] = bad
    with pytest.raises(InputError, match=r"document 2 \(in hash order\) of cluster 'cluster_005', round 0"):
        bandit.tell(0, spoilt)
    assert bandit.ask() is asked
    bandit.tell(0, benefits)
    assert planted.told(bandit).outcome() == outcome_of(planted)


def test_clusters_that_cannot_be_are_refused_by_name() -> None:
    one = np.ones(2, dtype=np.int64)
    codes = np.arange(2)
    with pytest.raises(InputError, match="names used twice: \\['a'\\]"):
        Arms.of(["a", "a"], codes, one, one, one)
    with pytest.raises(InputError, match="1 codes"):
        Arms.of(["a", "b"], codes * 0, one, one, one)
    for spoilt in (
        {"documents": -one},
        {"tokens": 0 * one},
        {"pullable": 2 * one},
        {"centroids": np.full((2, 2), np.nan)},
    ):
        columns = {"documents": one, "tokens": one, "pullable": one, **spoilt}
        with pytest.raises(InputError, match="cluster 'a' has"):
            Arms.of(["a", "b"], codes, **columns)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="none of the 2 clusters has a document that can be scored"):
        Bandit(Arms.of(["a", "b"], codes, one, one, 0 * one), BanditSettings(1, 1))


@pytest.mark.parametrize(
    "option",
    [
        {"budget": 0}, {"max_scored": 0}, {"docs_per_pull": 0}, {"arms_per_round": 0}, {"grant_share": 0.0},
        {"grant_share": 1.5}, {"exploration": -1.0}, {"exploration": np.nan}, {"threshold_quantile": 1.0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        BanditSettings(**{"budget": 1, "max_scored": 1, **option})


def test_an_outcome_that_was_changed_is_refused() -> None:
    raw = outcome_of(plant("spread", 25, 8)).to_json()
    with pytest.raises(VerificationError, match="cannot be read"):
        Outcome.from_json({**raw, "stop": "tired"})
    with pytest.raises(VerificationError, match="cannot be read"):
        Outcome.from_json({**raw, "more": 1})
