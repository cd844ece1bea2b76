"""The stage `annotate`: from input files to one annotation file a unit, with everything wrong counted and named.

Order: inventory, fitting of scorers, units (on the engine, each resumable by itself), duplicate ids, judgement,
record. Nothing is published before the judgement; finished units stay on disk for the next attempt either way.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from quadmix.config import PoolConfig, RunConfig
from quadmix.config_annotate import ColumnDomainConfig
from quadmix.core.summary import PoolSummary
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.pool.ingest import Prepared, PrepareFile, must_prepare
from quadmix.pool.inventory import Inventory, find_inputs, plan_units
from quadmix.pool.leakage import TargetIndex
from quadmix.pool.prepared import prepared_input
from quadmix.pool.refusals import FileRefused, Refusal, refused_error
from quadmix.pool.units import InputFile, Unit
from quadmix.progress import Progress
from quadmix.scorers.base import Noting
from quadmix.scorers.registry import FittedLabeler, FittedScorer, make_clusters, make_labeler, make_scorer
from quadmix.scorers.tokens import Tokenizer, load_tokenizer
from quadmix.stages.annotate_identity import base_key, prepared_key, stage_parts, unit_key
from quadmix.stages.annotate_unit import UNIT_PIECE, AnnotateUnit, UnitItem, extra_columns
from quadmix.stages.deduplicate import quarantine_duplicates
from quadmix.stages.fit_context import PoolFitContext
from quadmix.stages.pool_outcome import Outcome
from quadmix.stages.records import (
    FileEntry,
    StageRecord,
    begin,
    commit,
    file_entry,
    find,
    load_piece,
    save_piece,
    stage_directory,
    stage_fingerprint,
)
from quadmix.stages.targets import TargetSet, load_targets
from quadmix.stages.unit_files import BAD_ROWS_SCHEMA, file_of

STAGE = "annotate"
QUARANTINE_FILE = "quarantine.parquet"
SUMMARY_FILE = "pool-summary.npz"
PREPARED_PIECE = "prepared"
MODELS = "models"
SCRATCH = "scratch"


@dataclass(frozen=True)
class Annotated:
    """The finished stage. files[u]: absolute path of units[u]'s annotations, rows as `read_unit` gives them."""

    record: StageRecord
    directory: Path
    files: tuple[str, ...]
    units: tuple[Unit, ...]
    summary: PoolSummary


def annotate(config: RunConfig, engine: Engine, progress: Progress) -> Annotated:
    """Annotate the whole pool, or reuse what is still true of an earlier run. Call it while holding the run's lock.

    Raises ConfigError (exit 2) and InputError (exit 3) before anything is recorded.
    """
    pool = pool_to_read(config)
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    targets = load_targets(config)
    inventory = find_inputs(pool)
    files = inventory.accepted(pool.skip_bad_files)
    root = Path(config.output)
    parts = stage_parts(config, files, tokenizer, targets)
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    if reuse.record is not None:
        return _reused(root, reuse.record, pool, files)
    work = _Work(config, pool, engine, progress, begin(root, STAGE, parts), targets, tokenizer)
    return work.run(inventory, files, parts)


