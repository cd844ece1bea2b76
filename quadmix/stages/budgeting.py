"""The budget engine over annotation files: finds each stratum's cut without sorting the pool.

A probe is a range of (key, hash) per stratum. One pass over the files answers it: the tokens of copies before the
range and either the copies inside (`collect`, when few are expected) or their token histogram in 2**16 bins, from
which the next, narrower range follows. Plans that can guess where a cut lies need one pass; others one or two more.
Everything is an integer sum or a set of copies, so no partitioning and no order can change the cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import Bracket, Copies, Cut, Settled, bracket, copy_key, settle
from quadmix.core.sketch import TokenHistogram
from quadmix.engine.base import Engine, Shared
from quadmix.errors import VerificationError
from quadmix.hashing import uniform
from quadmix.selectors.base import DocBatch, SelectionPlan
from quadmix.stages.rows import RowReader

# copies collected in one pass from all strata together, about: 28 bytes each
COLLECT_LIMIT = 1 << 20
# copies wanted on either side of a quota, so that the rest of a stratum that ran dry may need no further pass
_MARGIN = 24
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


@dataclass(frozen=True)
class Seen:
    """What is known of one stratum's range: the tokens before it, its documents and tokens by bin or its copies."""

    range: Range
    before: int
    bins: TokenHistogram
    inside: Copies

    @property
    def upto(self) -> int:
        """Tokens of the copies up to the end of the range."""
        return self.before + (int(self.inside.tokens.sum()) if self.range.collect else self.bins.total_tokens)

    def holds(self, quota: int) -> bool:
        """Whether the first prefix that reaches the quota ends in this range."""
        return self.before < quota <= self.upto


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
    """A stratum's cut lies in a range that was not asked for yet."""

    def __init__(self, wanted: Range) -> None:
        super().__init__(wanted)
        self.wanted = wanted


