"""What a few scored documents say of a cluster: its mean benefit, drawn towards that of its neighbours.

Empirical Bayes after Fay and Herriot (1979): the measured mean of arm i is m_i = mu_i + noise of variance v_i, and mu_i
lies around a prior mean p_i with variance A. Both are measured. v_i = s_i**2 / n_i * (1 - n_i / N_i): documents are
drawn without replacement, so a cluster scored to its last document is known. s_i**2 of few documents is itself
uncertain (and 0 for one): it is pooled with the noise within all arms, as good as `FREEDOM` more documents. A is
the spread of the means beyond their noise. p_i is the precision-weighted mean of the neighbours, or of all arms where
that predicts the means better (or where there are no centroids). The shrunk mean is p_i + A / (A + v_i) (m_i - p_i);
an arm that was never pulled has p_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Prior = Literal["neighbours", "all clusters"]

FREEDOM = 4.0


@dataclass(frozen=True)
class Beliefs:
    """mean: (K,) shrunk; error: (K,) standard error of the measured mean, infinite where nothing was scored.

    noise: standard deviation of documents within an arm, pooled; between: that of arms around their prior mean.
    """

    mean: Floats
    error: Floats
    noise: float
    between: float
    prior: Prior

    @property
    def bound(self) -> Floats:
        """(K,) mean - error: what the keep rule compares with the threshold."""
        return self.mean - self.error


def believe(n: Ints, mean: Floats, m2: Floats, documents: Ints, neighbours: NDArray[np.int32]) -> Beliefs:
    """Beliefs about all arms. n, mean, m2: (K,) moments of the scored documents, at least one n > 0; documents: (K,);
    neighbours: (K, k)."""
    seen = n > 0
    noise = _pooled_variance(n[seen], mean[seen], m2[seen])
    variance = np.full(n.size, np.inf)
    within = (m2[seen] + FREEDOM * noise) / (n[seen] - 1 + FREEDOM)
    variance[seen] = within / n[seen] * (1.0 - n[seen] / documents[seen])
    between = _variance(mean[seen]) - math.fsum(variance[seen]) / int(seen.sum())
    between = max(between, 0.0)
    precision = _precision(variance, between, seen)
    weighted = np.where(seen, precision * mean, 0.0)
    prior = np.full(n.size, math.fsum(weighted) / math.fsum(precision))
    kind: Prior = "all clusters"
    around, blur, known = _neighbours_means(precision, weighted, np.where(seen, variance, 0.0), neighbours)
    if (known & seen).any():
        rows = known & seen
        gaps = (mean[rows] - around[rows]) ** 2 - variance[rows] - blur[rows]
        local = max(math.fsum(gaps) / int(rows.sum()), 0.0)
        if local < between:
            kind, between = "neighbours", local
            prior[known] = around[known]
    trust = np.zeros(n.size)
    total = between + variance[seen]
    trust[seen] = np.where(total > 0, between / np.where(total > 0, total, 1.0), 1.0)
    shrunk = prior + trust * (np.where(seen, mean, prior) - prior)
    return Beliefs(shrunk, np.sqrt(variance), math.sqrt(noise), math.sqrt(between), kind)


def _pooled_variance(n: Ints, mean: Floats, m2: Floats) -> float:
    """Variance of documents within arms; where every arm has one document, that of all documents."""
    freedom = int((n - 1).sum())
    return math.fsum(m2) / freedom if freedom else _variance(mean)


def _variance(values: Floats) -> float:
    if values.size < 2:
        return 0.0
    centre = math.fsum(values) / values.size
    return math.fsum((values - centre) ** 2) / (values.size - 1)


def _precision(variance: Floats, between: float, seen: NDArray[np.bool_]) -> Floats:
    """(K,) 1 / (A + v), 0 where nothing was scored. Arms known exactly that do not differ beyond noise would weigh
    infinitely: they weigh a million times the least known one instead."""
    total = between + variance[seen]
    largest = float(total.max())
    weights = np.zeros(variance.size)
    weights[seen] = 1.0 / np.maximum(total, 1e-6 * largest) if largest > 0 else 1.0
    return weights


def _neighbours_means(
    precision: Floats, weighted: Floats, variance: Floats, neighbours: NDArray[np.int32]
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(K,) weighted mean of the neighbours, the noise in it, and whether any neighbour was scored."""
    weight, total, noise = (np.zeros(precision.size) for _ in range(3))
    for column in neighbours.T:
        weight += precision[column]
        total += weighted[column]
        noise += precision[column] ** 2 * variance[column]
    known = weight > 0
    safe = np.where(known, weight, 1.0)
    return total / safe, noise / safe**2, known
