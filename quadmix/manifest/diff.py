"""What changed between two manifests: documents, copies, tokens of every domain, config, inputs.

Documents are matched by the xxHash64 of their ids, in as many passes over the parts as memory needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.hashing import doc_hash
from quadmix.manifest.model import Manifest
from quadmix.manifest.rows import read_rows
from quadmix.schema import COPIES, DOC_ID, N_TOKENS

ROWS_AT_ONCE = 8_000_000  # of each manifest: 160 MB of hashes, copies and tokens


@dataclass(frozen=True)
class Documents:
    """Counts of documents, and tokens with every copy counted."""

    added: int
    removed: int
    more_copies: int
    fewer_copies: int
    same: int
    added_tokens: int
    removed_tokens: int


@dataclass(frozen=True)
class Change:
    """A value that differs; None: not there."""

    path: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Difference:
    """From the old manifest to the new one. `domains` holds realised tokens that differ."""

    documents: Documents
    tokens: Change | None
    domains: tuple[Change, ...]
    settings: tuple[Change, ...]  # seed, config, plan, software
    inputs: tuple[Change, ...]

    @property
    def empty(self) -> bool:
        """Whether the two say the same."""
        moved = asdict(self.documents)
        del moved["same"]
        return not (any(moved.values()) or self.tokens or self.domains or self.settings or self.inputs)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The difference in words, for people."""
        if self.empty:
            return [f"no difference: the same {self.documents.same:,} documents, copies and settings"]
        moved = self.documents
        lines = [
            f"documents: {moved.added:,} added ({moved.added_tokens:,} tokens), "
            f"{moved.removed:,} removed ({moved.removed_tokens:,} tokens), {moved.more_copies:,} with more copies, "
            f"{moved.fewer_copies:,} with fewer, {moved.same:,} the same"
        ]
        if self.tokens:
            lines.append(f"tokens: {self.tokens.old:,} -> {self.tokens.new:,}")
        for change in self.domains:
            old, new = change.old or 0, change.new or 0
            lines.append(f"tokens of {change.path}: {old:,} -> {new:,} ({new - old:+,})")
        lines += [f"{change.path}: {_shown(change.old)} -> {_shown(change.new)}" for change in self.settings]
        lines += [f"input {change.path}: {_shown(change.old)} -> {_shown(change.new)}" for change in self.inputs]
        return lines


def diff(old: Manifest, new: Manifest, rows_at_once: int = ROWS_AT_ONCE) -> Difference:
    """Compare two loaded manifests; reads the ids, copies and tokens of both."""
    total = Change("tokens", old.realised_tokens, new.realised_tokens)
    return Difference(
        _documents(old, new, rows_at_once),
        total if total.old != total.new else None,
        tuple(_leaves("", _realised(old), _realised(new))),
        tuple(_leaves("", _settings(old), _settings(new))),
        tuple(_leaves("", _inputs(old), _inputs(new), depth=1)),
    )


def _documents(old: Manifest, new: Manifest, rows_at_once: int) -> Documents:
    rows = max(old.documents, new.documents, 1)
    buckets = -(-rows // rows_at_once)
    total = np.zeros(7, dtype=np.int64)
    for bucket in range(buckets):
        before, after = (_load(manifest, bucket, buckets) for manifest in (old, new))
        total += _compare(before, after)
    return Documents(*(int(count) for count in total))


Table = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]


def _load(manifest: Manifest, bucket: int, buckets: int) -> Table:
    """(hash ascending, copies, tokens of a copy) of the documents of one bucket."""
    hashes, copies, tokens = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for _, _, batch in read_rows(manifest, (DOC_ID, COPIES, N_TOKENS)):
        found = doc_hash(str(doc_id) for doc_id in batch.column(0).to_pylist())
        chosen = found % np.uint64(buckets) == bucket
        hashes.append(found[chosen])
        copies.append(_int64(batch.column(1))[chosen])
        tokens.append(_int64(batch.column(2))[chosen])
    joined = np.concatenate(hashes)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(copies)[order], np.concatenate(tokens)[order]


def _compare(old: Table, new: Table) -> NDArray[np.int64]:
    _, in_old, in_new = np.intersect1d(old[0], new[0], assume_unique=True, return_indices=True)
    step = new[1][in_new] - old[1][in_old]
    only_old = np.ones(old[0].size, dtype=bool)
    only_old[in_old] = False
    only_new = np.ones(new[0].size, dtype=bool)
    only_new[in_new] = False
    return np.array(
        [
            only_new.sum(),
            only_old.sum(),
            (step > 0).sum(),
            (step < 0).sum(),
            (step == 0).sum(),
            (new[1] * new[2])[only_new].sum(),
            (old[1] * old[2])[only_old].sum(),
        ],
        dtype=np.int64,
    )


def _realised(manifest: Manifest) -> dict[str, int]:
    return {name: share.realised for name, share in manifest.domains.items()}


def _settings(manifest: Manifest) -> dict[str, Any]:
    return {
        "seed": manifest.seed,
        "selector": manifest.selector,
        "config": manifest.config,
        "plan": manifest.plan,
        "software": manifest.software,
    }


def _inputs(manifest: Manifest) -> dict[str, Any]:
    return {entry.shard: entry.sha256 or entry.footer or entry.size for entry in manifest.inputs}


def _leaves(path: str, old: Any, new: Any, depth: int = 100) -> Iterator[Change]:
    if depth and isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _leaves(f"{path}.{key}" if path else str(key), old.get(key), new.get(key), depth - 1)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _leaves(f"{path}[{index}]", before, after, depth)
    elif old != new:
        yield Change(path, old, new)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _int64(column: pa.Array[Any]) -> NDArray[np.int64]:
    values: NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return values
