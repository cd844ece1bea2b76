"""Mixtures that the product does not propose but the results page compares with: domain weights, with and without
top-k inside each domain (RegMix, arXiv 2407.01492, has no quality at all).

They are trained by the product's own task: same draws, same thinning, same journal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.budget import whole_shares
from quadmix.core.normalise import ScoreMap
from quadmix.hashing import fingerprint
from quadmix.selectors.base import DocBatch, SelectionPlan
from quadmix.selectors.baselines import RandomPlan
from quadmix.stages.proxy_pool import Sample
from quadmix.stages.swarm import ProxyJob, TrainJobs

WEIGHTS, WEIGHTS_TOPK = "weights", "weights_topk"


@dataclass(frozen=True)
class WeightsJob(ProxyJob):
    """A proxy of given domain shares. kind: weights (random documents of a domain) or weights_topk (its best ones by
    `criterion`). weights: by domain name, summing to 1."""

    weights: Mapping[str, float] = field(default_factory=dict)

    def key(self, swarm: str) -> str:
        named = json.dumps(dict(sorted(self.weights.items())))
        return fingerprint(swarm, self.kind, self.half, str(self.seed), str(self.criterion), named)


@dataclass(frozen=True)
class BestOfDomainsPlan(RandomPlan):
    """The best documents of every domain by one score, to a quota each; all of them once before any is taken twice.

    A document's first key is 1 minus its normalised score, in (0, 1), and each further copy adds 1.
    """

    score_map: ScoreMap = field(kw_only=True)

    def key(self, batch: DocBatch, u: NDArray[np.float64]) -> NDArray[np.float64]:
        classes = self.score_map.classes(np.ascontiguousarray(batch.scores[:, 0]))
        return np.asarray(1.0 - self.score_map.normalised[classes])


@dataclass(frozen=True)
class ContestJobs(TrainJobs):
    """The product's task, which also knows domain weights and notes the CPU seconds of every job (nothing that
    decides reads them)."""

    def __call__(self, group: tuple[ProxyJob, ...]) -> tuple[dict[str, Any], ...]:
        found = []
        for job in group:
            started = time.process_time()
            (outcome,) = super().__call__((job,))
            found.append({**outcome, "cpu_seconds": round(time.process_time() - started, 2)})
        return tuple(found)

    def plan(self, job: ProxyJob, sample: Sample) -> SelectionPlan:
        if not isinstance(job, WeightsJob):
            return super().plan(job, sample)
        shares = np.array([job.weights[name] for name in self.pool.domains])
        quotas = tuple(int(quota) for quota in whole_shares(shares, self.budget))
        cap = self.mixture.max_copies
        if job.kind == WEIGHTS:
            return RandomPlan(WEIGHTS, self.pool.domains, quotas, cap)
        if job.criterion is None:
            raise ValueError(f"job {job.name}: top-k of no criterion")
        score_map = sample.score_maps[self.pool.criteria.index(job.criterion)]
        return BestOfDomainsPlan(WEIGHTS_TOPK, self.pool.domains, quotas, cap, (job.criterion,), score_map=score_map)
