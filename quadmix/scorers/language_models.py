"""Small language models behind scorers: the text that they learn, the folders they are kept in, loading them.

The models are `proxy_models.scoring`; torch is imported when one is trained or loaded, not before.
"""

from __future__ import annotations

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
from numpy.typing import NDArray

from quadmix.errors import ConfigError, EnvironmentFault, InputError
from quadmix.hashing import doc_hash, sha256_file, uniform
from quadmix.scorers.context import Document, FitContext
from quadmix.scorers.tokens import Tokenizer

if TYPE_CHECKING:
    from proxy_models.scoring import LanguageModel

CHARS_PER_TOKEN = 8
_TOKENS_PER_DOCUMENT = 64  # a guess on the low side: how many documents are sampled for a number of tokens
_DESCRIPTION = "model.json"


@dataclass(frozen=True)
class KeptModel:
    """A language model's folder and the sha256 of its description, which holds that of the weights."""

    directory: str
    digest: str

    @classmethod
    def at(cls, directory: Path, who: str) -> KeptModel:
        """The model in a folder. Raises ConfigError, which begins with `who`, when there is none."""
        description = directory / _DESCRIPTION
        if not description.is_file():
            raise ConfigError(f"{who}: model: no {_DESCRIPTION} in {directory}")
        return cls(str(directory.absolute()), sha256_file(str(description)))

    def load(self) -> LanguageModel:
        """The model, read at most once a process. Raises InputError when it is missing or changed."""
        return _loaded(self)

    def fits(self, tokenizer: Tokenizer, max_tokens: int, who: str) -> None:
        """Raises ConfigError when the model knows other tokens or fewer positions."""
        model = self.load()
        if model.vocab_size != tokenizer.vocab_size or model.max_tokens < max_tokens:
            raise ConfigError(
                f"{who}: model {self.directory} was trained for {model.vocab_size} tokens and {model.max_tokens} "
                f"positions, the run has {tokenizer.vocab_size} tokens and asks for {max_tokens} positions"
            )


def beginnings(texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int) -> list[NDArray[np.uint32]]:
    """The first tokens of each text, at most `max_tokens`."""
    return [ids[:max_tokens] for ids in tokenizer.encode_batch([t[: CHARS_PER_TOKEN * max_tokens] for t in texts])]


def training_text(
    sources: Sequence[str], n_tokens: int, what: str, tokenizer: Tokenizer, context: FitContext
) -> list[NDArray[np.uint32]]:
    """The first `n_tokens` tokens of the sources, whole documents in hash order; empty when they hold no text.

    sources: paths, `target:<name>` (its search half) or `pool`. what: `kind/name` of the scorer, for its draws.
    """
    documents = _documents(sources, n_tokens, what, context)
    name = what.partition("/")[2]
    order = np.argsort(uniform(doc_hash(document.id for document in documents), context.seed, f"fit/{name}"))
    chosen: list[NDArray[np.uint32]] = []
    total = 0
    for start in range(0, len(order), 256):
        for ids in tokenizer.encode_batch([documents[index].text for index in order[start : start + 256]]):
            if total < n_tokens:
                chosen.append(ids[: n_tokens - total])
                total += len(chosen[-1])
        if total >= n_tokens:
            break
    return chosen if total else []


def _documents(sources: Sequence[str], n_tokens: int, what: str, context: FitContext) -> list[Document]:
    documents: list[Document] = []
    for source in sources:
        if source == "pool":
            documents += context.sample(n_tokens // _TOKENS_PER_DOCUMENT + 1, what)
        elif source.startswith("target:"):
            documents += context.target(source.removeprefix("target:"))
        else:
            documents += context.read_paths([source])
    return documents


def keep(model: LanguageModel, directory: Path, stem: str) -> Path:
    """Write a model as `<stem>-<digest16>` in `directory`: the folder."""
    temporary = directory / f".language-model-{uuid.uuid4().hex}"
    digest = model.save(temporary)
    final = directory / f"{stem}-{digest[:16]}"
    if final.exists():
        shutil.rmtree(temporary)
    else:
        os.rename(temporary, final)
    return final


@lru_cache(maxsize=4)
def _loaded(kept: KeptModel) -> LanguageModel:
    found = sha256_file(str(Path(kept.directory) / _DESCRIPTION))
    if found != kept.digest:
        raise InputError(
            f"language model {kept.directory} changed: {found[:16]}…, wanted {kept.digest[:16]}…; fit it again"
        )
    model: LanguageModel = scoring(kept.directory).load_language_model(Path(kept.directory))
    return model


def scoring(who: str) -> ModuleType:
    """The module `proxy_models.scoring`. Raises EnvironmentFault without torch."""
    try:
        from proxy_models import scoring
    except ModuleNotFoundError as error:
        raise EnvironmentFault(f"{who} needs the package {error.name}; pip install '.[search]'") from error
    return scoring
