"""Fluency: minus the mean loss of a document's tokens under a small language model, in nats per token.

The model is `proxy_models.scoring`; torch is imported when a model is trained or loaded, not before. Only a document's
beginning is read: the first `max_tokens` tokens of its first `CHARS_PER_TOKEN` x `max_tokens` characters.
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config import PerplexityScorerConfig, ProxyConfig
from quadmix.errors import ConfigError, EnvironmentFault, InputError
from quadmix.hashing import doc_hash, fingerprint, seed_for, sha256_file, uniform
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import Document, FitContext
from quadmix.scorers.tokens import Tokenizer

if TYPE_CHECKING:
    from proxy_models.scoring import LanguageModel

CHARS_PER_TOKEN = 8
_TOKENS_PER_DOCUMENT = 64  # a guess on the low side: how many documents are sampled for `train_tokens`
_DESCRIPTION = "model.json"


@dataclass(frozen=True)
class PerplexityScorer:
    """One criterion, named as the config says. `directory` holds the model, `digest` is its description's sha256."""

    name: str
    directory: str
    digest: str
    tokenizer: Tokenizer
    max_tokens: int
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: PerplexityScorerConfig, context: FitContext) -> PerplexityScorer:
        """Train, or take the trained directory. Raises ConfigError without a tokenizer or without text."""
        tokenizer = context.tokenizer
        if tokenizer is None:
            raise ConfigError(f"perplexity scorer {config.name!r}: needs the section `tokenizer`")
        directory = Path(config.model) if config.model is not None else _fit(config, tokenizer, context)
        description = directory / _DESCRIPTION
        if not description.is_file():
            raise ConfigError(f"perplexity scorer {config.name!r}: model: no {_DESCRIPTION} in {directory}")
        scorer = cls(
            config.name, str(directory.absolute()), sha256_file(str(description)), tokenizer, config.max_tokens
        )
        model = _model(scorer.directory, scorer.digest)
        if model.vocab_size != tokenizer.vocab_size or model.max_tokens < config.max_tokens:
            raise ConfigError(
                f"perplexity scorer {config.name!r}: model {directory} was trained for {model.vocab_size} tokens and "
                f"{model.max_tokens} positions, the run has {tokenizer.vocab_size} tokens and asks for "
                f"{config.max_tokens} positions"
            )
        return scorer

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name),)

    @property
    def fingerprint(self) -> str:
        return fingerprint(
            "perplexity", self.version, self.name, self.digest, self.tokenizer.digest, str(self.max_tokens)
        )

    def load(self) -> None:
        """Read the model. Raises InputError when it is missing or changed."""
        _model(self.directory, self.digest)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Minus nats per token of each `text`; one without tokens scores as if every token were equally likely."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        tokens = beginnings(texts, self.tokenizer, self.max_tokens)
        scored = np.flatnonzero([len(ids) > 0 for ids in tokens])
        nats = np.full(len(texts), math.log(self.tokenizer.vocab_size), dtype=np.float32)
        if len(scored):
            nats[scored] = _model(self.directory, self.digest).score([tokens[index] for index in scored])
        return pa.record_batch([float32_column(-nats)], names=[self.name])


def beginnings(texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int) -> list[NDArray[np.uint32]]:
    """The first tokens of each text, at most `max_tokens`."""
    return [ids[:max_tokens] for ids in tokenizer.encode_batch([t[: CHARS_PER_TOKEN * max_tokens] for t in texts])]


def _fit(config: PerplexityScorerConfig, tokenizer: Tokenizer, context: FitContext) -> Path:
    """Train on the first `train_tokens` tokens of the sources, whole documents in hash order; returns the directory."""
    fit_language_model = _scoring().fit_language_model
    documents = _documents(config, context)
    order = np.argsort(uniform(doc_hash(document.id for document in documents), context.seed, f"fit/{config.name}"))
    chosen: list[NDArray[np.uint32]] = []
    total = 0
    for start in range(0, len(order), 256):
        for ids in tokenizer.encode_batch([documents[index].text for index in order[start : start + 256]]):
            if total < config.train_tokens:
                chosen.append(ids[: config.train_tokens - total])
                total += len(chosen[-1])
        if total >= config.train_tokens:
            break
    if total == 0:
        raise ConfigError(f"perplexity scorer {config.name!r}: train_on {', '.join(config.train_on)} holds no text")
    model = fit_language_model(
        chosen,
        config.proxy or ProxyConfig(),
        tokenizer.vocab_size,
        end_id=tokenizer.end_id,
        max_tokens=config.max_tokens,
        seed=seed_for(context.seed, "perplexity", config.name),
    )
    temporary = context.directory / f".perplexity-{uuid.uuid4().hex}"
    digest = model.save(temporary)
    final = context.directory / f"perplexity-{config.name}-{digest[:16]}"
    if final.exists():
        shutil.rmtree(temporary)
    else:
        os.rename(temporary, final)
    return final


def _documents(config: PerplexityScorerConfig, context: FitContext) -> list[Document]:
    documents: list[Document] = []
    for source in config.train_on:
        if source == "pool":
            wanted = config.train_tokens // _TOKENS_PER_DOCUMENT + 1
            documents += context.sample(wanted, f"perplexity/{config.name}")
        elif source.startswith("target:"):
            documents += context.target(source.removeprefix("target:"))
        else:
            documents += context.read_paths([source])
    return documents


@lru_cache(maxsize=4)
def _model(directory: str, digest: str) -> LanguageModel:
    found = sha256_file(str(Path(directory) / _DESCRIPTION))
    if found != digest:
        raise InputError(f"language model {directory} changed: {found[:16]}…, wanted {digest[:16]}…; fit it again")
    model: LanguageModel = _scoring().load_language_model(Path(directory))
    return model


def _scoring() -> ModuleType:
    try:
        from proxy_models import scoring
    except ModuleNotFoundError as error:
        raise EnvironmentFault(f"perplexity needs the package {error.name}; pip install '.[search]'") from error
    return scoring
