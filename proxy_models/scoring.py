"""The small language model behind the perplexity scorer: fit it, keep it as safetensors and JSON, score documents.

A document's score must not depend on the documents that happen to share its batch. So every forward pass has one of
a few fixed shapes: documents are cut into windows of the length that the model was trained on, the last one is padded
to the next of the widths 16, 32, 64, …, and a batch always has the same number of rows for its width, filled up with
padding. What a row yields is then a function of that row. What remains of the last bits is rounded away (QUANTUM).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from proxy_models.data import Tokens
from proxy_models.gradients import token_losses
from proxy_models.model import Decoder
from proxy_models.train import Diverged, fit, one_thread
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import InputError
from quadmix.hashing import seed_for

POSITIONS = 4096  # in one forward pass
SHORTEST = 16
QUANTUM = 2.0**-10  # nats
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
FORMAT = 2  # 1: the blocks' matrices were named without `.weight`


@dataclass(frozen=True)
class LanguageModel:
    """A trained decoder and what it needs to score: the symbol that every document starts after."""

    decoder: Decoder
    vocab_size: int  # of the tokenizer
    start_id: int
    max_tokens: int

    def score(self, documents: Sequence[Tokens]) -> NDArray[np.float32]:
        """Mean nats per token of each document's first `max_tokens` tokens: (n,) float32, lower is more fluent.

        The same value whatever else is scored with it. Raises InputError on an empty document or an unknown token.
        """
        if not documents:
            return np.zeros(0, dtype=np.float32)
        lengths = np.array([min(len(document), self.max_tokens) for document in documents], dtype=np.int64)
        if int(lengths.min()) == 0:
            raise InputError(f"document {int(lengths.argmin())} of the batch has no tokens, wanted at least one")
        start = np.array([self.start_id], dtype=np.int64)
        stream = np.concatenate([part for document in documents for part in (start, document[: self.max_tokens])])
        if int(stream.max()) > max(self.start_id, self.vocab_size - 1):
            raise InputError(f"found token {int(stream.max())} in a document, wanted less than {self.vocab_size}")
        owner, first, size = _windows(lengths, self.decoder.config.seq_len)
        totals = np.zeros(len(documents))
        with one_thread(), torch.inference_mode():
            for width, members in by_width(size, self.decoder.config.seq_len):
                rows = max(1, POSITIONS // width)
                for begin in range(0, len(members), rows):
                    chosen = members[begin : begin + rows]
                    losses = self._window_losses(stream, first[chosen], size[chosen], rows, width)
                    np.add.at(totals, owner[chosen], losses)
        means = np.round(totals / lengths / QUANTUM) * QUANTUM
        return means.astype(np.float32)

    def _window_losses(
        self, stream: NDArray[np.int64], first: NDArray[np.int64], size: NDArray[np.int64], rows: int, width: int
    ) -> NDArray[np.float64]:
        """Summed nats of each window; exactly (rows, width) positions go through the model, however few are asked."""
        ticks = np.arange(width + 1)
        table = np.full((rows, width + 1), self.start_id, dtype=np.int64)
        inside = ticks <= size[:, None]
        table[: len(first)][inside] = stream[(first[:, None] + ticks)[inside]]
        tokens = torch.from_numpy(table)
        decoder = self.decoder
        hidden = decoder.hidden(tokens[:, :-1]).flatten(0, 1)
        losses = token_losses(hidden, decoder.embedding, decoder.frequency, tokens[:, 1:].flatten())
        by_position = losses.double().numpy().reshape(rows, width)[: len(first)]
        sums: NDArray[np.float64] = np.where(inside[:, 1:], by_position, 0.0).sum(axis=1)
        return sums

    def save(self, directory: Path) -> str:
        """Write model.safetensors and model.json; returns the digest that identifies the model (hex sha256)."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in sorted(self.decoder.state_dict().items())}
        weights = save_tensors(tensors)
        description = {
            "format": FORMAT,
            "max_tokens": self.max_tokens,
            "proxy": self.decoder.config.model_dump(mode="json"),
            "start_id": self.start_id,
            "vocab_size": self.vocab_size,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }
        text = json.dumps(description, indent=1, sort_keys=True) + "\n"
        (directory / WEIGHTS).write_bytes(weights)
        (directory / DESCRIPTION).write_text(text, encoding="utf-8")
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _windows(
    lengths: NDArray[np.int64], seq_len: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each document cut into windows of the length that the model was trained on: (document, first input, size).

    `first` indexes the stream of all documents with one start symbol before each.
    """
    counts = -(-lengths // seq_len)
    owner = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    base = np.cumsum(lengths + 1) - (lengths + 1)
    return owner, base[owner] + within * seq_len, np.minimum(seq_len, lengths[owner] - within * seq_len)


def by_width(size: NDArray[np.int64], seq_len: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The windows of each padded width: 16, 32, ... below seq_len, then seq_len."""
    widths = [SHORTEST << k for k in range(32) if SHORTEST << k < seq_len] + [seq_len]
    width_of = np.searchsorted(widths, size)
    for index, width in enumerate(widths):
        yield width, np.flatnonzero(width_of == index)


def fit_language_model(
    documents: Sequence[Tokens],
    config: ProxyConfig,
    vocab_size: int,
    *,
    end_id: int | None,
    max_tokens: int,
    seed: int = 0,
) -> LanguageModel:
    """Train a decoder on the documents, in the given order, each seen once (the caller has chosen how many).

    documents: 1-D integer arrays, end token included where the tokenizer has one; end_id: that token, which then also
    stands before a scored document. Without it the model gets a symbol of its own (entry vocab_size), put between
    documents. Raises InputError when there is too little text or the loss diverges.
    """
    start_id = vocab_size if end_id is None else end_id
    stream = _stream(documents, start_id, separated=end_id is None)
    decoder = _trained(config, vocab_size + (end_id is None), stream, seed, None)
    return LanguageModel(decoder, vocab_size, start_id, max_tokens)


def continue_language_model(
    model: LanguageModel, documents: Sequence[Tokens], rate: float, *, seed: int = 0
) -> LanguageModel:
    """Train a copy of a model further on the documents, at `rate` times its learning rates, under a schedule of its
    own. The word frequencies in its head stay. Raises InputError as `fit_language_model` does."""
    config = model.decoder.config
    slower = config.model_copy(update={"lr": config.lr * rate, "embedding_lr": config.embedding_lr * rate})
    stream = _stream(documents, model.start_id, separated=model.start_id == model.vocab_size)
    decoder = _trained(slower, len(model.decoder.embedding), stream, seed, model.decoder)
    return LanguageModel(decoder, model.vocab_size, model.start_id, model.max_tokens)


def _stream(documents: Sequence[Tokens], start_id: int, *, separated: bool) -> Tokens:
    """The start symbol and the documents one after the other; separated: with that symbol after each."""
    start = np.array([start_id], dtype=np.int64)
    pieces = [start]
    for document in documents:
        pieces.append(document.astype(np.int64))
        if separated:
            pieces.append(start)
    return np.concatenate(pieces)


def _trained(config: ProxyConfig, entries: int, stream: Tokens, seed: int, start: Decoder | None) -> Decoder:
    with one_thread():
        try:
            decoder, _ = fit(
                config,
                entries,
                stream,
                init_seed=seed_for(seed, "language-model", "init"),
                order_seed=seed_for(seed, "language-model", "order"),
                start=start,
            )
        except Diverged as error:
            raise InputError(f"a language model diverged in training ({error}); lower proxy.lr") from None
    return decoder


def load_language_model(directory: Path) -> LanguageModel:
    """Read what `save` wrote. Raises InputError when a file is missing, changed or not what it says."""
    try:
        text = (directory / DESCRIPTION).read_text(encoding="utf-8")
        weights = (directory / WEIGHTS).read_bytes()
    except OSError as error:
        raise InputError(
            f"{directory}: no language model there ({error}); wanted {WEIGHTS} and {DESCRIPTION}"
        ) from error
    try:
        description = json.loads(text)
        if description["format"] != FORMAT:
            raise InputError(
                f"{directory / DESCRIPTION}: not a language model of this version of the project "
                f"(found format {description['format']}, wanted {FORMAT}); fit the scorer again"
            )
        found = hashlib.sha256(weights).hexdigest()
        if description["weights_sha256"] != found:
            raise InputError(
                f"{directory / WEIGHTS}: found sha256 {found}, wanted {description['weights_sha256']}; "
                "the file was changed after training: fit the scorer again"
            )
        vocab_size, start_id = int(description["vocab_size"]), int(description["start_id"])
        decoder = Decoder(ProxyConfig(**description["proxy"]), vocab_size + (start_id == vocab_size))
        decoder.load_state_dict(load_tensors(weights))
        return LanguageModel(decoder, vocab_size, start_id, int(description["max_tokens"]))
    except (KeyError, TypeError, ValueError, RuntimeError, ValidationError, SafetensorError) as error:
        raise InputError(f"{directory / DESCRIPTION}: not a language model of this project ({error})") from error
