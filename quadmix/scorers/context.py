"""What a scorer or labeller may ask for while it is fitted: documents chosen by hash, and a place for its files.

`stages.annotate` implements it over the pool's units; tests implement it over a list. Nothing here depends on how the
pool is split into files, so a fitted model has the same bytes for the same documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from quadmix.engine.base import Engine

if TYPE_CHECKING:
    from quadmix.scorers.tokens import Tokenizer


@dataclass(frozen=True)
class Document:
    """One document that a fit may look at. `columns` holds the further input columns that were asked for."""

    id: str
    text: str
    domain: str | None = None
    columns: Mapping[str, object] = field(default_factory=dict)


class FitContext(Protocol):
    """The driver's side of fitting: every list is ordered by document hash and fixed by seed and documents alone."""

    @property
    def directory(self) -> Path:
        """Where fitted model files go; it exists, and workers can read it."""
        ...

    @property
    def seed(self) -> int: ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The run's tokenizer, None when the config names none."""
        ...

    @property
    def engine(self) -> Engine: ...

    def sample(self, n_docs: int, what: str, columns: Sequence[str] = ()) -> list[Document]:
        """The `n_docs` documents of the pool (or all) with the smallest uniform(doc_hash, seed, what), in order."""
        ...

    def target(self, name: str) -> list[Document]:
        """The search half of a target set; the half kept for confirmation is never shown to a fit."""
        ...

    def read_paths(self, paths: Sequence[str], columns: Sequence[str] = ()) -> list[Document]:
        """The documents of the given files (formats and id columns as in the pool), ordered by document hash."""
        ...
