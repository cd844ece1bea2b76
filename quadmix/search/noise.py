"""How much of a difference between two proxies is chance: some trials are trained again under fresh seeds.

All trials of a swarm share one seed of draws, initialisation and order, so what a seed does to all mixtures alike is in
no difference between them. What is left is the noise of the fit: with losses L_ij of mixture i under seed j, the
residual of the two-way layout L_ij = m_i + s_j + e_ij. Its sd, from (mixtures - 1)(seeds - 1) degrees of freedom with
the swarm's own seed among the seeds, has the usual chi-squared interval. The spread of one mixture over seeds, s_j and
e_ij together, stands beside it: what pairing saves.

Similar mixtures share most documents, so their e_ij are alike: the part that a regressor sees as scatter between
neighbours is at most this noise. It is a prior for the fit and not a fixed value for that reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.search.objective import Objective
from quadmix.search.result import JOINT, Noise

Floats = NDArray[np.float64]

LEVEL = 0.9
# variance of the logarithm of the variance, beside that of its estimate: neighbours share a part of their noise
_SLACK = 0.25


@dataclass(frozen=True)
class NoisePrior:
    """What repeated seeds say of one loss's noise, for a fit. sd: nats; freedom: degrees of freedom behind it."""

    sd: float
    freedom: int

    def log_variance(self, scale: float) -> tuple[float, float]:
        """(mean, sd) of the logarithm of the noise variance of losses that were divided by `scale`."""
        floor = 1e-6 * scale  # proxies whose repeats agree to the last digit
        return float(2.0 * np.log(max(self.sd, floor) / scale)), float(np.sqrt(2.0 / self.freedom + _SLACK))

    @property
    def least(self) -> float:
        """Nats: the low end of the noise's 90 % interval, below which no interval of a new proxy's loss may claim."""
        return self.sd * factors(self.freedom)[0]


def prior_of(noise: Noise | None, name: str) -> NoisePrior | None:
    """Of one target or JOINT."""
    return None if noise is None else NoisePrior(noise.paired[name], noise.freedom)


def measure_noise(losses: Sequence[Sequence[Mapping[str, float] | None]], objective: Objective) -> Noise | None:
    """Noise by target and JOINT. losses: one row a mixture, one entry a seed, the swarm's own first; None = failed.

    A mixture that failed under any seed is left out; None where fewer than two are left or there is one seed.
    """
    whole = [[one for one in row if one is not None] for row in losses]
    whole = [row for row, given in zip(whole, losses, strict=True) if len(row) == len(given)]
    if len(whole) < 2 or len(whole[0]) < 2:
        return None
    tables = {name: np.array([[one[name] for one in row] for row in whole]) for name in objective.targets}
    tables[JOINT] = np.array([[objective.of(one) for one in row] for row in whole])
    mixtures, seeds = len(whole), len(whole[0])
    freedom = (mixtures - 1) * (seeds - 1)
    paired = {name: paired_sd(table) for name, table in tables.items()}
    low, high = factors(freedom)
    return Noise(
        mixtures=mixtures,
        seeds=seeds,
        freedom=freedom,
        paired=paired,
        low={name: sd * low for name, sd in paired.items()},
        high={name: sd * high for name, sd in paired.items()},
        alone={name: float(np.sqrt(table.var(axis=1, ddof=1).mean())) for name, table in tables.items()},
    )


def paired_sd(table: Floats) -> float:
    """sd of the residuals of (mixtures, seeds) losses after their row and column means."""
    rows, columns = table.shape
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    return float(np.sqrt((residual**2).sum() / ((rows - 1) * (columns - 1))))


def factors(freedom: int) -> tuple[float, float]:
    """What an estimated sd is multiplied with for the ends of its 90 % interval."""
    from scipy.stats import chi2

    tail = (1.0 - LEVEL) / 2.0
    return float(np.sqrt(freedom / chi2.ppf(1.0 - tail, freedom))), float(np.sqrt(freedom / chi2.ppf(tail, freedom)))


def told_apart(noise: Noise, seeds: int) -> float:
    """Nats: half width that a paired 95 % interval of a confirmation over `seeds` seeds is to be expected to have."""
    from scipy.stats import t

    return float(t.ppf(0.975, seeds - 1) * noise.paired[JOINT] * np.sqrt(2.0 / seeds))


def noise_in_words(noise: Noise, seeds: int) -> str:
    """One sentence for the log and the report. seeds: of the confirmation."""
    return (
        f"the joint loss of a proxy has {noise.paired[JOINT]:.4f} nats of noise between mixtures of one seed (90 %: "
        f"{noise.low[JOINT]:.4f} to {noise.high[JOINT]:.4f}), {noise.alone[JOINT]:.4f} between seeds ({noise.mixtures} "
        f"mixtures, {noise.seeds} seeds); a confirmation over {seeds} seeds tells differences from about "
        f"{told_apart(noise, seeds):.3f} nats apart"
    )
