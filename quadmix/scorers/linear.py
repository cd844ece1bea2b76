"""A linear classifier on hashed word n-grams: is this document like the positives? (DCLM's recipe, arXiv 2406.11794).

Logistic regression, trained by averaged stochastic gradient descent on positives against a sample of the pool (both
sides weigh the same). The score is the logit, clipped to [-20, 20]: a probability saturates, and ties at 1.0 cannot be
ranked. Deterministic: documents in hash order, one thread, fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import LinearScorerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import doc_hash, fingerprint, seed_for, uniform
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import Document, FitContext
from quadmix.scorers.hashed_ngrams import hashed_ngrams
from quadmix.scorers.model_files import ModelFile, describe_model, load_model, save_model

FORM = "linear"
LOGIT_LIMIT = 20.0
TRAIN_CHARS = 1 << 14  # of each training document: bounds memory, and keeps one long document from speaking for many
# strong enough that a document is not remembered by its rare n-grams: the sample's own documents are scored too
_L2 = 1e-4

Weights = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class LinearScorer:
    """One criterion, named as the config says."""

    name: str
    model: ModelFile
    buckets: int
    ngrams: int
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: LinearScorerConfig, context: FitContext) -> LinearScorer:
        """Train, or take the trained file. Raises ConfigError when one side has no documents."""
        if config.model is not None:
            file = describe_model(config.model)
            _, facts = load_model(file, FORM)
            return cls(config.name, file, facts["buckets"], facts["ngrams"])
        positives = gather(config.positives, context)
        if config.negatives:
            negatives = gather(config.negatives, context)
        else:
            negatives = context.sample(config.sample_docs, f"linear/{config.name}")
        for side, documents in (("positives", positives), ("negatives", negatives)):
            if not documents:
                raise ConfigError(f"linear scorer {config.name!r}: no {side}, wanted at least one document")
        weights = train(
            [*positives, *negatives],
            np.repeat([1, 0], [len(positives), len(negatives)]),
            buckets=config.buckets,
            ngrams=config.ngrams,
            epochs=config.epochs,
            seed=seed_for(context.seed, "linear", config.name),
        )
        facts = {"buckets": config.buckets, "ngrams": config.ngrams, "labels": [config.name]}
        file = save_model(context.directory, f"linear-{config.name}", FORM, named(weights), facts)
        return cls(config.name, file, config.buckets, config.ngrams)

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name, (-LOGIT_LIMIT, LOGIT_LIMIT)),)

    @property
    def fingerprint(self) -> str:
        return fingerprint("linear", self.version, self.name, self.model.sha256)

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _weights(self.model)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The logit of each `text`; a text without words gets the intercept."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        values = logits(texts, _weights(self.model), self.ngrams, self.buckets)[:, 0]
        return pa.record_batch([float32_column(values)], names=[self.name])


def gather(sources: Sequence[str], context: FitContext) -> list[Document]:
    """The documents of `target:<name>` (its search half) and of paths, in the order given."""
    documents: list[Document] = []
    for source in sources:
        if source.startswith("target:"):
            documents += context.target(source.removeprefix("target:"))
        else:
            documents += context.read_paths([source])
    return documents


def train(
    documents: Sequence[Document],
    labels: NDArray[np.integer],
    *,
    buckets: int,
    ngrams: int,
    epochs: int,
    seed: int,
) -> Weights:
    """Logistic regression of labels (n,) 0..k-1, every class weighing the same: coefficients and intercepts.

    Two classes give one row, the logit of class 1; more give one row a class, each against the rest.
    """
    from sklearn.linear_model import SGDClassifier

    order = np.argsort(uniform(doc_hash(document.id for document in documents), seed, "order"), kind="stable")
    features = hashed_ngrams([documents[index].text for index in order], ngrams, buckets, TRAIN_CHARS)
    model = SGDClassifier(
        loss="log_loss",
        alpha=_L2,
        max_iter=epochs,
        tol=None,
        average=True,
        class_weight="balanced",
        random_state=seed % 2**32,
    )
    model.fit(features, labels[order])
    return model.coef_.astype(np.float32), model.intercept_.astype(np.float32)


def logits(texts: Sequence[str], weights: Weights, ngrams: int, buckets: int) -> NDArray[np.float32]:
    """(n, rows of the coefficients) logits in [-20, 20]."""
    coefficients, intercepts = weights
    # a sparse row times a dense matrix is summed in column order, whatever the batch
    values = hashed_ngrams(texts, ngrams, buckets) @ coefficients.T + intercepts
    clipped: NDArray[np.float32] = np.clip(values, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float32)
    return clipped


def named(weights: Weights) -> dict[str, NDArray[Any]]:
    """The arrays of a model file."""
    return {"coefficients": weights[0], "intercepts": weights[1]}


def read_weights(file: ModelFile, form: str) -> Weights:
    """Coefficients and intercepts of a model file. Raises InputError when they are not there."""
    arrays, facts = load_model(file, form)
    if set(arrays) != {"coefficients", "intercepts"} or arrays["coefficients"].shape[1:] != (facts["buckets"],):
        shapes = {name: array.shape for name, array in sorted(arrays.items())}
        raise InputError(
            f"model {file.path} holds {shapes}, wanted coefficients (k, {facts['buckets']}) and intercepts"
        )
    return arrays["coefficients"], arrays["intercepts"]


@lru_cache(maxsize=8)
def _weights(file: ModelFile) -> Weights:
    return read_weights(file, FORM)
