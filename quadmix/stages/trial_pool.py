"""The documents that trials of one's own trainer are selected from: the pool, or a sample of it that is as tight.

A trial of T tokens must not take the best T tokens of the whole pool: it would repeat nothing and see only the very
best. So the pool shrinks as the budget does: documents whose draw is below T / budget. Every mixture then has the
shares, ranks and repeats that it would have at full size, to sampling noise, and reading a trial's pool costs the same
fraction. The sample is kept as annotation files of its own, so each trial's manifest verifies by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.normalise import ScoreMap, load_score_maps, save_score_maps
from quadmix.core.summary import PoolSummary
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.hashing import uniform
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.schema import COPIES, DOC_HASH, DOC_ID, OK, STATUS
from quadmix.search.features import QualitySample
from quadmix.search.learning import QUALITY_DOCS
from quadmix.search.result import MixtureByName
from quadmix.stages.annotate import STAGE, Annotated, link_or_copy
from quadmix.stages.fitting import fit_score_maps
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
from quadmix.stages.select import packs
from quadmix.stages.unit_files import write_annotations

PURPOSE = "trial-pool"
SUMMARY_FILE, MAPS_FILE, QUALITY_FILE = "summary.npz", "score-maps.npz", "quality.npz"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrialPool:
    """Annotations that trials select from, the score maps on them, and documents to compute mean qualities on."""

    annotated: Annotated
    maps: tuple[ScoreMap, ...]
    maps_path: str
    quality: QualitySample


def trial_pool(
    root: Path,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    mixture: MixtureConfig,
    share: float,
    seed: int,
) -> TrialPool:
    """Make it under `root`, or find it there. share: of the pool's documents; mixture: with the trials' budget.

    Raises ConfigError when the sample leaves a domain without documents.
    """
    parts = {
        "annotations": record_digest(annotated.record),
        "share": repr(share),
        "seed": str(seed),
        "config.mixture": mixture.model_dump_json(exclude={"space"}),
    }
    reuse = find(root, STAGE, parts)
    record = reuse.record
    directory = stage_directory(root, STAGE, stage_fingerprint(STAGE, parts))
    if record is None:
        begin(root, STAGE, parts)
        if share < 1.0:
            progress.say(f"ask: a sample of {share:.3%} of the pool's documents is the pool of every trial")
        files, summary = _annotations(directory, engine, annotated, share, seed, parts)
        if missing := sorted(set(annotated.summary.domains) - set(summary.domains)):
            raise ConfigError(
                f"--tokens: a sample of {share:.3%} of the pool holds no document of {', '.join(missing)}; "
                "wanted some of every domain; ask for more tokens"
            )
        summary.save(str(directory / SUMMARY_FILE))
        _quality(directory, engine, [str(directory / entry.path) for entry in files], summary, mixture, seed)
        kept = [file_entry(directory, name, 0) for name in (SUMMARY_FILE, MAPS_FILE, QUALITY_FILE)]
        # inputs and quarantine are those of the pool: a manifest says where its documents come from
        record = StageRecord(
            STAGE, stage_fingerprint(STAGE, parts), parts, (*files, *kept), dict(annotated.record.summary)
        )
        commit(root, record)
    names = [entry.path for entry in record.files if entry.path.startswith("unit-")]
    pool = Annotated(
        record,
        directory,
        tuple(str(directory / name) for name in names),
        annotated.units,
        PoolSummary.load(str(directory / SUMMARY_FILE)),
    )
    maps_path = str(directory / MAPS_FILE)
    return TrialPool(
        pool, load_score_maps(maps_path, mixture.criteria), maps_path, load_quality(directory / QUALITY_FILE)
    )


def load_quality(path: Path) -> QualitySample:
    """What `trial_pool` kept to compute mean qualities on."""
    with np.load(path, allow_pickle=False) as stored:
        return QualitySample(*(stored[name] for name in ("domain", "n_tokens", "normalised", "whole")))


def _annotations(
    directory: Path, engine: Engine, annotated: Annotated, share: float, seed: int, parts: dict[str, str]
) -> tuple[list[FileEntry], PoolSummary]:
    if share >= 1.0:
        entries = {entry.path: entry for entry in annotated.record.files}
        for path in annotated.files:
            link_or_copy(Path(path), directory / Path(path).name)
        return [entries[Path(path).name] for path in annotated.files], annotated.summary
    task = SampleUnit(str(directory), annotated.summary.criteria, seed, share, stage_fingerprint(STAGE, parts))
    items = list(enumerate(annotated.files))
    done = dict(engine.map(task, items, label="ask: sampling the pool"))
    files, summaries = [], []
    for index in range(len(items)):
        unit, summary = (FileEntry(**entry) for entry in done[index]["files"])
        files.append(unit)
        summaries.append(PoolSummary.load(str(directory / summary.path)))
    return files, reduce(PoolSummary.merge, summaries, PoolSummary.empty(annotated.summary.criteria))


@dataclass(frozen=True)
class SampleUnit:
    """Task: (number, annotation file) -> the piece of its sample. Quarantined rows stay, as everywhere."""

    directory: str
    criteria: tuple[str, ...]
    seed: int
    share: float
    key: str

    def __call__(self, item: tuple[int, str]) -> dict[str, Any]:
        index, path = item
        directory, key = Path(self.directory), f"{self.key}/{index}"
        piece = load_piece(directory, f"unit-{index:05d}", key)
        if piece is None:
            table = pq.read_table(path, page_checksum_verification=True)
            draws = uniform(table[DOC_HASH].to_numpy(), self.seed, PURPOSE)
            keep = pc.or_(pc.not_equal(table[STATUS], OK), pa.array(draws < self.share))
            piece = write_annotations(directory, index, table.filter(keep), self.criteria, [])
            save_piece(directory, f"unit-{index:05d}", key, piece)
        return piece


@dataclass(frozen=True)
class QualityDocuments:
    """Task: annotation file -> (domain, tokens, scores) of its documents whose draw is below `stop`."""

    reader: RowReader
    seed: int
    stop: float

    def __call__(self, path: str) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
        parts = []
        for batch, _ in self.reader.batches(path):
            rows = np.flatnonzero(uniform(batch.doc_hash, self.seed, "quality-sample") < self.stop)
            parts.append((batch.domain[rows], batch.n_tokens[rows], batch.scores[rows]))
        domain, tokens, scores = zip(*parts, strict=True)
        return np.concatenate(domain), np.concatenate(tokens), np.concatenate(scores)


def _quality(
    directory: Path,
    engine: Engine,
    files: Sequence[str],
    summary: PoolSummary,
    mixture: MixtureConfig,
    seed: int,
) -> None:
    maps = fit_score_maps(engine, packs(files), summary, mixture)
    save_score_maps(str(directory / MAPS_FILE), maps)
    stop = QUALITY_DOCS / int(summary.docs.sum())
    task = QualityDocuments(RowReader(summary.domains, mixture.criteria), seed, stop)
    found = dict(engine.map(task, list(files), label="ask: documents to compute mean qualities on"))
    domain, tokens, scores = (
        np.concatenate([found[index][column] for index in range(len(files))]) for column in range(3)
    )
    sample = QualitySample.of(domain, tokens, _normalised(maps, scores), len(summary.domains))
    with open(directory / QUALITY_FILE, "wb") as handle:
        np.savez(
            handle, allow_pickle=False, domain=sample.domain, n_tokens=sample.n_tokens,
            normalised=sample.normalised, whole=sample.whole,
        )  # fmt: skip


def _normalised(maps: tuple[ScoreMap, ...], scores: NDArray[np.float32]) -> Floats:
    """(n, n_criteria) q_n of eq. 1."""
    return np.stack(
        [one.normalised[one.classes(np.ascontiguousarray(scores[:, n]))] for n, one in enumerate(maps)], axis=1
    )


@dataclass(frozen=True)
class MeasurePart:
    """Task: (annotation files of a group, its manifest part) -> by domain: tokens, tokens of one copy each, and tokens
    times normalised score, (n_domains, 2 + n_criteria)."""

    reader: RowReader  # with the extra column doc_id
    maps_path: str

    def __call__(self, item: tuple[Sequence[str], str]) -> Floats:
        paths, part = item
        chosen = pq.read_table(part, columns=[DOC_ID, COPIES], page_checksum_verification=True)
        maps = load_score_maps(self.maps_path, self.reader.criteria)
        total = np.zeros((len(self.reader.domains), 2 + len(maps)))
        for path in paths:
            for batch, table in self.reader.batches(path):
                place = pc.index_in(table[DOC_ID], value_set=chosen[DOC_ID].combine_chunks())
                place = place.combine_chunks() if isinstance(place, pa.ChunkedArray) else place
                rows = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
                copies = chosen[COPIES].to_numpy()[place.drop_null().to_numpy()]
                once = batch.n_tokens[rows].astype(np.float64)
                values = _normalised(maps, batch.scores[rows])
                columns = [copies * once, once, *(copies * once * values[:, n] for n in range(len(maps)))]
                for column, weights in enumerate(columns):
                    total[:, column] += np.bincount(batch.domain[rows], weights=weights, minlength=len(total))
        return total


def measured_mixture(engine: Engine, pool: TrialPool, manifest: Manifest, criteria: tuple[str, ...]) -> MixtureByName:
    """What a trial's manifest holds: shares, repeats and mean qualities of the documents that were selected."""
    domains = pool.annotated.summary.domains
    groups = packs(pool.annotated.files)
    items = []
    for part in manifest.files:
        number = int(Path(part.path).name.split("-")[1])
        items.append((groups[number], str(manifest.part_path(part))))
    task = MeasurePart(RowReader(domains, criteria, (DOC_ID,), hashes=False), pool.maps_path)
    found = dict(engine.map(task, items, label="ask: measuring the trial"))
    total = np.sum([found[index] for index in range(len(items))], axis=0)
    tokens, once, sums = total[:, 0], total[:, 1], total[:, 2:]
    whole = np.where(np.isfinite(pool.quality.whole), pool.quality.whole, 0.5)
    quality = np.where(tokens[:, None] > 0, sums / np.maximum(tokens, 1.0)[:, None], whole)
    return MixtureByName(
        tokens=float(tokens.sum()),
        share={name: float(tokens[m] / tokens.sum()) for m, name in enumerate(domains)},
        repeats={name: float(tokens[m] / once[m]) if once[m] else 1.0 for m, name in enumerate(domains)},
        quality={
            name: {criterion: float(quality[m, n]) for n, criterion in enumerate(criteria)}
            for m, name in enumerate(domains)
        },
    )
