"""The budget rule of every selector (algorithms.md, section 6).

Copy k = 0, 1, ... of document x has key_x + k * step_x. In each stratum the copies with the smallest (key, document
hash) are taken: one of the two prefixes that enclose the quota, so a stratum is off by less than its boundary document.
Which of the two: the one nearer to the quota and what the strata before it, in name order, have missed so far, the
shorter one when both are as near; so the total is off by at most half a boundary document. (Carrying whole residuals
over would be as exact in all, but a domain of long documents could move the next one by many of its short ones.) A
document hash is unique among the documents of a pool (annotate sees to it), so the
order is total and no copy is ever drawn by its place in a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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


def capped_shares(weights: Floats, total: int, room: NDArray[np.int64]) -> NDArray[np.int64]:
    """`total` cut in proportion to `weights` (n,) >= 0, at most `room` (n,) each: who cannot take its share takes all
    of its room, and the rest is cut again among the others. Raises ValueError where the room of those with a weight is
    less than `total`."""
    found = np.zeros(weights.size, dtype=np.int64)
    open_, rest = np.flatnonzero((room > 0) & (weights > 0)), total
    if rest > int(room[open_].sum()):
        raise ValueError(f"{total} tokens to share where there is room for {int(room[open_].sum())}")
    while rest:
        shares = whole_shares(weights[open_], rest)
        full = room[open_] <= shares
        if not full.any():
            found[open_] = shares
            break
        found[open_[full]] = room[open_[full]]
        rest -= int(room[open_[full]].sum())
        open_ = open_[~full]
    return found


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


@dataclass(frozen=True)
class Bracket:
    """The prefixes around a quota with their tokens. below: the longest that does not reach it (or that is all there
    is); above: the first that does, None when even all copies do not."""

    below: tuple[Cut, int]
    above: tuple[Cut, int] | None

    def nearest(self, wanted: int) -> tuple[Cut, int]:
        """The one nearer to `wanted` tokens, the shorter one when both are as near."""
        if self.above is None or abs(self.below[1] - wanted) <= abs(self.above[1] - wanted):
            return self.below
        return self.above


def bracket(copies: Copies, quota: int, below_tokens: int = 0) -> Bracket:
    """The prefixes of `copies` around a quota.

    below_tokens: tokens of copies known to precede all of `copies`. An empty prefix gives `Cut.nothing()`: the caller
    knows what precedes.
    """
    order = np.lexsort((copies.hash, copies.key))
    cumulative = below_tokens + np.cumsum(copies.tokens[order])
    after = int(np.searchsorted(cumulative, quota, side="left"))  # first prefix that reaches the quota

    def cut(place: int) -> tuple[Cut, int]:
        if place < 0:
            return Cut.nothing(), below_tokens
        row = order[place]
        return Cut(float(copies.key[row]), int(copies.hash[row])), int(cumulative[place])

    return Bracket(cut(after - 1), cut(after) if after < cumulative.size else None)


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
    """The outcome of one stratum. exhausted: whether it gave all that it has; never said of a quota of 0 to which
    nothing else was offered."""

    quota: int
    cut: Cut
    taken: int
    exhausted: bool = False


def settle(
    quotas: Mapping[int, int],
    resolve: Callable[[int, int], Bracket],
    missed: Mapping[str, int] | None = None,
    domain_of: Sequence[str] | None = None,
) -> dict[int, Settled]:
    """Cut every stratum in order. resolve(stratum, quota) gives the prefixes around the quota; missed: tokens that
    strata before all of these have missed, by domain; domain_of: of each stratum, where domains have quotas of their
    own.

    A quota of 0 takes nothing. Strata that run dry leave a rest, which is offered to the others in order, to those of
    the same domain alone where domains are given; so is what was missed there before.
    """
    settled: dict[int, Settled] = {}
    missed = missed or {}
    residual = sum(missed.values())
    for stratum in sorted(quotas):
        quota = quotas[stratum]
        around = resolve(stratum, quota) if quota else Bracket((Cut.nothing(), 0), None)
        cut, taken = around.nearest(quota + residual)
        settled[stratum] = Settled(quota, cut, taken, quota > 0 and around.above is None)
        residual += quota - taken
    if domain_of is None:
        if any(outcome.exhausted for outcome in settled.values()):
            _offer_rest(settled, sorted(quotas), residual, resolve)
        return settled
    for domain in dict.fromkeys(domain_of):
        members = [stratum for stratum in sorted(quotas) if domain_of[stratum] == domain]
        rest = sum(settled[stratum].quota - settled[stratum].taken for stratum in members)
        if not any(settled[stratum].exhausted for stratum in members):
            # what earlier strata missed here, as far as it is missing in all: domains are no dearer than the budget
            rest = min(rest + missed.get(domain, 0), residual) if missed.get(domain, 0) > 0 else 0
        residual -= _offer_rest(settled, members, rest, resolve)
    return settled


def _offer_rest(
    settled: dict[int, Settled], strata: Sequence[int], rest: int, resolve: Callable[[int, int], Bracket]
) -> int:
    """Offer what some of these strata have left to all of them in order; the tokens that they took."""
    offered = rest
    for stratum in strata:
        if rest <= 0:
            break
        have = settled[stratum].taken
        around = resolve(stratum, have + rest)
        cut, taken = around.nearest(have + rest)
        if abs(rest + have - taken) < abs(rest):
            settled[stratum] = Settled(settled[stratum].quota, cut, taken, around.above is None)
            rest += have - taken
        elif around.above is None:
            settled[stratum] = replace(settled[stratum], exhausted=True)
    return offered - rest
