"""Mixtures that are weights of domains and nothing else: how RegMix draws them, caps on repeats, and the proposal.

RegMix (arXiv 2407.01492): Dirichlet around the prior, tempered by 1/2, at 15 strengths from 0.1 to 5 in turn; a draw in
which a domain has more than 15 times its prior share is drawn again (with a hundred domains nearly every draw has
one: there the excess goes to the others instead), shares below 2e-4 become 0. The cap on repetition, p_j <= k * N_j / R
(Olmix, arXiv 2602.12237), holds for candidates, not for the swarm: what a domain may not take goes to the others in
proportion, so no candidate is lost to it, and averages of capped mixtures keep the cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import BudgetError
from quadmix.hashing import seed_for
from quadmix.search.objective import Objective
from quadmix.search.regressors import TargetModels
from quadmix.search.share_bounds import ShareBounds

Floats = NDArray[np.float64]

TEMPERATURE = 0.5
STRENGTHS: Floats = 10.0 ** np.linspace(-1.0, np.log10(5.0), 15)
MOST_TIMES_PRIOR = 15.0
LEAST_SHARE = 2e-4
_BLOCK = 8192
_LEAST_ACCEPTED = 0.02  # of the draws; where fewer pass the bound, draws are brought under it instead


@dataclass(frozen=True)
class Repetition:
    """What limits shares. tokens: (n_domains,) of the pool; budget: tokens of the run; copies: at most so many."""

    tokens: Floats
    budget: int
    copies: float

    @property
    def cap(self) -> Floats:
        """(n_domains,) largest share of each domain."""
        return np.asarray(np.minimum(self.copies * self.tokens / self.budget, 1.0))

    def repeats(self, weights: Floats) -> Floats:
        """How often each domain is read, 1 being every token once."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = weights * self.budget / self.tokens
        return np.where(weights > 0, found, 0.0)

    def check(self, domains: Sequence[str]) -> None:
        """Raises BudgetError when even every domain at its cap does not fill the budget."""
        reach = float(np.sum(self.copies * self.tokens))
        if reach < self.budget:
            each = ", ".join(
                f"{name} {self.copies * size:,.0f}" for name, size in zip(domains, self.tokens, strict=True)
            )
            raise BudgetError(
                f"--budget: asked {self.budget:,} tokens, the domains hold {reach:,.0f} at {self.copies:g} copies "
                f"({each}). Lower --budget or raise --max-copies"
            )


def draw_weights(prior: Floats, n: int, seed: int) -> Floats:
    """(n, n_domains) candidates, rows summing to 1. prior: (n_domains,) summing to 1; where it is 0, so are they."""
    alive = np.flatnonzero(prior > 0)
    if alive.size == 1:
        return np.repeat((prior > 0).astype(np.float64)[None], n, axis=0)
    tempered = prior[alive] ** TEMPERATURE
    tempered /= tempered.sum()
    bound = np.minimum(MOST_TIMES_PRIOR * prior[alive], 1.0)
    strength = STRENGTHS[np.arange(_BLOCK) % STRENGTHS.size]
    kept: list[Floats] = []
    found, block = 0, 0
    while found < n:
        drawn = _dirichlet(strength[:, None] * tempered, seed_for(seed, "domain-weights", block))
        if found >= block * _BLOCK * _LEAST_ACCEPTED:
            drawn = drawn[(drawn <= bound).all(axis=1)]
        else:
            drawn = capped(drawn, bound, prior[alive] / prior[alive].sum())
        kept.append(drawn)
        found += len(drawn)
        block += 1
    inside = np.concatenate(kept)[:n]
    inside[inside < LEAST_SHARE] = 0.0
    weights = np.zeros((n, prior.size))
    weights[:, alive] = inside / inside.sum(axis=1, keepdims=True)
    return weights


def _dirichlet(alpha: Floats, seed: int) -> Floats:
    """One draw a row of alpha (k, m). Gamma(a) is drawn as Gamma(a + 1) * U**(1/a), in logarithms: at a = 0.001 the
    plain variates underflow to 0 all together. Philox's raw stream and inverse functions only, as in `param_space`."""
    from scipy.special import gammaincinv

    raw = np.random.Philox(key=np.uint64(seed)).random_raw(2 * alpha.size)
    u = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    first, second = u.reshape(2, *alpha.shape)
    log_gamma = np.log(gammaincinv(alpha + 1.0, first)) + np.log(second) / alpha
    shares = np.exp(log_gamma - log_gamma.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def capped(weights: Floats, cap: Floats, prior: Floats) -> Floats:
    """Mixtures (k, m) brought under `cap` (m,): what is over goes to the other domains in proportion to their weights,
    or to their prior where these have none. The caps must sum to at least 1."""
    found = weights.copy()
    full = np.zeros(weights.shape, dtype=bool)
    for _ in range(cap.size):
        over = found > cap
        full |= over
        rows = np.flatnonzero(over.any(axis=1))
        if not rows.size:
            return found
        fixed = np.where(full[rows], cap, 0.0)
        room = 1.0 - fixed.sum(axis=1, keepdims=True)
        rest = np.where(full[rows], 0.0, weights[rows])
        none = rest.sum(axis=1) <= 0
        rest[none] = np.where(full[rows][none], 0.0, np.maximum(prior, LEAST_SHARE) * (cap > 0))
        scale = np.maximum(rest.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        found[rows] = fixed + rest / scale * room
    return np.minimum(found, cap)


@dataclass(frozen=True)
class WeightProposal:
    """origin: average | argmin | prior. weights: (n_domains,); losses: (n_targets,) predicted, lower is better."""

    origin: str
    weights: Floats
    losses: Floats


def propose_weights(
    models: TargetModels,
    objective: Objective,
    prior: Floats,
    limit: Repetition | None,
    *,
    n: int,
    top: int,
    seed: int,
    within: ShareBounds | None = None,
) -> list[WeightProposal]:
    """The average of the `top` candidates of lowest predicted joint loss, the best single one, and the prior itself.

    Every proposal but the prior keeps the cap of `limit`, and `within`, which holds that cap too and may add a pull
    towards the prior to what is minimised.
    """
    candidates = draw_weights(prior, n, seed)
    if within is not None:
        candidates = within.keep(candidates)
    elif limit is not None:
        candidates = capped(candidates, limit.cap, prior)
    losses = np.concatenate([models.predict(candidates[start : start + _BLOCK]) for start in range(0, n, _BLOCK)])
    joint = objective.joint(losses)
    order = np.argsort(joint if within is None else joint + within.penalty(candidates), kind="stable")
    chosen = {
        "average": candidates[order[:top]].mean(axis=0),
        "argmin": candidates[order[0]],
        "prior": prior,
    }
    return [WeightProposal(origin, row, models.predict(row[None])[0]) for origin, row in chosen.items()]
