"""Domain labels: a column of the input, or a linear classifier (clusters of embeddings: `scorers.clusters`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from quadmix.config_annotate import ColumnDomainConfig, LinearDomainConfig
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint, seed_for
from quadmix.scorers.context import FitContext
from quadmix.scorers.linear import Weights, logits, named, read_weights, train
from quadmix.scorers.model_files import ModelFile, describe_model, load_model, save_model

DOMAIN_NGRAMS = 2
_LINEAR_FORM = "linear-domains"


@dataclass(frozen=True)
class ColumnLabeler:
    """The batch's `domain` column. `domains`: the allowed names, or None for whatever the column holds."""

    domains: tuple[str, ...] | None
    default: str | None = None
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: ColumnDomainConfig, context: FitContext) -> ColumnLabeler:
        """Nothing is learned. Raises ConfigError when `unknown: default` has no default among the allowed names."""
        if config.unknown != "default":
            return cls(config.allowed)
        if config.default is None or (config.allowed is not None and config.default not in config.allowed):
            raise ConfigError(
                f"annotate.domains.default: found {config.default!r}, wanted one of annotate.domains.allowed "
                f"({', '.join(config.allowed or ()) or 'not given'}), as `unknown: default` asks for it"
            )
        return cls(config.allowed, config.default)

    @property
    def fingerprint(self) -> str:
        return fingerprint("column", self.version, repr(self.domains), repr(self.default))

    def load(self) -> None:
        """Nothing to load."""

    def label(self, batch: pa.RecordBatch) -> pa.Array[Any]:
        """The column as strings, unknown names included (`stages.annotate` names them), nulls as they are."""
        return pc.cast(batch.column("domain"), pa.string())


@dataclass(frozen=True)
class LinearLabeler:
    """The class with the largest logit of a linear classifier on hashed words and word pairs."""

    model: ModelFile
    domains: tuple[str, ...]
    buckets: int
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: LinearDomainConfig, context: FitContext) -> LinearLabeler:
        """Train on labelled documents, or take the trained file. Raises ConfigError with fewer than two labels."""
        if bool(config.labelled) == bool(config.model):
            raise ConfigError("annotate.domains: give either labelled (to train) or model (a trained file), not both")
        if config.model is not None:
            file = describe_model(config.model)
            _, facts = load_model(file, _LINEAR_FORM)
            return cls(file, tuple(facts["labels"]), facts["buckets"])
        documents = [
            document
            for document in context.read_paths(config.labelled, (config.label,))
            if document.columns.get(config.label) not in (None, "")
        ][: config.sample_docs]
        labels = [str(document.columns[config.label]) for document in documents]
        names = sorted(set(labels))
        if len(names) < 2:
            raise ConfigError(
                f"annotate.domains.labelled: found {len(documents)} documents with {len(names)} different values of "
                f"{config.label!r}, wanted at least two"
            )
        weights = train(
            documents,
            np.array([names.index(label) for label in labels]),
            buckets=config.buckets,
            ngrams=DOMAIN_NGRAMS,
            epochs=config.epochs,
            seed=seed_for(context.seed, "domains"),
        )
        facts = {"buckets": config.buckets, "ngrams": DOMAIN_NGRAMS, "labels": names}
        file = save_model(context.directory, "domains-linear", _LINEAR_FORM, named(weights), facts)
        return cls(file, tuple(names), config.buckets)

    @property
    def fingerprint(self) -> str:
        return fingerprint("linear", self.version, self.model.sha256)

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _linear_weights(self.model)

    def label(self, batch: pa.RecordBatch) -> pa.Array[Any]:
        """(n,) names; a text without words gets the largest intercept's."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        values = logits(texts, _linear_weights(self.model), DOMAIN_NGRAMS, self.buckets)
        if len(self.domains) == 2:  # one row: the logit of the second class
            return _names(self.domains, (values[:, 0] > 0).astype(np.int64))
        return _names(self.domains, np.argmax(values, axis=1))


def _names(domains: tuple[str, ...], index: NDArray[np.int64]) -> pa.Array[Any]:
    return pa.array(domains, type=pa.string()).take(pa.array(index))


@lru_cache(maxsize=2)
def _linear_weights(file: ModelFile) -> Weights:
    return read_weights(file, _LINEAR_FORM)
