"""Samples of selected copies, several a selection: for each, the copies with the smallest draws of its own purpose.

A copy's draw is a hash of (document, number of the copy, seed, purpose): a sample depends on what was selected alone.
Samples are monoids: a part keeps its smallest draws, and the smallest of two parts are among theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.hashing import doc_hash, uniform
from quadmix.schema import COPIES, DOC_ID
from quadmix.stages.rows import RowReader

_BATCH = 131_072
Drawn = tuple[NDArray[np.float64], NDArray[np.uint64]]  # draws, ascending, and document hashes


@dataclass(frozen=True)
class Samples:
    """copies, documents: of the selection. drawn: for each sample the `size` smallest draws at most."""

    size: int
    copies: tuple[int, ...]  # for each sample that of its selection: random selections differ
    drawn: tuple[Drawn, ...]

    @staticmethod
    def empty(size: int, samples: int) -> Samples:
        nothing = (np.zeros(0), np.zeros(0, dtype=np.uint64))
        return Samples(size, (0,) * samples, (nothing,) * samples)

    def merge(self, other: Samples) -> Samples:
        """Samples of both parts of the selections."""
        return Samples(
            self.size,
            tuple(mine + theirs for mine, theirs in zip(self.copies, other.copies, strict=True)),
            tuple(
                _smallest(np.concatenate([mine[0], theirs[0]]), np.concatenate([mine[1], theirs[1]]), self.size)
                for mine, theirs in zip(self.drawn, other.drawn, strict=True)
            ),
        )

    def hashes(self, size: int) -> list[NDArray[np.uint64]]:
        """(size,) document hashes of each sample; a document is there once for each of its copies that was drawn."""
        return [found[:size] for _, found in self.drawn]


def merge_samples(first: Samples, second: Samples) -> Samples:
    return first.merge(second)


@dataclass(frozen=True)
class SampleSelection:
    """Task: Parquet file with columns doc_id and copies -> `samples` samples of its copies."""

    size: int
    samples: int
    seed: int

    def __call__(self, path: str) -> Samples:
        total = Samples.empty(self.size, self.samples)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=[DOC_ID, COPIES]):
                hashes = doc_hash(batch[DOC_ID].to_pylist())
                copies = batch[COPIES].to_numpy(zero_copy_only=False).astype(np.int64)
                found = tuple(
                    _draw(hashes, copies, self.size, self.seed, f"diversity/sample/{index}")
                    for index in range(self.samples)
                )
                total = total.merge(Samples(self.size, (int(copies.sum()),) * self.samples, found))
        return total


@dataclass(frozen=True)
class SampleRandom:
    """Task: annotation files -> one sample of each of `samples` random selections of the pool, drawn for a purpose.

    A random selection takes `fraction` copies of every document: the whole part surely, one more where a draw of its
    own is below the rest. Its tokens are the budget in expectation.
    """

    reader: RowReader
    fraction: float
    size: int
    samples: int
    seed: int
    purpose: str

    def __call__(self, paths: Sequence[str]) -> Samples:
        total = Samples.empty(self.size, self.samples)
        for path in paths:
            for batch, _ in self.reader.batches(path):
                found, copies = [], []
                for index in range(self.samples):
                    purpose = f"diversity/{self.purpose}/{index}"
                    chance = uniform(batch.doc_hash, self.seed, purpose)
                    whole = int(self.fraction)
                    many = whole + (chance < self.fraction - whole).astype(np.int64)
                    copies.append(int(many.sum()))
                    found.append(_draw(batch.doc_hash, many, self.size, self.seed, f"{purpose}/sample"))
                total = total.merge(Samples(self.size, tuple(copies), tuple(found)))
        return total


def _draw(hashes: NDArray[np.uint64], copies: NDArray[np.int64], size: int, seed: int, purpose: str) -> Drawn:
    """The `size` copies with the smallest draws. hashes, copies: (n,)."""
    draws, documents = [np.zeros(0)], [np.zeros(0, dtype=np.uint64)]
    for copy in range(int(copies.max(initial=0))):
        documents.append(hashes[copies > copy])
        draws.append(uniform(documents[-1], seed, f"{purpose}/{copy}"))
    return _smallest(np.concatenate(draws), np.concatenate(documents), size)


def _smallest(draws: NDArray[np.float64], documents: NDArray[np.uint64], size: int) -> Drawn:
    if len(draws) > size:
        kept = np.flatnonzero(draws <= np.partition(draws, size - 1)[size - 1])
        draws, documents = draws[kept], documents[kept]
    order = np.lexsort((documents, draws))[:size]
    return draws[order], documents[order]
