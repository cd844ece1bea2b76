"""Target sets: held-out text that the trained model should become good at, in two halves that never meet.

A document belongs to the search half if its draw for "target-half" is below one half, else to the half that only the
confirmation sees. Texts that occur twice in a set are kept once, so the halves share no text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config import PoolConfig, RunConfig, TargetConfig
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import content_hash, doc_hash, fingerprint, uniform
from quadmix.stages.side_documents import read_documents


@dataclass(frozen=True)
class TargetSet:
    """n documents ordered by document hash. doc_hash, content_hash: (n,) uint64."""

    name: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    doc_hash: NDArray[np.uint64]
    content_hash: NDArray[np.uint64]

    @property
    def search(self) -> TargetSet:
        """The half that fits and searches may use."""
        return self._half(self._is_search)

    @property
    def confirm(self) -> TargetSet:
        """The half that only the confirmation measures."""
        return self._half(~self._is_search)

    @property
    def digest(self) -> str:
        """Identity of the set: its ids and texts."""
        return fingerprint(self.name, self.doc_hash.tobytes().hex(), self.content_hash.tobytes().hex())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def _is_search(self) -> NDArray[np.bool_]:
        return uniform(self.doc_hash, 0, "target-half") < 0.5

    def _half(self, mask: NDArray[np.bool_]) -> TargetSet:
        rows = np.flatnonzero(mask)
        return TargetSet(
            self.name,
            tuple(self.ids[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            self.doc_hash[rows],
            self.content_hash[rows],
        )


def load_targets(config: RunConfig) -> tuple[TargetSet, ...]:
    """Read every target set. Raises ConfigError for repeated names, InputError for unusable files, rows and halves."""
    names = [target.name for target in config.targets]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"targets: the name(s) {', '.join(repeated)} occur twice, wanted each once")
    return tuple(_load(target, config.pool) for target in config.targets)


def _load(target: TargetConfig, pool: PoolConfig) -> TargetSet:
    what = f"target {target.name!r}"
    side = PoolConfig(
        inputs=(target.path,),
        recursive=pool.recursive,
        columns=target.columns,
        id_from="column" if target.columns.id is not None else "content",
        max_doc_bytes=pool.max_doc_bytes,
        max_id_bytes=pool.max_id_bytes,
        follow_symlinks=pool.follow_symlinks,
    )
    documents = read_documents(side, (), what)
    ids = tuple(document.id for document in documents)
    texts = tuple(document.text for document in documents)
    whole = TargetSet(target.name, ids, texts, doc_hash(ids), content_hash(texts))
    kept = whole._half(_first_of_each(whole.content_hash))
    if len(set(kept.ids)) < len(kept):
        twice = next(first for first, second in zip(kept.ids, kept.ids[1:], strict=False) if first == second)
        raise InputError(f"{what}: the id {twice!r} stands for two different texts; give each document its own id")
    if target.max_docs is not None and len(kept) > target.max_docs:
        draws = uniform(kept.doc_hash, 0, "target-sample")
        kept = kept._half(np.isin(np.arange(len(kept)), np.argsort(draws, kind="stable")[: target.max_docs]))
    if not len(kept.search) or not len(kept.confirm):
        raise InputError(
            f"{what}: {len(kept)} document(s) leave {len(kept.search)} for the search and {len(kept.confirm)} for the "
            "confirmation, wanted some for both; add documents"
        )
    return kept


def _first_of_each(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) whether the value stands here for the first time."""
    mask = np.zeros(len(hashes), dtype=np.bool_)
    mask[np.unique(hashes, return_index=True)[1]] = True
    return mask
