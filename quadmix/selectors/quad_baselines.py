"""What the bandit must beat, as outcomes of the same form: the same plan, manifest and report.

The greedy bandit (alpha = 0) is `BanditSettings(exploration=0.0)`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import whole_shares
from quadmix.errors import BudgetError
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_outcome import ClusterOutcome, Kind, Outcome, StopReason, filled


def top_clusters(measured: Outcome) -> Outcome:
    """Whole clusters, the highest shrunk mean first, until the budget: from the measurements of a bandit's outcome, so
    at the same cost."""
    means = np.array([np.nan if cluster.mean is None else cluster.mean for cluster in measured.clusters])
    if np.isnan(means).any():
        raise ValueError("top_clusters: the outcome has no benefits; give that of a bandit")
    tokens = np.array([cluster.tokens for cluster in measured.clusters], dtype=np.int64)
    taken = filled(tokens, np.ones(means.size, dtype=bool), means, measured.budget)
    clusters = tuple(
        replace(cluster, granted=int(granted), fill=0)
        for cluster, granted in zip(measured.clusters, taken, strict=True)
    )
    return replace(measured, kind="top_clusters", stop=StopReason.NOT_A_BANDIT, clusters=clusters, rounds=())


def cluster_uniform(arms: Arms, budget: int) -> Outcome:
    """Equal tokens from every cluster; one that holds less gives all, the others share the rest."""
    _check(arms, budget)
    quotas = np.zeros(len(arms), dtype=np.int64)
    open_arms, rest = np.flatnonzero(arms.tokens), budget
    while rest:
        shares = whole_shares(np.ones(open_arms.size), rest)
        full = arms.tokens[open_arms] <= shares
        taken = arms.tokens[open_arms[full]] if full.any() else shares
        quotas[open_arms[full] if full.any() else open_arms] = taken
        rest -= int(taken.sum())
        open_arms = open_arms[~full]
    return _unmeasured("cluster_uniform", arms, budget, quotas)


def random_tokens(arms: Arms, budget: int) -> Outcome:
    """Of every cluster the same share of its tokens: random documents of the pool."""
    _check(arms, budget)
    quotas = np.minimum(whole_shares(arms.tokens.astype(np.float64), budget), arms.tokens)
    # rounding may have asked a cluster for a token more than it has
    size = len(arms)
    quotas += filled(arms.tokens - quotas, np.zeros(size, dtype=bool), np.zeros(size), budget - int(quotas.sum()))
    return _unmeasured("random", arms, budget, quotas)


def _unmeasured(kind: Kind, arms: Arms, budget: int, quotas: NDArray[np.int64]) -> Outcome:
    clusters = tuple(
        ClusterOutcome(
            name, int(arms.codes[arm]), int(arms.documents[arm]), int(arms.tokens[arm]), 0, 0, None, None, None, None,
            False, int(quotas[arm]), 0,
        )
        for arm, name in enumerate(arms.names)
    )  # fmt: skip
    return Outcome(kind, budget, StopReason.NOT_A_BANDIT, clusters)


def _check(arms: Arms, budget: int) -> None:
    total = int(arms.tokens.sum())
    if budget > total:
        raise BudgetError(
            f"mixture.budget: asked {budget:,} tokens, the {len(arms)} clusters hold {total:,} and each document is "
            "taken once. Lower the budget"
        )