def find_cuts(
    engine: Engine,
    plan: SelectionPlan,
    shared_plan: Shared[SelectionPlan],
    packs: Sequence[Sequence[str]],
    reader: RowReader,
    *,
    seed: int,
    purpose: str,
    missed: Mapping[str, int] | None = None,
    domain_of: Sequence[str] | None = None,
) -> dict[int, Settled]:
    """The cut of every stratum, its quota and the tokens taken. packs: groups of annotation files, one task each;
    missed, domain_of: see `core.budget.settle`.

    Ends: whatever was seen is kept, and each pass asks for a part of a range that it has not asked for before. Where
    one is asked for twice, the files are no longer what they were: VerificationError.
    """
    limit = max(COLLECT_LIMIT // max(len(plan.strata), 1), 2 * _MARGIN)
    known: dict[int, list[Seen]] = {stratum: [] for stratum in plan.quotas}
    asked = _first_ranges(plan)

    def resolve(stratum: int, quota: int) -> Bracket:
        try:
            return _resolve(known[stratum], quota, limit)
        except _Unresolved as missing:
            asked[stratum] = missing.wanted
            raise

    while True:
        if asked:
            task = ProbeTask(shared_plan, reader, engine.share(asked), seed, purpose)
            answer = engine.reduce(task, packs, merge_answers, label="select: finding the cut")
            for stratum, seen in _sort_answer(asked, answer):
                if any(seen.range == earlier.range for earlier in known[stratum]):
                    raise VerificationError(
                        f"select: two passes over the annotations disagree about stratum {plan.strata[stratum]!r} at "
                        f"keys {seen.range.low_key} to {seen.range.high_key}; nothing was published. The files changed "
                        f"between the passes, or this is a bug: run again, then report it"
                    )
                known[stratum].append(seen)
        asked = {}
        with suppress(_Unresolved):
            return settle(plan.quotas, resolve, missed, domain_of)
        # what the later strata lack is asked for in the same pass
        for stratum in sorted(set(plan.quotas) - set(asked)):
            with suppress(_Unresolved):
                if plan.quotas[stratum]:
                    resolve(stratum, plan.quotas[stratum])


def _first_ranges(plan: SelectionPlan) -> dict[int, Range]:
    """The windows that the plan expects its cuts in, unless that would collect too many copies."""
    windows = {stratum: plan.window(stratum) for stratum, quota in plan.quotas.items() if quota}
    several = sum(window.copies for window in windows.values() if window is not None) > COLLECT_LIMIT
    return {
        stratum: WHOLE if window is None or several else Range(window.low, 0, window.high, _TOP, 128, collect=True)
        for stratum, window in windows.items()
    }


def _sort_answer(asked: dict[int, Range], answer: Answer) -> Iterator[tuple[int, Seen]]:
    order = np.argsort(answer.stratum, kind="stable")
    sorted_stratum = answer.stratum[order]
    cells = answer.bins
    for stratum, item in asked.items():
        first, last = np.searchsorted(cells.bins, [stratum << _BIN_BITS, (stratum + 1) << _BIN_BITS])
        bins = TokenHistogram(
            cells.bins[first:last] - (stratum << _BIN_BITS), cells.docs[first:last], cells.tokens[first:last]
        )
        start, stop = np.searchsorted(sorted_stratum, [stratum, stratum + 1])
        yield stratum, Seen(item, int(answer.before[stratum]), bins, answer.inside.take(order[start:stop]))


def _resolve(known: Sequence[Seen], quota: int, limit: int) -> Bracket:
    for seen in known:
        if seen.range.collect and seen.holds(quota):
            found = bracket(seen.inside, quota, seen.before)
            before_all = found.below[0] == Cut.nothing() and seen.before > 0
            return replace(found, below=(_just_before(seen.range), seen.before)) if before_all else found
        if seen.range == WHOLE and quota > seen.upto:  # it runs dry, or is empty
            return Bracket((Cut(np.inf, _TOP) if seen.upto else Cut.nothing(), seen.upto), None)
    counted = [seen for seen in known if not seen.range.collect and seen.holds(quota)]
    # the narrowest: ranges that hold the same quota lie in one another
    raise _Unresolved(_narrow(min(counted, key=lambda seen: seen.range.bits), quota, limit) if counted else WHOLE)


def _narrow(seen: Seen, quota: int, limit: int) -> Range:
    """The bin of a counted range in which the quota falls, with some neighbours if their copies can be collected."""
    item, bins = seen.range, seen.bins
    place = int(np.searchsorted(seen.before + np.cumsum(bins.tokens), quota, side="left"))
    bits = item.bits - _BIN_BITS
    collect = int(bins.docs[place]) <= limit or bits == 0
    first, last = _with_neighbours(bins.docs, place, limit) if collect else (place, place)
    low, high = int(bins.bins[first]), int(bins.bins[last])
    if item.bits <= 64:
        start = item.low_hash + (low << bits)
        stop = item.low_hash + ((high + 1) << bits) - 1
        return replace(item, low_hash=start, high_hash=stop, bits=bits, collect=collect)
    origin = int(order64(np.array([item.low_key]))[0])
    start, stop = origin + (low << (bits - 64)), min(origin + ((high + 1) << (bits - 64)) - 1, _TOP)
    return Range(unorder64(start), 0, unorder64(stop), _TOP, bits, collect)


def _with_neighbours(docs: NDArray[np.int64], place: int, limit: int) -> tuple[int, int]:
    """First and last bin around `place` so that about `_MARGIN` copies lie on either side, `limit` in all."""
    first = last = place
    total = int(docs[place])
    below = above = 0
    while below < _MARGIN and first > 0 and total + int(docs[first - 1]) <= limit:
        first -= 1
        below += int(docs[first])
        total += int(docs[first])
    while above < _MARGIN and last + 1 < docs.size and total + int(docs[last + 1]) <= limit:
        last += 1
        above += int(docs[last])
        total += int(docs[last])
    return first, last


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
