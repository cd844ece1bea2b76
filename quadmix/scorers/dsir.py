"""DSIR: how much likelier a document is under its targets' n-grams than under the pool's (arXiv 2302.03169).

Both are bags of hashed n-grams: a bucket's probability is its share of all n-grams of the targets' documents, or of a
sample of the pool. The score is the log importance weight, the sum over a document's n-grams of log(target share) less
log(pool share), 1e-8 added to both, as the paper's released code does. It is a sum, not a mean: long documents have
large weights of either sign, which is what resampling by these weights asks for. The released code leaves out documents
of fewer than 100 words, whose weights say little; here they keep a score, LAST, so that they come after all others.

Log ratios are kept in units of 2^-20 and added as integers: neither batches nor processors can move a score. Taking the
highest of score + Gumbel noise, temperature 1, is the paper's resampling without replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import DsirScorerConfig
from quadmix.core.portable import log
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import fingerprint
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import Document, FitContext
from quadmix.scorers.hashed_ngrams import layout_counts
from quadmix.scorers.linear import gather
from quadmix.scorers.model_files import ModelFile, describe_model, load_model, save_model
from quadmix.scorers.text_layout import MAX_CHARS, layouts

FORM = "dsir"
LAST = -(2.0**30)  # below every weight: 4 million n-grams of -18.5 each are -2^26
SMOOTHING = 1e-8  # of a bucket's share
UNIT = 2.0**-20


@dataclass(frozen=True)
class DsirScorer:
    """One criterion, named as the config says."""

    name: str
    model: ModelFile
    ngrams: int
    least_words: int
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: DsirScorerConfig, context: FitContext) -> DsirScorer:
        """Count targets and pool, or take the file. Raises ConfigError when one of the two has no words."""
        if config.model is not None:
            file = describe_model(config.model)
            _, facts = load_model(file, FORM)
            return cls(config.name, file, facts["ngrams"], config.least_words)
        sides = {
            f"targets ({', '.join(config.targets)})": gather(config.targets, context),
            "the pool's sample": context.sample(config.sample_docs, f"dsir/{config.name}"),
        }
        counts = [bucket_counts(documents, config.ngrams, config.buckets) for documents in sides.values()]
        for side, counted in zip(sides, counts, strict=True):
            if not counted.any():
                raise ConfigError(f"dsir scorer {config.name!r}: no words in {side}, wanted at least one document")
        facts = {"buckets": config.buckets, "ngrams": config.ngrams, "counted": [int(one.sum()) for one in counts]}
        arrays = {"ratios": log_ratios(*counts)}
        file = save_model(context.directory, f"dsir-{config.name}", FORM, arrays, facts)
        return cls(config.name, file, config.ngrams, config.least_words)

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name),)

    @property
    def fingerprint(self) -> str:
        return fingerprint(FORM, self.version, self.name, self.model.sha256, str(self.least_words))

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _ratios(self.model)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The log importance weight of each `text`, LAST for those of fewer than `least_words` words."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        ratios = _ratios(self.model)
        weights = np.zeros(len(texts))
        for rows, layout in layouts([text.lower() for text in texts], MAX_CHARS):
            row, bucket, count = layout_counts(layout, self.ngrams, len(ratios))
            total = np.zeros(len(rows), dtype=np.int64)
            np.add.at(total, row, count * ratios[bucket])
            weights[rows] = np.where(layout.words.count >= self.least_words, total * UNIT, LAST)
        return pa.record_batch([float32_column(weights)], names=[self.name])


def bucket_counts(documents: Sequence[Document], ngrams: int, buckets: int) -> NDArray[np.int64]:
    """(buckets,) occurrences of the 1..`ngrams`-grams of all documents."""
    counts = np.zeros(buckets, dtype=np.int64)
    for _, layout in layouts([document.text.lower() for document in documents], MAX_CHARS):
        _, bucket, count = layout_counts(layout, ngrams, buckets)
        np.add.at(counts, bucket, count)
    return counts


def log_ratios(target: NDArray[np.int64], pool: NDArray[np.int64]) -> NDArray[np.int32]:
    """(buckets,) log of the target's share over the pool's, both smoothed, in units of UNIT."""
    shares = [counts.astype(np.float64) / float(counts.sum()) + SMOOTHING for counts in (target, pool)]
    return np.rint((log(shares[0]) - log(shares[1])) / UNIT).astype(np.int32)


@lru_cache(maxsize=8)
def _ratios(file: ModelFile) -> NDArray[np.int32]:
    arrays, facts = load_model(file, FORM)
    if set(arrays) != {"ratios"} or arrays["ratios"].shape != (facts["buckets"],):
        raise InputError(f"model {file.path} holds {sorted(arrays)}, wanted ratios ({facts['buckets']},)")
    ratios: NDArray[np.int32] = arrays["ratios"]
    return ratios
