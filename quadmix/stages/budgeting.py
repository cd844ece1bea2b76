"""The budget engine over annotation files: finds each stratum's cut without sorting the pool.

A probe is a range of (key, hash) per stratum. One pass over the files answers it: the tokens of copies before the
range and either the copies inside (`collect`, when few are expected) or their token histogram in 2**16 bins, from
which the next, narrower range follows. Plans that can guess where a cut lies need one pass; others one or two more.
Everything is an integer sum or a set of copies, so no partitioning and no order can change the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import Copies, Cut, Settled, copy_key, prefix_cut, settle
from quadmix.core.sketch import TokenHistogram
from quadmix.engine.base import Engine, Shared
from quadmix.hashing import uniform
from quadmix.selectors.base import DocBatch, SelectionPlan
from quadmix.stages.rows import RowReader

# copies collected from one stratum at most: 20 bytes each
COLLECT_LIMIT = 100_000
_BIN_BITS = 16
_TOP = (1 << 64) - 1


@dataclass(frozen=True)
class Range:
    """Copies from (key, hash) `low` to `high`, both inclusive. `bits`: width of the part still unresolved, of the key
    (more than 64) or of the hash (at most 64, both ends having one key)."""

    low_key: float
    low_hash: int
    high_key: float
    high_hash: int
    bits: int
    collect: bool


WHOLE = Range(-np.inf, 0, np.inf, _TOP, 128, collect=False)


@dataclass(frozen=True)
class Answer:
    """What a pass learned. before: (n_strata,) int64; bins: cell = stratum * 2**16 + bin; inside: collected copies."""

    before: NDArray[np.int64]
    bins: TokenHistogram
    stratum: NDArray[np.int32]
    inside: Copies

    def merge(self, other: Answer) -> Answer:
        return Answer(
            self.before + other.before,
            self.bins.merge(other.bins),
            np.concatenate([self.stratum, other.stratum]),
            self.inside.merge(other.inside),
        )


# per stratum: the range asked for, the tokens before it, (3, k) bins with documents and tokens, the copies inside
Known = dict[int, tuple[Range, int, NDArray[np.int64], Copies]]


def merge_answers(first: Answer, second: Answer) -> Answer:
    return first.merge(second)


@dataclass(frozen=True)
class ProbeTask:
    """Answers the probes of all strata for one group of files."""

    plan: Shared[SelectionPlan]
    reader: RowReader
    ranges: Shared[dict[int, Range]]
    seed: int
    purpose: str

    def __call__(self, paths: Sequence[str]) -> Answer:
        plan, ranges = self.plan.get(), self.ranges.get()
        probe = _Probe.of(ranges, len(plan.strata))
        answer = probe.empty()
        for path in paths:
            for batch, _ in self.reader.batches(path):
                answer = answer.merge(probe.answer(plan, batch, uniform(batch.doc_hash, self.seed, self.purpose)))
        return answer


@dataclass(frozen=True)
class _Probe:
    """The ranges of all strata as arrays, so that one batch is answered without a loop over strata."""

    active: NDArray[np.bool_]
    low_key: NDArray[np.float64]
    low_hash: NDArray[np.uint64]
    high_key: NDArray[np.float64]
    high_hash: NDArray[np.uint64]
    collect: NDArray[np.bool_]
    on_hash: NDArray[np.bool_]
    shift: NDArray[np.uint64]

    @staticmethod
    def of(ranges: dict[int, Range], n_strata: int) -> _Probe:
        chosen = [ranges.get(index) for index in range(n_strata)]
        filled = [item or WHOLE for item in chosen]
        return _Probe(
            np.array([item is not None for item in chosen], dtype=bool),
            np.array([item.low_key for item in filled]),
            np.array([item.low_hash for item in filled], dtype=np.uint64),
            np.array([item.high_key for item in filled]),
            np.array([item.high_hash for item in filled], dtype=np.uint64),
            np.array([item.collect for item in filled], dtype=bool),
            np.array([item.bits <= 64 for item in filled], dtype=bool),
            np.array([(item.bits - 1) % 64 + 1 - _BIN_BITS for item in filled], dtype=np.uint64),
        )

    def empty(self) -> Answer:
        n = self.active.size
        return Answer(np.zeros(n, dtype=np.int64), TokenHistogram.empty(), np.zeros(0, dtype=np.int32), Copies.empty())

    def answer(self, plan: SelectionPlan, batch: DocBatch, u: NDArray[np.float64]) -> Answer:
        stratum, first, step = plan.stratum(batch), plan.key(batch, u), plan.step(batch)
        total = self.empty()
        eligible = (stratum >= 0) & np.isfinite(first)
        eligible &= self.active[stratum]
        eligible &= first <= self.high_key[stratum]
        rows = np.flatnonzero(eligible)
        for copy in range(plan.max_copies):
            if not rows.size:
                break
            keys = copy_key(first[rows], step[rows], copy)
            near = keys <= self.high_key[stratum[rows]]
            rows, keys = rows[near], keys[near]
            if rows.size:
                total = total.merge(self._one_copy(stratum[rows], keys, batch.doc_hash[rows], batch.n_tokens[rows]))
            rows = rows[np.isfinite(step[rows])]
        return total

    def _one_copy(
        self,
        stratum: NDArray[np.int32],
        keys: NDArray[np.float64],
        hashes: NDArray[np.uint64],
        tokens: NDArray[np.int64],
    ) -> Answer:
        low, high = self.low_key[stratum], self.high_key[stratum]
        before = (keys < low) | ((keys == low) & (hashes < self.low_hash[stratum]))
        beyond = (keys == high) & (hashes > self.high_hash[stratum])
        counted = np.bincount(stratum[before], weights=tokens[before], minlength=self.active.size).astype(np.int64)
        inside = np.flatnonzero(~before & ~beyond)
        stratum, keys, hashes, tokens = stratum[inside], keys[inside], hashes[inside], tokens[inside]
        collected = self.collect[stratum]
        rest = ~collected
        bins = TokenHistogram.empty()
        if rest.any():
            where = stratum[rest]
            position = np.where(
                self.on_hash[where],
                hashes[rest] - self.low_hash[where],
                order64(keys[rest]) - order64(self.low_key)[where],
            )
            cell = where.astype(np.int64) << _BIN_BITS | (position >> self.shift[where]).astype(np.int64)
            bins = TokenHistogram.of(cell, tokens[rest])
        return Answer(counted, bins, stratum[collected], Copies(keys[collected], hashes[collected], tokens[collected]))


class _Unresolved(Exception):
    """A stratum's cut lies outside what is known; carries the next range to ask for."""

    def __init__(self, stratum: int, next_range: Range) -> None:
        super().__init__(stratum)
        self.stratum, self.next_range = stratum, next_range


