"""Trials: thetas by index, data thinned to equal tokens with the selection's shares, mixtures measured as drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.config import MixtureConfig, ParamSpaceConfig
from quadmix.core.param_space import ParamSpace
from quadmix.errors import BudgetError
from quadmix.search.trials import draw_theta, param_space, realised, thin

POOL = np.array([40_000, 10_000, 50_000], dtype=np.int64)
MIXTURE = MixtureConfig(criteria=("x", "y"), budget=30_000)


def test_a_trial_has_its_own_theta_whatever_the_size_of_the_swarm() -> None:
    space = ParamSpace(3, 2)
    first = [draw_theta(space, index, 7, POOL, MIXTURE).params.cutoff for index in range(4)]
    assert np.array_equal(draw_theta(space, 2, 7, POOL, MIXTURE).params.cutoff, first[2])
    assert len({cutoff.tobytes() for cutoff in first}) == 4
    assert not np.array_equal(draw_theta(space, 2, 8, POOL, MIXTURE).params.cutoff, first[2])


def test_infeasible_thetas_are_drawn_again_and_hopeless_budgets_refused_with_numbers() -> None:
    space = ParamSpace(3, 2)
    tight = MIXTURE.model_copy(update={"budget": 150_000})
    assert max(draw_theta(space, index, 1, POOL, tight).attempts for index in range(10)) > 1
    with pytest.raises(BudgetError, match="100,000"):
        draw_theta(space, 0, 1, POOL, MIXTURE.model_copy(update={"budget": 500_000}))


def test_the_paper_preset_keeps_the_papers_ranges_unless_the_config_gives_its_own() -> None:
    plain = param_space(ParamSpaceConfig(preset="paper"), 3, 2)
    assert plain.range("cutoff") == (0.0, 0.1)
    assert param_space(ParamSpaceConfig(preset="paper", cutoff=(0.0, 0.5)), 3, 2).range("cutoff") == (0.0, 0.5)
    assert param_space(ParamSpaceConfig(), 3, 2).range("cutoff") == (1e-3, 1.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), tokens=st.integers(1, 60_000), size=st.integers(1, 400))
def test_thinning_keeps_whole_documents_shares_and_size(seed: int, tokens: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    domain, lengths = rng.integers(0, 3, size), rng.integers(1, 400, size).astype(np.int64)
    copies = rng.integers(0, 3, size).astype(np.int32)
    draws, hashes = rng.random(size), np.arange(size, dtype=np.uint64)
    kept = thin(copies, lengths, lengths, domain, draws, hashes, tokens, 3)
    assert ((kept == 0) | (kept == copies)).all()
    taken, available = int((kept * lengths).sum()), int((copies * lengths).sum())
    assert taken <= tokens
    largest = 800  # two copies of the longest document
    assert taken >= min(tokens, available) - largest
    for index in range(3):
        share = (copies * lengths)[domain == index].sum() / max(available, 1)
        mine = int((kept * lengths)[domain == index].sum())
        assert abs(mine - share * min(tokens, available)) <= 3 * largest
    turned = rng.permutation(size)
    again = thin(
        copies[turned], lengths[turned], lengths[turned], domain[turned], draws[turned], hashes[turned], tokens, 3
    )
    assert np.array_equal(again, kept[turned])


def test_thinning_a_long_stream_misses_its_size_by_less_than_one_document_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    lengths = (rng.lognormal(6, 1, 5000) + 1).astype(np.int64)
    ones = np.ones(5000, dtype=np.int32)
    hashes = np.arange(5000, dtype=np.uint64)
    for seed in range(5):
        draws = np.random.default_rng(seed).random(5000)
        kept = thin(ones, lengths, lengths, rng.integers(0, 4, 5000), draws, hashes, 200_000, 4)
        assert 0 <= 200_000 - int((kept * lengths).sum()) < 100


def test_paired_trials_share_documents_of_domains_that_they_treat_alike() -> None:
    rng = np.random.default_rng(3)
    lengths, domain, draws = rng.integers(50, 300, 2000), rng.integers(0, 2, 2000), rng.random(2000)
    hashes = np.arange(2000, dtype=np.uint64)
    ones = np.ones(2000, dtype=np.int32)
    fewer = np.where(domain == 1, (np.arange(2000) % 2).astype(np.int32), ones)
    a = thin(ones, lengths, lengths, domain, draws, hashes, 50_000, 2)
    b = thin(fewer, lengths, lengths, domain, draws, hashes, 50_000, 2)
    first_a, first_b = (set(np.flatnonzero(kept[domain == 0])) for kept in (a, b))
    # domain 0 has a larger share in b: a's documents are among b's, but for the last few that fill the quota
    assert len(first_a - first_b) <= 5
    assert len(first_b) > len(first_a)


def test_the_realised_mixture_is_what_a_loop_counts() -> None:
    rng = np.random.default_rng(1)
    copies, lengths = rng.integers(0, 4, 300).astype(np.int32), rng.integers(1, 90, 300).astype(np.int64)
    domain, normalised = rng.integers(0, 2, 300), rng.random((300, 2))
    found = realised(copies, lengths, domain, normalised, np.full((3, 2), 0.25))
    total = sum(int(c) * int(n) for c, n in zip(copies, lengths, strict=True))
    for index in range(2):
        rows = [i for i in range(300) if domain[i] == index and copies[i]]
        tokens = sum(int(copies[i]) * int(lengths[i]) for i in rows)
        assert found.share[0, index] == pytest.approx(tokens / total)
        assert found.repeats[0, index] == pytest.approx(tokens / sum(int(lengths[i]) for i in rows))
        mean = sum(int(copies[i]) * int(lengths[i]) * normalised[i, 1] for i in rows) / tokens
        assert found.quality is not None
        assert found.quality[0, index, 1] == pytest.approx(mean)
    assert found.quality is not None
    assert (found.share[0, 2], found.repeats[0, 2], found.quality[0, 2, 0]) == (0.0, 1.0, 0.25)
