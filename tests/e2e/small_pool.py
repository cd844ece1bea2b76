"""A small real pool in many shards, cut from the shipped one, and a config that runs every stage on it quickly."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
import zstandard

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 44


def documents() -> Iterator[dict[str, Any]]:
    """Documents of the shipped pool, in its order."""
    for shard in sorted((ROOT / "examples" / "pool").glob("*.jsonl.zst")):
        with shard.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
                yield json.loads(line)


def write_shards(folder: Path, docs: list[dict[str, Any]], shards: int = SHARDS) -> None:
    """Deal documents over plain JSONL shards."""
    folder.mkdir(parents=True)
    for number in range(shards):
        lines = [json.dumps(doc, ensure_ascii=False) for doc in docs[number::shards]]
        (folder / f"shard-{number:03d}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(pool: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A complete run: a trained scorer and a rule-based one, a swarm of eight tiny proxies, three seeds to confirm."""
    values: dict[str, Any] = {
        "output": str(output),
        "seed": 11,
        "pool": {
            "inputs": [str(pool)],
            "columns": {"id": "id", "text": "text", "domain": "domain"},
            "unit_bytes": "16KiB",
            "max_quarantine_fraction": 0.05,
        },
        "targets": [
            {"name": name, "path": str(ROOT / "examples" / "targets" / f"{name}.jsonl.zst"), "max_docs": 60}
            for name in ("encyclopedia", "howto")
        ],
        "tokenizer": {"path": str(ROOT / "examples" / "tokenizer" / "tokenizer.json")},
        "annotate": {
            "scorers": [
                {"kind": "heuristics"},
                {
                    "kind": "linear", "name": "like_howto", "positives": ["target:howto"], "buckets": 4096,
                    "sample_docs": 300, "epochs": 2,
                },
            ],
        },
        "mixture": {"criteria": ["heuristic_quality", "like_howto"], "budget": 150_000},
        "search": {
            "trials": 8,
            "tokens_per_trial": 12_000,
            "proxy": {
                "preset": "custom", "d_model": 16, "layers": 1, "heads": 2, "d_ff": 32, "seq_len": 32, "batch": 16,
            },
            "regressor": {"folds": 4},
            "candidates": 2_000,
            "finalists": 50,
            "eval_tokens": 2_000,
            "confirm": {"seeds": 3},
        },
    }  # fmt: skip
    return values | changes


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path
