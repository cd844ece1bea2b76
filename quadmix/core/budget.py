"""The budget rule of every selector (algorithms.md, section 6).

Copy k = 0, 1, ... of document x has key_x + k * step_x. In each stratum the copies with the smallest (key, document
hash) are taken: the prefix whose tokens are nearest to the quota, the shorter one when two are equally near, so the
error is at most half the boundary document. What a stratum misses or exceeds carries over to the next one in name
order, so the total is as exact. A document hash is unique among the documents of a pool (annotate sees to it), so the
order is total and no copy is ever drawn by its place in a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """The last copy that is in: copies with (key, hash) <= (key, hash) are taken. key -inf: none; key +inf: all."""

    key: float
    hash: int

    @staticmethod
    def nothing() -> Cut:
        return Cut(-np.inf, 0)


@dataclass(frozen=True)
class Copies:
    """Copies of documents as parallel arrays: key (n,) float64, hash (n,) uint64, tokens (n,) int64."""

    key: Floats
    hash: NDArray[np.uint64]
    tokens: NDArray[np.int64]

    @staticmethod
    def empty() -> Copies:
        return Copies(np.zeros(0), np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))

    def merge(self, other: Copies) -> Copies:
        return Copies(
            np.concatenate([self.key, other.key]),
            np.concatenate([self.hash, other.hash]),
            np.concatenate([self.tokens, other.tokens]),
        )

    def take(self, rows: NDArray[np.generic]) -> Copies:
        return Copies(self.key[rows], self.hash[rows], self.tokens[rows])


def whole_shares(weights: Floats, total: int) -> NDArray[np.int64]:
    """`total` cut into integers proportional to `weights` (n,) >= 0 by largest remainder, ties to the lower index.

    Raises ValueError when there is something to share and no finite, positive weight to share it by.
    """
    if total == 0:
        return np.zeros(weights.size, dtype=np.int64)
    whole_weight = math.fsum(weights)  # correctly rounded: the same bits everywhere
    if not 0.0 < whole_weight < math.inf:
        raise ValueError(f"{total} tokens to share by weights that sum to {whole_weight}")
    exact = weights / whole_weight * float(total)
    whole: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    order = np.lexsort((np.arange(weights.size), whole - exact))
    # floats of 2**53 and more may leave more than one unit an entry: spread evenly over the order
    whole += missing // weights.size
    whole[order[: missing % weights.size]] += 1
    return whole


def all_copies(
    key: Floats, step: Floats, doc_hash: NDArray[np.uint64], tokens: NDArray[np.int64], max_copies: int, below: float
) -> Copies:
    """Every copy k < max_copies with key_x + k * step_x <= below. Documents with an infinite key have none."""
    found = Copies.empty()
    rows = np.flatnonzero(np.isfinite(key) & (key <= below))
    for copy in range(max_copies):
        if not rows.size:
            break
        keys = copy_key(key[rows], step[rows], copy)
        inside = keys <= below
        rows, keys = rows[inside], keys[inside]
        found = found.merge(Copies(keys, doc_hash[rows], tokens[rows]))
        rows = rows[np.isfinite(step[rows])]
    return found


def copy_key(key: Floats, step: Floats, copy: int) -> Floats:
    """key + copy * step; copy 0 never touches the step, which may be infinite."""
    return key if copy == 0 else key + copy * step


def prefix_cut(copies: Copies, quota: int, below_tokens: int = 0) -> tuple[Cut, int]:
    """The cut whose prefix of `copies` is nearest to `quota`, and the tokens it takes.

    below_tokens: tokens of copies known to precede all of `copies`. An empty prefix gives `Cut.nothing()`: the caller
    knows what precedes.
    """
    order = np.lexsort((copies.hash, copies.key))
    cumulative = below_tokens + np.cumsum(copies.tokens[order])
    after = int(np.searchsorted(cumulative, quota, side="left"))  # first prefix that reaches the quota
    best, taken = after - 1, int(cumulative[after - 1]) if after else below_tokens
    if after < cumulative.size and int(cumulative[after]) - quota < quota - taken:
        best, taken = after, int(cumulative[after])
    if best < 0:
        return Cut.nothing(), below_tokens
    row = order[best]
    return Cut(float(copies.key[row]), int(copies.hash[row])), taken


def copies_taken(
    key: Floats,
    step: Floats,
    doc_hash: NDArray[np.uint64],
    cut_key: Floats | float,
    cut_hash: NDArray[np.uint64] | np.uint64,
    max_copies: int,
) -> NDArray[np.int32]:
    """(n,) copies of each document up to its stratum's cut; cut_key, cut_hash: (n,) or one value for all."""
    cut_key = np.broadcast_to(np.asarray(cut_key, dtype=np.float64), key.shape)
    cut_hash = np.broadcast_to(np.asarray(cut_hash, dtype=np.uint64), key.shape)
    taken = np.zeros(key.size, dtype=np.int32)
    rows = np.flatnonzero(np.isfinite(key) & (key <= cut_key))
    for copy in range(max_copies):
        if not rows.size:
            break
        keys, last = copy_key(key[rows], step[rows], copy), cut_key[rows]
        rows = rows[(keys < last) | ((keys == last) & (doc_hash[rows] <= cut_hash[rows]))]
        taken[rows] += 1
        rows = rows[np.isfinite(step[rows])]
    return taken


@dataclass(frozen=True)
class Settled:
    """The outcome of one stratum."""

    quota: int
    cut: Cut
    taken: int


def settle(quotas: Mapping[int, int], resolve: Callable[[int, int], tuple[Cut, int]]) -> dict[int, Settled]:
    """Cut every stratum in order, carrying residuals over.

    resolve(stratum, quota) gives the cut nearest to the quota and its tokens. Strata that run dry at the end leave a
    rest, which is offered to the others in order.
    """
    settled: dict[int, Settled] = {}
    residual = 0
    for stratum in sorted(quotas):
        wanted = max(quotas[stratum] + residual, 0)
        cut, taken = resolve(stratum, wanted)
        settled[stratum] = Settled(quotas[stratum], cut, taken)
        residual += quotas[stratum] - taken
    for stratum in sorted(quotas):
        if residual <= 0:
            break
        have = settled[stratum].taken
        cut, taken = resolve(stratum, have + residual)
        if abs(residual + have - taken) < abs(residual):
            settled[stratum] = Settled(quotas[stratum], cut, taken)
            residual += have - taken
    return settled