class _Work:
    """One attempt at the stage: what its steps share."""

    def __init__(
        self,
        config: RunConfig,
        pool: PoolConfig,
        engine: Engine,
        progress: Progress,
        directory: Path,
        targets: tuple[TargetSet, ...],
        tokenizer: Tokenizer | None,
    ) -> None:
        self.config = config
        self.pool = pool
        self.engine = engine
        self.progress = progress
        self.directory = directory
        self.root = Path(config.output)
        self.targets = targets
        self.tokenizer = tokenizer
        self.counting = tokenizer if pool.columns.tokens is None else None  # scorers read tokens either way
        self.index = TargetIndex.of([(target.name, target.guarded, target.doc_hash) for target in targets])
        self.refused: list[Refusal] = []

    def run(self, inventory: Inventory, files: Sequence[InputFile], parts: dict[str, str]) -> Annotated:
        """All steps, in order."""
        self.refused.extend(inventory.refused)
        self._sweep()
        scorers, labeler, clusters = self._fit(files)
        extras = extra_columns(scorers, labeler, clusters)
        if extras:
            inventory = find_inputs(self.pool, extras)
            self._refuse([refusal for refusal in inventory.refused if not self._is_refused(refusal.shard)])
        inputs, prepared = self._prepare(files, extras)
        task = AnnotateUnit(
            str(self.directory),
            self.pool,
            scorers,
            labeler,
            self.config.annotate.domains if isinstance(self.config.annotate.domains, ColumnDomainConfig) else None,
            clusters,
            self.counting,
            self.engine.share(self.index),
        )
        base = base_key(self.config, scorers, labeler, clusters, self.counting, self.targets)
        units, payloads = self._annotate_units(task, plan_units(inputs, self.pool.unit_bytes), base)
        criteria = tuple(criterion.name for scorer in scorers for criterion in scorer.outputs)
        final = quarantine_duplicates(self.engine, self.directory, payloads, criteria)
        summary = self._summary(final, criteria)
        quarantine_file = self._write_quarantine(final)
        outcome = Outcome.of(final, prepared)
        outcome.judge(self.config, summary, str(self.directory / QUARANTINE_FILE))
        summary.save(str(self.directory / SUMMARY_FILE))
        said = {
            **outcome.as_json(self.config, summary, inventory.warnings),
            "inputs": [outcome.input_json(file) for file in files if not self._is_refused(file.shard)],
            "refused": [
                {"shard": item.shard, "reason": str(item.reason), "message": item.message} for item in self.refused
            ],
            "prepared": {shard: payload["name"] for shard, payload in sorted(prepared.items())},
            "scorers": [_scorer_json(scorer) for scorer in scorers],
            "labeler": {"version": labeler.version, "fingerprint": labeler.fingerprint},
            "clusters": None if clusters is None else _clusters_json(clusters),
            "criteria": list(criteria),
        }
        unit_files = [entry for entry in (file_of(payload, "unit") for payload in final) if entry is not None]
        models = sorted(path for path in (self.directory / MODELS).rglob("*") if path.is_file())
        listed = (
            *unit_files,
            quarantine_file,
            file_entry(self.directory, SUMMARY_FILE, len(summary.domains)),
            *(FileEntry(**prepared[shard]["files"][0]) for shard in sorted(prepared)),
            *(file_entry(self.directory, str(path.relative_to(self.directory)), 0) for path in models),
        )
        record = StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, listed, said)
        commit(self.root, record)
        self._say_outcome(record)
        files_of_units = tuple(str(self.directory / entry.path) for entry in unit_files)
        return Annotated(record, self.directory, files_of_units, units, summary)

    def _sweep(self) -> None:
        """Remove what a killed attempt left half-done (the lock says that nobody is at it), make the folders."""
        for path in self.directory.glob("*.tmp"):
            path.unlink()
        shutil.rmtree(self.directory / SCRATCH, ignore_errors=True)
        for name in (MODELS, SCRATCH):
            (self.directory / name).mkdir(exist_ok=True)

    def _fit(self, files: Sequence[InputFile]) -> tuple[tuple[FittedScorer, ...], FittedLabeler, FittedLabeler | None]:
        """Make the scorers and the labellers; a bad file that a fit trips over is left out when that is allowed."""
        while True:
            kept = [file for file in files if not self._is_refused(file.shard)]
            context = PoolFitContext(
                self.directory / MODELS,
                self.directory / SCRATCH,
                self.config.seed,
                self.tokenizer,
                self.engine,
                self.pool,
                plan_units(kept, self.pool.unit_bytes),
                self.targets,
                self.index,
            )
            try:
                scorers = tuple(make_scorer(section, context) for section in self.config.annotate.scorers)
                labeler = make_labeler(self.config.annotate.domains, context)
                section = self.config.annotate.clusters
                clusters = None if section is None else make_clusters(section, context)
            except FileRefused as refused:
                self._refuse([refused.refusal])
                continue
            _require_distinct(scorers)
            for note in (note for scorer in scorers for note in _notes(scorer)):
                self.progress.say(f"annotate: {note}")
            return scorers, labeler, clusters

    def _prepare(
        self, files: Sequence[InputFile], extras: tuple[str, ...]
    ) -> tuple[list[InputFile], dict[str, dict[str, Any]]]:
        """Rewrite huge streams into small row groups: (inputs to cut into units, payloads by shard)."""
        done: dict[str, dict[str, Any]] = {}
        pending: list[InputFile] = []
        for file in files:
            if self._is_refused(file.shard) or not must_prepare(file, self.pool.unit_bytes):
                continue
            payload = self._piece(PREPARED_PIECE, prepared_key(file, self.config, extras), {})
            if payload is None:
                pending.append(file)
            else:
                done[file.shard] = payload
        task = PrepareFile(str(self.directory), self.pool, extras)
        found: list[Refusal] = []
        if pending:
            for place, result in self.engine.map(task, pending, label="ingest", size=lambda file: file.size):
                if isinstance(result, Refusal):
                    found.append(result)
                else:
                    done[pending[place].shard] = self._keep_prepared(pending[place], result, extras)
        self._refuse(found)
        return _with_prepared(files, {shard: payload["name"] for shard, payload in done.items()}, self.directory), done

    def _keep_prepared(self, file: InputFile, result: Prepared, extras: tuple[str, ...]) -> dict[str, Any]:
        entry = FileEntry(result.name, result.rows, result.bytes, result.sha256)
        payload = {
            "files": [asdict(entry)],
            "name": result.name,
            "sha256": result.original_sha256,
            "fixes": result.fixes,
        }
        save_piece(self.directory, PREPARED_PIECE, prepared_key(file, self.config, extras), payload)
        return payload

    def _annotate_units(
        self, task: AnnotateUnit, units: tuple[Unit, ...], base: str
    ) -> tuple[tuple[Unit, ...], list[dict[str, Any]]]:
        """Annotate every unit whose piece is not there yet. Files found bad on the way are left out of their units
        (when that is allowed) and only those units are done again.
        """
        payloads: dict[int, dict[str, Any]] = {}
        while True:
            units = _without(units, {refusal.shard for refusal in self.refused})
            items = [UnitItem(unit, unit_key(unit, base)) for unit in units]
            for item in items:
                if item.unit.index not in payloads:
                    stems = {stem: f"{stem}-{item.unit.index:05d}" for stem in ("unit", "summary", "ids", "bad")}
                    payload = self._piece(UNIT_PIECE, item.key, stems)
                    if payload is not None:
                        payloads[item.unit.index] = payload
            pending = [item for item in items if item.unit.index not in payloads]
            if payloads and pending:
                self.progress.say(f"annotate: {len(payloads)} of {len(units)} units are done already")
            found: list[Refusal] = []
            if pending:
                for place, result in self.engine.map(task, pending, label=STAGE, size=lambda item: item.unit.bytes):
                    if isinstance(result, list):
                        found.extend(result)
                    else:
                        payloads[pending[place].unit.index] = result
            if not found:
                return units, [payloads[unit.index] for unit in units]
            self._refuse(found)
            bad = {refusal.shard for refusal in found}
            for unit in units:  # a unit done before its file was found bad elsewhere holds rows of it
                if any(piece.file.shard in bad for piece in unit.pieces):
                    payloads.pop(unit.index, None)

    def _piece(self, name: str, key: str, stems: Mapping[str, str]) -> dict[str, Any] | None:
        """A finished piece, from this folder or from an earlier run's (then its files are linked here).

        stems: file name beginnings to give to the files, by their kind; a unit's index may have moved.
        """
        payload = load_piece(self.directory, name, key)
        if payload is not None:
            return payload
        for other in sorted(self.directory.parent.glob(f"{STAGE}-*")):
            if other == self.directory or not other.is_dir():
                continue
            payload = load_piece(other, name, key)
            if payload is None:
                continue
            for entry in payload["files"]:
                kind, _, rest = entry["path"].partition("-")
                renamed = f"{stems[kind]}-{rest.partition('-')[2]}" if kind in stems else entry["path"]
                link_or_copy(other / entry["path"], self.directory / renamed)
                entry["path"] = renamed
            save_piece(self.directory, name, key, payload)
            return payload
        return None

    def _summary(self, payloads: Sequence[dict[str, Any]], criteria: tuple[str, ...]) -> PoolSummary:
        names = [entry.path for entry in (file_of(payload, "summary") for payload in payloads) if entry is not None]
        if not names:
            return PoolSummary.empty(criteria)
        return self.engine.reduce(LoadSummary(str(self.directory)), names, PoolSummary.merge, label="summaries")

    def _write_quarantine(self, payloads: Sequence[dict[str, Any]]) -> FileEntry:
        """One table of all quarantined rows, in input order, a unit at a time."""
        path = self.directory / QUARANTINE_FILE
        temporary = path.with_suffix(".tmp")
        rows = 0
        with pq.ParquetWriter(
            temporary, BAD_ROWS_SCHEMA, compression="zstd", compression_level=3, write_page_checksum=True
        ) as writer:
            for payload in payloads:
                entry = file_of(payload, "bad")
                if entry is not None:
                    writer.write_table(pq.read_table(self.directory / entry.path, schema=BAD_ROWS_SCHEMA))
                    rows += entry.rows
        os.replace(temporary, path)
        return file_entry(self.directory, QUARANTINE_FILE, rows)

    def _refuse(self, found: Sequence[Refusal]) -> None:
        """Note refused files; raise unless bad files may be skipped."""
        fresh = {refusal.shard: refusal for refusal in found}
        self.refused.extend(fresh[shard] for shard in sorted(fresh))
        if found and not self.pool.skip_bad_files:
            raise refused_error(self.refused)
        for shard in sorted(fresh):
            self.progress.say(f"left out: {fresh[shard].line()}")

    def _is_refused(self, shard: str) -> bool:
        return any(refusal.shard == shard for refusal in self.refused)

    def _say_outcome(self, record: StageRecord) -> None:
        said = record.summary
        bad = ", ".join(f"{reason} {tally['docs']}" for reason, tally in said["quarantine"].items()) or "none"
        self.progress.say(
            f"annotate: {said['ok_docs']} documents, {said['ok_tokens']} tokens in {len(said['domains'])} domains; "
            f"quarantined: {bad}"
        )
        for warning in said["warnings"]:
            self.progress.say(f"warning: {warning}")


