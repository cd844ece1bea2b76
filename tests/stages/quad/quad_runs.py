"""Small Quad runs over real text, for the tests of the stage."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from quadmix.config import RunConfig
from quadmix.engine.base import Engine
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.select import select
from tests.e2e.small_pool import config, documents, write_shards

DOCS = 640
PROXY = {"preset": "custom", "d_model": 16, "layers": 1, "heads": 2, "d_ff": 32, "seq_len": 32, "batch": 16}
QUAD = {
    "model": {"kind": "proxy", "proxy": PROXY, "train_tokens": 20_000},
    "reference_tokens": 2_000,
    "curvature": "ekfac",
    "factor_docs": 60,
    "max_tokens": 32,
    "max_scored": 0.3,
    "docs_per_pull": 4,
    "arms_per_round": 4,
    "grant_share": 0.2,
}
CLUSTERS = {"kind": "embeddings", "k": 12, "sample_docs": 300, "embedder": {"kind": "lsa", "dimensions": 8}}


def some_documents() -> list[dict[str, Any]]:
    """Every 25th document of the shipped pool."""
    return list(islice(documents(), 0, 25 * DOCS, 25))


def write_pool(folder: Path, rows: Iterable[dict[str, Any]], shards: int) -> Path:
    write_shards(folder, list(rows), shards)
    return folder


def quad_values(pool: Path, output: Path, mixture: str = "free", **changes: Any) -> dict[str, Any]:
    """The whole run config as plain values."""
    values = config(pool, output)
    del values["search"]
    values["pool"]["unit_bytes"] = "128KiB"
    values["annotate"] = {"scorers": [{"kind": "heuristics"}], "clusters": CLUSTERS, **changes.pop("annotate", {})}
    values["mixture"] = {"criteria": ["heuristic_quality"], "budget": 60_000, "max_copies": 1}
    values["quad"] = {**QUAD, **changes.pop("quad", {})}
    values["select"] = {"selector": "quad", "mixture": mixture}
    return {**values, **changes}


def run_quad(values: dict[str, Any], engine: Engine) -> tuple[RunConfig, Annotated, Manifest]:
    """Annotate and select."""
    run = RunConfig.model_validate(values)
    annotated = annotate(run, engine, Progress.silent())
    return run, annotated, select(run, engine, Progress.silent(), annotated, None)
