"""A made-up pool that holds its scores and token counts already, so that a run needs no tokenizer, scorer or proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DOMAINS = ("forum", "law", "news")


def write_scored_pool(
    folder: Path, docs: int = 600, shards: int = 6, domains: tuple[str, ...] = DOMAINS, name: str = "doc"
) -> None:
    """`docs` documents dealt over Parquet shards; token counts of 5 to 60, scores of 0 to 1."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows = pa.table(
        {
            "id": [f"{name}-{number:05d}" for number in range(docs)],
            "text": [f"text of document {number} " * 4 for number in range(docs)],
            "domain": [domains[number % len(domains)] for number in range(docs)],
            "n_tokens": pa.array(rng.integers(5, 60, docs), pa.int64()),
            "score": pa.array(rng.uniform(0, 1, docs).round(3), pa.float32()),
        }
    )
    for shard in range(shards):
        pq.write_table(
            rows.take(list(range(shard, docs, shards))), folder / f"part-{shard:03d}.parquet", write_page_checksum=True
        )


def scored_config(pool: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A run that publishes the natural mixture, without a search."""
    values: dict[str, Any] = {
        "output": str(output),
        "seed": 3,
        "engine": {"kind": "local", "workers": 1},
        "pool": {
            "inputs": [str(pool)],
            "columns": {"id": "id", "text": "text", "domain": "domain", "tokens": "n_tokens"},
            "unit_bytes": "4KiB",
        },
        "annotate": {"scorers": [{"kind": "columns", "columns": {"score": "score"}}]},
        "mixture": {"criteria": ["score"], "budget": 4000},
        "select": {"mixture": "natural"},
        "diversity": None,  # reads and embeds documents, which few tests are about
    }
    return values | changes


def theta(domains: tuple[str, ...], criteria: tuple[str, ...] = ("score",)) -> dict[str, Any]:
    """A mixture of one's own: the same gentle preference for quality in every domain."""
    return {
        "merge_weights": {name: dict.fromkeys(criteria, 1 / len(criteria)) for name in domains},
        "steepness": dict.fromkeys(domains, 30.0),
        "cutoff": dict.fromkeys(domains, 0.4),
        "exponent": dict.fromkeys(domains, 0.5),
        "floor": dict.fromkeys(domains, 0.001),
    }