@dataclass(frozen=True)
class LoadSummary:
    """Task: file name -> the summary in it."""

    directory: str

    def __call__(self, name: str) -> PoolSummary:
        return PoolSummary.load(str(Path(self.directory) / name))


def pool_to_read(config: RunConfig) -> PoolConfig:
    """The pool section as the readers need it; raises ConfigError for what the sections ask of each other."""
    problems: list[str] = []
    pool, domains = config.pool, config.annotate.domains
    if isinstance(domains, ColumnDomainConfig):
        if pool.columns.domain is None:
            problems.append(
                "pool.columns.domain: found null, wanted a column name, because annotate.domains is a column"
            )
        if (domains.unknown == "default") != (domains.default is not None):
            problems.append("annotate.domains.default: give it when, and only when, unknown: default")
    else:
        # labels come from the labeller: an old domain column must not quarantine rows
        pool = pool.model_copy(update={"columns": pool.columns.model_copy(update={"domain": None})})
    if pool.columns.tokens is None and config.tokenizer is None:
        problems.append("tokenizer: found null, wanted a tokenizer file, because pool.columns.tokens names no column")
    if problems:
        raise ConfigError(problems)
    return pool


def _require_distinct(scorers: Sequence[FittedScorer]) -> None:
    names = Counter(criterion.name for scorer in scorers for criterion in scorer.outputs)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise ConfigError(f"annotate.scorers: the criteria {', '.join(twice)} come from two scorers; rename one")


