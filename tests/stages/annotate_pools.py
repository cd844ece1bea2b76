"""Configs over small pools and what their annotations hold, for the tests of annotate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from quadmix.config import RunConfig
from quadmix.progress import Progress
from quadmix.stages.annotate import Annotated, annotate
from tests.stages.inline_engine import InlineEngine

SCORE = {"kind": "columns", "columns": {"score": "score"}}


def run_config(tmp_path: Path, *inputs: Path, **sections: Any) -> RunConfig:
    """A run over `inputs` with the pool's own domains, token counts and one score column."""
    pool = {
        "inputs": [str(path) for path in inputs or (tmp_path / "in",)],
        "columns": {"id": "id", "text": "text", "domain": "domain", "tokens": "n_tokens"},
        "max_quarantine_fraction": 1.0,
        **sections.pop("pool", {}),
    }
    annotations = {"scorers": [SCORE], **sections.pop("annotate", {})}
    return RunConfig.model_validate(
        {
            "output": str(tmp_path / "out"),
            "pool": pool,
            "annotate": annotations,
            "mixture": {"criteria": ["score"], "budget": 100},
            **sections,
        }
    )


def run(config: RunConfig, engine: InlineEngine | None = None) -> Annotated:
    return annotate(config, engine if engine is not None else InlineEngine(), Progress.silent())


def rows_of(done: Annotated) -> pa.Table:
    """All annotations, in unit order."""
    tables = [pq.read_table(path) for path in done.files]
    return pa.concat_tables([table.cast(table.schema.set(7, pa.field("domain", pa.string()))) for table in tables])


def status_of(done: Annotated) -> dict[str, str]:
    """Document id -> status, the last row of an id counting."""
    table = rows_of(done)
    return dict(zip(table["doc_id"].to_pylist(), table["status"].to_pylist(), strict=True))


def quarantine_of(done: Annotated) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(done.directory / "quarantine.parquet").to_pylist()
    return found


def counts(done: Annotated) -> dict[str, int]:
    """Quarantined documents by reason."""
    return {reason: tally["docs"] for reason, tally in done.record.summary["quarantine"].items()}
