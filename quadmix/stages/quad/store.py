"""The documents that Quad may look at, tokenised and laid out so that a pull reads only its own.

A document is in the store when its draw is below a fraction. Buckets hold whole clusters, each cluster's documents in
the order of their draws: pull after pull takes the next rows of one file, which is memory-mapped. Two passes write it:
every unit sorts its documents by cluster, then every bucket gathers its own from all units. What a bucket holds depends
neither on files and units nor on the engine.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import PoolConfig, QuadConfig, RunConfig, TrainedModelConfig
from quadmix.engine.base import Engine
from quadmix.errors import InputError
from quadmix.hashing import fingerprint, uniform
from quadmix.pool.units import Unit
from quadmix.progress import Progress
from quadmix.scorers.tokens import FileTokenizer
from quadmix.stages.annotate import Annotated
from quadmix.stages.quad.cluster_table import ClusterTable
from quadmix.stages.records import (
    FileEntry,
    StageRecord,
    begin,
    commit,
    file_entry,
    find,
    load_piece,
    record_digest,
    save_piece,
    stage_directory,
    stage_fingerprint,
)
from quadmix.stages.rows import RowReader
from quadmix.stages.segments import array_name, segment_name, unit_bytes
from quadmix.stages.unit_texts import chosen_texts, ok_rows

if TYPE_CHECKING:
    from proxy_models.data import TokenPool, Tokens

STAGE = "quad_store"
PURPOSE = "quad-store"
# times the documents that may be scored are tokenised: the best clusters get more than their share
_STORED = 3.0
# and times the documents that the proxy or the curvature should need: many may be shorter than the mean
_SPARE = 1.5
_BUCKET_DOCS = 20_000  # aimed at; a cluster is never cut
_CHARS_PER_TOKEN = 16  # of a document no more text is tokenised than fills its tokens even at this many characters each
_ROWS = np.dtype([("cluster", "<i4"), ("doc_hash", "<u8")])

Place = tuple[int, int]  # (bucket, row)


@dataclass(frozen=True)
class Store:
    """Finished. buckets: how many; first: (K,) row of each cluster's first document in its bucket; bucket: (K,)."""

    directory: str
    buckets: int
    docs: int
    tokens: int
    digest: str
    bucket: tuple[int, ...]
    first: tuple[int, ...]
    documents: tuple[int, ...]

    def segment(self, bucket: int) -> str:
        return f"{self.directory}/{segment_name(bucket)}"

    def places(self, cluster: int, first: int, count: int) -> list[Place]:
        """Documents first..first + count - 1 of a cluster's order of draws."""
        start = self.first[cluster] + first
        return [(self.bucket[cluster], row) for row in range(start, start + count)]

    def lengths(self) -> list[NDArray[np.int64]]:
        """Tokens of every document, by bucket."""
        return [_opened(self.segment(bucket)).lengths for bucket in range(self.buckets)]

    def drawn(self, what: str, seed: int, *, docs: int | None = None, tokens: int | None = None) -> list[Place]:
        """Documents of two tokens or more with the smallest draws for `what`, in that order: `docs` of them, or as many
        as hold at least `tokens`; all where the store has no more."""
        rows = [_rows(self.directory, bucket)["doc_hash"] for bucket in range(self.buckets)]
        hashes, lengths = np.concatenate(rows), np.concatenate(self.lengths())
        owner = np.repeat(np.arange(self.buckets), [len(part) for part in rows])
        row = np.concatenate([np.arange(len(part)) for part in rows])
        order = np.lexsort((hashes, uniform(hashes, seed, what)))
        order = order[lengths[order] > 1]
        if tokens is not None:
            docs = int(np.searchsorted(np.cumsum(lengths[order]), tokens)) + 1
        return list(zip(owner[order[:docs]].tolist(), row[order[:docs]].tolist(), strict=True))


