"""The budget rule against brute force over every prefix of every stratum, on pools small enough for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.budget import Copies, Cut, all_copies, bracket, copies_taken, settle, whole_shares

Document = tuple[float, float, int, int]
# (key, step, hash, tokens): few keys, so copies of several documents tie; one giant document among small ones
document = st.tuples(
    st.sampled_from([0.1, 0.25, 0.5, 1.0]) | st.floats(-5, 5),
    st.sampled_from([0.25, 0.5, np.inf]) | st.floats(0.01, 3),
    st.integers(0, 2**64 - 1),
    st.integers(1, 9) | st.integers(1, 10**6),
)
pools = st.lists(document, max_size=12, unique_by=lambda doc: doc[2])
MAX_COPIES = 3


def columns(docs: list[Document]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    key, step, hashes, tokens = zip(*docs, strict=True) if docs else ((), (), (), ())
    return (
        np.array(key, dtype=np.float64),
        np.array(step, dtype=np.float64),
        np.array(hashes, dtype=np.uint64),
        np.array(tokens, dtype=np.int64),
    )


def listed(docs: list[Document], max_copies: int) -> list[tuple[float, int, int]]:
    """Every copy as (key, hash, tokens), in the order in which copies are taken."""
    found = [
        (key + copy * step if copy else key, hash_, tokens)
        for key, step, hash_, tokens in docs
        for copy in range(max_copies if np.isfinite(step) else 1)
    ]
    return sorted(found)


def nearest_prefix(copies: list[tuple[float, int, int]], quota: int) -> int:
    """Brute force: how many copies the best prefix has, the shortest of equally near ones."""
    return min(range(len(copies) + 1), key=lambda n: (abs(sum(c[2] for c in copies[:n]) - quota), n))


def take(docs: list[Document], cut: Cut, max_copies: int = MAX_COPIES) -> np.ndarray:
    key, step, hashes, _ = columns(docs)
    return copies_taken(key, step, hashes, cut.key, np.uint64(cut.hash), max_copies)


@settings(max_examples=40)
@given(pools, st.integers(0, 40) | st.integers(0, 4 * 10**6), st.integers(1, MAX_COPIES))
def test_a_cut_takes_the_prefix_nearest_the_quota(docs: list[Document], quota: int, max_copies: int) -> None:
    key, step, hashes, tokens = columns(docs)
    cut, taken = bracket(all_copies(key, step, hashes, tokens, max_copies, np.inf), quota).nearest(quota)
    copies = listed(docs, max_copies)
    best = copies[: nearest_prefix(copies, quota)]
    assert taken == sum(c[2] for c in best)
    counts = take(docs, cut, max_copies)
    assert {int(h): int(n) for h, n in zip(hashes, counts, strict=True) if n} == {
        h: sum(c[1] == h for c in best) for h in {c[1] for c in best}
    }
    # never further off than half of the copy at the boundary, unless the pool runs dry
    if taken < quota and len(best) < len(copies):
        assert quota - taken <= copies[len(best)][2] / 2
    if taken > quota:
        assert taken - quota <= best[-1][2] / 2


@settings(max_examples=40)
@given(pools, st.integers(0, 200))
def test_totals_and_their_neighbours(docs: list[Document], below: int) -> None:
    key, step, hashes, tokens = columns(docs)
    copies = all_copies(key, step, hashes, tokens, MAX_COPIES, np.inf)
    total = below + int(copies.tokens.sum())
    for quota in (total, total + 1, 10**15):
        cut, taken = bracket(copies, quota, below).nearest(quota)
        assert taken == total
        assert int((take(docs, cut) * tokens).sum()) + below == total
    assert bracket(copies, below, below).nearest(below) == (Cut.nothing(), below)
    assert take(docs, Cut.nothing()).sum() == 0
    assert take(docs, Cut(np.inf, 2**64 - 1)).sum() == copies.key.size


@settings(max_examples=40)
@given(pools, st.floats(-5, 10))
def test_copies_below_a_key_are_all_that_lie_there(docs: list[Document], below: float) -> None:
    key, step, hashes, tokens = columns(docs)
    found = all_copies(key, step, hashes, tokens, MAX_COPIES, below)
    rows = sorted(zip(found.key.tolist(), found.hash.tolist(), found.tokens.tolist(), strict=True))
    assert rows == [copy for copy in listed(docs, MAX_COPIES) if copy[0] <= below]


def test_documents_that_are_not_eligible_are_never_taken() -> None:
    key = np.array([np.inf, 0.5, -np.inf, np.nan])
    step, hashes = np.array([np.inf, 1.0, 1.0, 1.0]), np.arange(4, dtype=np.uint64)
    tokens = np.ones(4, dtype=np.int64)
    assert list(copies_taken(key, step, hashes, np.inf, np.uint64(2**64 - 1), 2)) == [0, 2, 0, 0]
    assert list(all_copies(key, step, hashes, tokens, 2, np.inf).hash) == [1, 1]


strata_of = st.lists(st.tuples(pools, st.integers(0, 60) | st.integers(0, 10**6)), min_size=1, max_size=4)


@settings(max_examples=50)
@given(strata_of)
def test_strata_round_up_or_down_by_what_was_missed_as_a_literal_loop_does(
    strata: list[tuple[list[Document], int]],
) -> None:
    sources = [all_copies(*columns(docs), MAX_COPIES, np.inf) for docs, _ in strata]
    settled = settle({i: quota for i, (_, quota) in enumerate(strata)}, lambda i, quota: bracket(sources[i], quota))

    def best(i: int, quota: int, wanted: int) -> tuple[int, bool]:
        """Of the two prefixes around `quota` the one nearer to `wanted`; whether there are two."""
        copies = listed(strata[i][0], MAX_COPIES)
        sums = [sum(c[2] for c in copies[:n]) for n in range(len(copies) + 1)]
        reaching = next((n for n, total in enumerate(sums) if total >= quota), None)
        if quota == 0 or reaching is None:
            return (0, True) if quota == 0 else (sums[-1], False)
        two = sums[reaching - 1 : reaching + 1]
        return min(two, key=lambda total: (abs(total - wanted), total)), True

    residual, taken, dry = 0, [], False
    for i, (_, quota) in enumerate(strata):
        found, enough = best(i, quota, quota + residual)
        taken.append(found)
        residual += quota - found
        dry |= not enough
    for i in range(len(strata)):
        if residual <= 0 or not dry:
            break
        again, _ = best(i, taken[i] + residual, taken[i] + residual)
        if abs(residual + taken[i] - again) < abs(residual):
            residual += taken[i] - again
            taken[i] = again
    assert [settled[i].taken for i in range(len(strata))] == taken
    for i, (docs, quota) in enumerate(strata):
        assert settled[i].quota == quota
        assert int((take(docs, settled[i].cut) * columns(docs)[3]).sum()) == taken[i]


@settings(max_examples=50)
@given(strata_of)
def test_no_stratum_is_off_by_more_than_its_own_boundary_document(strata: list[tuple[list[Document], int]]) -> None:
    """Whatever the lengths of the documents before it."""
    sources = [all_copies(*columns(docs), MAX_COPIES, np.inf) for docs, _ in strata]
    settled = settle({i: quota for i, (_, quota) in enumerate(strata)}, lambda i, quota: bracket(sources[i], quota))
    if all(quota <= int(source.tokens.sum()) for source, (_, quota) in zip(sources, strata, strict=True)):
        for i, (_, quota) in enumerate(strata):
            assert abs(settled[i].taken - quota) <= int(sources[i].tokens.max(initial=0))


@settings(max_examples=50)
@given(strata_of)
def test_the_total_is_as_exact_as_one_boundary_document(strata: list[tuple[list[Document], int]]) -> None:
    sources = [all_copies(*columns(docs), MAX_COPIES, np.inf) for docs, _ in strata]
    settled = settle({i: quota for i, (_, quota) in enumerate(strata)}, lambda i, quota: bracket(sources[i], quota))
    wanted, taken = sum(quota for _, quota in strata), sum(one.taken for one in settled.values())
    available = sum(int(source.tokens.sum()) for source in sources)
    largest = max((int(source.tokens.max()) for source in sources if source.tokens.size), default=0)
    if taken > wanted:
        assert taken - wanted <= largest / 2
    elif taken < min(wanted, available):
        assert wanted - taken <= largest / 2 or min(wanted, available) - taken < largest


def test_a_stratum_that_runs_dry_leaves_its_rest_to_the_others() -> None:
    ones = Copies(np.arange(10.0), np.arange(10, dtype=np.uint64), np.full(10, 7, dtype=np.int64))
    few = ones.take(np.arange(2))
    for order in ((few, ones), (ones, few)):
        settled = settle({0: 35, 1: 35}, lambda i, quota, order=order: bracket(order[i], quota))  # type: ignore[misc]
        assert sum(one.taken for one in settled.values()) == 70


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1e12) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=20), st.integers(0, 10**15))
def test_whole_shares_add_up_and_stay_within_one_of_the_exact_share(weights: list[float], total: int) -> None:
    if not sum(weights) > 0:
        weights[0] = 1.0
    shares = whole_shares(np.array(weights), total)
    assert int(shares.sum()) == total
    assert (shares >= 0).all()
    exact = np.array(weights) / sum(weights) * total
    assert (np.abs(shares - exact) <= 1 + total * 1e-14).all()


def test_whole_shares_give_what_is_left_to_the_largest_remainder_then_to_the_first() -> None:
    assert list(whole_shares(np.array([1.0, 1.0, 1.0]), 5)) == [2, 2, 1]
    assert list(whole_shares(np.array([0.2, 0.3, 0.5]), 11)) == [2, 3, 6]
    assert list(whole_shares(np.array([0.0, 0.0]), 0)) == [0, 0]


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [np.nan, 1.0], [np.inf]])
def test_there_must_be_something_to_share_by(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="to share"):
        whole_shares(np.array(weights), 5)


def test_a_rest_stays_in_its_domain() -> None:
    """Strata a/1 and a/2 share a domain, b is another: what dries up in a/1 goes to a/2, never to b."""

    def strata(documents: int) -> Copies:
        hashes = np.arange(documents, dtype=np.uint64)
        return all_copies(
            np.arange(documents, dtype=float), np.full(documents, np.inf), hashes, np.full(documents, 10), 1, np.inf
        )

    held = {0: strata(100), 1: strata(2), 2: strata(100)}
    domains = ["b", "a", "a"]
    settled = settle({0: 100, 1: 200, 2: 100}, lambda index, quota: bracket(held[index], quota), 0, domains)
    assert [settled[index].taken for index in range(3)] == [100, 20, 280]
    free = settle({0: 100, 1: 200, 2: 100}, lambda index, quota: bracket(held[index], quota))
    assert free[0].taken > 100
