"""A fit context over documents held in a list: what `stages.annotate` offers, without files or engines."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.hashing import doc_hash, uniform
from quadmix.scorers.context import Document
from quadmix.scorers.tokens import Tokenizer

SPEECH = (
    "the old harbour wall was built by hand and it still keeps the winter sea out of the lower town",
    "she read the letter twice before she put it back into the drawer of the desk by the window",
    "a river that runs through chalk is clear and cold, and trout like it better than any other water",
    "when the bell rang, the children ran out of the school and down the hill to the market square",
    "nobody could say who had left the gate open, but in the morning all the sheep were on the road",
)
NOTICES = (
    "click here to subscribe, log in or register for free and save your cookie preferences today",
    "error 404 page not found return to home page or contact support for more information",
    "copyright all rights reserved terms of use privacy policy sitemap accessibility careers press",
    "add to cart free shipping on orders over 25 limited time offer while stocks last buy now",
    "share tweet pin email print comments are closed related posts you may also like next previous",
)


def speech(n: int, seed: int = 0) -> list[Document]:
    """Running sentences: every document differs from the others."""
    return _documents("speech", SPEECH, n, seed)


def notices(n: int, seed: int = 0) -> list[Document]:
    """The kind of text that surrounds an article on a web page."""
    return _documents("notice", NOTICES, n, seed)


def _documents(kind: str, sentences: Sequence[str], n: int, seed: int) -> list[Document]:
    draw = random.Random(f"{kind}/{seed}")
    documents = []
    for index in range(n):
        chosen = [draw.choice(sentences) for _ in range(draw.randint(2, 6))]
        words = " ".join(f"{sentence.capitalize()}. Number {draw.randint(0, 999)}." for sentence in chosen)
        documents.append(Document(f"{kind}-{seed}-{index}", words, kind, {"domain": kind, "label": kind}))
    return documents


@dataclass(frozen=True)
class ListContext:
    """Implements `scorers.context.FitContext`. `paths` maps a path to its documents."""

    directory: Path
    pool: Sequence[Document]
    targets: dict[str, list[Document]] = field(default_factory=dict)
    paths: dict[str, list[Document]] = field(default_factory=dict)
    seed: int = 7
    tokenizer: Tokenizer | None = None

    @property
    def engine(self) -> Engine:
        raise NotImplementedError("no scorer of this suite fits on an engine")

    def sample(self, n_docs: int, what: str, columns: Sequence[str] = ()) -> list[Document]:
        draws = uniform(doc_hash(document.id for document in self.pool), self.seed, what)
        return [self.pool[index] for index in np.argsort(draws)[:n_docs]]

    def target(self, name: str) -> list[Document]:
        if name not in self.targets:
            raise ConfigError(f"no target {name}")
        return self.targets[name]

    def read_paths(self, paths: Sequence[str], columns: Sequence[str] = ()) -> list[Document]:
        documents = [document for path in paths for document in self.paths[path]]
        order = np.argsort(doc_hash(document.id for document in documents))
        return [documents[index] for index in order]
