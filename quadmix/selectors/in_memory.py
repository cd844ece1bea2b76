"""A plan applied to documents that fit in memory: the same rule as the distributed one, without passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import Bracket, Copies, Settled, all_copies, bracket, copies_taken, settle
from quadmix.selectors.base import DocBatch, SelectionPlan
from quadmix.selectors.union import UnionPlan, settle_union


def select(plan: SelectionPlan, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.int32]:
    """(n,) copies of each document. u: (n,) draws in (0, 1), one a document (a union makes its own)."""
    if isinstance(plan, UnionPlan):
        plan, settled = settle_union(plan, lambda *given: _settle(batch, u, *given))
    else:
        settled = dict(_settle(batch, u, plan))
    stratum, key, step = plan.stratum(batch), plan.key(batch, u), plan.step(batch)
    cut_key, cut_hash = np.full(len(plan.strata), -np.inf), np.zeros(len(plan.strata), dtype=np.uint64)
    for index, outcome in settled.items():
        cut_key[index], cut_hash[index] = outcome.cut.key, outcome.cut.hash
    own = np.where(stratum >= 0, key, np.inf)
    return copies_taken(own, step, batch.doc_hash, cut_key[stratum], cut_hash[stratum], plan.max_copies)


def _settle(
    batch: DocBatch,
    u: NDArray[np.float64],
    plan: SelectionPlan,
    missed: Mapping[str, int] | None = None,
    domain_of: Sequence[str] | None = None,
) -> Mapping[int, Settled]:
    stratum, key, step = plan.stratum(batch), plan.key(batch, u), plan.step(batch)
    order = np.argsort(stratum, kind="stable")
    bounds = np.searchsorted(stratum[order], np.arange(len(plan.strata) + 1))
    copies_of: dict[int, Copies] = {}

    def resolve(index: int, quota: int) -> Bracket:
        if index not in copies_of:
            mine = order[bounds[index] : bounds[index + 1]]
            copies_of[index] = all_copies(
                key[mine], step[mine], batch.doc_hash[mine], batch.n_tokens[mine], plan.max_copies, np.inf
            )
        return bracket(copies_of[index], quota)

    return settle(plan.quotas, resolve, missed, domain_of)
