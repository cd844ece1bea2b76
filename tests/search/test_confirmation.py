"""Confirmation: intervals as scipy's, pairs by seed, and words that say no more than the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import ttest_rel

from quadmix.search.confirmation import conclude, interval, joint_losses, paired, summarise
from quadmix.search.objective import Objective
from quadmix.search.result import JOINT, Confirmation, Confirmed

Column = Sequence[float | None]


def _conclude(**mixtures: tuple[Column, Column]) -> Confirmation:
    objective = Objective({"one": 0.75, "two": 0.25})
    found: list[Confirmed] = []
    for name, (one, two) in mixtures.items():
        losses = {"one": one, "two": two}
        full, loss, ahead = summarise(losses, found[0].losses if found else None, objective, 0.95)
        kind = "theta" if name == "quadmix" else name
        found.append(Confirmed(name, kind, None, None, None, full, {}, loss, ahead, []))
    return conclude(found, 4, 0.95)


def test_intervals_are_students_t_on_paired_differences() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 1, 6), rng.normal(5.5, 1, 6)
    found = paired(list(a), list(b), 0.9)
    wanted = ttest_rel(a, b).confidence_interval(0.9)
    assert found.mean is not None
    assert found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((wanted.low, wanted.high))


def test_a_missing_seed_drops_its_pair_only_and_no_width_is_invented() -> None:
    assert paired([1.0, None, 3.0], [0.5, 9.0, 2.0], 0.95).n == 2
    assert interval([1.0], 0.95).half_width is None
    assert interval([], 0.95).mean is None


def test_the_joint_objective_is_the_weighted_mean_and_missing_where_any_target_is() -> None:
    joint = joint_losses({"one": [4.0, None], "two": [8.0, 1.0]}, Objective({"one": 0.75, "two": 0.25}))
    assert joint == [5.0, None]


def test_the_verdict_names_who_was_beaten_who_ties_and_who_won() -> None:
    # common noise of a seed is far larger than the differences: only pairing can tell them apart
    noise = [0.0, 1.0, -1.0, 2.0]
    found = _conclude(
        quadmix=([5 + e for e in noise], [6 + e for e in noise]),
        natural=([5.3 + e + d for e, d in zip(noise, [0.01, -0.01, 0.0, 0.02], strict=True)], [6.3 + e for e in noise]),
        topk=([4.99 + e + d for e, d in zip(noise, [0.1, -0.1, 0.05, -0.05], strict=True)], [6 + e for e in noise]),
    )
    assert "beats natural by 0.30 ± 0.0" in found.verdict
    assert "ties with topk (-0.01 ± " in found.verdict
    assert (found.winner, found.ties) == ("topk", ["quadmix"])
    assert found.verdict.endswith("lowest mean joint loss: topk, which ties with quadmix")


def test_a_lost_race_is_said_plainly() -> None:
    found = _conclude(quadmix=([5.0, 5.1, 5.2, 5.3], [6.0] * 4), natural=([4.0, 4.1, 4.2, 4.31], [6.0] * 4))
    assert found.verdict.startswith("quadmix loses to natural by 0.75 ± ")
    assert (found.winner, found.ties) == ("natural", [])


def test_a_mixture_with_a_failed_proxy_cannot_win() -> None:
    found = _conclude(quadmix=([1.0, None, 1.0, 1.0], [1.0] * 4), natural=([5.0] * 4, [5.0, 5.1, 5.2, 5.3]))
    assert found.winner == "natural"
    nothing = _conclude(quadmix=([None] * 4, [1.0] * 4), natural=([None] * 4, [5.0] * 4))
    assert nothing.winner is None
    assert "was not compared with natural" in nothing.verdict
    assert nothing.mixtures[0].loss[JOINT].mean is None