def find_cuts(
    engine: Engine,
    plan: SelectionPlan,
    shared_plan: Shared[SelectionPlan],
    packs: Sequence[Sequence[str]],
    reader: RowReader,
    *,
    seed: int,
    purpose: str,
) -> dict[int, Settled]:
    """The cut of every stratum, its quota and the tokens taken. packs: groups of annotation files, one task each."""
    asked = {stratum: _first_range(plan, stratum) for stratum in plan.quotas}
    known: Known = {}
    while True:
        task = ProbeTask(shared_plan, reader, engine.share(asked), seed, purpose)
        answer = engine.reduce(task, packs, merge_answers, label="select: finding the cut")
        known |= _sort_answer(asked, answer)
        try:
            return settle(plan.quotas, partial(_resolve, known))
        except _Unresolved as missing:
            asked = {missing.stratum: missing.next_range}
            # the other strata that are not collected yet narrow in the same pass
            for stratum, (current, before, bins, _) in known.items():
                if stratum != missing.stratum and not current.collect:
                    asked[stratum] = _narrow(current, before, bins, plan.quotas[stratum])


def _first_range(plan: SelectionPlan, stratum: int) -> Range:
    window = plan.window(stratum)
    if window is None:
        return WHOLE
    return Range(window[0], 0, window[1], _TOP, 128, collect=True)


