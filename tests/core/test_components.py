"""Principal components: those of scikit-learn and numpy, with signs and order that nothing can flip."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from quadmix.core.components import Components, eigen, principal_components
from quadmix.core.cross_moments import CrossMoments


def mixed(seed: int, n: int = 3_000, size: int = 6) -> np.ndarray:
    """Correlated columns of unlike sizes."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 3)) @ rng.normal(size=(3, size))
    return ((hidden + 0.4 * rng.normal(size=(n, size))) * np.logspace(-2, 2, size) + 5).astype(np.float32)


def moments(scores: np.ndarray) -> CrossMoments:
    return CrossMoments.of(scores, tuple(int(np.frexp(abs(column).max())[1]) for column in scores.T))


def fitted(scores: np.ndarray, quality: list[bool] | None = None, **rules: float) -> Components:
    size = scores.shape[1]
    names = [f"d{d}" for d in range(size)]
    return principal_components(moments(scores), names, quality or [True] * size, **rules)  # type: ignore[arg-type]


def test_values_vectors_and_whitened_scores_are_scikit_learns() -> None:
    scores = mixed(0)
    found = fitted(scores, most=3, explained_variance=1.0)
    scaled = StandardScaler().fit_transform(scores.astype(np.float64))
    pca = PCA(3, whiten=True, svd_solver="full").fit(scaled)
    np.testing.assert_allclose(found.explained[:3], pca.explained_variance_ratio_, rtol=1e-7)
    signs = np.sign((found.vectors[:3] * pca.components_).sum(axis=1))
    np.testing.assert_allclose(found.vectors[:3], pca.components_ * signs[:, None], atol=1e-6)
    # scikit-learn divides by n - 1
    whole = pca.transform(scaled) * signs * np.sqrt(len(scores) / (len(scores) - 1))
    np.testing.assert_allclose(found.projection.apply(scores), whole, atol=2e-5)


def test_loadings_are_correlations_of_components_with_dimensions() -> None:
    scores = mixed(1)
    found = fitted(scores, most=2, explained_variance=1.0)
    components = found.projection.apply(scores).astype(np.float64)
    for k, d in itertools.product(range(2), range(6)):
        wanted = np.corrcoef(components[:, k], scores[:, d].astype(np.float64))[0, 1]
        assert found.loadings[k, d] == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(components.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(components.std(axis=0), 1.0, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_eigenvalues_are_numpys_and_vectors_solve_and_are_orthonormal(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.atleast_2d(np.corrcoef(rng.normal(size=(size, size + 2)) + rng.normal(size=size + 2)))
    values, vectors = eigen(matrix)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-12)
    np.testing.assert_allclose(vectors @ matrix, values[:, None] * vectors, atol=1e-10)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(size), atol=1e-12)


def test_equal_eigenvalues_give_a_basis_that_rounding_does_not_turn() -> None:
    block = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    matrix = np.kron(np.eye(2), block)  # eigenvalues 2, 2, .5 four times
    _, vectors = eigen(matrix)
    noise = np.random.default_rng(0).normal(size=matrix.shape) * 1e-14
    _, again = eigen(matrix + noise + noise.T)
    np.testing.assert_allclose(again, vectors, atol=1e-9)
    np.testing.assert_allclose(vectors[0], [3**-0.5] * 3 + [0] * 3, atol=1e-9)
    assert eigen(np.eye(4))[1].tolist() == np.eye(4).tolist()


def test_quality_dimensions_decide_the_signs() -> None:
    scores = mixed(2)
    for quality in ([True] * 6, [True, False, False, False, False, False], [False] * 4 + [True] * 2):
        found = fitted(scores, quality)
        assert (found.loadings[:, quality].sum(axis=1) > 0).all()


def test_where_quality_dimensions_cancel_the_first_largest_entry_is_positive() -> None:
    x = np.random.default_rng(5).normal(size=1_000).astype(np.float32)
    found = fitted(np.stack([x, -x], axis=1))
    np.testing.assert_allclose(found.vectors[0], [0.5**0.5, -(0.5**0.5)], atol=1e-9)


@pytest.mark.parametrize("wanted", [0.3, 0.6, 0.8, 0.99, 1.0])
def test_as_many_components_as_explain_enough_but_no_more_than_asked(wanted: float) -> None:
    scores = mixed(3)
    cumulative = np.cumsum(fitted(scores).explained)
    first = next(k for k in range(6) if cumulative[k] >= wanted - 1e-9) + 1
    assert fitted(scores, explained_variance=wanted, most=6).kept == first
    assert fitted(scores, explained_variance=wanted, most=2).kept == min(first, 2)


def test_collinear_dimensions_lower_the_rank() -> None:
    scores = mixed(4, size=3)
    twice = np.concatenate([scores, scores], axis=1)
    found = fitted(twice, explained_variance=1.0, most=6)
    assert found.kept == 3
    assert np.isfinite(found.projection.apply(twice)).all()
    np.testing.assert_allclose(found.explained[:3].sum(), 1.0, atol=1e-9)


def test_too_few_documents_and_constant_columns_are_refused_by_name() -> None:
    scores = mixed(6, n=6)
    with pytest.raises(ValueError, match="6 documents for 6 dimensions"):
        fitted(scores)
    scores = mixed(6)
    scores[:, 2] = 1.0
    with pytest.raises(ValueError, match="d2: the same score on all 3,000 documents"):
        fitted(scores)


def test_a_projection_of_parts_is_the_projection_of_the_whole() -> None:
    scores = mixed(7)
    projection = fitted(scores).projection
    whole = projection.apply(scores)
    parts = [projection.apply(np.asfortranarray(part)) for part in np.split(scores, [1, 7, 2_000])]
    assert np.concatenate(parts).tobytes() == np.ascontiguousarray(whole).tobytes()
