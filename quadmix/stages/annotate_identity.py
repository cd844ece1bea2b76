"""What an annotation depends on: the parts of the stage's fingerprint, and the key of every unit's work.

A unit's key leaves out everything that cannot change its rows (budgets, thresholds, other shards), so units are found
again when shards are appended or a threshold is moved, also in the folder of an earlier run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from quadmix import __version__
from quadmix.config import RunConfig
from quadmix.config_annotate import AskLlmScorerConfig, ColorScorerConfig, PretrainedEmbedderConfig
from quadmix.hashing import fingerprint
from quadmix.pool.listing import format_of, list_input
from quadmix.pool.storage import look, tail_digest
from quadmix.pool.units import InputFile, Unit
from quadmix.scorers.registry import FittedLabeler, FittedScorer
from quadmix.scorers.tokens import Tokenizer
from quadmix.stages.targets import TargetSet

ANNOTATE_VERSION = "2"


def stage_parts(
    config: RunConfig, files: Sequence[InputFile], tokenizer: Tokenizer | None, targets: Sequence[TargetSet]
) -> dict[str, str]:
    """Named parts, each a string: config sections, inputs, targets, tokenizer, side files, code version."""
    pool = config.pool.model_dump(mode="json", exclude={"inputs"})
    return {
        "version": f"{__version__}/{ANNOTATE_VERSION}",
        "config.annotate": _json(config.annotate.model_dump(mode="json")),
        "config.pool": _json(pool),
        "config.seed": str(config.seed),
        "inputs": _json({file.shard: file_identity(file) for file in files}),
        "side_files": _json({path: _side_identity(path) for path in _side_paths(config)}),
        "targets": _json({target.name: target.digest for target in targets}),
        "tokenizer": "none" if tokenizer is None else tokenizer.digest,
    }


def file_identity(file: InputFile) -> str:
    """16 hex digits for one version of one input file."""
    # the copy that `ingest` prepares has no age of its own: its bytes follow from the original's
    age = "" if file.format == "prepared" else str(file.mtime_ns)
    return fingerprint(file.shard, str(file.size), age, file.footer, file.format, file.compression)[:16]


def unit_key(unit: Unit, base: str) -> str:
    """Identity of one unit's annotations: its rows and everything done to them (`base`)."""
    pieces = [f"{file_identity(piece.file)}:{piece.row_group}:{piece.start}:{piece.stop}" for piece in unit.pieces]
    return fingerprint(base, *pieces)


def base_key(
    config: RunConfig,
    scorers: Sequence[FittedScorer],
    labeler: FittedLabeler,
    clusters: FittedLabeler | None,
    tokenizer: Tokenizer | None,
    targets: Sequence[TargetSet],
) -> str:
    """What is done to every unit alike."""
    pool = config.pool.model_dump(mode="json", include={"columns", "id_from", "max_doc_bytes", "max_id_bytes"})
    return fingerprint(
        __version__,
        ANNOTATE_VERSION,
        _json(pool),
        _json(config.annotate.domains.model_dump(mode="json")),
        labeler.fingerprint,
        "none" if clusters is None else clusters.fingerprint,
        "none" if tokenizer is None else tokenizer.digest,
        *(f"{scorer.name}:{scorer.fingerprint}" for scorer in scorers),
        *(target.digest for target in targets),
    )


def prepared_key(file: InputFile, config: RunConfig, extra_columns: Sequence[str]) -> str:
    """Identity of the prepared copy of one input file."""
    pool = config.pool.model_dump(
        mode="json", include={"columns", "id_from", "max_doc_bytes", "max_id_bytes", "unit_bytes"}
    )
    return fingerprint(__version__, ANNOTATE_VERSION, file_identity(file), _json(pool), *extra_columns)


def _side_paths(config: RunConfig) -> list[str]:
    """Files and folders that scorers and labellers are fitted on or loaded from."""
    found: list[str] = []
    for section in (*config.annotate.scorers, config.annotate.domains):
        for name in ("positives", "negatives", "train_on", "labelled", "targets"):
            found.extend(getattr(section, name, ()))
        model = getattr(section, "model", None)
        if isinstance(model, str):  # the heads' says what to fit
            found.append(model)
        if isinstance(section, AskLlmScorerConfig):
            found.append(section.path)
        if isinstance(section, ColorScorerConfig) and section.models is not None:
            found.extend((section.models.prior, section.models.conditional))
    for embedding in (*config.annotate.scorers, config.annotate.domains, config.annotate.clusters):
        embedder = getattr(embedding, "embedder", None)
        if isinstance(embedder, PretrainedEmbedderConfig):
            found.append(embedder.path)
    return sorted({path for path in found if not path.startswith("target:") and path != "pool"})


def _side_identity(path: str) -> str:
    """Identity of a file, or of a folder's data files; `missing` is for the fit to complain about."""
    entry = look(path)
    if entry.kind == "file":
        return fingerprint(str(entry.size), str(entry.mtime_ns), tail_digest(path, entry.size))[:16]
    if entry.kind != "directory":
        return entry.kind
    listing = list_input(path, recursive=True, follow_symlinks=True)
    members = [(found.relative, found.entry) for found in listing.files]
    members += [(refusal.shard, look(refusal.path)) for refusal in listing.refused if format_of(refusal.shard) is None]
    return fingerprint(*(f"{name}:{item.size}:{item.mtime_ns}" for name, item in sorted(members, key=lambda m: m[0])))[
        :16
    ]


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
