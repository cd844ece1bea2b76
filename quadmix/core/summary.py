"""What the driver knows of a pool: counts of every domain and one score sketch per criterion.

Summaries are monoids: `merge(of_rows(a), of_rows(b)) == of_rows(a + b)` exactly, whatever the split and the order.
Domains are kept sorted by name; only documents of status ok are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.core.sketch import TokenHistogram, order_key

# bits of the 32-bit order key that a sketch drops: 2**20 possible bins, a relative step of at most 2**-11
COARSE_SHIFT = 12


@dataclass(frozen=True)
class PoolSummary:
    """domains: sorted names (M). docs, tokens, bytes: (M,) int64. sketches: one per criterion, over all domains,
    binned by `order_key(score) >> COARSE_SHIFT`."""

    domains: tuple[str, ...]
    docs: NDArray[np.int64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    criteria: tuple[str, ...]
    sketches: tuple[TokenHistogram, ...]

    @staticmethod
    def empty(criteria: Sequence[str]) -> PoolSummary:
        zero = np.zeros(0, dtype=np.int64)
        return PoolSummary((), zero, zero, zero, tuple(criteria), tuple(TokenHistogram.empty() for _ in criteria))

    @staticmethod
    def of_rows(
        domains: Sequence[str],
        codes: NDArray[np.integer],
        n_tokens: NDArray[np.int64],
        n_bytes: NDArray[np.int64],
        scores: NDArray[np.float32],
        criteria: Sequence[str],
    ) -> PoolSummary:
        """Summarise n documents. domains: names (any order, unique); codes: (n,) index into them;
        scores: (n, n_criteria) finite float32."""
        order = sorted(range(len(domains)), key=lambda index: domains[index])
        size = len(domains)
        docs = np.bincount(codes, minlength=size).astype(np.int64)
        tokens = np.bincount(codes, weights=n_tokens, minlength=size).astype(np.int64)
        total_bytes = np.bincount(codes, weights=n_bytes, minlength=size).astype(np.int64)
        kept = [index for index in order if docs[index] > 0]
        sketches = tuple(
            TokenHistogram.of(order_key(np.ascontiguousarray(scores[:, column])) >> np.uint32(COARSE_SHIFT), n_tokens)
            for column in range(len(criteria))
        )
        return PoolSummary(
            tuple(domains[index] for index in kept),
            docs[kept],
            tokens[kept],
            total_bytes[kept],
            tuple(criteria),
            sketches,
        )

    def merge(self, other: PoolSummary) -> PoolSummary:
        """The summary of both sets of documents; the criteria must be the same."""
        if self.criteria != other.criteria:
            raise ValueError(f"summaries of different criteria: {self.criteria} and {other.criteria}")
        names = tuple(sorted({*self.domains, *other.domains}))
        place = {name: index for index, name in enumerate(names)}

        def add(mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int64]:
            total = np.zeros(len(names), dtype=np.int64)
            total[[place[name] for name in self.domains]] += mine
            total[[place[name] for name in other.domains]] += theirs
            return total

        return PoolSummary(
            names,
            add(self.docs, other.docs),
            add(self.tokens, other.tokens),
            add(self.bytes, other.bytes),
            self.criteria,
            tuple(mine.merge(theirs) for mine, theirs in zip(self.sketches, other.sketches, strict=True)),
        )

    @property
    def total_tokens(self) -> int:
        return int(self.tokens.sum())

    def save(self, path: str) -> None:
        """Write an .npz without pickled objects."""
        arrays: dict[str, NDArray[np.generic]] = {
            "domains": _pack(self.domains), "docs": self.docs, "tokens": self.tokens, "bytes": self.bytes,
            "criteria": _pack(self.criteria),
        }  # fmt: skip
        for index, sketch in enumerate(self.sketches):
            arrays[f"bins_{index}"], arrays[f"docs_{index}"] = sketch.bins, sketch.docs
            arrays[f"tokens_{index}"] = sketch.tokens
        with open(path, "wb") as handle:
            np.savez(handle, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: str) -> PoolSummary:
        with np.load(path, allow_pickle=False) as stored:
            criteria = _unpack(stored["criteria"])
            sketches = tuple(
                TokenHistogram(stored[f"bins_{index}"], stored[f"docs_{index}"], stored[f"tokens_{index}"])
                for index in range(len(criteria))
            )
            return PoolSummary(
                _unpack(stored["domains"]), stored["docs"], stored["tokens"], stored["bytes"], criteria, sketches
            )


def _pack(names: Sequence[str]) -> NDArray[np.uint8]:
    # NUL separates: no domain or criterion name may hold one
    return np.frombuffer("\0".join(names).encode("utf-8"), dtype=np.uint8)


def _unpack(packed: NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(packed.tobytes().decode("utf-8").split("\0")) if packed.size else ()