def stored_fraction(asked: QuadConfig, documents: int, tokens: int) -> float:
    """Of the pool's documents and tokens, what is tokenised: for the documents that may be scored, and for what the
    proxy and the curvature learn from."""
    if not documents:
        return 1.0
    kept = min(tokens / documents, asked.max_tokens)  # of a document, about
    train = asked.model.train_tokens / max(kept, 1.0) if isinstance(asked.model, TrainedModelConfig) else 0.0
    factored = 0 if asked.curvature == "identity" else asked.factor_docs
    return min(1.0, max(_STORED * asked.max_scored, _SPARE * max(train, factored) / documents))


def read_places(store: Store, places: Sequence[Place]) -> tuple[list[Tokens], NDArray[np.uint64]]:
    """(tokens of each document, (n,) their hashes)."""
    documents, hashes = [], np.zeros(len(places), dtype=np.uint64)
    for index, (bucket, row) in enumerate(places):
        pool = _opened(store.segment(bucket))
        documents.append(pool.gather(np.array([row])))
        hashes[index] = pool.doc_hash[row]
    return documents, hashes


@lru_cache(maxsize=64)
def _opened(path: str) -> TokenPool:
    from proxy_models.data import TokenPool

    return TokenPool([path])


@lru_cache(maxsize=64)
def _rows(directory: str, bucket: int) -> NDArray[np.void]:
    found: NDArray[np.void] = np.load(f"{directory}/{array_name(bucket)}", allow_pickle=False)
    return found


def quad_store(
    config: RunConfig,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    table: ClusterTable,
    tokenizer: FileTokenizer,
    fraction: float,
    max_tokens: int,
) -> Store:
    """Make the store, or reuse its verified files. fraction: of the pool's documents; max_tokens: kept of each."""
    root = Path(config.output)
    parts = {
        "version": __version__,
        "annotations": record_digest(annotated.record),
        "tokenizer": tokenizer.digest,
        "fraction": repr(fraction),
        "max_tokens": str(max_tokens),
        "seed": str(config.seed),
    }
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        directory = begin(root, STAGE, parts)
        record = _made(config, engine, annotated, table, tokenizer, fraction, max_tokens, directory, parts)
        commit(root, record)
    found = record.summary
    return Store(
        str(stage_directory(root, STAGE, record.fingerprint)), found["buckets"], found["docs"], found["tokens"],
        record_digest(record), *(tuple(found[name]) for name in ("bucket", "first", "documents")),
    )  # fmt: skip


def _made(
    config: RunConfig,
    engine: Engine,
    annotated: Annotated,
    table: ClusterTable,
    tokenizer: FileTokenizer,
    fraction: float,
    max_tokens: int,
    directory: Path,
    parts: dict[str, str],
) -> StageRecord:
    clusters = len(table.names)
    wanted = int(table.cluster_documents.sum() * fraction) // _BUCKET_DOCS + 1
    buckets = min(clusters, wanted)
    bucket_of = tuple(cluster * buckets // clusters for cluster in range(clusters))
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    key = fingerprint(*parts.values())
    scatter = ScatterUnit(
        str(scratch), config.pool, tokenizer, annotated.summary.domains, table.names, config.seed, fraction, max_tokens,
        key,
    )  # fmt: skip
    items = list(enumerate(zip(annotated.units, annotated.files, strict=True)))
    for _ in engine.map(scatter, items, label="quad: tokenising", size=unit_bytes):
        pass
    gather = GatherBucket(str(directory), str(scratch), len(items), bucket_of, tokenizer.vocab_size, config.seed)
    done = dict(engine.map(gather, list(range(buckets)), label="quad: sorting by cluster"))
    shutil.rmtree(scratch)
    documents = [0] * clusters
    first = [0] * clusters
    files: list[FileEntry] = []
    tokens = 0
    for bucket in range(buckets):
        entries, counts, held = done[bucket]
        files += entries
        tokens += held
        row = 0
        for cluster, count in counts:
            first[cluster], documents[cluster] = row, count
            row += count
    if not sum(documents):
        raise InputError(
            "quad: no document of the pool may be looked at (quad.max_scored leaves none); raise quad.max_scored"
        )
    summary = {
        "buckets": buckets, "docs": sum(documents), "tokens": tokens, "bucket": list(bucket_of), "first": first,
        "documents": documents,
    }  # fmt: skip
    return StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, tuple(files), summary)


