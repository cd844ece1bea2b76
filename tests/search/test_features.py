"""Features: the closed form is what a selection gives, and names, not positions, carry a mixture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import fit_score_map, heavy_bins
from quadmix.core.param_space import ParamSpace, sample_params
from quadmix.core.summary import PoolSummary
from quadmix.search.features import FeatureSet, Mixtures, QualitySample, closed_form, with_quality
from quadmix.selectors.base import DocBatch
from quadmix.selectors.quadmix import QualityBinning, fit_quadmix

DOMAINS, CRITERIA = ("a", "b", "c"), ("x", "y")


class Pool:
    """Documents with correlated scores; `levels` makes heavy ties."""

    def __init__(self, n: int, seed: int, levels: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.domain = rng.integers(0, 3, n).astype(np.int32)
        self.n_tokens = (rng.lognormal(5, 0.7, n) + 1).astype(np.int64)
        scores = rng.normal(size=(n, 2)) + self.domain[:, None] * 0.3
        self.scores = (np.round(scores * levels) / levels if levels else scores).astype(np.float32)
        self.hash = np.arange(n, dtype=np.uint64)
        sizes = self.n_tokens
        self.summary = PoolSummary.of_rows(DOMAINS, self.domain, sizes, sizes, self.scores, CRITERIA)
        self.maps = tuple(
            fit_score_map(name, sketch, FineHistogram.of(self.column(n), sizes, heavy_bins(sketch)))
            for n, (name, sketch) in enumerate(zip(CRITERIA, self.summary.sketches, strict=True))
        )
        self.normalised = np.stack([m.normalised[m.classes(self.column(n))] for n, m in enumerate(self.maps)], axis=1)
        self.batch = DocBatch(self.hash, self.domain, sizes, self.scores)

    def column(self, n: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.scores[:, n])


@pytest.mark.parametrize("rule", ["omega", "scale"])
@pytest.mark.parametrize("levels", [None, 2])
def test_expected_shares_repeats_and_qualities_are_those_of_the_fitted_plan(rule: str, levels: int | None) -> None:
    pool = Pool(4000, 1, levels)
    mixture = MixtureConfig.model_validate(
        {"criteria": CRITERIA, "budget": pool.summary.total_tokens // 3, "meet_budget": rule, "max_copies": 3}
    )
    params = sample_params(ParamSpace(3, 2), 6, 5)
    found = closed_form(params, pool.summary.tokens, mixture)
    rows = np.flatnonzero(found.feasible)
    assert rows.size > 2
    for row in rows:
        one = closed_form(params.one(row), pool.summary.tokens, mixture)
        mixtures = with_quality(one, QualitySample.of(pool.domain, pool.n_tokens, pool.normalised, 3), 3)
        binning = QualityBinning.of(pool.maps, params.merge_weights[row], pool.summary.docs)
        plan = fit_quadmix(
            params.one(row), domains=DOMAINS, domain_tokens=pool.summary.tokens, criteria=CRITERIA, binning=binning,
            cells=binning.histogram(pool.batch), budget=mixture.budget, max_copies=3, rule=mixture.meet_budget,
        )  # fmt: skip
        pool.batch.memo.clear()
        copies = plan.expected_copies(pool.batch)
        for m in range(3):
            mine = pool.domain == m
            taken = copies[mine] * pool.n_tokens[mine]
            unique = np.minimum(copies[mine], 1) * pool.n_tokens[mine]
            assert mixtures.share[0, m] == pytest.approx(taken.sum() / mixture.budget, rel=2e-3, abs=1e-6)
            # documents whose rank interval straddles the cutoff are spread over it, so they repeat less than the
            # closed form says: noticeable with heavy ties, or with few documents of several copies
            assert mixtures.repeats[0, m] == pytest.approx(
                taken.sum() / unique.sum(), rel=0.01 if (rule, levels) == ("omega", None) else 0.2
            )
            mean = (taken[:, None] * pool.normalised[mine]).sum(axis=0) / taken.sum()
            assert mixtures.quality is not None
            assert mixtures.quality[0, m] == pytest.approx(mean, abs=0.01)


def test_a_budget_out_of_reach_is_marked_and_does_not_spoil_its_neighbours() -> None:
    pool = Pool(500, 2)
    mixture = MixtureConfig(criteria=CRITERIA, budget=int(pool.summary.total_tokens * 1.4), max_copies=2)
    params = sample_params(ParamSpace(3, 2), 200, 3)
    found = closed_form(params, pool.summary.tokens, mixture)
    assert 0 < found.feasible.sum() < 200
    assert np.isfinite(found.mixtures.share[found.feasible]).all()
    for row in np.flatnonzero(found.feasible)[:5]:
        alone = closed_form(params.one(row), pool.summary.tokens, mixture)
        assert np.allclose(alone.mixtures.share[0], found.mixtures.share[row], rtol=1e-5)


def test_a_domain_without_documents_has_defined_features() -> None:
    pool = Pool(300, 4)
    tokens = pool.summary.tokens.copy()
    tokens[1] = 0
    mixture = MixtureConfig(criteria=CRITERIA, budget=int(tokens.sum() // 4))
    keep = pool.domain != 1
    found = closed_form(sample_params(ParamSpace(3, 2), 4, 1), tokens, mixture)
    sample = QualitySample.of(pool.domain[keep], pool.n_tokens[keep], pool.normalised[keep], 3)
    matrix = FeatureSet("realised", DOMAINS, CRITERIA).matrix(with_quality(found, sample, 4), None)
    assert np.isfinite(matrix).all()
    assert (found.mixtures.share[:, 1] == 0).all()
    assert (found.mixtures.repeats[:, 1] == 1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_names_bring_a_mixture_back_whatever_the_order_of_domains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixtures = Mixtures(rng.random(1), rng.random((1, 3)), rng.random((1, 3)), rng.random((1, 3, 2)))
    named = mixtures.by_name(0, DOMAINS, CRITERIA)
    turned = Mixtures.of_names([named], DOMAINS[::-1], CRITERIA)
    assert np.array_equal(turned.share[0, ::-1], mixtures.share[0])
    assert turned.quality is not None
    assert mixtures.quality is not None
    assert np.array_equal(turned.quality[0, ::-1], mixtures.quality[0])


@pytest.mark.parametrize(("kind", "columns"), [("realised", 14), ("screening", 6), ("theta", 18)])
def test_feature_names_and_columns_agree(kind: str, columns: int) -> None:
    features = FeatureSet(kind, DOMAINS, CRITERIA)
    rng = np.random.default_rng(0)
    mixtures = Mixtures(rng.random(4), rng.random((4, 3)), rng.random((4, 3)), rng.random((4, 3, 2)))
    params = sample_params(ParamSpace(3, 2), 4, 0)
    matrix = features.matrix(mixtures, params)
    assert matrix.shape == (4, columns)
    assert len(features.names) == len(set(features.names)) == columns
    where = features.names.index("cutoff:b" if kind == "theta" else "repeats:b")
    wanted = params.cutoff[:, 1] if kind == "theta" else mixtures.repeats[:, 1]
    assert np.array_equal(matrix[:, where], wanted)


def test_pooled_qualities_are_the_whole_mixtures_and_lifts_add_up_to_them() -> None:
    pool = Pool(300, 4)
    mixture = MixtureConfig(criteria=CRITERIA, budget=int(pool.summary.tokens.sum() // 4))
    found = closed_form(sample_params(ParamSpace(3, 2), 6, 1), pool.summary.tokens, mixture)
    sample = QualitySample.of(pool.domain, pool.n_tokens, pool.normalised, 3)
    mixtures = with_quality(found, sample, 4)
    features = FeatureSet("realised", DOMAINS, CRITERIA)
    matrix = features.matrix(mixtures, None)
    assert mixtures.quality is not None
    for row, (share, quality) in enumerate(zip(mixtures.share, mixtures.quality, strict=True)):
        for n, criterion in enumerate(CRITERIA):
            whole = sum(share[m] * quality[m, n] for m in range(3))
            lifts = [matrix[row, features.names.index(f"lift:{domain}:{criterion}")] for domain in DOMAINS]
            assert matrix[row, features.names.index(f"quality:{criterion}")] == pytest.approx(whole)
            assert 0.5 + sum(lifts) == pytest.approx(whole)
            assert lifts[2] == pytest.approx(share[2] * (quality[2, n] - 0.5))
