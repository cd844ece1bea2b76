"""Merged quality (eq. 1) and quality rank (eq. 2) of QuaDMix (arXiv 2504.16511).

The functions on floats are the definitions, for batches that fit in memory. The distributed path computes the same
in integers: sigma(q) in units of 2**-30 (`core.normalise`), merge weights in units of 2**-20, so a merged quality is
an exact integer in units of 2**-50, and ranks come from a histogram of its leading bits (`bin_bits`): documents in one
bin are a tie group, as tied documents are, and nothing else is approximated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quadmix.core.normalise import SIGMA_BITS
from quadmix.core.portable import PORTABLE, sigmoid

WEIGHT_BITS = 20
QUALITY_BITS = SIGMA_BITS + WEIGHT_BITS
# at most 2**18 bins on [0, 1): with quantile scores about 60,000 of them are in use, 5e-5 of a domain's tokens each
MIN_BIN_BITS, MAX_BIN_BITS = 8, 18
# bins of all domains together: two float64 tables of this length are the largest thing that a plan holds
MAX_BINS = 1 << 24


def merged_quality(
    scores: NDArray[np.float64], merge_weights: NDArray[np.float64], domain: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Eq. 1: sum over n of merge_weights[domain, n] * sigma(scores[:, n]).

    scores: (n_docs, n_criteria) normalised, higher is better; merge_weights: (n_domains, n_criteria), rows summing
    to 1; domain: (n_docs,) integers. Returns (n_docs,), higher is better.
    """
    scores = np.asarray(scores, dtype=np.float64)
    total = np.zeros(scores.shape[0])
    for column in range(scores.shape[1]):
        total += merge_weights[domain, column] * sigmoid(scores[:, column], PORTABLE)
    return total


def quality_interval(
    quality: NDArray[np.generic], tokens: NDArray[np.int64], domain: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each document's token interval (r_lo, r] within its domain: 0 is the best.

    r_lo = tokens strictly better / tokens of the domain, r = tokens of quality at least this one's / tokens of the
    domain; tied documents share both. quality: (n,); tokens: (n,) int64 >= 0; domain: (n,) integers >= 0.
    A domain without tokens has rank 1.
    """
    low, high = np.ones(quality.shape[0]), np.ones(quality.shape[0])
    if not quality.shape[0]:
        return low, high
    order = np.lexsort((quality, domain))[::-1]
    sorted_domain, sorted_quality = domain[order], quality[order]
    cumulative = np.cumsum(tokens[order])
    new_domain = np.concatenate([[True], sorted_domain[1:] != sorted_domain[:-1]])
    new_tie = new_domain | np.concatenate([[True], sorted_quality[1:] != sorted_quality[:-1]])
    domain_starts, tie_starts = np.flatnonzero(new_domain), np.flatnonzero(new_tie)
    tie_of, domain_of = np.cumsum(new_tie) - 1, np.cumsum(new_domain) - 1
    before = np.concatenate([[0], cumulative])[:-1]
    domain_before = before[domain_starts]
    domain_tokens = np.diff(np.concatenate([domain_before, cumulative[-1:]]))
    tie_end = np.concatenate([before[tie_starts[1:]], cumulative[-1:]])
    some = domain_tokens[domain_of] > 0
    scale = np.where(some, domain_tokens[domain_of], 1).astype(np.float64)
    low[order] = np.where(some, (before[tie_starts][tie_of] - domain_before[domain_of]) / scale, 1.0)
    high[order] = np.where(some, (tie_end[tie_of] - domain_before[domain_of]) / scale, 1.0)
    return low, high


def quality_rank(
    quality: NDArray[np.generic], tokens: NDArray[np.int64], domain: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Eq. 2: (n,) in (0, 1], tokens of quality >= this document's / tokens of its domain; 0 is best, ties share."""
    return quality_interval(quality, tokens, domain)[1]


def integer_weights(merge_weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n_domains, n_criteria) merge weights in units of 2**-20, rows summing to 2**20 by largest remainder."""
    unit = 1 << WEIGHT_BITS
    share = merge_weights / np.cumsum(merge_weights, axis=1)[:, -1:]  # left to right: the same bits everywhere
    whole: NDArray[np.int64] = np.floor(share * unit).astype(np.int64)
    rest = share * unit - whole
    for row in range(whole.shape[0]):
        missing = unit - int(whole[row].sum())
        order = np.lexsort((np.arange(whole.shape[1]), -rest[row]))
        whole[row, order[:missing]] += 1
    return whole


def integer_quality(
    sigma: NDArray[np.integer], weights: NDArray[np.int64], domain: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Eq. 1 in integers: (n,) in units of 2**-50. sigma: (n, n_criteria); weights: (n_domains, n_criteria)."""
    total = np.zeros(sigma.shape[0], dtype=np.int64)
    for column in range(sigma.shape[1]):
        total += weights[domain, column] * sigma[:, column]
    return total


def bin_bits(domain_docs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n_domains,) bits of resolution on [0, 1): 16 bins a document, 2**8 to 2**18 of them.

    Where all domains together would have more than 2**24 bins, every document gets 8, 4, 2, ... instead, until they
    fit or all domains are down at 2**8. A function of the pool alone, so tables stay small with 50,000 domains and
    never depend on partitioning.
    """
    # the bit length of docs - 1, exactly: a logarithm's last bit differs between processors
    length = np.frexp(np.maximum(domain_docs - 1, 0).astype(np.float64))[1].astype(np.int64)
    for more in range(4, MIN_BIN_BITS - 64, -1):
        bits: NDArray[np.int64] = np.clip(length + more, MIN_BIN_BITS, MAX_BIN_BITS)
        if int((np.int64(1) << bits).sum()) <= MAX_BINS:
            break
    return bits


def cell_ranks(
    tokens: NDArray[np.int64], domain: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(r_lo, r] of every cell of a quality histogram. tokens: (k,); domain: (k,) ascending, each domain's cells from
    the worst to the best. A domain without tokens has rank 1."""
    upto = np.cumsum(tokens)
    starts = np.searchsorted(domain, domain, side="left")
    ends = np.searchsorted(domain, domain, side="right")
    total = upto[ends - 1] - upto[starts] + tokens[starts]
    better = upto[ends - 1] - upto
    scale = np.where(total > 0, total, 1).astype(np.float64)
    return np.where(total > 0, better / scale, 1.0), np.where(total > 0, (better + tokens) / scale, 1.0)
