"""Quality dimensions that only a labelled sample has, learned from embeddings: one linear head a dimension.

Ridge regression from a document's embedding to all labels at once (the penalty by leave-one-out error), on four fifths
of the labelled documents in hash order. The rest says what the heads are worth, component by component, since that is
how ODiS uses them (arXiv 2510.18909): the labels' correlation matrix is taken apart on the first part, labels and
predictions of the rest are projected, and a component whose Spearman correlation is below `least_spearman` is refused.
A regression predicts less spread than there is, and the less, the less it knows; so every head's output is stretched
back to the mean and deviation of its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config import HeadsScorerConfig
from quadmix.core.components import Components, principal_components
from quadmix.core.cross_moments import CrossMoments
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import fingerprint, seed_for
from quadmix.one_thread import one_blas_thread
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import Document, FitContext
from quadmix.scorers.embedders import Embedder, embedder_from, fit_embedder
from quadmix.scorers.model_files import ModelFile, load_model, save_model

FORM = "heads"
_HELD_OUT = 5  # every fifth document in hash order
_LEAST_DOCS = 50  # ten held out: a rank correlation of fewer says nothing
_PENALTIES = tuple(10.0**power for power in range(-3, 4))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeadsScorer:
    """One criterion a label, named as the config says. names: in the order of the model's heads."""

    names: tuple[str, ...]
    model: ModelFile
    name: str = "heads"
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: HeadsScorerConfig, context: FitContext) -> HeadsScorer:
        """Learn from the labelled documents. Raises ConfigError for labels that are no numbers, InputError for too few
        documents and for a component that the heads do not predict."""
        names = tuple(config.labels)
        documents = context.read_paths(config.labelled, tuple(config.labels.values()))
        labels = _labels(documents, config.labels)
        held = np.arange(len(documents)) % _HELD_OUT == _HELD_OUT - 1
        least = _LEAST_DOCS + 2 * len(names)
        if len(documents) < least:
            raise InputError(
                f"heads scorer: {len(documents)} labelled documents for {len(names)} labels, wanted at least {least}"
            )
        fitted = _components(labels[~held], names, config)
        seed = seed_for(context.seed, "heads")
        embedder, points = fit_embedder(config.embedder, [document.text for document in documents], seed)
        weights, offsets = _ridge(points[~held], labels[~held])
        predicted = _predict(points, weights, offsets)
        offsets, weights = _stretched(predicted[held], labels[~held], weights, offsets)
        checks = _validated(fitted, labels[held], _predict(points[held], weights, offsets))
        weak = [check for check in checks if check["spearman"] < config.least_spearman]
        if weak:
            said = "; ".join(f"{one['name']}: Spearman {one['spearman']:.2f}, R2 {one['r2']:.2f}" for one in weak)
            raise InputError(
                f"heads scorer: of {int(held.sum())} held-out documents the heads do not predict {said}; wanted a "
                f"Spearman of at least {config.least_spearman:g}. Label more documents, use another embedder, or leave "
                "out the dimensions that text alone does not show"
            )
        facts = {"labels": list(names), "embedder": dict(embedder.facts), "held_out": int(held.sum()), "checks": checks}
        arrays = {**embedder.arrays, "weights": weights, "offsets": offsets}
        return cls(names, save_model(context.directory, "heads", FORM, arrays, facts))

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return tuple(Criterion(name) for name in self.names)

    @property
    def fingerprint(self) -> str:
        return fingerprint(FORM, self.version, self.model.sha256)

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _ready(self.model)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What every head says of each `text`, in the units of its label."""
        embedder, weights, offsets = _ready(self.model)
        texts = [text or "" for text in batch.column("text").to_pylist()]
        values = _predict(embedder.transform(texts), weights, offsets)
        columns = [float32_column(values[:, place]) for place in range(len(self.names))]
        return pa.record_batch(columns, names=list(self.names))


def _labels(documents: Sequence[Document], columns: dict[str, str]) -> Floats:
    """(n, D) labels. Raises ConfigError naming the first document without a number."""
    found = np.empty((len(documents), len(columns)))
    for row, document in enumerate(documents):
        for place, (name, column) in enumerate(columns.items()):
            value = document.columns.get(column)
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
            if not np.isfinite(number):
                raise ConfigError(
                    f"heads scorer: document {document.id!r} has {value!r} in {column!r}, wanted a number for {name!r}"
                )
            found[row, place] = number
    return found


def _components(labels: Floats, names: tuple[str, ...], config: HeadsScorerConfig) -> Components:
    scores = np.asfortranarray(labels.astype(np.float32))
    exponents = tuple(int(np.frexp(np.abs(column).max())[1]) for column in scores.T)
    moments = CrossMoments.of(scores, exponents)
    try:
        return principal_components(moments, names, [True] * len(names), config.explained_variance, config.components)
    except ValueError as error:
        raise InputError(f"heads scorer: labels: {error}") from error


def _ridge(points: NDArray[np.float32], labels: Floats) -> tuple[Floats, Floats]:
    """(D, d) weights and (D,) offsets."""
    from sklearn.linear_model import RidgeCV

    deviation = labels.std(axis=0)
    with one_blas_thread():
        model = RidgeCV(alphas=_PENALTIES, alpha_per_target=True)
        model.fit(points.astype(np.float64), (labels - labels.mean(axis=0)) / deviation)
    weights = np.asarray(model.coef_, dtype=np.float64) * deviation[:, None]
    offsets = np.asarray(model.intercept_, dtype=np.float64) * deviation + labels.mean(axis=0)
    return weights, offsets


def _predict(points: NDArray[np.float32], weights: Floats, offsets: Floats) -> Floats:
    """(n, D), a document at a time: a product's last bits depend on the number of its rows."""
    rows = [weights @ point + offsets for point in points.astype(np.float64)]
    return np.stack(rows) if rows else np.zeros((0, len(offsets)))


def _stretched(predicted: Floats, labels: Floats, weights: Floats, offsets: Floats) -> tuple[Floats, Floats]:
    """(offsets, weights) whose predictions have the labels' mean and deviation. A head that says the same of all
    documents stays as it is: the validation refuses it."""
    spread = predicted.std(axis=0)
    scale = np.divide(labels.std(axis=0), spread, out=np.ones_like(spread), where=spread > 0)
    return labels.mean(axis=0) + (offsets - predicted.mean(axis=0)) * scale, weights * scale[:, None]


def _validated(fitted: Components, labels: Floats, predicted: Floats) -> list[dict[str, Any]]:
    """Of each component: R2 and Spearman correlation of held-out documents."""
    from scipy.stats import spearmanr

    truth, guess = (
        fitted.projection.apply(np.asfortranarray(values.astype(np.float32))).astype(np.float64)
        for values in (labels, predicted)
    )
    found = []
    for k in range(fitted.kept):
        rank = float(spearmanr(truth[:, k], guess[:, k]).statistic) if np.ptp(guess[:, k]) > 0 else 0.0
        error = float(((truth[:, k] - guess[:, k]) ** 2).sum())
        r2 = 1.0 - error / float(((truth[:, k] - truth[:, k].mean()) ** 2).sum())
        found.append({"name": f"component {k + 1}", "spearman": rank, "r2": r2})
    return found


@lru_cache(maxsize=2)
def _ready(file: ModelFile) -> tuple[Embedder, Floats, Floats]:
    arrays, facts = load_model(file, FORM)
    weights, offsets = (np.asarray(arrays[name], dtype=np.float64) for name in ("weights", "offsets"))
    return embedder_from(facts, arrays), weights, offsets
