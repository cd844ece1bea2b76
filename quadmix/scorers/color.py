"""CoLoR-Filter: how much a document's loss falls when a model goes on to the targets' text (arXiv 2406.10670).

Score = loss under the prior less loss under the conditional model, in nats per token, so higher is more like the
targets *beyond* what is easy to predict anyway. The prior is a proxy trained on the pool; the conditional model is that
same proxy, trained further on the targets' search halves, at a lower learning rate. Both read a document's beginning as
the perplexity scorer does. Losses of bigger models can come as two columns of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from quadmix.config_annotate import ColorScorerConfig, PriorAndConditional
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint, seed_for
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.columns import as_float32
from quadmix.scorers.context import FitContext
from quadmix.scorers.language_models import KeptModel, beginnings, keep, scoring, training_text
from quadmix.scorers.tokens import Tokenizer

if TYPE_CHECKING:
    from proxy_models.scoring import LanguageModel


@dataclass(frozen=True)
class ColorScorer:
    """One criterion, named as the config says, from two models."""

    name: str
    prior: KeptModel
    conditional: KeptModel
    tokenizer: Tokenizer
    max_tokens: int
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: ColorScorerConfig, context: FitContext) -> ColorScorer | LossColumns:
        """Train both models, or take their folders, or two columns. Raises ConfigError without a tokenizer or text."""
        if config.columns is not None:
            return LossColumns(config.name, (config.columns.prior, config.columns.conditional))
        who, tokenizer = f"color scorer {config.name!r}", context.tokenizer
        if tokenizer is None:
            raise ConfigError(f"{who}: needs the section `tokenizer`, unless it is given `columns`")
        folders = config.models or _fit(config, tokenizer, context, who)
        prior, conditional = (KeptModel.at(Path(folder), who) for folder in (folders.prior, folders.conditional))
        for model in (prior, conditional):
            model.fits(tokenizer, config.max_tokens, who)
        return cls(config.name, prior, conditional, tokenizer, config.max_tokens)

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name),)

    @property
    def fingerprint(self) -> str:
        models = (self.prior.digest, self.conditional.digest)
        return fingerprint("color", self.version, self.name, *models, self.tokenizer.digest, str(self.max_tokens))

    def load(self) -> None:
        """Read both models. Raises InputError when one is missing or changed."""
        self.prior.load()
        self.conditional.load()

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The fall of the mean loss of each `text`; 0 for one without tokens."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        tokens = beginnings(texts, self.tokenizer, self.max_tokens)
        scored = np.flatnonzero([len(ids) > 0 for ids in tokens])
        falls = np.zeros(len(texts), dtype=np.float32)
        if len(scored):
            read = [tokens[index] for index in scored]
            falls[scored] = self.prior.load().score(read) - self.conditional.load().score(read)
        return pa.record_batch([float32_column(falls)], names=[self.name])


@dataclass(frozen=True)
class LossColumns:
    """One criterion from two columns of the input: losses per token under the prior and under the conditional model."""

    name: str
    inputs: tuple[str, str]
    version: str = "1"

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name),)

    @property
    def fingerprint(self) -> str:
        return fingerprint("color-columns", self.version, self.name, *self.inputs)

    def load(self) -> None:
        """Nothing to load."""

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The difference; null where one of the two is. Raises InputError when a column is absent or not numeric."""
        prior, conditional = (as_float32(batch, path) for path in self.inputs)
        return pa.record_batch([pc.subtract(prior, conditional)], names=[self.name])


def _fit(config: ColorScorerConfig, tokenizer: Tokenizer, context: FitContext, who: str) -> PriorAndConditional:
    """Train the prior, then the conditional model from it; returns their folders."""
    train, what = scoring("color"), f"color/{config.name}"
    texts = {
        "train_on": training_text(config.train_on, config.train_tokens, what, tokenizer, context),
        "targets": training_text(config.targets, config.target_tokens, what, tokenizer, context),
    }
    for key, text in texts.items():
        if not text:
            raise ConfigError(f"{who}: {key} {', '.join(getattr(config, key))} holds no text")
    prior: LanguageModel = train.fit_language_model(
        texts["train_on"], config.proxy or ProxyConfig(), tokenizer.vocab_size, end_id=tokenizer.end_id,
        max_tokens=config.max_tokens, seed=seed_for(context.seed, "color", config.name),
    )  # fmt: skip
    conditional = train.continue_language_model(
        prior, texts["targets"], config.tune_rate, seed=seed_for(context.seed, "color-conditional", config.name)
    )
    folders = [
        keep(model, context.directory, f"color-{config.name}-{role}")
        for role, model in (("prior", prior), ("conditional", conditional))
    ]
    return PriorAndConditional(prior=str(folders[0]), conditional=str(folders[1]))
