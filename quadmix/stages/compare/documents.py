"""What target models read: documents of the manifests, drawn down to a model's tokens and tokenised once for all.

From each manifest documents are kept in the order of draws by hash until the model's tokens are full, each with all of
its copies or none, domains at their shares (`quadmix.search.trials.thin`): so repeats are those of the selection. Only
the documents that some model reads are tokenised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import PoolConfig, RunConfig
from quadmix.engine.base import Engine, Shared
from quadmix.errors import InputError
from quadmix.hashing import doc_hash, fingerprint, uniform
from quadmix.manifest.model import Manifest
from quadmix.manifest.rows import read_rows
from quadmix.pool.units import Unit
from quadmix.progress import Progress
from quadmix.schema import COPIES, DOC_HASH, DOC_ID, DOMAIN, N_TOKENS
from quadmix.scorers.tokens import FileTokenizer
from quadmix.search.trials import thin
from quadmix.stages.annotate import Annotated
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
from quadmix.stages.segments import array_name, segment_name, unit_bytes
from quadmix.stages.unit_texts import chosen_texts, ok_rows

STAGE = "compare_pool"
ROWS = np.dtype([("doc_hash", "<u8"), ("copies", "<i4")])


@dataclass(frozen=True)
class Reading:
    """What one target model reads of one manifest. file: rows of ROWS sorted by hash; digest: of their bytes.

    documents, copies, tokens: that it reads; unique_tokens: of the manifest, every document once.
    """

    file: str
    digest: str
    documents: int
    copies: int
    tokens: int
    unique_tokens: int


@dataclass(frozen=True)
class Draw:
    """Task: (file to write, folder of a manifest, seed) -> its Reading."""

    domains: tuple[str, ...]
    tokens: int

    def __call__(self, item: tuple[str, str, int]) -> Reading:
        from proxy_models.data import write_arrays

        file, folder, seed = item
        hashes, copies, n_tokens, domain = _manifest_rows(Manifest.load(folder), self.domains)
        kept = thin(
            copies, n_tokens, n_tokens, domain, uniform(hashes, seed, "thin"), hashes, self.tokens, len(self.domains)
        )
        order = np.argsort(hashes, kind="stable")
        order = order[kept[order] > 0]
        rows = np.zeros(order.size, dtype=ROWS)
        rows["doc_hash"], rows["copies"] = hashes[order], kept[order]
        write_arrays(file, (rows,))
        return Reading(
            file,
            hashlib.sha256(rows.tobytes()).hexdigest(),
            int(order.size),
            int(kept.sum()),
            int((kept * n_tokens).sum()),
            int(n_tokens.sum()),
        )


def _manifest_rows(
    manifest: Manifest, domains: tuple[str, ...]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(hashes, copies, tokens of one copy, domain) of its documents, (n,) each."""
    place = {name: index for index, name in enumerate(domains)}
    parts: list[tuple[NDArray[Any], ...]] = []
    for _, _, batch in read_rows(manifest, (DOC_ID, COPIES, N_TOKENS, DOMAIN)):
        names: list[str] = batch.column(DOMAIN).to_pylist()
        parts.append((
            doc_hash(batch.column(DOC_ID).to_pylist()),
            batch.column(COPIES).to_numpy(zero_copy_only=False).astype(np.int64),
            batch.column(N_TOKENS).to_numpy(zero_copy_only=False).astype(np.int64),
            np.array([place[name] for name in names], dtype=np.int64),
        ))  # fmt: skip
    hashes, copies, n_tokens, domain = (np.concatenate(column) for column in zip(*parts, strict=True))
    return hashes, copies, n_tokens, domain


def read_reading(path: str) -> NDArray[np.void]:
    """The rows that `Draw` wrote."""
    rows: NDArray[np.void] = np.load(path, allow_pickle=False)
    return rows


def tokenised(
    config: RunConfig,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    tokenizer: FileTokenizer,
    readings: Sequence[Reading],
) -> tuple[str, ...]:
    """Token files that hold every document of the readings. Reuses verified files of an earlier run."""
    root = Path(config.output)
    wanted = np.unique(np.concatenate([read_reading(reading.file)["doc_hash"] for reading in readings]))
    parts = {
        "version": __version__,
        "annotations": record_digest(annotated.record),
        "tokenizer": tokenizer.digest,
        "documents": hashlib.sha256(wanted.tobytes()).hexdigest(),
    }
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        directory = begin(root, STAGE, parts)
        task = TokeniseChosen(
            str(directory), config.pool, tokenizer, engine.share(wanted), fingerprint(*parts.values())
        )
        items = list(enumerate(zip(annotated.units, annotated.files, strict=True)))
        done = dict(engine.map(task, items, label="compare: tokenising what is read", size=unit_bytes))
        held = sum(done[index][1] for index in range(len(items)))
        if held != wanted.size:
            raise InputError(
                f"compare: the manifests hold {wanted.size:,} documents, the annotations {held:,} of them; rerun"
            )
        files = tuple(entry for index in range(len(items)) for entry in done[index][0])
        record = StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, files, {"documents": held})
        commit(root, record)
    folder = stage_directory(root, STAGE, record.fingerprint)
    return tuple(str(folder / entry.path) for entry in record.files)


@dataclass(frozen=True)
class TokeniseChosen:
    """Task: (index, (unit, its annotation file)) -> (file, documents in it). wanted: (k,) sorted hashes of documents.
    Finished units are found again."""

    directory: str
    pool: PoolConfig
    tokenizer: FileTokenizer
    wanted: Shared[NDArray[np.uint64]]
    key: str

    def __call__(self, item: tuple[int, tuple[Unit, str]]) -> tuple[tuple[FileEntry, ...], int]:
        index, (unit, annotations) = item
        directory, key = Path(self.directory), f"{self.key}/{index}"
        piece = load_piece(directory, f"unit-{index:05d}", key)
        if piece is None:
            piece = self._run(directory, index, unit, annotations)
            save_piece(directory, f"unit-{index:05d}", key, piece)
        files = tuple(entry if isinstance(entry, FileEntry) else FileEntry(**entry) for entry in piece["files"])
        return files, piece["documents"]

    def _run(self, directory: Path, index: int, unit: Unit, annotations: str) -> dict[str, Any]:
        from proxy_models.data import write_segment

        hashes = pq.read_table(annotations, columns=[DOC_HASH], page_checksum_verification=True)[DOC_HASH].to_numpy()
        chosen = ok_rows(annotations) & np.isin(hashes, self.wanted.get())
        texts = chosen_texts(self.pool, unit, annotations, chosen) if chosen.any() else ()
        tokens = [array for batch in texts for array in self.tokenizer.encode_batch(batch)]
        name = segment_name(index)
        write_segment(str(directory / name), tokens, hashes[chosen], self.tokenizer.vocab_size)
        held = int(chosen.sum())
        return {"files": [file_entry(directory, name, held)], "documents": held}


def reading_file(directory: Path, number: int) -> str:
    """Where the reading of that number lies."""
    return str(directory / f"reading-{array_name(number)}")
