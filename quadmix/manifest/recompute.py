"""The selection's arithmetic once more, for `verify`: written from the papers and the architecture, sharing nothing
with the code that selects.

Hashes come from the xxhash library, the sampling function's exponentials from numpy, its integrals from 16-point
Gauss-Legendre on pieces of at most 2, ranks from sorted integer sums. It agrees with the published numbers to the bit
where they are integers or draws, and to about 1e-12 where they are means of the sampling function.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SATURATED = 40.0  # (2 sigma(t))**eta is 2**eta to 1e-17 from here on
_PIECE = 2.0
_FLAT = 1e-13  # over a shorter stretch of t it is a constant to 1e-13; and lengths near 1e-308 have no digits left
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
SPLIT_BITS = 12  # a coarse class spans this many low bits of the order key
_HEAVY_SHARE = 2048  # classes above 1/2048 of the tokens are single scores


def id_hashes(doc_ids: Iterable[str]) -> NDArray[np.uint64]:
    """xxHash64 (seed 0) of each id's UTF-8 bytes."""
    return np.array([xxhash.xxh64(doc_id.encode("utf-8")).intdigest() for doc_id in doc_ids], dtype=np.uint64)


def draws(hashes: NDArray[np.uint64], seed: int, purpose: str) -> Floats:
    """u = ((h >> 11) + 1/2) * 2**-53, h the xxHash64 of the hash's 8 bytes under the key of (seed, purpose)."""
    key = xxhash.xxh64(f"{seed}:{purpose}".encode()).intdigest()
    raw = hashes.astype("<u8").tobytes()
    digest = xxhash.xxh64_intdigest
    mixed = np.array([digest(raw[at : at + 8], key) for at in range(0, len(raw), 8)], dtype=np.uint64)
    return np.minimum(((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53, 1.0 - 2.0**-53)


# ------------------------------------------------------------------------------------------- scores to qualities


def order_keys(scores: NDArray[np.float32]) -> Ints:
    """Integers 0..2**32-1 that order as the scores do."""
    bits = (scores.astype(np.float32) + np.float32(0.0)).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -1 - bits, bits + 2**31)


def scores_of(keys: Ints) -> Floats:
    """The scores of order keys."""
    bits = np.where(keys < 2**31, -1 - keys, keys - 2**31).astype(np.int32)
    return bits.view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class ScoreClasses:
    """One criterion's map from scores to sigma: class starts as order keys, ascending; sigma of q in 2**-30."""

    keys: Ints
    sigma: Ints

    def of(self, scores: NDArray[np.float32]) -> Ints:
        """(n,) sigma of every score: that of the last class which starts at or below it, else of the first."""
        at = np.searchsorted(self.keys, order_keys(scores), side="right") - 1
        return self.sigma[np.maximum(at, 0)]


def crowded(docs: Ints, tokens: Ints) -> NDArray[np.bool_]:
    """Coarse bins whose scores are told apart one by one: above 1/2048 of all tokens, in several documents."""
    return np.asarray((tokens * _HEAVY_SHARE > tokens.sum()) & (docs > 1))


def token_quantiles(
    coarse: Ints, coarse_docs: Ints, coarse_tokens: Ints, single: Ints, single_tokens: Ints
) -> tuple[Ints, Floats]:
    """(first order key, token-weighted mid-rank quantile) of every class of values."""
    keys, tokens, _ = _classes(coarse, coarse_docs, coarse_tokens, single, single_tokens)
    return keys, _mid_ranks(tokens)


def _mid_ranks(tokens: Ints) -> Floats:
    """Tokens below a class and half of its own, over all tokens."""
    return np.asarray((2 * np.cumsum(tokens) - tokens) / (2 * int(tokens.sum())))


def _classes(
    coarse: Ints, coarse_docs: Ints, coarse_tokens: Ints, single: Ints, single_tokens: Ints
) -> tuple[Ints, Ints, Floats]:
    """(first order key, tokens, the score that it stands for) of every class, ascending.

    coarse: (c,) ascending order keys >> 12 in use, with their documents and tokens; single: (s,) ascending full order
    keys of the documents in `crowded` bins, with their tokens.
    """
    alone = ~crowded(coarse_docs, coarse_tokens)
    keys = np.concatenate([coarse[alone] << SPLIT_BITS, single])
    tokens = np.concatenate([coarse_tokens[alone], single_tokens])
    # a coarse class stands for the middle of its range, a single score for itself
    point = np.concatenate([(coarse[alone] << SPLIT_BITS) + (1 << SPLIT_BITS - 1), single])
    order = np.argsort(keys)
    return keys[order], tokens[order], scores_of(point[order])


def score_classes(
    coarse: Ints, coarse_docs: Ints, coarse_tokens: Ints, single: Ints, single_tokens: Ints, method: str
) -> ScoreClasses:
    """The frozen map of one criterion; `_classes` says of what. method: quantile | zscore | minmax."""
    keys, tokens, scores = _classes(coarse, coarse_docs, coarse_tokens, single, single_tokens)
    total = int(tokens.sum())
    if method == "quantile":
        q = _mid_ranks(tokens)
    elif method == "minmax":
        span = scores[-1] - scores[0]
        q = (scores - scores[0]) / span if span > 0 else np.full(scores.size, 0.5)
    else:
        share = tokens / float(total)
        mean = np.add.accumulate(scores * share)[-1]
        variance = np.add.accumulate((scores - mean) ** 2 * share)[-1]
        q = (scores - mean) / np.sqrt(variance) if variance > 0 else np.zeros(scores.size)
    return ScoreClasses(keys, np.rint(_logistic(q) * 2.0**30).astype(np.int64))


def _logistic(x: Floats) -> Floats:
    """1 / (1 + e**-x) by the one sequence of IEEE operations that the manifest format prescribes.

    This rounds to an integer that decides ranks, so here the bits count and numpy's exponential will not do: its last
    bit differs between processors. e**-|x| = 2**k e**r with k = rint(x / ln 2), r by a two-part ln 2, e**r by its
    Taylor polynomial of degree 13 in Horner's form.
    """
    y = np.clip(-np.abs(x), -745.0, 709.0)
    k = np.rint(y * 1.44269504088896338700)
    r = (y - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    series = np.full(r.shape, 1.0 / math.factorial(13))
    for degree in range(12, -1, -1):
        series = series * r + 1.0 / math.factorial(degree)
    whole = k.astype(np.int32)
    half = (k * 0.5).astype(np.int32)
    e = np.ldexp(np.ldexp(series, half), whole - half)
    return np.asarray(np.where(x >= 0, 1.0, e) / (1.0 + e))


def natural_log(x: Floats) -> Floats:
    """ln x by the one sequence of IEEE operations that the manifest format prescribes, as in `_logistic`.

    x = 2**k m with m from sqrt(1/2) to sqrt(2); ln m = 2 artanh s with s = (m - 1) / (m + 1), by the odd series up to
    s**25 in Horner's form; k times a two-part ln 2 is added at the end.
    """
    m, exponent = np.frexp(x)
    k = exponent.astype(np.float64)
    low = m < 0.7071067811865476
    m, k = np.where(low, m * 2.0, m), np.where(low, k - 1.0, k)
    s = (m - 1.0) / (m + 1.0)
    squared = s * s
    series = np.full(s.shape, 1.0 / 25.0)
    for odd in range(23, 0, -2):
        series = series * squared + 1.0 / odd
    return np.asarray(k * 6.93147180369123816490e-01 + (2.0 * s * series + k * 1.90821492927058770002e-10))


def merge_weight_units(weights: Sequence[float]) -> Ints:
    """Merge weights of one domain in units of 2**-20, summing to 2**20, by largest remainder."""
    share = np.array(weights, dtype=np.float64)
    exact = share / share.sum() * 2**20
    units = np.floor(exact).astype(np.int64)
    by_remainder = sorted(range(units.size), key=lambda at: (-(exact[at] - units[at]), at))
    for at in by_remainder[: 2**20 - int(units.sum())]:
        units[at] += 1
    return np.asarray(units)


def bin_width_bits(documents: Sequence[int]) -> list[int]:
    """Low bits of a 50-bit quality that each domain's bins drop: 16 bins a document, 2**8 to 2**18 of them, halved
    for every domain until all have at most 2**24 together or none has more than 2**8."""
    lengths = [max(count - 1, 0).bit_length() for count in documents]
    extra = 4
    while True:
        bits = [min(max(length + extra, 8), 18) for length in lengths]
        if sum(1 << b for b in bits) <= 1 << 24 or all(b == 8 for b in bits):
            return [50 - b for b in bits]
        extra -= 1


# ------------------------------------------------------------------------------------------- ranks to copies


@dataclass(frozen=True)
class Curve:
    """min(scale * S, cap) of one domain: S as in eq. 3 with the cutoff already stretched."""

    steepness: float
    cutoff: float
    exponent: float
    floor: float
    scale: float
    cap: float

    def at(self, rank: Floats) -> Floats:
        """The function itself."""
        rise = self._rise(self.steepness * np.maximum(self.cutoff - rank, 0.0))
        return np.minimum(self.scale * (np.where(rank <= self.cutoff, rise, 0.0) + self.floor), self.cap)

    def mean(self, low: Floats, high: Floats) -> Floats:
        """(k,) mean over each rank interval (low, high], 0 <= low < high <= 1."""
        inner = np.minimum(high, self.cutoff)
        width = np.maximum(inner - low, 0.0)
        share = width / (high - low)
        start = self.steepness * np.maximum(self.cutoff - inner, 0.0)
        inside = self._mean_rise(start, start + self.steepness * width)
        return share * inside + (1.0 - share) * min(self.scale * self.floor, self.cap)

    def _rise(self, t: Floats) -> Floats:
        return np.asarray((2.0 / (1.0 + np.exp(-t))) ** self.exponent)

    def _capped(self, t: Floats) -> Floats:
        return np.minimum(self.scale * (self._rise(t) + self.floor), self.cap)

    def _mean_rise(self, start: Floats, stop: Floats) -> Floats:
        """(k,) mean of the capped function of t over start..stop; its value where the two are as good as equal."""
        length = stop - start
        total = np.zeros(start.size)
        edges = sorted({*np.arange(0.0, _SATURATED + 1, _PIECE), min(self._bend(), _SATURATED)})
        for left, right in itertools.pairwise(edges):
            rows = np.flatnonzero((stop > left) & (start < right))
            if rows.size:
                low, high = np.maximum(start[rows], left), np.minimum(stop[rows], right)
                half = (high - low) / 2.0
                nodes = (low + half)[:, None] + half[:, None] * _NODES
                total[rows] += half * (self._capped(nodes) @ _WEIGHTS)
        beyond = np.maximum(stop - np.maximum(start, _SATURATED), 0.0)
        total += beyond * float(self._capped(np.array([_SATURATED]))[0])
        wide = length > _FLAT
        return np.where(wide, total / np.where(wide, length, 1.0), self._capped(start))

    def _bend(self) -> float:
        """t at which the cap begins to hold; infinite if never."""
        room = self.cap / self.scale - self.floor
        if room >= 2.0**self.exponent:
            return float("inf")
        if room <= 1.0:
            return 0.0
        half = room ** (1.0 / self.exponent) / 2.0
        return float(np.log(half / (1.0 - half)))


def interval_ranks(tokens: Ints) -> tuple[Floats, Floats]:
    """(r_lo, r] of each quality bin of a domain, bins ascending: the share of tokens strictly better, and at least
    as good."""
    total = int(tokens.sum())
    worse = np.cumsum(tokens) - tokens
    return (total - worse - tokens) / total, (total - worse) / total


# ------------------------------------------------------------------------------------------- budgets


def equal_quotas(reach: Sequence[int], budget: int) -> list[int]:
    """Equal shares of a budget; who cannot give its share (`reach` tokens at most) gives all, the rest is shared."""
    return shares_within_room([1.0] * len(reach), reach, budget)


def whole_shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to the weights by largest remainder, ties to the first; zeros without a weight."""
    whole = math.fsum(weights)
    if not whole:
        return [0] * len(weights)
    exact = [weight / whole * float(total) for weight in weights]
    shares = [math.floor(value) for value in exact]
    missing = total - sum(shares)
    by_remainder = sorted(range(len(weights)), key=lambda at: (shares[at] - exact[at], at))
    shares = [share + missing // len(weights) for share in shares]
    for at in by_remainder[: missing % len(weights)]:
        shares[at] += 1
    return shares


def shares_within_room(weights: Sequence[float], room: Sequence[int], total: int) -> list[int]:
    """Whole numbers in proportion to the weights; who has not as much room gives all of it, and the others share what
    is missing."""
    taken, rest = [0] * len(room), total
    giving = [at for at, weight in enumerate(weights) if weight > 0 and room[at] > 0]
    while rest and giving:
        share = dict(zip(giving, whole_shares([weights[at] for at in giving], rest), strict=True))
        full = [at for at in giving if room[at] <= share[at]]
        for at in full or giving:
            taken[at] = room[at] if full else share[at]
        if not full:
            break
        rest -= sum(room[at] for at in full)
        giving = [at for at in giving if at not in full]
    return taken


@dataclass(frozen=True)
class Neighbourhood:
    """The copies nearest to a stratum's cut, ascending by (key, hash): `before` tokens precede them all."""

    before: int
    tokens: Ints  # (k,)
    first: bool  # no copy of the stratum comes before them
    last: bool  # none comes after

    def around(self, quota: int) -> tuple[int, int | None] | None:
        """Tokens of the last prefix that stays below the quota and of the first that reaches it (None: no prefix
        does); None if they lie outside."""
        sums = np.concatenate([[self.before], self.before + np.cumsum(self.tokens)])
        reaching = int(np.searchsorted(sums, quota, side="left"))  # the first known prefix that reaches the quota
        if reaching == 0 and not (self.first and quota == 0):
            return None
        if reaching == sums.size:
            return (int(sums[-1]), None) if self.last else None
        return int(sums[max(reaching - 1, 0)]), int(sums[reaching])


def settle(
    quotas: Sequence[int],
    known: Sequence[Neighbourhood],
    before: Mapping[str, int] | None = None,
    domains: Sequence[str] | None = None,
) -> list[int] | None:
    """Tokens that each stratum must have taken: of the two prefixes around its quota the one that leaves less missing
    over all strata so far, the shorter one if both leave as much; what dry strata leave is then offered again, and what
    was left in a domain before, as far as it is missing in all.

    before: what strata before all of these have left, by domain; domains: of each stratum, where a rest stays in its
    domain.

    None if a prefix lies outside its neighbourhood (a stratum ran dry and others gave far more than their quota).
    """
    taken: list[int] = []
    dry: list[bool] = []
    before = before or {}
    missing = sum(before.values())
    for quota, near in zip(quotas, known, strict=True):
        choice = near.around(quota) if quota else (0, 0)
        if choice is None:
            return None
        dry.append(choice[1] is None)
        taken.append(_better(choice, quota + missing))
        missing += quota - taken[-1]
    groups = {"": list(range(len(known)))}
    if domains is not None:
        groups = {name: [at for at, own in enumerate(domains) if own == name] for name in dict.fromkeys(domains)}
    for name, group in groups.items():
        left = missing if domains is None else sum(quotas[at] - taken[at] for at in group)
        if not any(dry[at] for at in group):
            earlier = before.get(name, 0)
            if domains is None or earlier <= 0:
                continue
            left = min(left + earlier, missing)
        for at in group:
            if left <= 0:
                break
            choice = known[at].around(taken[at] + left)
            if choice is None:
                return None
            found = _better(choice, taken[at] + left)
            if abs(left + taken[at] - found) < abs(left):
                left += taken[at] - found
                missing += taken[at] - found
                taken[at] = found
    return taken


def _better(choice: tuple[int, int | None], wanted: int) -> int:
    less, more = choice
    return less if more is None or abs(wanted - less) <= abs(more - wanted) else more
