"""What was measured of selections and of the pool's random selections, at one sample size, as the report and other
stages read it."""

from __future__ import annotations

import json
import math
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
    diversity; least, most: what it can be, so that no interval goes beyond."""

    name: str
    title: str
    more: bool | None
    digits: int = 2
    least: float = 0.0
    most: float = math.inf


QUALITY = "quality"
MEASURES = (
    Measure("domain_entropy", "entropy of domains, nats", True, 3),
    Measure("effective_domains", "effective number of domains", True, least=1.0),
    Measure("domain_kl", "KL of domains to the pool, nats", False, 4),
    Measure("cluster_entropy", "entropy of clusters, nats", True, 3),
    Measure("effective_clusters", "effective number of clusters", True, least=1.0),
    Measure("cluster_kl", "KL of clusters to the pool, nats", False, 4),
    Measure("vendi_1", "Vendi score, q = 1", True, least=1.0),
    Measure("vendi_2", "Vendi score, q = 2", True, least=1.0),
    Measure("vendi_inf", "Vendi score, q = ∞", True, least=1.0),
    Measure("novelsum", "NovelSum", True, 4),
    Measure("near_duplicates", "near-duplicates, % of the sample", False, 1, most=100.0),
    Measure(QUALITY, "quality: mean quantile in the pool", None, 3, most=1.0),
)


@dataclass(frozen=True)
class Found:
    """A measure over repeated samples. low, high: 95 %, of the mean for a selection, of one sample for the band."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @staticmethod
    def of_mean(measure: Measure, values: Sequence[float]) -> Found:
        """Student's interval of the mean over samples of one selection."""
        return _found(measure, values, 1.0 / len(values))

    @staticmethod
    def of_next(measure: Measure, values: Sequence[float]) -> Found:
        """Where the sample of one more random selection lies: Student's prediction interval."""
        return _found(measure, values, 1.0 + 1.0 / len(values))

    @property
    def half_width(self) -> float:
        """The longer of its sides."""
        return max(self.high - self.mean, self.mean - self.low)


def _found(measure: Measure, values: Sequence[float], variances: float) -> Found:
    from scipy.stats import t

    mean = math.fsum(values) / len(values)
    spread = float(np.std(values, ddof=1)) if max(values) > min(values) else 0.0
    half = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * spread * math.sqrt(variances)
    return Found(mean, max(mean - half, measure.least), min(mean + half, measure.most), tuple(values))


@dataclass(frozen=True)
class Diversity:
    """The measures of one selection, or of the random ones, by name; those that the pool does not allow are missing."""

    name: str
    found: Mapping[str, Found]

    @staticmethod
    def of_samples(name: str, samples: Sequence[Mapping[str, float]], *, band: bool = False) -> Diversity:
        """samples: the measures of each; band: whether each is of a random selection of its own."""
        interval = Found.of_next if band else Found.of_mean
        taken = [measure for measure in MEASURES if measure.name in samples[0]]
        return Diversity(name, {one.name: interval(one, [sample[one.name] for sample in samples]) for one in taken})


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
