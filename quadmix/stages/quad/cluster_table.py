"""Documents and tokens of every cluster in every domain, counted from the annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.engine.base import Engine
from quadmix.errors import ConfigError, InputError
from quadmix.schema import CLUSTER, DOMAIN, N_TOKENS, OK, STATUS

Counts = dict[tuple[str, str], tuple[int, int]]  # (cluster, domain) -> documents, tokens


@dataclass(frozen=True)
class ClusterTable:
    """K clusters by name, sorted. cluster, domain: (r,) int32 of the pairs that hold documents; documents, tokens:
    (r,) int64 of each pair."""

    names: tuple[str, ...]
    domains: tuple[str, ...]
    cluster: NDArray[np.int32]
    domain: NDArray[np.int32]
    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @property
    def cluster_documents(self) -> NDArray[np.int64]:
        """(K,)."""
        return self._summed(self.documents)

    @property
    def cluster_tokens(self) -> NDArray[np.int64]:
        """(K,)."""
        return self._summed(self.tokens)

    def tokens_by_domain(self) -> NDArray[np.int64]:
        """(n_domains, K)."""
        table = np.zeros((len(self.domains), len(self.names)), dtype=np.int64)
        table[self.domain, self.cluster] = self.tokens
        return table

    def _summed(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.zeros(len(self.names), dtype=np.int64)
        np.add.at(total, self.cluster, values)
        return total


def cluster_table(engine: Engine, files: Sequence[str], domains: tuple[str, ...]) -> ClusterTable:
    """Count usable documents. domains: the pool's names. Raises ConfigError when annotations hold no clusters."""
    if not files:
        raise InputError("select: the pool has no documents")
    if CLUSTER not in pq.read_schema(files[0]).names:
        raise ConfigError(
            "annotate.clusters: missing, but the selector reads clusters; add "
            "`clusters: {kind: embeddings}`, or `{kind: column, column: ...}` where the input holds them"
        )
    counts = engine.reduce(CountClusters(), list(files), merge_counts, label="select: counting clusters")
    names = tuple(sorted({cluster for cluster, _ in counts}))
    place, home = ({name: index for index, name in enumerate(known)} for known in (names, domains))
    rows = sorted((place[cluster], home[domain], *found) for (cluster, domain), found in counts.items())
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return ClusterTable(
        names, domains, columns[0].astype(np.int32), columns[1].astype(np.int32), columns[2], columns[3]
    )


@dataclass(frozen=True)
class CountClusters:
    """Task: annotation file -> documents and tokens of its usable rows by cluster and domain."""

    def __call__(self, path: str) -> Counts:
        table = pq.read_table(path, columns=[CLUSTER, DOMAIN, N_TOKENS, STATUS], page_checksum_verification=True)
        table = table.filter(pc.and_(pc.equal(table[STATUS], OK), pc.is_valid(table[CLUSTER])))
        names = {name: table[name].cast(pa.string()) for name in (CLUSTER, DOMAIN)}
        grouped = pa.table({**names, N_TOKENS: table[N_TOKENS]}).group_by([CLUSTER, DOMAIN])
        found = grouped.aggregate([(N_TOKENS, "count"), (N_TOKENS, "sum")])
        columns = [found[name].to_pylist() for name in (CLUSTER, DOMAIN, f"{N_TOKENS}_count", f"{N_TOKENS}_sum")]
        return {(cluster, domain): (docs, tokens) for cluster, domain, docs, tokens in zip(*columns, strict=True)}


def merge_counts(first: Counts, second: Counts) -> Counts:
    total = dict(first)
    for pair, (documents, tokens) in second.items():
        before = total.get(pair, (0, 0))
        total[pair] = (before[0] + documents, before[1] + tokens)
    return total
