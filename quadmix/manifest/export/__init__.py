"""Write a manifest's documents for other tools: one file, the documents in the manifest's order.

`EXPORTERS` maps a format's name to a function (batches, path); a new format is one function and one line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from quadmix.errors import ConfigError
from quadmix.manifest.durable import private_name, resource_errors, sync_file, sync_folder
from quadmix.manifest.export.jsonl import write_jsonl
from quadmix.manifest.export.parquet import write_parquet
from quadmix.manifest.model import Manifest
from quadmix.manifest.rows import read_rows
from quadmix.schema import COPIES, DOC_ID, DOMAIN, N_TOKENS, ROW, SHARD

COLUMNS = (DOC_ID, SHARD, ROW, DOMAIN, N_TOKENS, COPIES)

EXPORTERS: dict[str, Callable[[Iterator[pa.RecordBatch], Path, str], None]] = {
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def export(manifest: Manifest, to: str, path: Path) -> int:
    """Write `COLUMNS` of every selected document to `path`; returns the number of documents.

    to: a key of `EXPORTERS`; `.gz` and `.zst` compress JSONL. Raises `ConfigError` for an unknown format or a path
    that exists already: nothing is ever overwritten. The file appears under its name only when it is whole.
    """
    path = Path(path)
    if to not in EXPORTERS:
        raise ConfigError(f"export --to: found {to!r}, wanted one of {', '.join(sorted(EXPORTERS))}")
    if path.exists():
        raise ConfigError(f"{path} exists; nothing was written; give another path or remove it first")
    if path.resolve().is_relative_to(manifest.folder.parent):
        raise ConfigError(f"{path} is inside the published manifests; give a path outside {manifest.folder.parent}")
    temporary = path.parent / private_name(path.name)
    with resource_errors(f"cannot write {path}"):
        try:
            EXPORTERS[to]((batch for _, _, batch in read_rows(manifest, COLUMNS)), temporary, path.suffix)
            sync_file(temporary)
            os.rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return manifest.documents
