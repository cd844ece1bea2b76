"""Trials of an earlier search: shifted onto the later one's scale, used where they help, left out elsewhere."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.search.regressors import fit_targets
from quadmix.search.warm_start import judge

Floats = NDArray[np.float64]

COLUMNS = [f"share:d{index}" for index in range(5)]
FIT = partial(fit_targets, ["one"], kind="gaussian_process", columns=COLUMNS, calibrate=False)
WORTH = np.array([[1.0], [0.2], [-0.6], [0.8], [-1.2]])
NOISE, SHIFT = 0.08, 0.7


def trials(n: int, seed: int, worth: Floats = WORTH, shift: float = 0.0) -> tuple[Floats, Floats]:
    """(n, 5) shares and (n, 1) noisy losses of an exponential law."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(5), n)
    return shares, law(shares, worth) + shift + rng.normal(0.0, NOISE, (n, 1))


def law(shares: Floats, worth: Floats = WORTH) -> Floats:
    return np.asarray(4.0 + np.exp(-(shares @ worth)))


def test_the_shift_between_two_searches_is_found() -> None:
    old, new = trials(64, 1, shift=-SHIFT), trials(64, 2)
    assert judge(*new, *old, FIT, 0).shift[0] == pytest.approx(SHIFT, abs=4 * NOISE * np.sqrt(2 / 64))


def errors(worth: Floats, seed: int) -> tuple[bool, float, float]:
    """Whether 64 earlier trials of a law are used beside 64 new ones, and the errors on true losses then and alone."""
    old, new = trials(64, 100 + seed, worth, -SHIFT), trials(64, 200 + seed)
    test, _ = trials(300, 300 + seed)
    verdict = judge(*new, *old, FIT, seed)
    alone = FIT(*new).predict(test)
    used = alone
    if verdict.helps:
        used = FIT(np.concatenate([new[0], old[0]]), np.concatenate([new[1], old[1] + verdict.shift])).predict(test)
    found = [float(np.sqrt(np.mean((guess - law(test)) ** 2))) for guess in (used, alone)]
    return verdict.helps, found[0], found[1]


def test_sixty_four_earlier_trials_help_sixty_four_new_ones() -> None:
    found = [errors(WORTH, seed) for seed in range(3)]
    assert sum(helps for helps, _, _ in found) >= 2, found
    assert np.mean([used for _, used, _ in found]) < 0.9 * np.mean([alone for _, _, alone in found]), found


def test_earlier_trials_that_mislead_are_left_out() -> None:
    found = [errors(-WORTH, seed) for seed in range(3)]
    assert not any(helps for helps, _, _ in found), found
    assert all(used == alone for _, used, alone in found)


def test_the_verdict_is_the_same_again() -> None:
    old, new = trials(16, 1), trials(12, 2)
    first, second = (judge(*new, *old, FIT, 5) for _ in range(2))
    assert np.array_equal(first.shift, second.shift)
    assert (first.alone, first.together) == (second.alone, second.together)
