"""A pool of which half is junk, with a score that knows: what `compare` must find is known beforehand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.e2e.small_pool import ROOT, documents

GOOD, BAD = 150, 150
MODEL = {"preset": "custom", "d_model": 16, "layers": 1, "heads": 2, "d_ff": 32, "seq_len": 32, "batch": 16}


def write_pool(folder: Path) -> None:
    """Real documents, and as many of their words in alphabetical order with their letters turned round. `sound` is 1
    for the first kind, with a little noise so that scores differ."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    kept = [doc for doc in itertools.islice(documents(), 3000) if 300 < len(doc["text"]) < 3000][: GOOD + BAD]
    lines = []
    for number, doc in enumerate(kept):
        sound = number % 2 == 0
        text = doc["text"] if sound else " ".join(word[::-1] for word in sorted(doc["text"].split()))
        row = {"id": doc["id"], "text": text, "domain": "one" if number % 3 else "two"}
        noise = rng.uniform(-0.2, 0.2, 2).round(4)
        lines.append(json.dumps({**row, "sound": float(sound + noise[0]), "wrong": float(-sound + noise[1])}))
    for part in range(3):
        (folder / f"part-{part}.jsonl").write_text("\n".join(lines[part::3]) + "\n", encoding="utf-8")


def entry(name: str, **select: Any) -> dict[str, Any]:
    return {"name": name, "select": select}


def values(pool: Path, output: Path, *entries: dict[str, Any], **compare: Any) -> dict[str, Any]:
    """A config of a comparison on `write_pool`'s pool; target models take a fraction of a second."""
    return {
        "output": str(output),
        "seed": 5,
        "engine": {"kind": "local", "workers": 1},
        "pool": {
            "inputs": [str(pool)],
            "columns": {"id": "id", "text": "text", "domain": "domain"},
            "unit_bytes": "100KB",
        },
        "targets": [{"name": "howto", "path": str(ROOT / "examples" / "targets" / "howto.jsonl.zst"), "max_docs": 60}],
        "tokenizer": {"path": str(ROOT / "examples" / "tokenizer" / "tokenizer.json")},
        "annotate": {
            "scorers": [
                {"kind": "columns", "columns": {"sound": "sound", "wrong": "wrong"}},
                {
                    "kind": "linear", "name": "like_howto", "positives": ["target:howto"], "buckets": 4096,
                    "sample_docs": 100, "epochs": 1,
                },
            ],
        },
        "mixture": {"criteria": ["sound", "wrong", "like_howto"], "budget": 40_000, "max_copies": 2},
        "diversity": {"sample_docs": 40, "repeats": 3, "embedder": {"kind": "lsa", "dimensions": 4}},
        "compare": {
            "entries": list(entries), "model": MODEL, "eval_tokens": 1_500, "seeds": 3, "train_tokens": 10_000,
            **compare,
        },
    }  # fmt: skip
