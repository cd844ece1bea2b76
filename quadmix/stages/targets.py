"""Target sets: held-out text that the trained model should become good at, in two halves that never meet.

A document belongs to the search half if its draw for "target-half" is below one half, else to the half that only the
confirmation sees. Texts that occur twice in a set are kept once, so the halves share no text. Pairs of a prompt and a
completion are drawn by their prompts, so the halves share no prompt either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config import PoolConfig, RunConfig, TargetConfig
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import content_hash, doc_hash, fingerprint, uniform
from quadmix.scorers.context import Document
from quadmix.stages.side_documents import read_documents


@dataclass(frozen=True)
class TargetSet:
    """n documents ordered by document hash. doc_hash, content_hash: (n,) uint64. prompts: of pairs, what each text
    begins with; None where all of a text counts."""

    name: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    doc_hash: NDArray[np.uint64]
    content_hash: NDArray[np.uint64]
    prompts: tuple[str, ...] | None = None

    @property
    def completions(self) -> tuple[str, ...]:
        """What the loss counts of every text."""
        prompts = self.prompts or ("",) * len(self)
        return tuple(text[len(prompt) :] for text, prompt in zip(self.texts, prompts, strict=True))

    @property
    def guarded(self) -> NDArray[np.uint64]:
        """(k,) content hashes that no document of the pool may have: whole texts; of pairs their two parts as well."""
        if self.prompts is None:
            return self.content_hash
        parts = (content_hash(self.prompts), content_hash(self.completions))
        return np.unique(np.concatenate([self.content_hash, *parts]))

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
        pairs = () if self.prompts is None else (content_hash(self.prompts).tobytes().hex(),)
        return fingerprint(self.name, self.doc_hash.tobytes().hex(), self.content_hash.tobytes().hex(), *pairs)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def _is_search(self) -> NDArray[np.bool_]:
        drawn_by = self.doc_hash if self.prompts is None else content_hash(self.prompts)
        return uniform(drawn_by, 0, "target-half") < 0.5

    def _half(self, mask: NDArray[np.bool_]) -> TargetSet:
        return self._take(np.flatnonzero(mask))

    def _take(self, rows: NDArray[np.int64]) -> TargetSet:
        return TargetSet(
            self.name,
            tuple(self.ids[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            self.doc_hash[rows],
            self.content_hash[rows],
            None if self.prompts is None else tuple(self.prompts[row] for row in rows),
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
        columns=target.columns.model_copy(update={"text": target.completion or target.columns.text}),
        id_from="column" if target.columns.id is not None else "content",
        max_doc_bytes=pool.max_doc_bytes,
        max_id_bytes=pool.max_id_bytes,
        follow_symlinks=pool.follow_symlinks,
    )
    documents = read_documents(side, (target.prompt,) if target.prompt else (), what)
    ids = tuple(document.id for document in documents)
    texts = tuple(document.text for document in documents)
    prompts = None
    if target.prompt:
        prompts = tuple(_prompt(document, target.prompt, what) for document in documents)
        texts = tuple(prompt + completion for prompt, completion in zip(prompts, texts, strict=True))
        if target.columns.id is None:  # an id from the content would be the completion's alone
            ids = tuple(f"{value:016x}" for value in content_hash(texts).tolist())
    whole = TargetSet(target.name, ids, texts, doc_hash(ids), content_hash(texts), prompts)
    if prompts is not None:
        whole = whole._take(np.argsort(whole.doc_hash, kind="stable"))
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


def _prompt(document: Document, column: str, what: str) -> str:
    value = document.columns[column]
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{what}: column {column!r} of document {document.id!r} holds {value!r}, wanted text that the completion "
            "follows; repair the row, or use columns.text for text without a prompt"
        )
    return value


def _first_of_each(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) whether the value stands here for the first time."""
    mask = np.zeros(len(hashes), dtype=np.bool_)
    mask[np.unique(hashes, return_index=True)[1]] = True
    return mask