def _reused(root: Path, record: StageRecord, pool: PoolConfig, files: Sequence[InputFile]) -> Annotated:
    """The stage as an earlier run left it; its units are planned again, which takes no reading of rows."""
    directory = stage_directory(root, STAGE, record.fingerprint)
    refused = {refusal["shard"] for refusal in record.summary["refused"]}
    inputs = _with_prepared(files, record.summary["prepared"], directory)
    units = _without(plan_units(inputs, pool.unit_bytes), refused)
    names = [entry.path for entry in record.files if entry.path.startswith("unit-")]
    return Annotated(
        record,
        directory,
        tuple(str(directory / name) for name in names),
        units,
        PoolSummary.load(str(directory / SUMMARY_FILE)),
    )


def _with_prepared(files: Sequence[InputFile], names: Mapping[str, str], directory: Path) -> list[InputFile]:
    """The files, those that have a prepared copy (shard -> its name) replaced by it."""
    return [prepared_input(file, directory / names[file.shard]) if file.shard in names else file for file in files]


def _without(units: Sequence[Unit], refused: set[str]) -> tuple[Unit, ...]:
    """The units without the pieces of refused files; a unit may be left empty, so that indices stay."""
    kept = [tuple(piece for piece in unit.pieces if piece.file.shard not in refused) for unit in units]
    return tuple(
        unit if len(pieces) == len(unit.pieces) else replace(unit, pieces=pieces, rows=-1)
        for unit, pieces in zip(units, kept, strict=True)
    )


def _clusters_json(labeler: FittedLabeler) -> dict[str, Any]:
    """model: the file of centroids, None for a column's clusters."""
    model = getattr(labeler, "model", None)
    name = None if model is None else f"{MODELS}/{Path(model.path).name}"
    return {"version": labeler.version, "fingerprint": labeler.fingerprint, "model": name}


def _scorer_json(scorer: FittedScorer) -> dict[str, Any]:
    return {
        "name": scorer.name,
        "version": scorer.version,
        "fingerprint": scorer.fingerprint,
        "criteria": [criterion.name for criterion in scorer.outputs],
        "notes": list(_notes(scorer)),
    }


def _notes(scorer: FittedScorer) -> tuple[str, ...]:
    return scorer.notes if isinstance(scorer, Noting) else ()


def link_or_copy(source: Path, target: Path) -> None:
    """The same immutable file under a second name; a copy where the file system has no links."""
    with suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(source, target)
