"""Algorithm 1: shapes, ranges, and draws that never change when more are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.core.param_space import DEFAULT_RANGES, ParamSpace, draw_cube, params_from_cube, sample_params

sizes = st.tuples(st.integers(1, 9), st.integers(1, 5))
presets = st.sampled_from(["log", "paper"])


@settings(max_examples=40)
@given(sizes, presets, st.integers(0, 2**63 - 1))
def test_every_draw_lies_in_its_ranges_and_its_weights_sum_to_one(
    size: tuple[int, int], preset: str, seed: int
) -> None:
    space = ParamSpace(*size, preset=preset)  # type: ignore[arg-type]
    params = sample_params(space, 5, seed)
    assert space.dim == size[1] + (size[1] + 4) * size[0]
    assert params.cube is not None
    assert params.cube.shape == (5, space.dim)
    assert params.merge_weights.shape == (5, *size)
    assert np.allclose(params.merge_weights.sum(axis=2), 1.0)
    assert (params.merge_weights >= 0).all()
    for name, (low, high) in DEFAULT_RANGES[preset].items():
        drawn = getattr(params, name)
        assert drawn.shape == (5, size[0])
        assert (drawn >= low * (1 - 1e-12)).all()
        assert (drawn <= high * (1 + 1e-12)).all()


@settings(max_examples=40)
@given(sizes, st.integers(0, 2**40), st.integers(0, 30), st.integers(0, 30))
def test_the_first_draws_of_a_longer_swarm_are_those_of_a_shorter_one(
    size: tuple[int, int], seed: int, one: int, two: int
) -> None:
    space = ParamSpace(*size)
    short, long = sorted((one, two))
    assert np.array_equal(draw_cube(space, long, seed)[:short], draw_cube(space, short, seed))


def test_draws_are_uniform_and_seeds_differ() -> None:
    space = ParamSpace(3, 2)
    cube = draw_cube(space, 4000, 11)
    assert cube.min() > 0
    assert cube.max() < 1
    assert np.abs(cube.mean(axis=0) - 0.5).max() < 5 * (1 / 12 / 4000) ** 0.5
    correlation = np.corrcoef(cube.T)
    assert np.abs(correlation - np.eye(space.dim)).max() < 6 / 4000**0.5
    assert not np.array_equal(draw_cube(space, 4, 11), draw_cube(space, 4, 12))


def test_merge_weights_are_the_products_of_the_common_and_the_domains_draws() -> None:
    space = ParamSpace(2, 2, preset="paper")
    cube = np.array([[0.2, 0.6, 0.5, 0.5, 0.1, 0.9, *([0.5] * 8)]])
    found = params_from_cube(space, cube)
    a = np.array([0.25, 0.75])
    for domain, b in enumerate(([0.5, 0.5], [0.1, 0.9])):
        wanted = a * b / (a * b).sum()
        assert found.merge_weights[0, domain] == pytest.approx(wanted)
    assert found.steepness == pytest.approx(np.full((1, 2), 500.0))
    assert found.cutoff == pytest.approx(np.full((1, 2), 0.05))


def test_the_log_preset_spreads_steepness_and_cutoff_evenly_over_decades() -> None:
    params = sample_params(ParamSpace(4, 1), 4000, 0)
    decades = np.histogram(np.log10(params.steepness), bins=3, range=(0, 3))[0] / params.steepness.size
    assert np.abs(decades - 1 / 3).max() < 0.02
    decades = np.histogram(np.log10(params.cutoff), bins=3, range=(-3, 0))[0] / params.cutoff.size
    assert np.abs(decades - 1 / 3).max() < 0.02


def test_a_range_of_ones_own_replaces_the_presets() -> None:
    params = sample_params(ParamSpace(2, 1, cutoff=(0.0, 0.5), floor=(0.2, 0.2)), 100, 0)
    assert 0 < params.cutoff.min() < 0.01  # a range from 0 cannot be logarithmic: it is linear
    assert params.cutoff.max() <= 0.5
    assert (params.floor == 0.2).all()


def test_a_batch_can_be_cut_and_picked_from() -> None:
    params = sample_params(ParamSpace(3, 2), 6, 0)
    assert len(params) == 6
    assert len(params.one(4)) == 1
    for field in ("merge_weights", "steepness", "cutoff", "exponent", "floor", "cube"):
        whole = getattr(params, field)
        assert np.array_equal(getattr(params.one(4), field)[0], whole[4])
        assert np.array_equal(getattr(params[np.array([5, 0])], field), whole[[5, 0]])
    assert np.array_equal(params.with_cutoff(params.cutoff / 2).cutoff, params.cutoff / 2)
