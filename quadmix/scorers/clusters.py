"""Clusters of documents: k-means over embeddings of a sample, sizes repaired, and every document's nearest centroid.

As domains (`annotate.domains`, exactly k of them) or as the arms of Quad's bandit (`annotate.clusters`). For the latter
k is about sqrt(documents / 2) (Quad, arXiv 2409.16986), and k-means' very uneven sizes are repaired on the sample: what
has more than four times the mean is cut in two until it has not, what has less than a quarter joins its nearest
neighbour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from quadmix.config_annotate import ClusterDomainConfig, ColumnClustersConfig, EmbedderConfig, EmbeddingClustersConfig
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import doc_hash, fingerprint, seed_for, uniform
from quadmix.one_thread import one_blas_thread
from quadmix.pool.row_checks import as_text
from quadmix.scorers.context import Document, FitContext
from quadmix.scorers.embedders import Embedder, embedder_from, fit_embedder
from quadmix.scorers.model_files import ModelFile, load_model, save_model

Floats32 = NDArray[np.float32]

_FORM = "clusters"
_SAMPLE = "clusters"  # purpose of the sample's draws
_BLOCK_VALUES = 1 << 22  # similarities held at once
_MOST_TIMES, _LEAST_TIMES = 4.0, 0.25  # of the mean size
_LEAST_DOCS = 10  # of the sample, a cluster: fewer say nothing about where its centre is


@dataclass(frozen=True)
class ClusterLabeler:
    """The nearest centroid of a document's embedding; `cluster_000` had the most documents of the sample."""

    model: ModelFile
    domains: tuple[str, ...]
    version: str = "2"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: ClusterDomainConfig | EmbeddingClustersConfig, context: FitContext) -> ClusterLabeler:
        """Fit embedder and k-means on a sample of the pool. Raises ConfigError when it has fewer than k documents."""
        documents = context.sample(config.sample_docs, _SAMPLE)
        if isinstance(config, ClusterDomainConfig):
            where, k = "annotate.domains.k", config.k
        else:
            where = "annotate.clusters.k"
            k = automatic_k(documents, config.sample_docs, context.seed) if config.k == "auto" else config.k
        if len(documents) < k:
            raise ConfigError(
                f"{where}: found {k} clusters for a sample of {len(documents)} documents, "
                f"wanted at most as many clusters as documents"
            )
        repair = isinstance(config, EmbeddingClustersConfig)
        return cls._fit([document.text for document in documents], k, config.embedder, context, repair=repair)

    @classmethod
    def _fit(
        cls, texts: list[str], k: int, embedder: EmbedderConfig, context: FitContext, *, repair: bool
    ) -> ClusterLabeler:
        seed = seed_for(context.seed, "clusters")
        fitted, points = fit_embedder(embedder, texts, seed)
        centroids = k_means(points, k, seed)
        if repair:
            centroids = repaired(points, centroids, seed)
        members = np.bincount(nearest(points, centroids), minlength=len(centroids))
        centroids = centroids[np.argsort(-members, kind="stable")]
        width = max(3, len(str(len(centroids) - 1)))
        names = tuple(f"cluster_{index:0{width}d}" for index in range(len(centroids)))
        arrays = {**fitted.arrays, "centroids": centroids}
        stem = "clusters" if repair else "domains-clusters"
        file = save_model(context.directory, stem, _FORM, arrays, {"k": len(names), "embedder": dict(fitted.facts)})
        return cls(file, names)

    @property
    def fingerprint(self) -> str:
        return fingerprint("clusters", self.version, self.model.sha256)

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _ready(self.model)

    def label(self, batch: pa.RecordBatch) -> pa.Array[Any]:
        """(n,) names of the nearest centroids."""
        embedder, centroids = _ready(self.model)
        texts = [text or "" for text in batch.column("text").to_pylist()]
        index = nearest(embedder.transform(texts), centroids)
        return pa.array(self.domains, type=pa.string()).take(pa.array(index))


@dataclass(frozen=True)
class ColumnClusterLabeler:
    """The user's own clusters: a column of the input, strings or integers."""

    inputs: tuple[str, ...]
    domains: None = None
    version: str = "1"

    @classmethod
    def from_config(cls, config: ColumnClustersConfig, context: FitContext) -> ColumnClusterLabeler:
        """Nothing is learned."""
        return cls((config.column,))

    @property
    def fingerprint(self) -> str:
        return fingerprint("cluster-column", self.version, *self.inputs)

    def load(self) -> None:
        """Nothing to load."""

    def label(self, batch: pa.RecordBatch) -> pa.Array[Any]:
        """The column as strings, nulls as they are. Raises InputError for lists, structs and bytes."""
        column, name = batch.column(self.inputs[0]), self.inputs[0]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise InputError(
                f"annotate.clusters.column: {name!r} holds {kind}, wanted strings or integers, a cluster's name each"
            )
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return pc.cast(column, pa.string())  # integers of JSON may come as floats
        text, broken = as_text(column)
        if broken.any():
            raise InputError(
                f"annotate.clusters.column: {name!r} holds {int(broken.sum()):,} values that are not UTF-8 "
                f"in a batch of {len(column):,} rows; wanted names as text"
            )
        return pc.cast(text, pa.string())


