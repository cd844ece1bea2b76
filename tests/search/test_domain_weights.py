"""Domain weights: draws have the moments of a Dirichlet, caps hold, and the proposal finds a planted optimum."""

from __future__ import annotations

import numpy as np
import pytest

from quadmix.errors import BudgetError
from quadmix.search import domain_weights
from quadmix.search.domain_weights import Repetition, capped, draw_weights, propose_weights
from quadmix.search.objective import Objective
from quadmix.search.regressors import fit_targets

PRIOR = np.array([0.5, 0.3, 0.15, 0.05, 0.0])


def test_dirichlet_draws_have_the_mean_and_variance_of_the_law() -> None:
    """Also at strengths at which plain gamma variates underflow."""
    for alpha in (np.array([2.0, 1.0, 0.5]), np.array([0.05, 0.02, 0.01])):
        drawn = domain_weights._dirichlet(np.repeat(alpha[None], 40_000, axis=0), 7)
        assert np.allclose(drawn.sum(axis=1), 1.0)
        total = alpha.sum()
        mean = alpha / total
        assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.01)
        assert drawn.var(axis=0) == pytest.approx(mean * (1 - mean) / (total + 1), abs=0.01)


def test_candidates_sum_to_one_and_keep_regmix_s_bounds() -> None:
    drawn = draw_weights(PRIOR, 5000, 3)
    assert drawn.shape == (5000, 5)
    assert np.allclose(drawn.sum(axis=1), 1.0)
    assert (drawn[:, 4] == 0).all()
    assert drawn[drawn > 0].min() >= domain_weights.LEAST_SHARE * 0.999
    assert drawn[:, 3].max() <= 15 * 0.05 * 1.001
    assert np.array_equal(drawn, draw_weights(PRIOR, 5000, 3))
    assert np.array_equal(drawn[:100], draw_weights(PRIOR, 100, 3))
    assert not np.array_equal(drawn, draw_weights(PRIOR, 5000, 4))


def test_a_cap_moves_what_is_over_to_the_others_in_proportion() -> None:
    cap = np.array([0.4, 1.0, 1.0])
    found = capped(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]), cap, np.ones(3) / 3)
    assert found[0] == pytest.approx([0.4, 0.4, 0.2])
    assert found[1].tolist() == [0.1, 0.6, 0.3]
    nothing_else = capped(np.array([[1.0, 0.0, 0.0]]), cap, np.array([0.2, 0.6, 0.2]))
    assert nothing_else[0] == pytest.approx([0.4, 0.45, 0.15])


def test_caps_hold_for_any_draw() -> None:
    cap = np.array([0.3, 0.35, 0.2, 0.1, 0.3])
    found = capped(draw_weights(PRIOR, 3000, 1), cap, PRIOR)
    assert (found <= cap + 1e-12).all()
    assert np.allclose(found.sum(axis=1), 1.0)


def test_a_budget_beyond_all_copies_is_refused_with_the_numbers() -> None:
    with pytest.raises(BudgetError, match=r"asked 1,000 tokens, the domains hold 400 at 4 copies"):
        Repetition(np.array([60.0, 40.0]), 1000, 4.0).check(["a", "b"])


def test_many_even_domains_leave_no_draw_within_the_bound_and_still_give_candidates() -> None:
    """200 even domains: nearly every Dirichlet draw has one above 15/200."""
    drawn = draw_weights(np.full(200, 1 / 200), 2000, 0)
    assert np.allclose(drawn.sum(axis=1), 1.0)
    assert drawn.max() <= 15 / 200 * 1.02  # shares below 2e-4 that became 0 raise the others a little
    assert len(np.unique(drawn, axis=0)) == 2000


def test_the_proposal_finds_a_planted_optimum_and_keeps_the_cap() -> None:
    """Loss: squared distance to a mixture far from the prior, in two targets of which one counts."""
    best = np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    shares = draw_weights(np.array([0.25, 0.25, 0.25, 0.25, 0.0]), 256, 5)
    rng = np.random.default_rng(0)
    losses = np.stack([((shares - best) ** 2).sum(axis=1) + rng.normal(0, 0.005, 256), rng.normal(0, 1, 256)], axis=1)
    models = fit_targets(["one", "two"], shares, losses)
    prior = shares.mean(axis=0)
    objective = Objective({"one": 1.0, "two": 0.0})
    average, argmin, own = propose_weights(models, objective, prior, None, n=20_000, top=50, seed=1)
    assert [average.origin, argmin.origin, own.origin] == ["average", "argmin", "prior"]
    far = ((prior - best) ** 2).sum()
    assert ((average.weights - best) ** 2).sum() < 0.2 * far
    assert average.losses[0] < own.losses[0]
    limit = Repetition(np.array([100.0, 100.0, 100.0, 50.0, 100.0]), 1000, 5.0)
    for one in propose_weights(models, objective, prior, limit, n=20_000, top=50, seed=1)[:2]:
        assert (one.weights <= limit.cap + 1e-12).all()
        assert one.weights.sum() == pytest.approx(1.0)
        assert limit.repeats(one.weights).max() <= 5.0 + 1e-9
