"""Every measure of every sample: selections and random selections of the pool at one sample size, in one reading of the
pool.

The driver holds at most `repeats` samples of `sample_docs` documents for each selection and for the random ones, and
four times `sample_docs` more, each document once with the first 16,384 characters of its text, its embedding and a
signature of 512 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadmix.config import DiversityConfig, RunConfig
from quadmix.config_annotate import LsaEmbedderConfig
from quadmix.core.diversity import SecondMoments, effective_number, entropy, kl_divergence, novelsum
from quadmix.core.near_duplicates import near_duplicate_rate
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT
from quadmix.engine.base import Engine
from quadmix.hashing import seed_for
from quadmix.manifest.model import Manifest
from quadmix.one_thread import one_blas_thread
from quadmix.scorers.clusters import embedder_of
from quadmix.scorers.embedders import Embedder, fit_embedder
from quadmix.scorers.model_files import describe_model
from quadmix.scorers.shingles import text_signatures
from quadmix.stages.annotate import Annotated
from quadmix.stages.diversity.documents import Documents, read_documents_of
from quadmix.stages.diversity.facts import QUALITY, Diversity, DiversityFacts, NothingToMeasure
from quadmix.stages.diversity.sampling import SampleRandom, Samples, SampleSelection, merge_samples
from quadmix.stages.quad.cluster_table import CountClusters, merge_counts
from quadmix.stages.rows import RowReader
from quadmix.stages.select import packs

Weights = dict[str, int]  # tokens by name
# times the documents of a sample: what an embedder is fitted on, and where neighbours are looked for. Not the documents
# of the band: those that an embedder was fitted on look more diverse to it than others of their kind
_REFERENCE = 4


@dataclass(frozen=True)
class Selection:
    """Documents of the pool with copies: Parquet files with the columns doc_id and copies. digest: of their content."""

    name: str
    files: tuple[str, ...]
    digest: str

    @staticmethod
    def of_manifest(name: str, manifest: Manifest) -> Selection:
        return Selection(name, tuple(str(manifest.part_path(part)) for part in manifest.files), manifest.digest)


def measure_diversity(
    config: RunConfig,
    asked: DiversityConfig,
    engine: Engine,
    annotated: Annotated,
    selections: Sequence[Selection],
    budget: int,
    scratch: Path,
) -> DiversityFacts:
    """Measure selections of one budget beside random selections of it. scratch: a folder that workers can write to.

    Raises NothingToMeasure for a selection of less than two copies and where two random documents of the pool do not
    differ, InputError for documents that are not in the pool.
    """
    drawn = [_samples(config, asked, engine, selection) for selection in selections]
    random, space = _random_samples(config, asked, engine, annotated, budget)
    held = [min(one.copies) for one in (*drawn, random)]
    size = min(asked.sample_docs, *held)
    if size < 2:
        names = [*(one.name for one in selections), "a random selection of its budget"]
        raise NothingToMeasure(
            f"diversity: {names[held.index(size)]} holds {size} copies of documents, wanted two at least: one document "
            "has no diversity. Select more, or leave it out with `diversity: null`"
        )
    hashes = [one.hashes(size) for one in (*drawn, random)]
    wanted = [space, *(one for many in hashes for one in many)]
    documents = read_documents_of(engine, config.pool, annotated, wanted, scratch)
    reference = documents.places(space)
    with one_blas_thread():
        embedder, words = _embedder(config, asked, annotated, [documents.texts[place] for place in reference])
        points = embedder.transform(documents.texts)
        if len(np.unique(points[reference], axis=0)) < 2:
            raise NothingToMeasure(
                f"diversity: {len(reference):,} documents, drawn from the pool, have one embedding: nothing tells them "
                "apart. Give another embedder, or leave it out with `diversity: null`"
            )
        ruler = _Ruler(
            documents,
            points,
            points[reference],
            text_signatures(documents.texts),
            dict(zip(annotated.summary.domains, annotated.summary.tokens.tolist(), strict=True)),
            None if documents.clusters is None else _cluster_tokens(engine, annotated),
            _qualities(config, annotated, documents),
        )
        measured = [[ruler.measure(documents.places(sample)) for sample in samples] for samples in hashes]
    return DiversityFacts(
        size,
        asked.repeats,
        budget,
        words,
        ", ".join(config.mixture.criteria),
        tuple(
            Diversity.of_samples(selection.name, samples)
            for selection, samples in zip(selections, measured, strict=False)
        ),
        Diversity.of_samples("random", measured[-1], band=True),
    )


@dataclass(frozen=True)
class _Ruler:
    """What all samples are measured with. points, signatures, qualities: a row a document; reference: (m, d) of
    further random documents; domains, clusters: tokens of the pool."""

    documents: Documents
    points: NDArray[np.float32]
    reference: NDArray[np.float32]
    signatures: NDArray[np.uint32]
    domains: Weights
    clusters: Weights | None
    qualities: NDArray[np.float64]

    def measure(self, places: NDArray[np.intp]) -> dict[str, float]:
        """All measures of one sample, given as places of documents, one for each copy."""
        documents, tokens = self.documents, self.documents.tokens[places]
        found = _labels("domain", documents.domains, places, tokens, self.domains)
        if documents.clusters is not None and self.clusters is not None:
            found |= _labels("cluster", documents.clusters, places, tokens, self.clusters)
        moments = SecondMoments.of(self.points[places])
        found |= {"vendi_1": moments.vendi(1.0), "vendi_2": moments.vendi(2.0), "vendi_inf": moments.vendi(math.inf)}
        found["novelsum"] = novelsum(self.points[places], self.reference)
        found["near_duplicates"] = 100.0 * near_duplicate_rate(self.signatures[places])
        found[QUALITY] = float((self.qualities[places] * tokens).sum() / tokens.sum())
        return found


def _labels(
    what: str, names: Sequence[str], places: NDArray[np.intp], tokens: NDArray[np.int64], pool: Weights
) -> dict[str, float]:
    """Shares are of the sample's tokens."""
    held = dict.fromkeys(pool, 0)
    for place, count in zip(places.tolist(), tokens.tolist(), strict=True):
        held[names[place]] += count
    mine, all_ = np.array(list(held.values())), np.array(list(pool.values()))
    return {
        f"{what}_entropy": entropy(mine),
        f"effective_{what}s": effective_number(mine),
        f"{what}_kl": kl_divergence(mine, all_),
    }


