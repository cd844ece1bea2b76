"""The contract of selectors: fit on a small summary, then a frozen plan tells stratum, key and step of each document.

The budget engine (`core.budget`, `stages.budgeting`) does the rest (algorithms.md, section 6): copy k = 0, 1, ... of
document x has key_x + k * step_x; in each stratum the copies with the smallest keys are taken, ties by document
hash, until the prefix is nearest to the stratum's quota.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

# between the domain and what a selector adds to it in a stratum's name: nothing that a name begins with
JOIN = " / "


def domain_of(stratum: str, domains: Iterable[str]) -> str:
    """The domain that a stratum's name begins with, the longest one of several. ValueError where it is none's."""
    return max((name for name in domains if stratum == name or stratum.startswith(name + JOIN)), key=len)


@dataclass(frozen=True)
class DocBatch:
    """What a plan sees of a batch of n documents, all of status ok."""

    doc_hash: NDArray[np.uint64]  # (n,)
    domain: NDArray[np.int32]  # (n,) index into the pool's domain names
    n_tokens: NDArray[np.int64]  # (n,)
    scores: NDArray[np.float32]  # (n, n_criteria), higher is better, in the order of the plan's criteria
    cluster: NDArray[np.int32] | None = None  # (n,) index into the pool's cluster names, for plans that read them
    memo: dict[str, tuple[object, NDArray[Any]]] = field(default_factory=dict, compare=False, repr=False)

    def remember(self, owner: object, name: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """A column that several methods of one plan (`owner`) need, computed once a batch and plan."""
        known = self.memo.get(name)
        if known is None or known[0] is not owner:
            known = self.memo[name] = (owner, compute())
        return known[1]

    def __len__(self) -> int:
        return int(self.n_tokens.size)


class Window(NamedTuple):
    """A range of keys, both ends inclusive, and about how many copies lie in it."""

    low: float
    high: float
    copies: float


class SelectionPlan(Protocol):
    """Frozen, picklable, stateless."""

    @property
    def selector(self) -> str: ...
    @property
    def criteria(self) -> tuple[str, ...]:
        """Score columns that the plan reads."""
        ...

    @property
    def clusters(self) -> tuple[str, ...]:
        """The pool's cluster names, sorted, for a plan that reads clusters; empty else."""
        ...

    @property
    def strata(self) -> tuple[str, ...]:
        """Names; the index is the stratum. Sorted, since what one misses decides how the next ones round."""
        ...

    @property
    def quotas(self) -> Mapping[int, int]:
        """Stratum -> tokens."""
        ...

    @property
    def max_copies(self) -> int: ...

    def stratum(self, batch: DocBatch) -> NDArray[np.int32]:
        """(n,) stratum, -1 = not eligible."""
        ...

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) float64, smaller is taken first; `u` is the document's draw."""
        ...

    def draws(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) what `key` is made from: `u`, but where a plan draws anew."""
        ...

    def step(self, batch: DocBatch) -> NDArray[np.float64]:
        """(n,) float64 > 0, the next copy's key minus this one's; inf = at most one copy."""
        ...

    def columns(self, batch: DocBatch) -> dict[str, NDArray[np.float64]]:
        """Further manifest columns of this selector, (n,) each (QuaDMix: expected_copies, quality_rank)."""
        ...

    def window(self, stratum: int) -> Window | None:
        """Where the cut is expected, if the plan knows; saves a pass, never changes a result."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the manifest records of the plan, enough to recompute it from the annotations."""
        ...


class OneDraw:
    """What plans share whose keys are made from the documents' draws as they are."""

    def draws(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        return u


class TakenOnce(OneDraw):
    """What plans share that take each document once at most and know nothing of their cuts before the passes."""

    @property
    def max_copies(self) -> int:
        return 1

    def step(self, batch: DocBatch) -> NDArray[np.float64]:
        return np.full(len(batch), np.inf)

    def columns(self, batch: DocBatch) -> dict[str, NDArray[np.float64]]:
        return {}

    def window(self, stratum: int) -> Window | None:
        return None