@dataclass(frozen=True)
class ScatterUnit:
    """Task: (index, (unit, its annotation file)) -> nothing; leaves the unit's documents of the store, sorted by
    cluster, in two files. Finished units are found again."""

    directory: str
    pool: PoolConfig
    tokenizer: FileTokenizer
    domains: tuple[str, ...]
    clusters: tuple[str, ...]
    seed: int
    fraction: float
    max_tokens: int
    key: str

    def __call__(self, item: tuple[int, tuple[Unit, str]]) -> None:
        index, (unit, annotations) = item
        directory, key = Path(self.directory), f"{self.key}/{index}"
        if load_piece(directory, f"unit-{index:05d}", key) is None:
            save_piece(directory, f"unit-{index:05d}", key, self._run(directory, index, unit, annotations))

    def _run(self, directory: Path, index: int, unit: Unit, annotations: str) -> dict[str, Any]:
        from proxy_models.data import write_arrays, write_segment

        batches = [batch for batch, _ in RowReader(self.domains, (), clusters=self.clusters).batches(annotations)]
        rows = np.zeros(sum(len(batch) for batch in batches), dtype=_ROWS)
        start = 0
        for batch in batches:
            part = rows[start : start + len(batch)]
            part["cluster"], part["doc_hash"] = batch.cluster, batch.doc_hash
            start += len(batch)
        inside = uniform(rows["doc_hash"], self.seed, PURPOSE) < self.fraction
        chosen = ok_rows(annotations)
        chosen[np.flatnonzero(chosen)[~inside]] = False
        rows = rows[inside]
        tokens: list[Tokens] = []
        most = self.max_tokens * _CHARS_PER_TOKEN
        for texts in chosen_texts(self.pool, unit, annotations, chosen):
            encoded = self.tokenizer.encode_batch([text[:most] for text in texts])
            tokens += [array[: self.max_tokens] for array in encoded]
        order = np.argsort(rows["cluster"], kind="stable")
        write_segment(
            str(directory / segment_name(index)), [tokens[row] for row in order], rows["doc_hash"][order],
            self.tokenizer.vocab_size,
        )  # fmt: skip
        write_arrays(str(directory / array_name(index)), (rows[order],))
        return {"files": [file_entry(directory, name(index), rows.size) for name in (segment_name, array_name)]}


@dataclass(frozen=True)
class GatherBucket:
    """Task: bucket -> (its files, (cluster, documents) of each of its clusters, its tokens)."""

    directory: str
    scratch: str
    units: int
    bucket_of: tuple[int, ...]
    vocab_size: int
    seed: int

    def __call__(self, bucket: int) -> tuple[list[FileEntry], list[tuple[int, int]], int]:
        from proxy_models.data import TokenPool, write_arrays, write_segment

        low = self.bucket_of.index(bucket)
        high = low + self.bucket_of.count(bucket)
        rows: list[NDArray[np.void]] = []
        tokens: list[Tokens] = []
        for unit in range(self.units):
            array: NDArray[np.void] = np.load(f"{self.scratch}/{array_name(unit)}", mmap_mode="r", allow_pickle=False)
            start, stop = np.searchsorted(array["cluster"], [low, high])
            if stop > start:
                segment = TokenPool([f"{self.scratch}/{segment_name(unit)}"])
                rows.append(array[start:stop])
                tokens += [segment.gather(np.array([row])) for row in range(start, stop)]
        held = np.concatenate(rows) if rows else np.zeros(0, dtype=_ROWS)
        order = np.lexsort((held["doc_hash"], uniform(held["doc_hash"], self.seed, PURPOSE), held["cluster"]))
        held = held[order]
        directory = Path(self.directory)
        ordered = [tokens[row] for row in order]
        write_segment(str(directory / segment_name(bucket)), ordered, held["doc_hash"], self.vocab_size)
        write_arrays(str(directory / array_name(bucket)), (held,))
        entries = [file_entry(directory, name(bucket), held.size) for name in (segment_name, array_name)]
        clusters, counts = np.unique(held["cluster"], return_counts=True)
        return entries, list(zip(clusters.tolist(), counts.tolist(), strict=True)), sum(map(len, ordered))