def _samples(config: RunConfig, asked: DiversityConfig, engine: Engine, selection: Selection) -> Samples:
    if not selection.files:
        return Samples.empty(asked.sample_docs, asked.repeats)
    task = SampleSelection(asked.sample_docs, asked.repeats, config.seed)
    return engine.reduce(task, list(selection.files), merge_samples, label=f"diversity: sampling {selection.name}")


def _random_samples(
    config: RunConfig, asked: DiversityConfig, engine: Engine, annotated: Annotated, budget: int
) -> tuple[Samples, NDArray[np.uint64]]:
    """One sample of each random selection, and the hashes of further random documents, ascending."""
    reader, files = RowReader(annotated.summary.domains, ()), packs(annotated.files)
    fraction = budget / annotated.summary.total_tokens
    band = SampleRandom(reader, fraction, asked.sample_docs, asked.repeats, config.seed, "random")
    space = SampleRandom(reader, 1.0, _REFERENCE * asked.sample_docs, 1, config.seed, "reference")
    label = "diversity: sampling the pool"
    samples, reference = (engine.reduce(task, files, merge_samples, label=label) for task in (band, space))
    return samples, np.sort(reference.drawn[0][1])


def _embedder(
    config: RunConfig, asked: DiversityConfig, annotated: Annotated, texts: Sequence[str]
) -> tuple[Embedder, str]:
    """The embedder and what it is in words: the one asked for, that of the pool's clusters, or one fitted on texts."""
    clusters = annotated.record.summary["clusters"]
    if asked.embedder is None and clusters is not None and clusters["model"] is not None:
        return embedder_of(describe_model(str(annotated.directory / clusters["model"]))), "the embedder of the clusters"
    section = asked.embedder or LsaEmbedderConfig()
    fitted, _ = fit_embedder(section, texts, seed_for(config.seed, "diversity"))
    words: str = section.kind
    if isinstance(section, LsaEmbedderConfig):
        words = f"hashed words, SVD of {section.dimensions} dimensions fitted on {len(texts):,} documents of the pool"
    return fitted.ready(), words


def _cluster_tokens(engine: Engine, annotated: Annotated) -> Weights:
    counts = engine.reduce(CountClusters(), list(annotated.files), merge_counts, label="diversity: counting clusters")
    tokens: Weights = {}
    for (cluster, _), (_, held) in sorted(counts.items()):
        tokens[cluster] = tokens.get(cluster, 0) + held
    return tokens


def _qualities(config: RunConfig, annotated: Annotated, documents: Documents) -> NDArray[np.float64]:
    """(n,) mean over the mixture's criteria of a document's token-weighted quantile in the pool, 0.5 at random."""
    summary = annotated.summary
    columns = [summary.criteria.index(name) for name in config.mixture.criteria]
    quantiles = [_quantiles(summary.sketches[column], documents.scores[:, column]) for column in columns]
    return np.asarray(np.mean(quantiles, axis=0), dtype=np.float64)


def _quantiles(sketch: TokenHistogram, scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) mid-ranks of the bins that hold the scores, each of which was counted."""
    middle = (2 * np.cumsum(sketch.tokens) - sketch.tokens) / (2.0 * sketch.total_tokens)
    bins = order_key(np.ascontiguousarray(scores)).astype(np.int64) >> COARSE_SHIFT
    return np.asarray(middle[np.searchsorted(sketch.bins, bins)], dtype=np.float64)
