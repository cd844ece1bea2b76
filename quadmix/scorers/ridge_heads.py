"""Heads as ridge regression from a document's embedding to all labels at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.config_annotate import EmbedderConfig
from quadmix.one_thread import one_blas_thread
from quadmix.scorers.embedders import Embedder, embedder_from, fit_embedder
from quadmix.scorers.tokens import Tokenizer

_PENALTIES = tuple(10.0**power for power in range(-3, 4))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RidgeHeads:
    """weights: (D, d); offsets: (D,)."""

    embedder: Embedder
    weights: Floats
    offsets: Floats

    def predict(self, texts: Sequence[str], tokenizer: Tokenizer | None = None) -> Floats:
        """(n, D), in the units of the labels. The embedder needs no tokenizer."""
        return _predict(self.embedder.transform(texts), self.weights, self.offsets)


def fit_ridge(
    config: EmbedderConfig, texts: Sequence[str], labels: Floats, learn: NDArray[np.bool_], seed: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], Floats]:
    """(facts and arrays of the model, (n, D) what it says of all texts). learn: those whose labels it may see; the
    penalty of each head is chosen by leave-one-out error."""
    from sklearn.linear_model import RidgeCV

    embedder, points = fit_embedder(config, texts, seed)
    seen = labels[learn]
    deviation = seen.std(axis=0)
    with one_blas_thread():
        model = RidgeCV(alphas=_PENALTIES, alpha_per_target=True)
        model.fit(points[learn].astype(np.float64), (seen - seen.mean(axis=0)) / deviation)
    weights = np.asarray(model.coef_, dtype=np.float64) * deviation[:, None]
    offsets = np.asarray(model.intercept_, dtype=np.float64) * deviation + seen.mean(axis=0)
    arrays = {**embedder.arrays, "weights": weights, "offsets": offsets}
    return {"embedder": dict(embedder.facts)}, arrays, _predict(points, weights, offsets)


def load_ridge(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> RidgeHeads:
    """The heads of a model file."""
    return RidgeHeads(embedder_from(facts, arrays), arrays["weights"], arrays["offsets"])


def _predict(points: NDArray[np.float32], weights: Floats, offsets: Floats) -> Floats:
    """(n, D), a document at a time: a product's last bits depend on the number of its rows."""
    rows = [weights @ point + offsets for point in points.astype(np.float64)]
    return np.stack(rows) if rows else np.zeros((0, len(offsets)))
