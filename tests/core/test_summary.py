"""Pool summaries: exact counts, merged exactly, whatever the split and the order; stored without pickle."""

from __future__ import annotations

import itertools
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quadmix.core.summary import PoolSummary

NAMES = ("wiki", "code", "Ünï", "01", "1", "a/b")
rows_of = st.lists(
    st.tuples(
        st.integers(0, len(NAMES) - 1),
        st.integers(0, 10**9),
        st.sampled_from([0.0, -0.0, 1.5, -2.0, 3e38, 1e-40]),
        st.floats(-10, 10, width=32),
    ),
    max_size=25,
)
Row = tuple[int, int, float, float]


def summary(rows: list[Row], names: tuple[str, ...] = NAMES) -> PoolSummary:
    codes = np.array([names.index(NAMES[row[0]]) for row in rows], dtype=np.int32)
    tokens = np.array([row[1] for row in rows], dtype=np.int64)
    scores = np.array([row[2:] for row in rows], dtype=np.float32).reshape(-1, 2)
    return PoolSummary.of_rows(names, codes, tokens, tokens * 4, scores, ("a", "b"))


def same(first: PoolSummary, second: PoolSummary) -> bool:
    arrays = all(np.array_equal(getattr(first, f), getattr(second, f)) for f in ("docs", "tokens", "bytes"))
    sketches = all(
        np.array_equal(getattr(one, f), getattr(two, f))
        for one, two in zip(first.sketches, second.sketches, strict=True)
        for f in ("bins", "docs", "tokens")
    )
    return first.domains == second.domains and first.criteria == second.criteria and arrays and sketches


@settings(max_examples=40)
@given(rows_of)
def test_counts_are_those_of_a_loop(rows: list[Row]) -> None:
    found = summary(rows)
    for place, name in enumerate(found.domains):
        mine = [row for row in rows if NAMES[row[0]] == name]
        assert (found.docs[place], found.tokens[place]) == (len(mine), sum(row[1] for row in mine))
        assert found.bytes[place] == 4 * found.tokens[place]
    assert found.domains == tuple(sorted({NAMES[row[0]] for row in rows}))
    assert found.total_tokens == sum(row[1] for row in rows)
    assert all(sketch.total_tokens == found.total_tokens for sketch in found.sketches)


@settings(max_examples=40)
@given(rows_of, st.lists(st.integers(0, 25), max_size=4), st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same_summary(rows: list[Row], cuts: list[int], random) -> None:
    whole = summary(rows)
    shuffled = rows.copy()
    random.shuffle(shuffled)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [summary(shuffled[a:b], NAMES[::-1]) for a, b in itertools.pairwise(bounds)]
    random.shuffle(parts)
    assert same(reduce(PoolSummary.merge, parts, PoolSummary.empty(("a", "b"))), whole)
    assert same(reduce(lambda one, two: two.merge(one), parts), whole)


@settings(max_examples=50)
@given(rows_of, rows_of, rows_of)
def test_merging_is_associative_with_an_identity(a: list[Row], b: list[Row], c: list[Row]) -> None:
    one, two, three = summary(a), summary(b), summary(c)
    assert same(one.merge(two).merge(three), one.merge(two.merge(three)))
    empty = PoolSummary.empty(("a", "b"))
    assert same(one.merge(empty), one)
    assert same(empty.merge(one), one)


def test_summaries_of_different_criteria_do_not_merge() -> None:
    with pytest.raises(ValueError, match="different criteria"):
        PoolSummary.empty(("a",)).merge(PoolSummary.empty(("b",)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(rows_of)
def test_a_summary_survives_its_file(tmp_path: Path, rows: list[Row]) -> None:
    path = str(tmp_path / "summary.npz")
    summary(rows).save(path)
    assert same(PoolSummary.load(path), summary(rows))
