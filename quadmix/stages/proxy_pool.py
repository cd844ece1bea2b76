"""The proxy pool: the documents that proxies may be trained on, tokenised once into memory-mapped segments.

All documents of status ok when they fit in `search.pool_tokens`, else those with the smallest draws by document hash.
One task a unit reads the unit's text beside its annotations and writes two files: a segment of tokens
(proxy_models.data) and an array of what a mixture needs to know of each document (hash, domain, tokens, scores). In a
process, a `Sample` holds them sorted by document hash, so nothing depends on how the input was cut into units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import PoolConfig, RunConfig
from quadmix.core.normalise import ScoreMap, load_score_maps
from quadmix.core.sketch import TokenHistogram
from quadmix.engine.base import Engine
from quadmix.errors import InputError
from quadmix.hashing import fingerprint, uniform
from quadmix.pool.units import Unit
from quadmix.progress import Progress
from quadmix.scorers.tokens import FileTokenizer
from quadmix.search.features import QualitySample
from quadmix.stages.annotate import Annotated
from quadmix.stages.fitting import merge_histogram
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
    stage_fingerprint,
)
from quadmix.stages.rows import RowReader
from quadmix.stages.segments import array_name, segment_name, unit_bytes
from quadmix.stages.unit_texts import chosen_texts, ok_rows

STAGE = "proxy_pool"
PURPOSE = "proxy-pool"
_DRAW_BINS = 1 << 16


@dataclass(frozen=True)
class ProxyPool:
    """Finished: where it is and what it holds. docs, tokens: of the sample, tokens as the pool counts them."""

    directory: str
    units: int
    domains: tuple[str, ...]
    criteria: tuple[str, ...]
    docs: int
    tokens: int
    digest: str

    @property
    def segments(self) -> tuple[str, ...]:
        """Token files in unit order."""
        return tuple(f"{self.directory}/{segment_name(index)}" for index in range(self.units))

    @property
    def arrays(self) -> tuple[str, ...]:
        return tuple(f"{self.directory}/{array_name(index)}" for index in range(self.units))


def proxy_pool(
    config: RunConfig, engine: Engine, progress: Progress, annotated: Annotated, tokenizer: FileTokenizer, limit: int
) -> ProxyPool:
    """Tokenise at most `limit` tokens of the pool. Reuses verified files of an earlier run."""
    root = Path(config.output)
    summary, criteria = annotated.summary, config.mixture.criteria
    parts = {
        "version": __version__,
        "annotations": record_digest(annotated.record),
        "tokenizer": tokenizer.digest,
        "criteria": ",".join(criteria),
        "search.pool_tokens": str(limit),
        "seed": str(config.seed),
    }
    reuse = find(root, STAGE, parts)
    record = reuse.record
    progress.say(reuse.why)
    if record is None:
        directory = begin(root, STAGE, parts)
        stop = _draw_limit(engine, annotated, criteria, config.seed, limit)
        task = TokeniseUnit(
            str(directory),
            config.pool,
            tokenizer,
            summary.domains,
            criteria,
            config.seed,
            stop,
            fingerprint(*parts.values()),
        )
        items = list(enumerate(zip(annotated.units, annotated.files, strict=True)))
        done = dict(engine.map(task, items, label="search: tokenising the proxy pool", size=unit_bytes))
        results = [done[index] for index in range(len(items))]
        docs, tokens = sum(result[1] for result in results), sum(result[2] for result in results)
        if not docs:
            raise InputError("search: no document of the pool is within search.pool_tokens; raise it")
        files = tuple(entry for result in results for entry in result[0])
        record = StageRecord(
            STAGE, stage_fingerprint(STAGE, parts), parts, files, {"units": len(items), "docs": docs, "tokens": tokens}
        )
        commit(root, record)
    directory = root / "stages" / f"{STAGE}-{record.fingerprint[:16]}"
    found = record.summary
    return ProxyPool(
        str(directory), found["units"], summary.domains, criteria, found["docs"], found["tokens"], record_digest(record)
    )


@dataclass(frozen=True)
class DrawHistogram:
    """Task: tokens of documents of status ok by their draw, in 65,536 bins."""

    reader: RowReader
    seed: int

    def __call__(self, path: str) -> TokenHistogram:
        total = TokenHistogram.empty()
        for batch, _ in self.reader.batches(path):
            total = total.merge(TokenHistogram.of(_draw_bins(batch.doc_hash, self.seed), batch.n_tokens))
        return total


def _draw_bins(doc_hash: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    return (uniform(doc_hash, seed, PURPOSE) * _DRAW_BINS).astype(np.int64)


def _draw_limit(engine: Engine, annotated: Annotated, criteria: tuple[str, ...], seed: int, limit: int) -> int:
    """The first draw bin that is left out so that the bins before it hold at most `limit` tokens."""
    if annotated.summary.total_tokens <= limit:
        return _DRAW_BINS
    task = DrawHistogram(RowReader(annotated.summary.domains, criteria), seed)
    histogram = engine.reduce(task, list(annotated.files), merge_histogram, label="search: sizing the proxy pool")
    beyond = np.flatnonzero(np.cumsum(histogram.tokens) > limit)
    return int(histogram.bins[beyond[0]]) if beyond.size else _DRAW_BINS


@dataclass(frozen=True)
class TokeniseUnit:
    """Task: (index, (unit, its annotation file)) -> (files, documents, tokens). Finished units are found again."""

    directory: str
    pool: PoolConfig
    tokenizer: FileTokenizer
    domains: tuple[str, ...]
    criteria: tuple[str, ...]
    seed: int
    stop: int  # first draw bin that is left out
    key: str

    def __call__(self, item: tuple[int, tuple[Unit, str]]) -> tuple[tuple[FileEntry, ...], int, int]:
        index, (unit, annotations) = item
        directory, key = Path(self.directory), f"{self.key}/{index}"
        piece = load_piece(directory, f"unit-{index:05d}", key)
        if piece is None:
            piece = self._run(directory, index, unit, annotations)
            save_piece(directory, f"unit-{index:05d}", key, piece)
        files = tuple(entry if isinstance(entry, FileEntry) else FileEntry(**entry) for entry in piece["files"])
        return files, piece["docs"], piece["tokens"]

    def _run(self, directory: Path, index: int, unit: Unit, annotations: str) -> dict[str, Any]:
        from proxy_models.data import write_arrays, write_segment

        documents, chosen = self._documents(annotations)
        ids = [
            array
            for texts in chosen_texts(self.pool, unit, annotations, chosen)
            for array in self.tokenizer.encode_batch(texts)
        ]
        write_segment(str(directory / segment_name(index)), ids, documents["doc_hash"], self.tokenizer.vocab_size)
        write_arrays(str(directory / array_name(index)), (documents,))
        names = (segment_name(index), array_name(index))
        return {
            "files": [file_entry(directory, name, documents.size) for name in names],
            "docs": int(documents.size),
            "tokens": int(documents["n_tokens"].sum()),
        }

    def _documents(self, annotations: str) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """The unit's documents that belong to the sample, in input order, and which of the unit's rows they are."""
        ok = ok_rows(annotations)
        parts = []
        reader = RowReader(self.domains, self.criteria)
        for batch, _ in reader.batches(annotations):
            part = np.zeros(len(batch), dtype=document_dtype(len(self.criteria)))
            part["doc_hash"], part["domain"], part["n_tokens"] = batch.doc_hash, batch.domain, batch.n_tokens
            part["scores"] = batch.scores
            parts.append(part)
        documents = np.concatenate(parts) if parts else np.zeros(0, dtype=document_dtype(len(self.criteria)))
        inside = _draw_bins(documents["doc_hash"], self.seed) < self.stop
        chosen = np.zeros(ok.size, dtype=bool)
        chosen[np.flatnonzero(ok)[inside]] = True
        return documents[inside], chosen


def document_dtype(n_criteria: int) -> np.dtype[np.void]:
    """What is kept of a document beside its tokens: a plain .npy of fixed-size rows, no pickle."""
    return np.dtype([("doc_hash", "<u8"), ("domain", "<i4"), ("n_tokens", "<i8"), ("scores", "<f4", (n_criteria,))])


@dataclass(frozen=True)
class Sample:
    """The proxy pool in memory, sorted by document hash (n documents), without its tokens.

    place: (n,) index of each document in the `TokenPool` of the segments; lengths: (n,) tokens as the proxy sees
    them; normalised: (n, n_criteria), q_n of eq. 1 under the pool's own score maps.
    """

    doc_hash: NDArray[np.uint64]
    domain: NDArray[np.int32]
    n_tokens: NDArray[np.int64]
    scores: NDArray[np.float32]
    place: NDArray[np.int64]
    lengths: NDArray[np.int64]
    score_maps: tuple[ScoreMap, ...]
    normalised: NDArray[np.float64]
    docs_by_domain: NDArray[np.int64]
    tokens_by_domain: NDArray[np.int64]
    whole_quality: NDArray[np.float64]

    def drawn_rows(self, docs: int, seed: int) -> NDArray[np.int64]:
        """Rows of at most `docs` of its documents, in the order of their draws."""
        return np.argsort(uniform(self.doc_hash, seed, "quality-sample"), kind="stable")[:docs]

    def quality_sample(self, rows: NDArray[np.int64]) -> QualitySample:
        """Those documents, to measure mixtures on."""
        return QualitySample.of(self.domain[rows], self.n_tokens[rows], self.normalised[rows], len(self.docs_by_domain))


@lru_cache(maxsize=2)
def load_sample(pool: ProxyPool, score_maps: str) -> Sample:
    """Read a finished proxy pool; at most twice a process. score_maps: path of `save_score_maps`' file."""
    from proxy_models.data import TokenPool

    documents = np.concatenate([np.load(path, allow_pickle=False) for path in pool.arrays])
    tokens = TokenPool(pool.segments)
    order = np.argsort(documents["doc_hash"], kind="stable")
    if not np.array_equal(documents["doc_hash"], tokens.doc_hash):
        raise InputError(f"{pool.directory}: segments and arrays hold different documents; delete it and rerun")
    documents = documents[order]
    maps = load_score_maps(score_maps, pool.criteria)
    scores = np.ascontiguousarray(documents["scores"].astype(np.float32))
    normalised = np.stack(
        [one.normalised[one.classes(np.ascontiguousarray(scores[:, n]))] for n, one in enumerate(maps)], axis=1
    )
    domain = documents["domain"].astype(np.int32)
    n_tokens = documents["n_tokens"].astype(np.int64)
    n_domains = len(pool.domains)
    quality = QualitySample.of(domain, n_tokens, normalised, n_domains)
    return Sample(
        doc_hash=documents["doc_hash"].astype(np.uint64),
        domain=domain,
        n_tokens=n_tokens,
        scores=scores,
        place=order.astype(np.int64),
        lengths=tokens.lengths[order],
        score_maps=maps,
        normalised=normalised,
        docs_by_domain=np.bincount(domain, minlength=n_domains).astype(np.int64),
        tokens_by_domain=np.bincount(domain, weights=n_tokens.astype(np.float64), minlength=n_domains).astype(np.int64),
        whole_quality=quality.whole,
    )
