"""What was measured of selections and of the pool's random selections, at one sample size, as the report and other
stages read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quadmix.errors import InputError

LEVEL = 0.95


class NothingToMeasure(InputError):
    """A selection or a pool too small to have a diversity."""


@dataclass(frozen=True)
class Measure:
    """One number of a sample. title: with its unit; more: whether larger is more diverse, None for what is no
    diversity."""

    name: str
    title: str
    more: bool | None
    digits: int = 2


QUALITY = "quality"
MEASURES = (
    Measure("domain_entropy", "entropy of domains, nats", True, 3),
    Measure("effective_domains", "effective number of domains", True),
    Measure("domain_kl", "KL of domains to the pool, nats", False, 4),
    Measure("cluster_entropy", "entropy of clusters, nats", True, 3),
    Measure("effective_clusters", "effective number of clusters", True),
    Measure("cluster_kl", "KL of clusters to the pool, nats", False, 4),
    Measure("vendi_1", "Vendi score, q = 1", True),
    Measure("vendi_2", "Vendi score, q = 2", True),
    Measure("vendi_inf", "Vendi score, q = ∞", True),
    Measure("novelsum", "NovelSum", True, 4),
    Measure("near_duplicates", "near-duplicates, % of the sample", False, 1),
    Measure(QUALITY, "quality: mean quantile in the pool", None, 3),
)


@dataclass(frozen=True)
class Found:
    """A measure over repeated samples. low, high: 95 %, of the mean for a selection, of one sample for the band."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @staticmethod
    def of_mean(values: Sequence[float]) -> Found:
        """Student's interval of the mean over samples of one selection."""
        return _found(values, 1.0 / len(values))

    @staticmethod
    def of_next(values: Sequence[float]) -> Found:
        """Where the sample of one more random selection lies: Student's prediction interval."""
        return _found(values, 1.0 + 1.0 / len(values))

    @property
    def half_width(self) -> float:
        return self.high - self.mean


def _found(values: Sequence[float], variances: float) -> Found:
    from scipy.stats import t

    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1))
    half = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * spread * float(np.sqrt(variances))
    return Found(mean, mean - half, mean + half, tuple(values))


@dataclass(frozen=True)
class Diversity:
    """The measures of one selection, or of the random ones, by name; those that the pool does not allow are missing."""

    name: str
    found: Mapping[str, Found]


@dataclass(frozen=True)
class DiversityFacts:
    """sample_docs: copies in every sample; repeats: samples of each selection, and random selections; embedder,
    quality: in words."""

    sample_docs: int
    repeats: int
    budget: int
    embedder: str
    quality: str
    selections: tuple[Diversity, ...]
    random: Diversity

    def measures(self) -> list[Measure]:
        """Those that were taken, in the order of the table."""
        return [measure for measure in MEASURES if measure.name in self.random.found]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> DiversityFacts:
        """What `to_json` gave."""

        def diversity(one: Mapping[str, Any]) -> Diversity:
            found = {
                name: Found(item["mean"], item["low"], item["high"], tuple(item["values"]))
                for name, item in one["found"].items()
            }
            return Diversity(one["name"], found)

        given = dict(values)
        given["selections"] = tuple(diversity(one) for one in values["selections"])
        given["random"] = diversity(values["random"])
        return DiversityFacts(**given)

    def lines(self) -> list[str]:
        """The table in words, for a terminal."""
        lines = []
        for measure in self.measures():
            band = self.random.found[measure.name]
            shown = [
                f"{one.name} {number(one.found[measure.name].mean, measure)} ± "
                f"{number(one.found[measure.name].half_width, measure)}"
                for one in self.selections
            ]
            beside = f"random {number(band.low, measure)} to {number(band.high, measure)}"
            lines.append(f"{measure.title:<36}{'; '.join([*shown, beside])}")
        return lines


def number(value: float, measure: Measure) -> str:
    return f"{value:.{measure.digits}f}".replace("-", "−")