def _sort_answer(asked: dict[int, Range], answer: Answer) -> dict[int, tuple[Range, int, NDArray[np.int64], Copies]]:
    order = np.argsort(answer.stratum, kind="stable")
    sorted_stratum = answer.stratum[order]
    found = {}
    for stratum, item in asked.items():
        first, last = np.searchsorted(answer.bins.bins, [stratum << _BIN_BITS, (stratum + 1) << _BIN_BITS])
        bins = np.stack([
            answer.bins.bins[first:last] - (stratum << _BIN_BITS),
            answer.bins.docs[first:last],
            answer.bins.tokens[first:last],
        ])  # fmt: skip
        start, stop = np.searchsorted(sorted_stratum, [stratum, stratum + 1])
        found[stratum] = (item, int(answer.before[stratum]), bins, answer.inside.take(order[start:stop]))
    return found


def _resolve(known: Known, stratum: int, quota: int) -> tuple[Cut, int]:
    item, before, bins, inside = known[stratum]
    if not item.collect:
        total = before + int(bins[2].sum())
        if item == WHOLE and quota >= total:
            return (Cut(np.inf, _TOP) if total else Cut.nothing()), total  # the stratum runs dry, or is empty
        raise _Unresolved(stratum, _narrow(item, before, bins, quota))
    reached = before + int(inside.tokens.sum())
    if before < quota <= reached or quota == before == 0:
        cut, taken = prefix_cut(inside, quota, before)
        if cut == Cut.nothing() and before:
            cut = _just_before(item)
        return cut, taken
    raise _Unresolved(stratum, WHOLE)


def _narrow(item: Range, before: int, bins: NDArray[np.int64], quota: int) -> Range:
    """The bin of a counted range in which the quota falls, as the next range; the last bin when all fall short."""
    cumulative = before + np.cumsum(bins[2])
    place = min(int(np.searchsorted(cumulative, quota, side="left")), bins.shape[1] - 1)
    number, docs = int(bins[0, place]), int(bins[1, place])
    bits = item.bits - _BIN_BITS
    on_hash = item.bits <= 64
    if on_hash:
        low = item.low_hash + (number << bits)
        narrowed = replace(item, low_hash=low, high_hash=low + (1 << bits) - 1, bits=bits)
    else:
        start = int(order64(np.array([item.low_key]))[0]) + (number << (bits - 64))
        stop = min(start + (1 << (bits - 64)) - 1, _TOP)
        narrowed = Range(unorder64(start), 0, unorder64(stop), _TOP, bits, collect=False)
    return replace(narrowed, collect=docs <= COLLECT_LIMIT or narrowed.bits == 0)


def _just_before(item: Range) -> Cut:
    """Everything that precedes a range."""
    if item.low_hash > 0:
        return Cut(item.low_key, item.low_hash - 1)
    return Cut(float(np.nextafter(item.low_key, -np.inf)), _TOP)


def order64(keys: NDArray[np.float64]) -> NDArray[np.uint64]:
    """(n,) uint64 that order as the float64 keys do."""
    bits = (keys + 0.0).view(np.uint64)
    mask = (bits.view(np.int64) >> np.int64(63)).view(np.uint64) | np.uint64(1 << 63)
    return bits ^ mask


def unorder64(order: int) -> float:
    """The key at a position of `order64`; positions beyond the infinities give the infinities."""
    bits = order ^ (1 << 63) if order >> 63 else order ^ _TOP
    value = float(np.array([bits], dtype=np.uint64).view(np.float64)[0])
    if np.isnan(value):
        return np.inf if order >> 63 else -np.inf
    return value
