"""Annotations without text, generated: what the selection benchmarks and tests read.

Every value is a function of (document number, seed), so a pool can be written in files of any size and is the same
pool. Tokens are log-normal with a heavy tail, domains are uneven, scores correlate with the domain; one score may be
small integers (heavy ties).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.core.summary import PoolSummary
from quadmix.hashing import hash_words, purpose_key, uniform

CRITERIA = ("edu", "fluency", "stars")
DOMAIN_SHARES = (0.34, 0.22, 0.15, 0.11, 0.08, 0.06, 0.03, 0.01)
DOMAINS = tuple(f"domain_{index}" for index in range(len(DOMAIN_SHARES)))


def documents(start: int, stop: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Arrays of documents start..stop-1: doc_hash, domain code, n_tokens, scores (n, 3) float32."""
    numbers = np.arange(start, stop, dtype=np.uint64)
    hashes = hash_words(numbers, purpose_key(seed, "document"))
    draw = {name: uniform(hashes, seed, name) for name in ("domain", "a", "b", "edu", "fluency", "stars")}
    domain = np.searchsorted(np.cumsum(DOMAIN_SHARES)[:-1], draw["domain"], side="right").astype(np.int32)
    normal = np.sqrt(-2.0 * np.log(draw["a"])) * np.cos(2.0 * np.pi * draw["b"])
    n_tokens = np.maximum(np.exp(6.2 + 1.1 * normal), 1.0).astype(np.int64)
    lift = 0.1 * domain.astype(np.float64)
    scores = np.stack(
        [
            np.log(draw["edu"] / (1.0 - draw["edu"])) + lift,
            -3.0 - 2.0 * draw["fluency"] ** 2,
            np.floor(6.0 * draw["stars"]),
        ],
        axis=1,
    ).astype(np.float32)
    return {"doc_hash": hashes, "domain": domain, "n_tokens": n_tokens, "scores": scores}


def table(start: int, stop: int, seed: int = 0, shard: str = "generated") -> pa.Table:
    """The annotation rows of documents start..stop-1."""
    docs = documents(start, stop, seed)
    n = stop - start
    scores: NDArray[np.generic] = docs["scores"]
    return pa.table(
        {
            "doc_id": _ids(start, stop),
            "doc_hash": docs["doc_hash"],
            "content_hash": docs["doc_hash"],
            "shard": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([shard])),
            "row": np.arange(start, stop, dtype=np.int64),
            "n_tokens": docs["n_tokens"],
            "n_bytes": docs["n_tokens"] * 4,
            "domain": pa.DictionaryArray.from_arrays(pa.array(docs["domain"]), pa.array(DOMAINS)),
            "cluster": np.full(n, -1, dtype=np.int32),
            **{f"score_{name}": np.ascontiguousarray(scores[:, i]) for i, name in enumerate(CRITERIA)},
            "status": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["ok"])),
        }
    )


def _ids(start: int, stop: int) -> pa.Array:
    """`doc-0000000042` and so on, digit by digit."""
    letters = np.empty((stop - start, 14), dtype=np.uint8)
    letters[:, :4] = np.frombuffer(b"doc-", dtype=np.uint8)
    rest = np.arange(start, stop, dtype=np.int64)
    for place in range(13, 3, -1):
        rest, digit = np.divmod(rest, 10)
        letters[:, place] = digit + ord("0")
    offsets = np.arange(stop - start + 1, dtype=np.int32) * 14
    return pa.StringArray.from_buffers(stop - start, pa.py_buffer(offsets), pa.py_buffer(letters))


def write(folder: Path, n_docs: int, docs_per_file: int, seed: int = 0) -> tuple[list[str], PoolSummary]:
    """Write the pool's annotation files; returns their paths and the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, summary = [], PoolSummary.empty(CRITERIA)
    for number, start, stop in _ranges(n_docs, docs_per_file):
        path = folder / f"unit-{number:05d}.parquet"
        pq.write_table(table(start, stop, seed), path, row_group_size=131_072, compression="zstd")
        paths.append(str(path))
        docs = documents(start, stop, seed)
        summary = summary.merge(
            PoolSummary.of_rows(
                DOMAINS, docs["domain"], docs["n_tokens"], docs["n_tokens"] * 4, docs["scores"], CRITERIA
            )
        )
    return paths, summary


def _ranges(n_docs: int, size: int) -> Iterator[tuple[int, int, int]]:
    for number, start in enumerate(range(0, n_docs, size)):
        yield number, start, min(start + size, n_docs)
