"""Kinds of document embeddings: hashed TF-IDF with an SVD fitted on the pool (the default), or a pretrained model.

A document's embedding is a function of its text alone, to the last bit: pretrained models see one text at a time,
since the padding of a batch would change the last bits of the texts that share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from quadmix.config_annotate import EmbedderConfig, LsaEmbedderConfig, PretrainedEmbedderConfig
from quadmix.errors import ConfigError, EnvironmentFault, InputError
from quadmix.hashing import folder_digest
from quadmix.scorers.embeddings import Embedding, fit_embedding

Floats32 = NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into points."""

    def transform(self, texts: Sequence[str]) -> Floats32:
        """(n, dimensions) float32 of length 1; zero for a text without words."""
        ...


@dataclass(frozen=True)
class FittedEmbedder:
    """An embedder as a model file keeps it. facts: its kind and, of a pretrained one, folder and digest; arrays: of
    one that was fitted."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def ready(self) -> Embedder:
        """The embedder, loaded. Raises EnvironmentFault without its package, InputError when its files changed."""
        if self.facts["kind"] == "lsa":
            return Embedding(self.arrays["idf"], self.arrays["directions"])
        return _pretrained(self.facts["kind"], self.facts["path"], self.facts["digest"])


def fit_embedder(config: EmbedderConfig, texts: Sequence[str], seed: int) -> tuple[FittedEmbedder, Floats32]:
    """The embedder that `config` describes and (n, dimensions) its embeddings of `texts`.

    Raises ConfigError for a folder that is not there, EnvironmentFault for a package that is not installed.
    """
    if isinstance(config, LsaEmbedderConfig):
        embedding, points = fit_embedding(texts, config.dimensions, seed)
        return FittedEmbedder({"kind": "lsa"}, {"idf": embedding.idf, "directions": embedding.directions}), points
    facts = {"kind": config.kind, "path": str(Path(config.path).absolute()), "digest": _folder_digest(config)}
    fitted = FittedEmbedder(facts, {})
    return fitted, fitted.ready().transform(texts)


@dataclass(frozen=True)
class _OneByOne:
    """A pretrained model's `encode`, a text at a time."""

    model: Any

    def transform(self, texts: Sequence[str]) -> Floats32:
        rows = [np.asarray(self.model.encode([text]), dtype=np.float32)[0] for text in texts]
        points = np.stack(rows) if rows else np.zeros((0, 1), dtype=np.float32)
        squares = points.astype(np.float64) ** 2
        length = np.sqrt(np.array([row.sum() for row in squares]))
        unit: Floats32 = np.divide(points, length[:, None], out=np.zeros_like(points), where=length[:, None] > 0)
        return unit


@lru_cache(maxsize=2)
def _pretrained(kind: str, path: str, digest: str) -> Embedder:
    if not Path(path).is_dir():
        raise InputError(f"embedder {kind}: the folder {path} cannot be read here; every worker must see it")
    if folder_digest(path) != digest:
        raise InputError(f"embedder {kind}: the files of {path} changed since it was first used; fit it again")
    try:
        if kind == "model2vec":
            from model2vec import StaticModel

            return _OneByOne(StaticModel.from_pretrained(path))
        from proxy_models.sentence_embedding import load_sentence_model

        return _OneByOne(load_sentence_model(path))
    except ModuleNotFoundError as error:
        package = {"model2vec": "model2vec", "sentence_transformers": "sentence-transformers"}[kind]
        raise EnvironmentFault(
            f"embedder {kind!r} needs the package {error.name!r}, which is not installed; pip install {package}"
        ) from error


def _folder_digest(config: PretrainedEmbedderConfig) -> str:
    if not Path(config.path).is_dir():
        raise ConfigError(
            f"embedder.path: found {config.path!r}, wanted the folder of a saved {config.kind} model (nothing is "
            "downloaded)"
        )
    return folder_digest(config.path)


def embedder_from(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Embedder:
    """The embedder of a model file."""
    return FittedEmbedder(cast(Mapping[str, Any], facts["embedder"]), arrays).ready()
