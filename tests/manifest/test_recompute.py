"""The verifier's own arithmetic against literal loops, and against the selection's: two ways to the same numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quadmix.core.budget import Bracket, Cut, whole_shares
from quadmix.core.portable import sigmoid
from quadmix.core.quality import bin_bits, integer_weights
from quadmix.core.sampling import interval_mean
from quadmix.core.sketch import order_key
from quadmix.hashing import doc_hash, uniform
from quadmix.manifest import recompute
from quadmix.manifest.recompute import Curve, Neighbourhood

curves = st.builds(
    Curve,
    steepness=st.floats(0, 1000),
    cutoff=st.floats(0, 1),
    exponent=st.floats(0, 2),
    floor=st.floats(0, 0.5),
    scale=st.floats(0.1, 4),
    cap=st.sampled_from([1.0, 2.0, 4.0, 100.0]),
)


@given(curves, st.floats(0, 1), st.floats(1e-6, 1))
@settings(max_examples=40, deadline=None)
def test_the_mean_of_a_curve_is_the_mean_of_its_values(curve: Curve, low: float, width: float) -> None:
    high = min(low + width, 1.0)
    if high - low < 1e-7:
        return
    n = 200_000
    ranks = low + (np.arange(n) + 0.5) * (high - low) / n
    t = curve.steepness * (curve.cutoff - ranks)
    inside = (2 / (1 + np.exp(-np.clip(t, 0, None)))) ** curve.exponent
    values = np.minimum(curve.scale * (np.where(ranks <= curve.cutoff, inside, 0.0) + curve.floor), curve.cap)
    # the jump at the cutoff falls between two of the n ranks
    jump = curve.scale * 2**curve.exponent / n
    assert curve.mean(np.array([low]), np.array([high]))[0] == pytest.approx(values.mean(), abs=jump + 1e-9)


# a steepness so small that its products with ranks have few digits
@example(Curve(2.3e-313, 1.0, 0.5, 0.0, 1.0, 2.0), 0.0, 0.0625)
@given(curves, st.floats(0, 0.999), st.floats(1e-9, 1))
@settings(max_examples=150, deadline=None)
def test_means_agree_with_the_selection_to_1e_10(curve: Curve, low: float, width: float) -> None:
    high = min(low + width, 1.0)
    shape = (curve.steepness, curve.cutoff, curve.exponent, curve.floor)
    arrays = (np.array([value]) for value in (low, high, *shape))
    theirs = interval_mean(*arrays, cap=curve.cap, scale=curve.scale)[0]
    ours = curve.mean(np.array([low]), np.array([high]))[0]
    assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-300)


def test_the_prescribed_logistic_has_the_bits_of_the_selection_and_the_value_of_math() -> None:
    x = np.concatenate([np.linspace(-800, 800, 2001), np.random.default_rng(0).normal(size=5000), [0.0, 1e-300]])
    ours = recompute._logistic(x)
    assert np.array_equal(ours, sigmoid(x))
    wanted = np.array([1 / (1 + math.exp(-min(max(value, -700), 700))) for value in x])
    assert np.allclose(ours, wanted, rtol=1e-14, atol=1e-300)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_order_keys_order_scores_and_come_back(values: list[float]) -> None:
    scores = np.array(values, dtype=np.float32)
    keys = recompute.order_keys(scores)
    assert np.array_equal(keys, order_key(scores).astype(np.int64))
    assert np.array_equal(recompute.scores_of(keys), scores.astype(np.float64))
    assert all((a < b) == (x < y) for (a, x), (b, y) in itertools.combinations(zip(values, keys, strict=True), 2))


@given(st.lists(st.text(max_size=9), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
@settings(max_examples=40, deadline=None)
def test_draws_are_those_of_the_selection(ids: list[str], seed: int) -> None:
    hashes = recompute.id_hashes(ids)
    assert np.array_equal(hashes, doc_hash(ids))
    assert np.array_equal(recompute.draws(hashes, seed, "select"), uniform(hashes, seed, "select"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda weights: sum(weights) > 1e-3))
def test_merge_weight_units_sum_to_the_whole(weights: list[float]) -> None:
    units = recompute.merge_weight_units(weights)
    assert units.sum() == 2**20
    assert np.array_equal(units, integer_weights(np.array([weights]))[0])


@pytest.mark.parametrize("documents", [0, 1, 2, 3, 4, 5, 16, 17, 1000, 2**13, 2**14, 2**14 + 1, 10**9])
def test_bins_are_as_wide_as_the_selections(documents: int) -> None:
    assert recompute.bin_width_bits([documents]) == [50 - bin_bits(np.array([documents]))[0]]


@pytest.mark.parametrize(("domains", "documents"), [(64, 9000), (65, 9000), (300, 20_000), (5000, 500), (70_000, 3)])
def test_bins_are_halved_as_often_where_there_are_many_domains(domains: int, documents: int) -> None:
    counts = [documents + index % 7 for index in range(domains)]
    assert recompute.bin_width_bits(counts) == (50 - bin_bits(np.array(counts))).tolist()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_ranks_are_shares_of_tokens_at_least_as_good(tokens: list[int]) -> None:
    low, high = recompute.interval_ranks(np.array(tokens))
    for index in range(len(tokens)):
        assert low[index] == sum(tokens[index + 1 :]) / sum(tokens)
        assert high[index] == sum(tokens[index:]) / sum(tokens)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 250))
def test_equal_quotas_fill_up_and_share_the_rest(reach: list[int], budget: int) -> None:
    if budget > sum(reach):
        return
    quotas = recompute.equal_quotas(reach, budget)
    assert sum(quotas) == budget
    assert all(0 <= quota <= most for quota, most in zip(quotas, reach, strict=True))
    open_quotas = [quota for quota, most in zip(quotas, reach, strict=True) if quota < most]
    assert not open_quotas or max(open_quotas) - min(open_quotas) <= 1
    assert not open_quotas or max(quotas) <= max(open_quotas) + 1  # whole tokens


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(0, 60))
def test_the_prefixes_around_a_quota_are_found_by_brute_force(tokens: list[int], quota: int) -> None:
    sums = [sum(tokens[:stop]) for stop in range(len(tokens) + 1)]
    less = max([total for total in sums if total < quota], default=0)
    more = min([total for total in sums if total >= quota], default=None)
    assert Neighbourhood(0, np.array(tokens, dtype=np.int64), True, True).around(quota) == (less, more)


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 30)), min_size=1, max_size=4),
)
def test_settling_agrees_with_the_selection(strata: list[tuple[list[int], int]]) -> None:
    from quadmix.core.budget import settle as theirs

    known = [Neighbourhood(0, np.array(tokens, dtype=np.int64), True, True) for tokens, _ in strata]
    quotas = [quota for _, quota in strata]

    def resolve(stratum: int, quota: int) -> Bracket:
        found = known[stratum].around(quota)
        assert found is not None
        less, more = found
        return Bracket((Cut.nothing(), less), None if more is None else (Cut.nothing(), more))

    wanted = theirs(dict(enumerate(quotas)), resolve)
    assert recompute.settle(quotas, known) == [wanted[index].taken for index in range(len(quotas))]


def test_a_prefix_outside_what_is_known_is_not_guessed() -> None:
    near = Neighbourhood(100, np.array([5, 5]), False, False)
    assert near.around(103) == (100, 105)
    assert near.around(106) == (105, 110)
    assert near.around(100) is None
    assert near.around(111) is None


def test_whole_shares_and_equal_quotas_agree() -> None:
    assert recompute.equal_quotas([100, 100, 100], 100) == whole_shares(np.ones(3), 100).tolist()
