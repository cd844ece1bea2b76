"""A plan applied to documents that fit in memory: the same rule as the distributed one, without passes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import Bracket, Copies, all_copies, bracket, copies_taken, settle
from quadmix.selectors.base import DocBatch, SelectionPlan


def select(plan: SelectionPlan, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.int32]:
    """(n,) copies of each document. u: (n,) draws in (0, 1), one a document."""
    stratum, key, step = plan.stratum(batch), plan.key(batch, u), plan.step(batch)
    order = np.argsort(stratum, kind="stable")
    bounds = np.searchsorted(stratum[order], np.arange(len(plan.strata) + 1))
    rows = [order[bounds[index] : bounds[index + 1]] for index in range(len(plan.strata))]
    copies_of: dict[int, Copies] = {}

    def resolve(index: int, quota: int) -> Bracket:
        if index not in copies_of:
            mine = rows[index]
            copies_of[index] = all_copies(
                key[mine], step[mine], batch.doc_hash[mine], batch.n_tokens[mine], plan.max_copies, np.inf
            )
        return bracket(copies_of[index], quota)

    copies = np.zeros(len(batch), dtype=np.int32)
    for index, outcome in settle(plan.quotas, resolve).items():
        mine = rows[index]
        cut = outcome.cut
        copies[mine] = copies_taken(
            key[mine], step[mine], batch.doc_hash[mine], cut.key, np.uint64(cut.hash), plan.max_copies
        )
    return copies
