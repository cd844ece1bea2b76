"""Held-out prompt/completion pairs: the loss counts the completion's tokens, the prompt is context.

Each pair stands alone. Its context is the end token (a document's start, as in training) and the prompt; where context
and completion do not fit into the model's window together, the context is cut from the left. A completion that does
not fit by itself is evaluated in pieces of half a window, each with as much of what precedes it as fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proxy_models.data import EvalRows, EvalSet, Tokens, read_arrays, token_entropy, write_arrays
from quadmix.errors import InputError


@dataclass(frozen=True)
class CompletionSet:
    """Pairs one after the other. tokens: of every context and its completion, in turn; lengths: (n, 2) of the two.

    n_bytes: UTF-8 bytes of the completions.
    """

    tokens: Tokens
    lengths: NDArray[np.int64]
    n_bytes: int

    def __post_init__(self) -> None:
        sound = len(self.lengths) and (self.lengths >= 1).all() and int(self.lengths.sum()) == len(self.tokens)
        if not sound or self.n_bytes < 1:
            raise InputError(
                f"found {len(self.lengths)} held-out pairs of {len(self.tokens)} tokens and {self.n_bytes} bytes of "
                "completions, wanted a context and a completion of at least one token in each; repair the target"
            )

    @classmethod
    def of_pairs(
        cls, contexts: Sequence[Tokens], completions: Sequence[Tokens], n_bytes: Sequence[int], max_tokens: int
    ) -> CompletionSet:
        """Whole pairs in the given order until the next completion would pass `max_tokens` in all (the first always
        counts). n_bytes: of each completion."""
        counts = np.array([len(completion) for completion in completions], dtype=np.int64)
        fits = max(1, int(np.searchsorted(np.cumsum(counts), max_tokens, side="right")))
        pairs = [part for pair in zip(contexts[:fits], completions[:fits], strict=True) for part in pair]
        lengths = np.array([len(part) for part in pairs], dtype=np.int64).reshape(-1, 2)
        return cls(np.concatenate(pairs) if pairs else np.zeros(0, np.uint16), lengths, int(sum(n_bytes[:fits])))

    @property
    def n_tokens(self) -> int:
        """Tokens that the loss is a mean over."""
        return int(self.lengths[:, 1].sum())

    def save(self, path: str) -> None:
        """Write to one file, atomically."""
        write_arrays(path, (self.tokens, np.array([self.n_bytes], dtype=np.int64), self.lengths.reshape(-1)))

    def unigram_entropy(self) -> float:
        """Nats per token of the completions' own token frequencies."""
        ends = np.cumsum(self.lengths.reshape(-1))
        completions = np.repeat(np.arange(ends.size) % 2 == 1, self.lengths.reshape(-1))
        return token_entropy(self.tokens[completions])

    def bits_per_byte(self, nats_per_token: float) -> float:
        """Total bits of the completions over their bytes."""
        return nats_per_token * self.n_tokens / (math.log(2.0) * self.n_bytes)

    def rows(self, seq_len: int) -> EvalRows:
        """What a model of that window sees, and which of its predictions count."""
        inputs, targets, counted = [], [], []
        start = 0
        for context, completion in self.lengths.tolist():
            pair = self.tokens[start : start + context + completion].astype(np.int64)
            start += context + completion
            piece = completion if completion <= seq_len else max(1, seq_len // 2)
            for first in range(context, context + completion, piece):
                stop = min(first + piece, context + completion)
                seen = pair[max(0, stop - 1 - seq_len) : stop]
                row = np.zeros((2, seq_len), dtype=np.int64)
                row[0, : len(seen) - 1], row[1, : len(seen) - 1] = seen[:-1], seen[1:]
                count = np.zeros(seq_len, dtype=bool)
                count[len(seen) - 1 - (stop - first) : len(seen) - 1] = True
                inputs.append(row[0])
                targets.append(row[1])
                counted.append(count)
        return EvalRows(np.stack(inputs), np.stack(targets), np.stack(counted))


HeldOut = EvalSet | CompletionSet


def load_held_out(path: str) -> HeldOut:
    """Read what `EvalSet.save` or `CompletionSet.save` wrote."""
    tokens, n_bytes, *lengths = read_arrays(path)
    if lengths:
        return CompletionSet(tokens, lengths[0].reshape(-1, 2), int(n_bytes[0]))
    return EvalSet(tokens, int(n_bytes[0]))
