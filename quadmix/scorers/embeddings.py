"""Small dense embeddings of documents: hashed TF-IDF projected by a truncated SVD (latent semantic analysis).

Fitted on a sample of the pool, in hash order, with one BLAS thread and a fixed seed, so that the model does not depend
on the number of cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.one_thread import one_blas_thread
from quadmix.scorers.hashed_ngrams import Csr, hashed_ngrams

BUCKETS = 1 << 16
FIT_CHARS = 1 << 14  # of each document of the sample


@dataclass(frozen=True, eq=False)
class Embedding:
    """idf: (BUCKETS,) float32; directions: (BUCKETS, dimensions) float32."""

    idf: NDArray[np.float32]
    directions: NDArray[np.float32]

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimensions) float32 of length 1; zero for a text without words."""
        return self.of_features(hashed_ngrams(texts, 1, BUCKETS))

    def of_features(self, features: Csr) -> NDArray[np.float32]:
        """The same, from (n, BUCKETS) hashed words; changes `features`."""
        features.data *= self.idf[features.indices]
        projected: NDArray[np.float32] = features @ self.directions
        squares = projected.astype(np.float64) ** 2
        # summed column by column: a row's result must not depend on how many rows come with it
        length = np.sqrt(sum(squares[:, column] for column in range(squares.shape[1])))
        return np.divide(projected, length[:, None], out=np.zeros_like(projected), where=length[:, None] > 0)


def fit_embedding(texts: Sequence[str], dimensions: int, seed: int) -> tuple[Embedding, NDArray[np.float32]]:
    """The embedding of a sample's words and (n, dimensions) the sample embedded.

    Fewer texts than dimensions: the missing directions are zero.
    """
    from sklearn.decomposition import TruncatedSVD

    features = hashed_ngrams(texts, 1, BUCKETS, FIT_CHARS)
    documents_with = np.bincount(features.indices, minlength=BUCKETS)
    idf = (np.log((1.0 + len(texts)) / (1.0 + documents_with)) + 1.0).astype(np.float32)
    weighted = features.copy()
    weighted.data *= idf[weighted.indices]
    rank = min(dimensions, max(1, min(weighted.shape) - 1))
    with one_blas_thread():
        svd = TruncatedSVD(n_components=rank, random_state=seed % 2**32).fit(weighted)
    directions = np.zeros((BUCKETS, dimensions), dtype=np.float32)
    directions[:, :rank] = svd.components_.T
    embedding = Embedding(idf, directions)
    return embedding, embedding.of_features(features)
