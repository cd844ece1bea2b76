"""Made-up pools with a loss that is told by a mixture's realised shares, mean qualities and repeats.

The loss is a sum over two targets of an exponential law in what each domain is worth to it. A first fidelity is the
same law with other worths and gains, disturbed until it ranks fresh draws as a counting proxy ranks real ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace, draw_cube, params_from_cube
from quadmix.hashing import seed_for
from quadmix.search.acquisition import candidates
from quadmix.search.features import FeatureSet, Mixtures, QualitySample, closed_form, with_quality
from quadmix.search.rounds import Tried
from quadmix.search.screening import screen

Floats = NDArray[np.float64]

PROBLEMS = ((4, 2), (6, 3), (8, 4), (12, 3), (16, 4))  # domains, criteria
NAMES = tuple(f"{domains}x{criteria}" for domains, criteria in PROBLEMS)
NOISE = 0.023  # nats: sd between mixtures of one seed, from 4 mixtures x 5 seeds of the quick start's confirmation


@dataclass(frozen=True)
class Problem:
    """A pool and a loss. worth: (2, n_domains) of a domain's average text to each target; gain: (2, n_criteria) of
    text better than that; tired: what a repeat takes away."""

    space: ParamSpace
    mixture: MixtureConfig
    tokens: NDArray[np.int64]
    quality: QualitySample
    cheap: FeatureSet
    full: FeatureSet
    worth: Floats
    gain: Floats
    tired: float = 0.15

    @staticmethod
    def planted(n_domains: int, n_criteria: int) -> Problem:
        rng = np.random.default_rng(seed_for(n_domains, "planted", n_criteria))
        domains, criteria = (tuple(f"{x}{i:02d}" for i in range(n)) for x, n in (("d", n_domains), ("c", n_criteria)))
        tokens = (rng.lognormal(0, 0.8, n_domains) * 1e6).astype(np.int64)
        docs = 300 * n_domains
        domain = np.repeat(np.arange(n_domains, dtype=np.int32), 300)
        lengths = rng.lognormal(6, 0.7, docs).astype(np.int64) + 10
        normalised = rng.uniform(0, 1, (docs, n_criteria))
        mixture = MixtureConfig.model_validate({"criteria": criteria, "budget": int(tokens.sum() * 0.15)})
        return Problem(
            ParamSpace(n_domains, n_criteria),
            mixture,
            tokens,
            QualitySample.of(domain, lengths, normalised, n_domains),
            FeatureSet("screening", domains, criteria),
            FeatureSet("realised", domains, criteria),
            rng.gamma(0.7, 1.0, (2, n_domains)),
            rng.uniform(-0.3, 1.5, (2, n_criteria)),
        )

    def mixtures(self, cube: Floats) -> Mixtures:
        params = params_from_cube(self.space, cube)
        return with_quality(closed_form(params, self.tokens, self.mixture), self.quality, self.mixture.max_copies)

    def loss(self, mixtures: Mixtures) -> Floats:
        """(k,) true losses, the mean of both targets, in nats."""
        assert mixtures.quality is not None
        better = mixtures.quality - 0.5  # (k, domains, criteria)
        use = mixtures.share * (1.0 - self.tired * (mixtures.repeats - 1.0))
        total = np.zeros(len(mixtures.share))
        for worth, gain in zip(self.worth, self.gain, strict=True):
            got = (use * worth * np.exp(better @ gain)).sum(axis=1)
            total += 0.5 * (4.0 + 1.5 * np.exp(-0.8 * got))
        return np.asarray(total)

    def feasible(self, cube: Floats) -> NDArray[np.bool_]:
        return screen(params_from_cube(self.space, cube), self.tokens, self.mixture, self.cheap)[0]

    def draw(self, n: int, seed: int) -> Floats:
        cube = draw_cube(self.space, 3 * n, seed)
        return cube[self.feasible(cube)][:n]

    def optimum(self) -> float:
        """The lowest true loss that 40 rounds of steps from the best points find."""
        cube = self.draw(2000, 1)
        losses = self.loss(self.mixtures(cube))
        for step in range(40):
            order = np.argsort(losses, kind="stable")[:20]
            cube, losses = cube[order], losses[order]
            new = candidates(self.space, 800, seed_for(step, "optimum"), cube)[400:]
            new = new[self.feasible(new)]
            cube = np.concatenate([cube, new])
            losses = np.concatenate([losses, self.loss(self.mixtures(new))])
        return float(losses.min())


def tried(problem: Problem, cube: Floats, seed: int, noise: float) -> Tried:
    """Trials of these thetas: what came out, and losses with a proxy's noise."""
    mixtures = problem.mixtures(cube)
    draws = np.random.default_rng(seed).normal(0.0, noise, len(cube))
    return Tried(cube, mixtures, problem.loss(mixtures) + draws)


def disturbed(problem: Problem, spearman: float, seed: int) -> Problem:
    """The problem with other worths and gains, whose loss ranks draws as the true one does with that Spearman."""
    rng = np.random.default_rng(seed_for(seed, "counted"))
    moves = [rng.normal(size=part.shape) for part in (problem.worth, problem.gain)]
    mixtures = problem.mixtures(problem.draw(400, seed_for(seed, "rank")))
    true = problem.loss(mixtures)
    low, high = 0.0, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        other = replace(problem, worth=problem.worth * np.exp(middle * moves[0]), gain=problem.gain + middle * moves[1])
        if spearmanr(true, other.loss(mixtures)).statistic > spearman:
            low = middle
        else:
            high = middle
    return other
