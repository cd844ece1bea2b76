"""What is minimised over several targets, and the front of what can be had."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.search.confirmation import joint_losses, summarise
from quadmix.search.objective import Objective
from quadmix.search.pareto import non_dominated, spread_out
from quadmix.search.result import JOINT

WEIGHTS = {"one": 0.75, "two": 0.25}


def test_the_worst_case_is_the_largest_excess_over_the_reference() -> None:
    worst = Objective(WEIGHTS, "worst").against({"two": 3.0, "one": 5.0})
    losses = np.array([[5.5, 3.1], [4.0, 3.2], [4.5, 2.4]])
    assert worst.joint(losses) == pytest.approx([0.5, 0.2, -0.5])
    assert worst.of({"two": 3.2, "one": 4.0}) == pytest.approx(0.2)
    assert Objective(WEIGHTS).joint(losses) == pytest.approx(losses @ [0.75, 0.25])
    with pytest.raises(ValueError, match="measured against"):
        Objective(WEIGHTS, "worst").joint(losses)


def test_the_confirmation_measures_the_worst_case_against_the_natural_mixture_of_the_same_seed() -> None:
    natural = {"one": [5.0, 5.5, 5.2], "two": [3.0, 3.0, None]}
    mine = {"one": [4.9, 5.4, 5.0], "two": [3.2, 2.8, 3.0]}
    worst = Objective(WEIGHTS, "worst")
    assert joint_losses(mine, worst, natural) == [pytest.approx(0.2), pytest.approx(-0.1), None]
    assert joint_losses(mine, worst, None) == [None] * 3
    full, _, ahead = summarise(natural, mine, worst, 0.95, natural)
    assert full[JOINT][:2] == [0.0, 0.0]
    assert ahead[JOINT].mean == pytest.approx(-0.05)  # 0 - 0.2, 0 + 0.1


points = st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(points)
def test_the_front_is_what_brute_force_finds(rows: list[tuple[int, int, int]]) -> None:
    losses = np.array(rows, dtype=np.float64)

    def dominated(row: int) -> bool:
        return any(
            (losses[other] <= losses[row]).all() and ((losses[other] < losses[row]).any() or other < row)
            for other in range(len(losses))
            if other != row
        )

    front = non_dominated(losses)
    assert sorted(front.tolist()) == [row for row in range(len(losses)) if not dominated(row)]
    assert [rows[row] for row in front] == sorted(rows[row] for row in front)


@settings(max_examples=40, deadline=None)
@given(points, st.integers(2, 6))
def test_a_thinned_front_keeps_the_best_of_every_target(rows: list[tuple[int, int, int]], most: int) -> None:
    losses = np.array(rows, dtype=np.float64)
    losses = losses[non_dominated(losses)]
    kept = spread_out(losses, most)
    assert len(kept) == min(most, len(losses))
    assert sorted(set(kept.tolist())) == kept.tolist()
    if most >= 3:
        assert (losses[kept].min(axis=0) == losses.min(axis=0)).all()
