"""The Pareto front over targets: mixtures that no other one beats on every target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def non_dominated(losses: Floats) -> NDArray[np.int64]:
    """Rows of (k, n_targets) that no other row equals or beats everywhere and beats somewhere, ordered by the first
    target, then the others; of equal rows the first stays."""
    order = np.lexsort((np.arange(len(losses)), *losses.T[::-1]))
    front: list[int] = []
    kept = np.empty((0, losses.shape[1]))
    for row in order.tolist():
        # what dominates a row comes before it in this order
        if not (kept <= losses[row]).all(axis=1).any():
            front.append(row)
            kept = losses[front]
    return np.array(front, dtype=np.int64)


def spread_out(losses: Floats, most: int) -> NDArray[np.int64]:
    """At most `most` of the rows of (k, n_targets), spread over the front: the best row of every target first, then
    always the one farthest from those chosen (each target scaled to its range). In the order of the rows."""
    if len(losses) <= most:
        return np.arange(len(losses))
    low, high = losses.min(axis=0), losses.max(axis=0)
    scaled = (losses - low) / np.where(high > low, high - low, 1.0)
    chosen = list(dict.fromkeys(int(row) for row in np.argmin(losses, axis=0)))[:most]
    gap = np.min([((scaled - scaled[row]) ** 2).sum(axis=1) for row in chosen], axis=0)
    while len(chosen) < most:
        row = int(np.argmax(gap))
        chosen.append(row)
        gap = np.minimum(gap, ((scaled - scaled[row]) ** 2).sum(axis=1))
    return np.sort(np.array(chosen, dtype=np.int64))
