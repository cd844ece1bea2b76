"""Ask-LLM: what a causal language model answers when asked whether a text is worth learning from (arXiv 2402.09668).

The paper's score is the probability of `yes`. Here it is log p(yes) - log p(no), in nats: what a document does to the
model's wish to answer at all falls out, and nothing saturates. The model is one on disk (`proxy_models.asking`); torch
and transformers are imported when it is loaded, not before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from quadmix.config_annotate import AskLlmScorerConfig
from quadmix.errors import ConfigError, EnvironmentFault, InputError
from quadmix.hashing import fingerprint, folder_digest
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import FitContext

if TYPE_CHECKING:
    from proxy_models.asking import AskedModel


@dataclass(frozen=True)
class AskLlmScorer:
    """One criterion, named as the config says. digest: of the model's folder."""

    name: str
    path: str
    digest: str
    prompt: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    max_tokens: int
    chat: bool
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: AskLlmScorerConfig, context: FitContext) -> AskLlmScorer:
        """Nothing is learned, but the model is loaded, so that what cannot be asked is refused before any work."""
        folder = Path(config.path)
        if not folder.is_dir():
            raise ConfigError(
                f"ask_llm scorer {config.name!r}: path: found {config.path!r}, wanted the folder of a saved "
                "Hugging Face causal language model (nothing is downloaded)"
            )
        path, digest = str(folder.absolute()), folder_digest(config.path)
        scorer = cls(config.name, path, digest, config.prompt, config.yes, config.no, config.max_tokens, config.chat)
        scorer.load()
        return scorer

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return (Criterion(self.name),)

    @property
    def fingerprint(self) -> str:
        asked = (self.prompt, repr(self.yes), repr(self.no), str(self.max_tokens), str(self.chat))
        return fingerprint("ask_llm", self.version, self.name, self.digest, *asked)

    def load(self) -> None:
        """Read the model. Raises InputError when its files are missing or changed, or cannot be asked."""
        self._model()

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Log-odds of `yes` after each `text`."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        return pa.record_batch([float32_column(self._model().ask(texts))], names=[self.name])

    def _model(self) -> AskedModel:
        return _asked(self.path, self.digest, self.prompt, self.yes, self.no, self.max_tokens, self.chat)


@lru_cache(maxsize=1)
def _asked(
    path: str, digest: str, prompt: str, yes: tuple[str, ...], no: tuple[str, ...], max_tokens: int, chat: bool
) -> AskedModel:
    try:
        from proxy_models.asking import AskedModel, Question
    except ModuleNotFoundError as error:
        raise EnvironmentFault(f"ask_llm needs the package {error.name}; pip install '.[search]'") from error
    if not Path(path).is_dir():
        raise InputError(f"ask_llm: the folder {path} cannot be read here; every worker must see it")
    if folder_digest(path) != digest:
        raise InputError(f"ask_llm: the files of {path} changed since it was first used; run annotate again")
    return AskedModel(path, Question(prompt, yes, no, max_tokens, chat))
