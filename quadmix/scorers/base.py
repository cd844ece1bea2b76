"""The contract of scorers and domain labellers.

A scorer turns a batch of documents into one float32 column per criterion. It declares each criterion's range and
direction once; `annotate` flips lower-is-better criteria at this border so that everywhere else a score is
higher = better. Whatever a scorer learns is learned before (`fit`), on a sample chosen by document hash, and
travels to the workers as files named in its fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.errors import ConfigError


@dataclass(frozen=True)
class Criterion:
    """One number a document gets. `range` None: unbounded."""

    name: str
    range: tuple[float, float] | None = None
    higher_is_better: bool = True


def chosen_outputs(kind: str, asked: Sequence[str], known: Mapping[str, Criterion]) -> tuple[Criterion, ...]:
    """The outputs that a config picks from those of a kind of scorer. Raises ConfigError for none, an unknown or a
    repeated one."""
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise ConfigError(
            f"{kind} scorer: outputs: found {', '.join(unknown) or 'none'}, wanted some of {', '.join(known)}"
        )
    if len(set(asked)) != len(asked):
        raise ConfigError(f"{kind} scorer: outputs: {', '.join(asked)} names one twice")
    return tuple(known[name] for name in asked)


class Scorer(Protocol):
    """Puts numbers on documents. Batches carry `doc_id`, `text` and every column in `inputs`."""

    name: str
    version: str
    inputs: tuple[str, ...]  # paths of input columns beyond id and text; dotted paths reach into structs
    outputs: tuple[Criterion, ...]

    def load(self) -> None:
        """Called once per process before the first batch."""
        ...

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One float32 column per output, named as the criterion, rows aligned with `batch`."""
        ...


@runtime_checkable
class Noting(Protocol):
    """A scorer whose fit found something that its user should know."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the log and for the stage's record."""
        ...


class DomainLabeler(Protocol):
    """Assigns each document one of `domains`."""

    version: str
    inputs: tuple[str, ...]
    domains: tuple[str, ...] | None  # None: whatever strings the column holds

    def load(self) -> None: ...

    def label(self, batch: pa.RecordBatch) -> pa.Array:
        """(n,) string array; null where the document has no valid domain."""
        ...


def float32_column(values: NDArray[np.floating]) -> pa.Array:
    """An Arrow float32 array of (n,) values."""
    return pa.array(values.astype(np.float32, copy=False), type=pa.float32())
