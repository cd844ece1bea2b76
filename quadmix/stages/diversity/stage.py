"""The stage: measure what was published, and other runs of the same pool beside it, or reuse what was measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from quadmix import __version__
from quadmix.config import DiversityConfig, RunConfig
from quadmix.config_annotate import PretrainedEmbedderConfig
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.hashing import folder_digest
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.stages.annotate import SCRATCH, Annotated
from quadmix.stages.diversity.facts import DiversityFacts
from quadmix.stages.diversity.measuring import Selection, measure_diversity
from quadmix.stages.records import (
    StageRecord,
    begin,
    commit,
    file_entry,
    find,
    record_digest,
    stage_directory,
    stage_fingerprint,
    write_atomically,
)

STAGE = "diversity"
FACTS_FILE = "diversity.json"


def diversity(
    config: RunConfig,
    asked: DiversityConfig,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    chosen: Manifest,
) -> DiversityFacts:
    """The facts of the published manifest and of those of `diversity.beside`.

    Raises ConfigError for one of another budget, and what `measure_diversity` does.
    """
    selections = [Selection.of_manifest(chosen.selector, chosen), *_beside(asked.beside, chosen)]
    return diversity_of(config, asked, engine, progress, annotated, selections, chosen.requested_tokens)


def diversity_of(
    config: RunConfig,
    asked: DiversityConfig,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    selections: Sequence[Selection],
    budget: int,
) -> DiversityFacts:
    """The facts of selections of one budget, as a stage that is found again. Raises what `measure_diversity` does."""
    root = Path(config.output)
    parts = {
        "version": __version__,
        "annotations": record_digest(annotated.record),
        "config.diversity": asked.model_dump_json(exclude={"beside"}),
        "config.mixture.criteria": json.dumps(config.mixture.criteria),
        "seed": str(config.seed),
        "selections": json.dumps([[one.name, one.digest] for one in selections]),
    }
    if isinstance(asked.embedder, PretrainedEmbedderConfig) and Path(asked.embedder.path).is_dir():
        parts["embedder"] = folder_digest(asked.embedder.path)
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        directory = begin(root, STAGE, parts)
        scratch = directory / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed attempt left
        scratch.mkdir()
        facts = measure_diversity(config, asked, engine, annotated, selections, budget, scratch)
        scratch.rmdir()
        text = json.dumps(facts.to_json(), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
        write_atomically(directory / FACTS_FILE, text.encode("utf-8"))
        entries = (file_entry(directory, FACTS_FILE, len(selections)),)
        summary = {"sample_docs": facts.sample_docs, "selections": len(selections)}
        record = StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, entries, summary)
        commit(root, record)
    file = stage_directory(root, STAGE, record.fingerprint) / FACTS_FILE
    return DiversityFacts.from_json(json.loads(file.read_bytes()))


def _beside(paths: Sequence[str], chosen: Manifest) -> Iterator[Selection]:
    """Other runs' manifests, named by the last component of their path, by the whole of it where that is taken."""
    taken = {chosen.selector}
    for path in paths:
        other = Manifest.load(path)
        if other.requested_tokens != chosen.requested_tokens:
            raise ConfigError(
                f"diversity.beside: {path} selected for {other.requested_tokens:,} tokens, wanted this run's budget of "
                f"{chosen.requested_tokens:,}: diversity at different budgets is not comparable"
            )
        name = next((name for name in (Path(path).name, path) if name not in taken), None)
        if name is None:
            raise ConfigError(f"diversity.beside: found {path} twice, wanted every run once")
        taken.add(name)
        yield Selection.of_manifest(name, other)