def centroids_of(file: ModelFile) -> Floats32:
    """(k, dimensions) centroids of a cluster model, in the order of its names."""
    arrays, _ = load_model(file, _FORM)
    return np.asarray(arrays["centroids"], dtype=np.float32)


def embedder_of(file: ModelFile) -> Embedder:
    """The embedder of a cluster model, loaded."""
    return _ready(file)[0]


def automatic_k(documents: list[Document], asked: int, seed: int) -> int:
    """About sqrt(N / 2) clusters for a pool of N documents, at least 2, at most one for 10 documents of the sample.

    documents: the sample, in the order of its draws. N is the sample's size where it is the whole pool; else it follows
    from the largest draw of the sample, to 1 / sqrt(len(documents)), whatever the files.
    """
    pool = float(len(documents))
    if len(documents) >= asked:
        pool = len(documents) / float(uniform(doc_hash([documents[-1].id]), seed, _SAMPLE)[0])
    return max(2, min(round(math.sqrt(pool / 2)), len(documents) // _LEAST_DOCS))


def k_means(points: Floats32, k: int, seed: int) -> Floats32:
    """(k, dimensions) means."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    with one_blas_thread():
        if k * len(points) <= 1 << 24:
            model = KMeans(k, n_init=4, random_state=seed % 2**32)
        else:
            model = MiniBatchKMeans(k, n_init=1, batch_size=4096, random_state=seed % 2**32)
        return np.asarray(model.fit(points).cluster_centers_, dtype=np.float32)


def repaired(points: Floats32, centroids: Floats32, seed: int) -> Floats32:
    """Centroids of clusters whose sizes are within a quarter of and four times their mean, as far as points differ.

    The mean is that of the clusters asked for. points: (n, d); centroids: (k, d).
    """
    mean = len(points) / len(centroids)
    label = nearest(points, centroids)
    groups = [np.flatnonzero(label == index) for index in range(len(centroids))]
    done: list[NDArray[np.intp]] = []
    while groups:
        group = groups.pop()
        halves = _halves(points[group], seed) if len(group) > _MOST_TIMES * mean else None
        if halves is None:
            done.append(group)
        else:
            groups += [group[~halves], group[halves]]
    done = sorted((group for group in done if len(group)), key=lambda group: (len(group), int(group[0])))
    while len(done) > 2 and len(done[0]) < _LEAST_TIMES * mean:
        smallest, rest = done[0], done[1:]
        centres = np.stack([_centre(points[group]) for group in rest])
        host = int(nearest(_centre(points[smallest])[None], centres)[0])
        rest[host] = np.sort(np.concatenate([rest[host], smallest]))
        done = sorted(rest, key=lambda group: (len(group), int(group[0])))
    return np.stack([_centre(points[group]) for group in done])


def _halves(points: Floats32, seed: int) -> NDArray[np.bool_] | None:
    """Which points belong to the second of two clusters; None when they are all alike."""
    if (points == points[0]).all():
        return None
    second = nearest(points, k_means(points, 2, seed)) == 1
    return second if 0 < second.sum() < len(second) else None


def _centre(points: Floats32) -> Floats32:
    return np.asarray(points.astype(np.float64).mean(axis=0), dtype=np.float32)


def nearest(points: Floats32, centroids: Floats32) -> NDArray[np.int64]:
    """(n,) index of the nearest centroid of each point, the first of equally near ones."""
    wide = centroids.astype(np.float64)
    offset = 0.5 * (wide * wide).sum(axis=1)
    result = np.zeros(len(points), dtype=np.int64)
    step = max(1, _BLOCK_VALUES // len(centroids))
    for start in range(0, len(points), step):
        # a product's last bits depend on the number of rows: in double precision, rounded, they cannot decide
        closeness = points[start : start + step].astype(np.float64) @ wide.T - offset
        result[start : start + step] = np.argmax(np.round(closeness, 9), axis=1)
    return result


@lru_cache(maxsize=2)
def _ready(file: ModelFile) -> tuple[Embedder, Floats32]:
    arrays, facts = load_model(file, _FORM)
    return embedder_from(facts, arrays), np.asarray(arrays["centroids"], dtype=np.float32)
