"""What proposals from somebody else's runs start from and keep: prior, tokens, cap on repeats, bounds on shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import ConfigError, InputError
from quadmix.search.constraints import Bound, Kind
from quadmix.search.domain_weights import Repetition
from quadmix.search.listing import listed
from quadmix.search.share_bounds import ShareBounds
from quadmix.search.trial_columns import matching
from quadmix.search.trial_files import Swarm, read_named_numbers

Floats = NDArray[np.float64]
Shares = tuple[tuple[str, float], ...]

MAX_COPIES = 4.0


class Asked(Protocol):
    """The part of a request that is about the mixtures themselves (foreign_trials.TrialsSearch)."""

    @property
    def domain_tokens(self) -> Path | None: ...
    @property
    def budget(self) -> int | None: ...
    @property
    def max_copies(self) -> float | None: ...
    @property
    def prior(self) -> Path | None: ...
    @property
    def kl(self) -> float: ...
    @property
    def bounds(self) -> Mapping[Kind, Shares]: ...


@dataclass(frozen=True)
class Ground:
    """prior: (n_domains,) summing to 1; limit: the cap on repeats, within: the bounds on shares, None without;
    notes: for the log."""

    domains: tuple[str, ...]
    prior: Floats
    prior_from: str
    limit: Repetition | None
    within: ShareBounds | None
    notes: tuple[str, ...]

    def cap_facts(self) -> dict[str, Any] | None:
        """The cap on repeats as JSON."""
        if self.limit is None:
            return None
        shares = dict(zip(self.domains, self.limit.cap.tolist(), strict=True))
        return {"budget": self.limit.budget, "max_copies": self.limit.copies, "largest_share": shares}


def ground_of(asked: Asked, swarm: Swarm) -> Ground:
    """Read the files of tokens and prior, and check that some mixture keeps everything.

    What has no tokens cannot be read: its prior is 0, and so is its share in every candidate. Raises ConfigError for
    names, InputError for files, BudgetError for what no mixture keeps.
    """
    spelling = dict(zip(swarm.domains, swarm.domain_columns, strict=True))
    limit, prior, source = None, swarm.shares.mean(axis=0), "the mean of the runs' mixtures"
    most = np.ones(len(swarm.domains))
    if asked.domain_tokens is not None:
        sizes = np.array(list(read_named_numbers(asked.domain_tokens, spelling, "its tokens").values()))
        most = np.where(sizes > 0, 1.0, 0.0)
        prior, source = sizes, f"the domains' tokens ({asked.domain_tokens.name})"
        if asked.budget is not None:
            limit = Repetition(sizes, asked.budget, MAX_COPIES if asked.max_copies is None else asked.max_copies)
            limit.check(swarm.domains)
            most = limit.cap
    if asked.prior is not None:
        prior = np.array(list(read_named_numbers(asked.prior, spelling, "its prior share").values()))
        source = asked.prior.name
    prior = np.where(most > 0, prior, 0.0)
    if not prior.sum() > 0:
        raise InputError(
            f"--prior: every domain that {source} gives a share has 0 tokens in --domain-tokens; nothing is left to mix"
        )
    prior = prior / prior.sum()
    none = [name for name, share in zip(swarm.domains, most, strict=True) if share == 0]
    notes = (f"domains without tokens have share 0 in every proposal: {listed(none)}",) if none else ()
    return Ground(swarm.domains, prior, source, limit, _within(asked, swarm.domains, most, prior), notes)


def _within(asked: Asked, domains: tuple[str, ...], most: Floats, prior: Floats) -> ShareBounds | None:
    """The bounds on shares, and the pull towards the prior; None where neither is asked. most: (n_domains,)."""
    if not asked.kl and not any(asked.bounds.values()):
        return None
    bounds: list[Bound] = []
    problems: list[str] = []
    for kind, given in asked.bounds.items():
        flag = f"--{kind.replace('_', '-')}"
        pairs = [(name, share) for pattern, share in given for name in matching([pattern], domains, flag)]
        share_of = dict(pairs)
        problems += [
            f"{flag}: {name} is given {share:g} and {share_of[name]:g}, wanted one share"
            for name, share in pairs
            if share != share_of[name]
        ]
        bounds += [Bound(kind, name, share, share) for name, share in share_of.items()]
    if problems:
        raise ConfigError(problems)
    return ShareBounds.of(bounds, domains, most, prior, asked.kl)
