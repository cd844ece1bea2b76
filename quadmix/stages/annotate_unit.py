"""The task that annotates one unit: read, judge, label, score, count, and leave immutable files.

For each unit: the annotations (one row per input row, in input order), its usable rows' hashes for the search for
duplicates, a summary, and its quarantined rows if any. Only usable rows reach a scorer. File names carry their own
hash, so an attempt that is repeated leaves the same files and nothing half-written is ever listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from quadmix.config import PoolConfig
from quadmix.config_annotate import ColumnDomainConfig
from quadmix.engine.base import Shared
from quadmix.hashing import content_hash, doc_hash
from quadmix.pool.duplicates import id_checks
from quadmix.pool.leakage import TargetIndex
from quadmix.pool.parquet_footer import read_footer
from quadmix.pool.quarantine import Faults, escaped
from quadmix.pool.readers import read_unit
from quadmix.pool.refusals import FileRefused, Refusal
from quadmix.pool.row_checks import ReadLog, checked_clusters, checked_domains
from quadmix.pool.storage import full_digest
from quadmix.pool.units import Unit
from quadmix.schema import RowReason
from quadmix.scorers.base import Criterion
from quadmix.scorers.registry import FittedLabeler, FittedScorer
from quadmix.scorers.tokens import Tokenizer
from quadmix.stages.records import save_piece
from quadmix.stages.unit_files import UnitColumns, write_unit

UNIT_PIECE = "unit"
_SHOWN_DOMAINS = 20

# fitted models by fingerprint: loaded once a process however often the task is unpickled
_loaded: dict[str, Any] = {}


@dataclass(frozen=True)
class UnitItem:
    """A unit and the key under which its finished work is kept."""

    unit: Unit
    key: str


@dataclass(frozen=True)
class AnnotateUnit:
    """Task: UnitItem -> the piece's payload, or the refusals of files that cannot be read.

    tokens_given: the pool's own token counts are used and `tokenizer` is not.
    """

    directory: str
    config: PoolConfig
    scorers: tuple[FittedScorer, ...]
    labeler: FittedLabeler
    domains: ColumnDomainConfig | None
    clusters: FittedLabeler | None
    tokenizer: Tokenizer | None
    targets: Shared[TargetIndex]

    def __call__(self, item: UnitItem) -> dict[str, Any] | list[Refusal]:
        log = ReadLog()
        unknown: Counter[str] = Counter()
        criteria = tuple(criterion.name for scorer in self.scorers for criterion in scorer.outputs)
        columns = UnitColumns(criteria, self.clusters is not None)
        extras = extra_columns(self.scorers, self.labeler, self.clusters)
        shared_ids = 0
        try:
            for batch in read_unit(item.unit, self.config, extras, log):
                shared_ids += self._annotate(batch, columns, unknown)
            digests = _digests(item.unit)
        except FileRefused:
            return _all_refusals(item.unit, self.config, extras)
        payload = write_unit(Path(self.directory), item.unit.index, columns)
        payload["sha256"] = digests
        payload["fixes"] = dict(sorted(log.fixes.items()))
        payload["unknown_domains"] = dict(sorted(unknown.items())[:_SHOWN_DOMAINS])
        payload["shared_target_ids"] = shared_ids
        save_piece(Path(self.directory), UNIT_PIECE, item.key, payload)
        return payload

    def _annotate(self, batch: pa.RecordBatch, columns: UnitColumns, unknown: Counter[str]) -> int:
        """Judge and score one batch into `columns`; returns how many usable rows share an id with a target."""
        faults = Faults.of_columns(batch["reason"], batch["detail"])
        n_rows = batch.num_rows
        tokens = np.zeros(n_rows, dtype=np.int64)
        content = np.zeros(n_rows, dtype=np.uint64)
        domains = pa.nulls(n_rows, pa.string())
        clusters = None if self.clusters is None else domains
        scores = np.full((n_rows, len(columns.criteria)), np.nan, dtype=np.float32)
        if self.tokenizer is None:
            tokens = np.asarray(pc.fill_null(batch["tokens"], 0))
        fine = faults.fine
        if fine.any():
            rows = np.flatnonzero(fine)
            usable = batch if len(rows) == n_rows else batch.take(pa.array(rows))
            texts = usable["text"].to_pylist()
            content[rows] = content_hash(texts)
            labels = self._labels(usable, faults, rows, unknown)
            domains = labels if len(rows) == n_rows else _scatter(labels, rows, n_rows)
            if self.clusters is not None:
                inner = Faults.none(len(rows))
                arms = checked_clusters(_ready(self.clusters).label(usable), inner)
                _carry(inner, faults, rows)
                clusters = arms if len(rows) == n_rows else _scatter(arms, rows, n_rows)
            if self.tokenizer is not None:
                tokens[rows] = self._count(texts, faults, rows)
            scores[rows] = self._scores(usable, faults, rows)
            self._guard(content, faults, rows)
        ids = batch["doc_id"].to_pylist()
        known = batch["doc_id"].is_valid().to_numpy(zero_copy_only=False)
        present = ids if known.all() else [doc_id for doc_id in ids if doc_id is not None]
        hashes, checks = np.zeros(n_rows, dtype=np.uint64), np.zeros(n_rows, dtype=np.uint64)
        hashes[known], checks[known] = doc_hash(present), id_checks(present)
        still = faults.fine
        columns.append(
            batch=batch,
            domains=domains,
            clusters=clusters,
            doc_hash=hashes,
            id_check=checks,
            content_hash=content,
            n_tokens=tokens,
            n_bytes=np.asarray(pc.fill_null(pc.binary_length(batch["text"]), 0)).astype(np.int64),
            scores=scores,
            faults=faults,
        )
        return int(self.targets.get().shares_id(hashes[still]).sum())

    def _labels(
        self, usable: pa.RecordBatch, faults: Faults, rows: NDArray[np.intp], unknown: Counter[str]
    ) -> pa.Array:
        """The usable rows' domains; null, invalid and unknown ones become faults."""
        labels = _ready(self.labeler).label(usable)
        if pa.types.is_dictionary(labels.type):
            labels = labels.dictionary_decode()
        if self.domains is not None and self.domains.allowed is not None:
            labels = self._known(labels, self.domains, faults, rows, unknown)
        inner = Faults.none(len(rows))
        labels = checked_domains(labels, inner)
        _carry(inner, faults, rows)
        return labels

    def _known(
        self,
        labels: pa.Array,
        policy: ColumnDomainConfig,
        faults: Faults,
        rows: NDArray[np.intp],
        unknown: Counter[str],
    ) -> pa.Array:
        """Apply `annotate.domains.unknown` to domains that `allowed` does not list."""
        allowed = pa.array(list(policy.allowed or ()), pa.string())
        strangers = np.asarray(pc.invert(pc.or_kleene(pc.is_in(labels, allowed), pc.is_null(labels))))
        strangers &= np.asarray(pc.fill_null(pc.not_equal(labels, ""), False))
        if not strangers.any():
            return labels
        names = labels.filter(pa.array(strangers)).to_pylist()
        unknown.update(escaped(name) for name in names)
        if policy.unknown == "default":
            return pc.if_else(pa.array(strangers), pa.scalar(policy.default, pa.string()), labels)
        mask = np.zeros(len(faults.codes), dtype=np.bool_)
        mask[rows[strangers]] = True
        by_row = dict(zip(rows[strangers].tolist(), names, strict=True))
        faults.mark(mask, RowReason.UNKNOWN_DOMAIN, lambda row: by_row[row])
        return labels

    def _count(self, texts: Sequence[str], faults: Faults, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Tokens of the usable rows, the end token included; a text that yields no other is a fault."""
        assert self.tokenizer is not None
        counts = self.tokenizer.count(texts)
        bare = 1 if self.tokenizer.end_id is not None else 0
        mask = np.zeros(len(faults.codes), dtype=np.bool_)
        mask[rows[counts <= bare]] = True
        faults.mark(mask, RowReason.ZERO_TOKENS)
        return counts

    def _scores(self, usable: pa.RecordBatch, faults: Faults, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """(n_usable, n_criteria) float32, higher is better; what is no score becomes a fault of its row."""
        columns: list[NDArray[np.float32]] = []
        for scorer in self.scorers:
            scored = _ready(scorer).score(usable)
            for index, criterion in enumerate(scorer.outputs):
                values = scored.column(index)
                missing = values.is_null().to_numpy(zero_copy_only=False)
                numbers = np.asarray(pc.fill_null(values, 0)).astype(np.float32, copy=False)
                _judge_scores(numbers, missing, criterion, faults, rows)
                columns.append(numbers if criterion.higher_is_better else -numbers)
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), dtype=np.float32)

    def _guard(self, content: NDArray[np.uint64], faults: Faults, rows: NDArray[np.intp]) -> None:
        index = self.targets.get()
        owners = np.full(len(content), -1, dtype=np.int64)
        owners[rows] = index.leaks(content[rows])
        faults.mark(owners >= 0, RowReason.TARGET_LEAK, lambda row: f"target {index.names[owners[row]]}")


def extra_columns(
    scorers: Sequence[FittedScorer], labeler: FittedLabeler, clusters: FittedLabeler | None
) -> tuple[str, ...]:
    """Input columns that scorers and labellers read beyond the configured ones."""
    inputs = [*(scorer.inputs for scorer in scorers), labeler.inputs, *([clusters.inputs] if clusters else [])]
    return tuple(dict.fromkeys(path for paths in inputs for path in paths))


def _judge_scores(
    numbers: NDArray[np.float32],
    missing: NDArray[np.bool_],
    criterion: Criterion,
    faults: Faults,
    rows: NDArray[np.intp],
) -> None:
    """Null, NaN, infinite and out-of-range scores, each under its own reason."""
    # the range as float32 sees it: 0.1 as a score is allowed where 0.1 is the upper end
    low, high = criterion.range if criterion.range is not None else (-np.inf, np.inf)
    inside = (numbers >= np.float32(low)) & (numbers <= np.float32(high))
    if not missing.any() and np.isfinite(numbers).all() and inside.all():
        return
    for wrong, reason in (
        (missing, RowReason.NULL_SCORE),
        (np.isnan(numbers), RowReason.NAN_SCORE),
        (np.isinf(numbers), RowReason.INF_SCORE),
        (~inside, RowReason.SCORE_RANGE),
    ):
        mask = np.zeros(len(faults.codes), dtype=np.bool_)
        mask[rows[wrong]] = True
        found = dict(zip(rows[wrong].tolist(), numbers[wrong].tolist(), strict=True))
        faults.mark(mask, reason, _told(criterion.name, found, low, high))


def _told(name: str, found: dict[int, float], low: float, high: float) -> Callable[[int], str]:
    return lambda row: f"{name} is {found[row]:g}, wanted {low:g}..{high:g}"


def _carry(inner: Faults, outer: Faults, rows: NDArray[np.intp]) -> None:
    """Give faults found among the usable rows to the rows of the whole batch."""
    for row in np.flatnonzero(inner.codes).tolist():
        place = int(rows[row])
        if outer.codes[place] == 0:
            outer.codes[place] = inner.codes[row]
            if row in inner.details:
                outer.details[place] = inner.details[row]


def _scatter(values: pa.Array, rows: NDArray[np.intp], n_rows: int) -> pa.Array:
    """(n_rows,) the values at their rows, null elsewhere."""
    places = np.full(n_rows, -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    return values.take(pa.array(places, mask=places < 0))


def _ready(part: Any) -> Any:
    """The part, loaded in this process."""
    known = f"{type(part).__qualname__}/{part.fingerprint}"
    if known not in _loaded:
        part.load()
        _loaded[known] = part
    return _loaded[known]


def _all_refusals(unit: Unit, config: PoolConfig, extras: tuple[str, ...]) -> list[Refusal]:
    """Every file of the unit that cannot be read: one was found, so that the others can be named with it."""
    found: list[Refusal] = []
    for _, pieces in groupby(unit.pieces, key=lambda piece: piece.file):
        try:
            for _ in read_unit(replace(unit, pieces=tuple(pieces)), config, extras):
                pass
        except FileRefused as refused:
            found.append(refused.refusal)
    return found


def _digests(unit: Unit) -> dict[str, str]:
    """sha256 of the files that begin in this unit and that no page checksum protects."""
    digests = {}
    for piece in unit.pieces:
        file = piece.file
        if piece.start or file.format == "prepared":
            continue
        if file.format == "parquet" and read_footer(file.path, file.shard, file.size, file.mtime_ns).page_checksums:
            continue
        digests[file.shard] = full_digest(file.path)
    return digests
