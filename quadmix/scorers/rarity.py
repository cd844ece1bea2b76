"""How rare a document's words are: the mean of -log2 of their frequencies in a sample of the pool, in bits.

Frequencies are those of hashed lower-case words with a letter, one added to every bucket, so a word that the sample
lacks has a large but finite value. Bits are kept in units of 1/1024 and added as integers: neither batches nor
processors can move a score. A document without such words scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import RarityScorerConfig
from quadmix.core.portable import log
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import fingerprint
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import FitContext
from quadmix.scorers.model_files import ModelFile, describe_model, load_model, save_model
from quadmix.scorers.text_layout import ALPHA, MAX_CHARS, layouts

FORM = "rarity"
_UNIT = 1024.0
_SAMPLE_CHARS = 1 << 14  # of each document of the sample: one long document must not speak for many
_CEILING = 64.0  # bits


@dataclass(frozen=True)
class RarityScorer:
    """One criterion, named as the config says."""

    name: str
    model: ModelFile
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: RarityScorerConfig, context: FitContext) -> RarityScorer:
        """Count the sample, or take the file. Raises ConfigError when the sample has no words."""
        if config.model is not None:
            file = describe_model(config.model)
            load_model(file, FORM)
            return cls(config.name, file)
        documents = context.sample(config.sample_docs, f"rarity/{config.name}")
        counts = np.zeros(config.buckets, dtype=np.int64)
        for bucket, _ in _hashed_words([document.text for document in documents], config.buckets, _SAMPLE_CHARS):
            counts += np.bincount(bucket, minlength=config.buckets)
        if not counts.any():
            raise ConfigError(f"rarity scorer {config.name!r}: the pool's sample has no words, wanted at least one")
        share = (counts + 1).astype(np.float64) / float(counts.sum() + config.buckets)
        bits = np.rint(-log(share) / log(np.array([2.0])) * _UNIT).astype(np.int32)
        file = save_model(context.directory, f"rarity-{config.name}", FORM, {"bits": bits}, {"buckets": config.buckets})
        return cls(config.name, file)

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name, (0.0, _CEILING)),)

    @property
    def fingerprint(self) -> str:
        return fingerprint(FORM, self.version, self.name, self.model.sha256)

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _bits(self.model)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Mean bits of the words of each `text`."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        bits = _bits(self.model)
        total, count = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
        for bucket, row in _hashed_words(texts, bits.size, MAX_CHARS):
            np.add.at(total, row, bits[bucket])
            np.add.at(count, row, 1)
        return pa.record_batch([float32_column(total / np.maximum(count, 1) / _UNIT)], names=[self.name])


def _hashed_words(
    texts: Sequence[str], buckets: int, max_chars: int
) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(bucket, row of its text) of every word with a letter, chunk by chunk."""
    found = []
    for rows, layout in layouts([text.lower() for text in texts], max_chars):
        words = layout.words
        lettered = (layout.word_flags & ALPHA) != 0
        bucket = (layout.hash(words)[lettered] % np.uint64(buckets)).astype(np.int64)
        found.append((bucket, np.array(rows, dtype=np.int64)[words.document[lettered]]))
    return found


@lru_cache(maxsize=8)
def _bits(file: ModelFile) -> NDArray[np.int32]:
    arrays, facts = load_model(file, FORM)
    if set(arrays) != {"bits"} or arrays["bits"].shape != (facts["buckets"],):
        raise InputError(f"model {file.path} holds {sorted(arrays)}, wanted bits ({facts['buckets']},)")
    bits: NDArray[np.int32] = arrays["bits"]
    return bits
