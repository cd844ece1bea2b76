"""How sparse the pool is around a document: minus the log of its kernel density among a sample's embeddings, in nats.

Density sampling (arXiv 2402.09668) keeps a document with probability proportional to 1/density, the density being what
`rows` independent sketches of the pool's embeddings count around it (`core.kernel_sketch`). Higher is sparser:
1/density is e^score, so the highest of score + Gumbel noise, temperature 1, are a sample without replacement by these
weights. (The paper's printed algorithm has its ratio upside down.)

The sketch is of a sample chosen by document hash, as everything fitted here; `sample_docs` may be the whole pool, and
is what the driver holds. Documents count alike, whatever their length. A document counts itself once, whether the
sample has it or not: else members of the sample would look denser than the rest, most of all in sparse regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import DensityScorerConfig
from quadmix.core.kernel_sketch import CollisionCounts, cells, random_planes
from quadmix.core.portable import log
from quadmix.errors import ConfigError
from quadmix.hashing import doc_hash, fingerprint, seed_for
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import FitContext
from quadmix.scorers.embedders import Embedder, embedder_from, fit_embedder
from quadmix.scorers.model_files import ModelFile, load_model, save_model

FORM = "density"
_CEILING = 64.0  # nats: 1/density is at most the sample's size + 1
_SPREAD = (0.05, 0.95)  # quantiles of the sample's densities whose ratio is the effective spread
_NEARLY_RANDOM = 2.0


@dataclass(frozen=True)
class DensityScorer:
    """One criterion, named as the config says. spread: of the sample's densities, 95 % over 5 % quantile."""

    name: str
    model: ModelFile
    spread: float
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: DensityScorerConfig, context: FitContext) -> DensityScorer:
        """Fit embedder and sketch on a sample of the pool. Raises ConfigError for an empty pool."""
        documents = context.sample(config.sample_docs, f"density/{config.name}")
        if not documents:
            raise ConfigError(f"density scorer {config.name!r}: the pool's sample is empty, wanted documents")
        seed = seed_for(context.seed, "density", config.name)
        fitted, points = fit_embedder(config.embedder, [document.text for document in documents], seed)
        planes = random_planes(points.shape[1], config.rows, config.bits, seed)
        cell = cells(points, planes, config.bits)
        sketch = CollisionCounts.of(cell, config.bits)
        known = np.sort(doc_hash(document.id for document in documents))
        low, high = np.quantile(density(sketch, cell, np.ones(len(cell), np.bool_)), _SPREAD, method="inverted_cdf")
        spread = float(high / low)
        facts = {
            "embedder": dict(fitted.facts), "rows": config.rows, "bits": config.bits, "documents": sketch.size,
            "effective_spread": spread, "densities": [float(low), float(high)],
        }  # fmt: skip
        arrays = {**fitted.arrays, "planes": planes, "counts": sketch.counts, "sample": known}
        file = save_model(context.directory, f"density-{config.name}", FORM, arrays, facts)
        return cls(config.name, file, spread)

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name, (0.0, _CEILING)),)

    @property
    def fingerprint(self) -> str:
        return fingerprint(FORM, self.version, self.name, self.model.sha256)

    @property
    def notes(self) -> tuple[str, ...]:
        """The effective spread, in words."""
        said = f"{self.name}: effective spread of the density {self.spread:.3g} (95 % over 5 % quantile of the sample)"
        if self.spread < _NEARLY_RANDOM:
            said += "; sampling by 1/density is then nearly random: take more bits, or another embedder"
        return (said,)

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _ready(self.model)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Minus log density around each `text`."""
        around = np.ones(0)
        if batch.num_rows:
            model = _ready(self.model)
            hashes = doc_hash(batch.column("doc_id").to_pylist())
            place = np.minimum(np.searchsorted(model.sample, hashes), len(model.sample) - 1)
            texts = [text or "" for text in batch.column("text").to_pylist()]
            cell = cells(model.embedder.transform(texts), model.planes, model.bits)
            around = density(model.sketch, cell, model.sample[place] == hashes)
        return pa.record_batch([float32_column(np.abs(log(around)))], names=[self.name])


def density(sketch: CollisionCounts, cell: NDArray[np.int32], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) in (0, 1]: the mean kernel between each query and the sketched set, the query itself among it.

    inside: (n,) whether the set has the query already.
    """
    rows = cell.shape[1]
    outside = (~inside).astype(np.int64)
    near = sketch.collisions(cell) + rows * outside
    around: NDArray[np.float64] = near / (rows * (sketch.size + outside))
    return around


@dataclass(frozen=True, eq=False)
class _Ready:
    embedder: Embedder
    planes: NDArray[np.int16]
    bits: int
    sketch: CollisionCounts
    sample: NDArray[np.uint64]  # sorted document hashes


@lru_cache(maxsize=2)
def _ready(file: ModelFile) -> _Ready:
    arrays, facts = load_model(file, FORM)
    sketch = CollisionCounts(arrays["counts"], int(facts["documents"]))
    return _Ready(embedder_from(facts, arrays), arrays["planes"], int(facts["bits"]), sketch, arrays["sample"])
