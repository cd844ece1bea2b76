"""One JSON object a document and line; compressed if the name ends in .gz or .zst."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BufferedWriter
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

COMPRESSION: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}


def write_jsonl(batches: Iterator[pa.RecordBatch], path: Path, suffix: str) -> None:
    """Write every row as `{"doc_id": …, "shard": …, "row": …, "domain": …, "n_tokens": …, "copies": …}`."""
    with open(path, "wb") as raw, _compressed(raw, suffix) as stream:
        for batch in batches:
            lines = (json.dumps(row, ensure_ascii=False) for row in batch.to_pylist())
            stream.write("".join(f"{line}\n" for line in lines).encode("utf-8"))


def _compressed(raw: BufferedWriter, suffix: str) -> AbstractContextManager[Any]:
    kind = COMPRESSION.get(suffix)
    return nullcontext(raw) if kind is None else pa.CompressedOutputStream(raw, kind)
