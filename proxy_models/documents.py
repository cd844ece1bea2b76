"""Documents as batches: each alone in its row, cut to `max_tokens`, sorted by length, padded on the right.

A document of n tokens has n - 1 predictions: token i + 1 from the tokens 0..i. A causal model never looks to the
right, so padding changes nothing before it and needs no mask inside of the model; it is left out of every sum.
A document of one token predicts nothing: its loss is an empty sum, its gradient and its benefit are exactly 0, and it
adds nothing to factors or references.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proxy_models.data import Tokens
from quadmix.errors import InputError
from quadmix.hashing import hash_words, purpose_key, uniform

# in a batch, padding included; a longer document is a batch of its own. 4,096 cost a quarter more at 10M parameters and
# nothing less at any size, 512 a tenth more at 100k
POSITIONS = 1024
GPU_POSITIONS = 65_536
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that positions of one document never meet


@dataclass(frozen=True)
class Batch:
    """members: (rows,) indices of the documents; inputs, targets: (rows, time) int64; real: (rows, time) bool, what is
    not padding; lengths: (rows,) predictions of each document, at least 1."""

    members: NDArray[np.int64]
    inputs: Tensor
    targets: Tensor
    real: Tensor
    lengths: NDArray[np.int64]


def predictions(docs: Sequence[Tokens], max_tokens: int) -> NDArray[np.int64]:
    """How many tokens of each document are predicted: (n,). Raises InputError on an empty document."""
    if max_tokens < 2:
        raise InputError(f"found max_tokens {max_tokens}, wanted at least 2: one token predicts nothing")
    lengths = np.array([min(len(doc), max_tokens) for doc in docs], dtype=np.int64)
    if lengths.size and int(lengths.min()) == 0:
        raise InputError(f"document {int(lengths.argmin())} of {len(docs)} has no tokens, wanted at least one")
    return lengths - 1


def batches(docs: Sequence[Tokens], vocab: int, max_tokens: int, device: torch.device) -> Iterator[Batch]:
    """All documents that predict something, shortest first, each exactly once.

    Raises InputError on an empty document or a token outside of the vocabulary.
    """
    lengths = predictions(docs, max_tokens)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    most = POSITIONS if device.type == "cpu" else GPU_POSITIONS
    begin = 0
    while begin < len(order):
        # sorted, so a batch is as wide as its last member
        widths = lengths[order[begin:]] * np.arange(1, len(order) - begin + 1)
        end = begin + max(1, int(np.searchsorted(widths, most, side="right")))
        yield _batch(docs, order[begin:end], lengths[order[begin:end]], vocab, device)
        begin = end


def _batch(
    docs: Sequence[Tokens], members: NDArray[np.int64], lengths: NDArray[np.int64], vocab: int, device: torch.device
) -> Batch:
    table = np.zeros((len(members), int(lengths[-1]) + 1), dtype=np.int64)
    for row, (member, length) in enumerate(zip(members.tolist(), lengths.tolist(), strict=True)):
        table[row, : length + 1] = docs[member][: length + 1]
    if not 0 <= int(table.min()) <= int(table.max()) < vocab:
        row = int(np.flatnonzero((table < 0).any(axis=1) | (table >= vocab).any(axis=1))[0])
        raise InputError(
            f"document {members[row]} of {len(docs)}: found tokens {table[row].min()}..{table[row].max()}, "
            f"wanted 0..{vocab - 1}; tokenise with the model's own tokenizer"
        )
    real = np.arange(table.shape[1] - 1) < lengths[:, None]
    tokens = torch.from_numpy(table).to(device)
    return Batch(members, tokens[:, :-1], tokens[:, 1:], torch.from_numpy(real).to(device), lengths)


def label_draws(hashes: NDArray[np.uint64], batch: Batch, seed: int) -> Tensor:
    """A uniform number for every real position of the batch, by rows: (positions,) float64.

    A function of (seed, document, position) alone: neither the batch nor the partition matters.
    """
    keys = hash_words(hashes[batch.members], purpose_key(seed, "influence-document"))
    ticks = np.arange(batch.inputs.shape[1], dtype=np.uint64)
    with np.errstate(over="ignore"):
        words = keys[:, None] + ticks * _SPREAD
    draws = uniform(words[batch.real.cpu().numpy()], seed, "influence-label")
    return torch.from_numpy(draws).to(batch.inputs.device)
