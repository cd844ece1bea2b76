"""Fluency: minus the mean loss of a document's tokens under a small language model, in nats per token.

Only a document's beginning is read: the first `max_tokens` tokens of its first `CHARS_PER_TOKEN` x `max_tokens`
characters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import PerplexityScorerConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint, seed_for
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import FitContext
from quadmix.scorers.language_models import KeptModel, beginnings, keep, scoring, training_text
from quadmix.scorers.tokens import Tokenizer


@dataclass(frozen=True)
class PerplexityScorer:
    """One criterion, named as the config says."""

    name: str
    model: KeptModel
    tokenizer: Tokenizer
    max_tokens: int
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: PerplexityScorerConfig, context: FitContext) -> PerplexityScorer:
        """Train, or take the trained directory. Raises ConfigError without a tokenizer or without text."""
        who, tokenizer = f"perplexity scorer {config.name!r}", context.tokenizer
        if tokenizer is None:
            raise ConfigError(f"{who}: needs the section `tokenizer`")
        directory = Path(config.model) if config.model is not None else _fit(config, tokenizer, context)
        model = KeptModel.at(directory, who)
        model.fits(tokenizer, config.max_tokens, who)
        return cls(config.name, model, tokenizer, config.max_tokens)

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name),)

    @property
    def fingerprint(self) -> str:
        return fingerprint(
            "perplexity", self.version, self.name, self.model.digest, self.tokenizer.digest, str(self.max_tokens)
        )

    def load(self) -> None:
        """Read the model. Raises InputError when it is missing or changed."""
        self.model.load()

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Minus nats per token of each `text`; one without tokens scores as if every token were equally likely."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        tokens = beginnings(texts, self.tokenizer, self.max_tokens)
        scored = np.flatnonzero([len(ids) > 0 for ids in tokens])
        nats = np.full(len(texts), math.log(self.tokenizer.vocab_size), dtype=np.float32)
        if len(scored):
            nats[scored] = self.model.load().score([tokens[index] for index in scored])
        return pa.record_batch([float32_column(-nats)], names=[self.name])


def _fit(config: PerplexityScorerConfig, tokenizer: Tokenizer, context: FitContext) -> Path:
    """Train on the first `train_tokens` tokens of the sources; returns the model's folder."""
    what = f"perplexity/{config.name}"
    fit_language_model = scoring("perplexity").fit_language_model
    chosen: list[NDArray[np.uint32]] = training_text(config.train_on, config.train_tokens, what, tokenizer, context)
    if not chosen:
        raise ConfigError(f"perplexity scorer {config.name!r}: train_on {', '.join(config.train_on)} holds no text")
    model = fit_language_model(
        chosen,
        config.proxy or ProxyConfig(),
        tokenizer.vocab_size,
        end_id=tokenizer.end_id,
        max_tokens=config.max_tokens,
        seed=seed_for(context.seed, "perplexity", config.name),
    )
    return keep(model, context.directory, f"perplexity-{config.name}")
