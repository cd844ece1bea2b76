"""Proxies trained again under fresh seeds: which, and their losses beside those under the swarm's own seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from quadmix.config import NoiseConfig
from quadmix.hashing import seed_for
from quadmix.stages.swarm import Outcome, ProxyJob


def repeats(jobs: Sequence[ProxyJob], config: NoiseConfig, base: int) -> list[ProxyJob]:
    """The first `mixtures` of the jobs under every fresh seed, seed by seed. base: the swarm's own seed."""
    return [
        replace(job, name=f"{job.name}-again-{number}", seed=seed_for(base, "noise", number))
        for number in range(config.seeds)
        for job in jobs[: config.mixtures]
    ]


def by_mixture(
    own: Sequence[Outcome], again: Sequence[Outcome], config: NoiseConfig
) -> list[list[Mapping[str, float] | None]]:
    """One row a repeated mixture: its losses under the swarm's seed, then under the fresh ones. own: outcomes of the
    jobs that `repeats` was given; again: of those that it returned."""
    count = min(config.mixtures, len(own))
    return [[own[place].losses, *(one.losses for one in again[place::count])] for place in range(count)]
