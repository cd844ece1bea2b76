"""Confirmation: which mixtures compete, the fresh proxies that they need, and what these measured.

Every seed is fresh in the draw of documents, the order and the initialisation; mixtures of one seed share all three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quadmix.config import ConfirmConfig
from quadmix.hashing import seed_for
from quadmix.search.confirmation import PROPOSAL, conclude, summarise
from quadmix.search.objective import Objective
from quadmix.search.result import Confirmation, Confirmed, Proposal, ThetaByName, Trial
from quadmix.stages.swarm import Outcome, ProxyJob


@dataclass(frozen=True)
class Contestant:
    """A mixture that is confirmed. kind: theta | natural | uniform | topk."""

    name: str
    kind: str
    criterion: str | None = None
    theta: ThetaByName | None = None


def contestants(proposals: Sequence[Proposal], trials: Sequence[Trial], rivals: Sequence[str]) -> list[Contestant]:
    """The first proposal, then the rivals in the given order; `topk` is the best single score's in the swarm.

    A rival that does not exist (no top-k at this budget, the argmin being the proposal itself) is left out.
    """
    by_origin = {proposal.origin: proposal for proposal in proposals[1:]}
    found = [Contestant(PROPOSAL, "theta", theta=proposals[0].theta)]
    for rival in rivals:
        if rival in ("natural", "uniform"):
            found.append(Contestant(rival, rival))
        elif rival == "topk":
            scored = [(t.joint, t.name, t.criterion) for t in trials if t.kind == "topk" and t.joint is not None]
            if scored:
                _, name, criterion = min(scored)
                found.append(Contestant(name, "topk", criterion=criterion))
        elif rival in by_origin:
            found.append(Contestant(rival, "theta", theta=by_origin[rival].theta))
    return found


def confirmation_jobs(mixtures: Sequence[Contestant], seeds: int, seed: int) -> list[ProxyJob]:
    """One job a seed and mixture, seed by seed."""
    return [
        ProxyJob(
            index=round_ * len(mixtures) + place,
            name=mixture.name,
            kind=mixture.kind,
            half="confirm",
            seed=seed_for(seed, "confirm", round_),
            criterion=mixture.criterion,
            theta=mixture.theta,
        )
        for round_ in range(seeds)
        for place, mixture in enumerate(mixtures)
    ]


def confirmed(
    mixtures: Sequence[Contestant],
    outcomes: Sequence[Outcome],
    objective: Objective,
    config: ConfirmConfig,
    broken_by: Callable[[Contestant, dict[str, float] | None], list[str]] = lambda mixture, share: [],
) -> Confirmation:
    """Losses, intervals and verdict. outcomes: in the order of `confirmation_jobs`.

    broken_by: the constraints that a mixture breaks, from it and the shares that its first proxy drew.
    """
    found: list[Confirmed] = []
    every = {
        mixture.name: {
            target: [one.losses[target] if one.losses else None for one in outcomes[place :: len(mixtures)]]
            for target in objective.targets
        }
        for place, mixture in enumerate(mixtures)
    }
    reference = every.get("natural")
    for place, mixture in enumerate(mixtures):
        mine = outcomes[place :: len(mixtures)]
        proposal = found[0].losses if found else None
        full, loss, ahead = summarise(every[mixture.name], proposal, objective, config.confidence, reference)
        found.append(
            Confirmed(
                name=mixture.name,
                kind=mixture.kind,
                criterion=mixture.criterion,
                theta=mixture.theta,
                mixture=mine[0].mixture,
                losses=full,
                bits_per_byte={
                    target: [one.bits_per_byte[target] if one.bits_per_byte else None for one in mine]
                    for target in objective.targets
                },
                loss=loss,
                ahead=ahead,
                violates=broken_by(mixture, mine[0].mixture.share if mine[0].mixture else None),
            )
        )
    return conclude(found, config.seeds, config.confidence)
