"""What a trial is: a theta drawn by Algorithm 1, its data thinned to a proxy's size, and the mixture that came out.

Each trial index has its own draw, so a longer swarm begins with the trials of a shorter one. All trials of a swarm
share the draws of documents, the initialisation and the order of documents (common random numbers): differences
between their losses are then differences between their mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig, ParamSpaceConfig
from quadmix.core.budget import whole_shares
from quadmix.core.mixture import meet_budget
from quadmix.core.param_space import Params, ParamSpace, sample_params
from quadmix.errors import BudgetError
from quadmix.hashing import seed_for
from quadmix.search.features import Mixtures, mean_by_domain

MAX_ATTEMPTS = 1000


def param_space(config: ParamSpaceConfig, n_domains: int, n_criteria: int) -> ParamSpace:
    """The configured ranges of Algorithm 1. Under preset `paper`, ranges left at their defaults are the paper's."""
    given = config.model_fields_set
    ranges = {
        name: getattr(config, name) if config.preset == "log" or name in given else None
        for name in ("steepness", "cutoff", "exponent", "floor")
    }
    return ParamSpace(n_domains, n_criteria, config.preset, **ranges)


@dataclass(frozen=True)
class Drawn:
    """One trial's theta, a batch of one with its cube point, and how many draws it took to meet the budget."""

    params: Params
    attempts: int


def draw_theta(
    space: ParamSpace, index: int, seed: int, domain_tokens: NDArray[np.int64], mixture: MixtureConfig
) -> Drawn:
    """The theta of trial `index`: the first draw of its own sequence that can meet the budget.

    Raises BudgetError after 1,000 draws that cannot.
    """
    return draw_thetas(space, index, seed, domain_tokens, mixture, 1)[0]


def draw_thetas(
    space: ParamSpace, index: int, seed: int, domain_tokens: NDArray[np.int64], mixture: MixtureConfig, n: int
) -> list[Drawn]:
    """The first `n` draws of trial `index` that can meet the budget, or as many as there are among 1,000; at least 1.

    Raises BudgetError where there is none.
    """
    found: list[Drawn] = []
    for draws in (n, 32 * n, MAX_ATTEMPTS):  # a longer draw begins with the shorter one
        params = sample_params(space, min(draws, MAX_ATTEMPTS), seed_for(seed, "theta", index))
        met = meet_budget(params, domain_tokens, mixture.budget, float(mixture.max_copies), mixture.meet_budget)
        feasible = np.flatnonzero(np.isfinite(met.multiplier))[:n].tolist()
        found = [Drawn(params.one(row), row + 1) for row in feasible]
        if len(found) == n:
            return found
    if not found:
        raise BudgetError(
            f"mixture.budget: none of {MAX_ATTEMPTS} draws of Algorithm 1 can meet {mixture.budget:,} tokens from a "
            f"pool of {int(domain_tokens.sum()):,} with at most {mixture.max_copies} copies and meet_budget "
            f"'{mixture.meet_budget}'. Lower the budget, raise max_copies, or widen mixture.space"
        )
    return found


def thin(
    copies: NDArray[np.integer],
    n_tokens: NDArray[np.int64],
    lengths: NDArray[np.int64],
    domain: NDArray[np.integer],
    draws: NDArray[np.float64],
    doc_hash: NDArray[np.uint64],
    tokens: int,
    n_domains: int,
) -> NDArray[np.int32]:
    """Keep about `tokens` of a selection: (n,) copies, each document with all of its copies or none.

    copies: (n,) of the selection; n_tokens: (n,) as the pool counts them; lengths: (n,) as the proxy's tokenizer does;
    draws: (n,) in (0, 1). Domains keep their shares of the selection. Within a domain, documents come in the order of
    their draws; one that would pass the domain's quota is left out and the next ones are tried. What is missing carries
    over to the next domain, in the end to any document, so all trials train on equal tokens to within a short document.
    """
    selected: NDArray[np.float64] = np.bincount(
        domain, weights=(copies * n_tokens).astype(np.float64), minlength=n_domains
    ).astype(np.float64)
    kept = np.zeros(copies.size, dtype=np.int32)
    weight = copies * lengths
    available = int(weight.sum())
    if available == 0:
        return kept
    quotas = whole_shares(selected, min(tokens, available))
    missing = 0
    for index in range(n_domains):
        rows = np.flatnonzero((domain == index) & (copies > 0))
        rows = rows[np.lexsort((doc_hash[rows], draws[rows]))]
        missing += int(quotas[index])
        chosen = rows[_fill(weight[rows], missing)]
        kept[chosen] = copies[chosen]
        missing -= int(weight[chosen].sum())
    # what the last domains could not take, any document may still fill
    rows = np.flatnonzero((copies > 0) & (kept == 0))
    rows = rows[np.lexsort((doc_hash[rows], draws[rows]))]
    chosen = rows[_fill(weight[rows], missing)]
    kept[chosen] = copies[chosen]
    return kept


def _fill(weights: NDArray[np.int64], quota: int) -> NDArray[np.bool_]:
    """Take items in order, leaving out each that would pass the quota."""
    taken = np.zeros(weights.size, dtype=bool)
    start, room = 0, quota
    while start < weights.size and room > 0:
        fits = int(np.searchsorted(np.cumsum(weights[start:]), room, side="right"))
        taken[start : start + fits] = True
        room -= int(weights[start : start + fits].sum())
        # the one that does not fit is left out, and so is every further one larger than the room
        rest = np.flatnonzero(weights[start + fits + 1 :] <= room)
        if not rest.size:
            break
        start += fits + 1 + int(rest[0])
    return taken


def realised(
    copies: NDArray[np.integer],
    lengths: NDArray[np.int64],
    domain: NDArray[np.integer],
    normalised: NDArray[np.float64],
    whole_quality: NDArray[np.float64],
) -> Mixtures:
    """The mixture that was drawn, as a batch of one. whole_quality: (n_domains, n_criteria), for domains left empty."""
    n_domains = len(whole_quality)
    weight = (copies * lengths).astype(np.float64)
    taken: NDArray[np.float64] = np.bincount(domain, weights=weight, minlength=n_domains).astype(np.float64)
    unique = np.bincount(domain, weights=np.where(copies > 0, lengths, 0).astype(np.float64), minlength=n_domains)
    total = float(taken.sum())
    means = mean_by_domain(domain, weight, normalised, n_domains)
    quality = np.where(np.isfinite(means), means, np.where(np.isfinite(whole_quality), whole_quality, 0.5))
    return Mixtures(
        np.array([total]),
        (taken / total if total else taken)[None],
        np.where(unique > 0, taken / np.where(unique > 0, unique, 1.0), 1.0)[None],
        quality[None],
    )
