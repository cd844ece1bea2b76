"""Tokens on disk and in batches: memory-mapped segments, packing of chosen documents, held-out sets with byte counts.

A segment is one file of three NumPy arrays, one after the other: document hashes (n,) uint64, offsets (n + 1,)
int64 and the tokens themselves (uint16 when the vocabulary allows, else uint32), which are only ever memory-mapped.
A proxy's training stream is the concatenation of the chosen documents' copies in an order drawn by hash, so it does
not depend on how the pool was cut into segments.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import InputError
from quadmix.hashing import uniform

Tokens = NDArray[np.integer[Any]]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds every token of the vocabulary: uint16 up to 65,536 entries, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_segment(path: str, arrays: Sequence[Tokens], doc_hash: NDArray[np.uint64], vocab_size: int) -> None:
    """Write documents as one segment, atomically; the bytes are a function of the arguments alone.

    arrays: one 1-D integer array a document, end token included. doc_hash: (len(arrays),) uint64.
    Raises InputError when a token lies outside 0..vocab_size - 1 (another tokenizer's output).
    """
    if len(arrays) != len(doc_hash):
        raise ValueError(f"{len(arrays)} documents but {len(doc_hash)} hashes for segment {path}")
    offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    tokens = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise InputError(
            f"segment {path}: found tokens {tokens.min()}..{tokens.max()}, wanted 0..{vocab_size - 1}; "
            "tokenise with the tokenizer that the run names"
        )
    parts = (doc_hash.astype(np.uint64), offsets, tokens.astype(token_dtype(vocab_size)))
    write_arrays(path, parts)


class TokenPool:
    """Documents of one or more segments, indexed 0..n_docs - 1 in the order of `paths`.

    lengths: (n_docs,) int64 tokens a document; doc_hash: (n_docs,) uint64. Tokens stay on disk until gathered.
    Raises InputError on a file that is no segment or was cut short.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        segments = [_map_segment(path) for path in paths]
        self._tokens = [tokens for _, _, tokens in segments]
        self._first = np.cumsum([0, *(len(hashes) for hashes, _, _ in segments)])  # first document of every segment
        self._starts = np.concatenate([offsets[:-1] for _, offsets, _ in segments] or [np.zeros(0, np.int64)])
        self.doc_hash: NDArray[np.uint64] = np.concatenate([h for h, _, _ in segments] or [np.zeros(0, np.uint64)])
        self.lengths: NDArray[np.int64] = np.concatenate(
            [np.diff(offsets) for _, offsets, _ in segments] or [np.zeros(0, np.int64)]
        )
        self.dtype: np.dtype[Any] = np.result_type(*{tokens.dtype for tokens in self._tokens} or {np.dtype(np.uint16)})

    @property
    def n_docs(self) -> int:
        return len(self.lengths)

    def gather(self, doc_indices: NDArray[np.integer[Any]]) -> Tokens:
        """The tokens of the given documents, in the given order, repeats allowed: one packed 1-D stream."""
        indices = np.asarray(doc_indices, dtype=np.int64)
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < self.n_docs:
            raise IndexError(f"document {indices.min()}..{indices.max()} of a pool of {self.n_docs}")
        segment_of = np.searchsorted(self._first, indices, side="right") - 1
        stream = np.empty(int(self.lengths[indices].sum()), dtype=self.dtype)
        filled = 0
        for segment, start, length in zip(
            segment_of.tolist(), self._starts[indices].tolist(), self.lengths[indices].tolist(), strict=True
        ):
            stream[filled : filled + length] = self._tokens[segment][start : start + length]
            filled += length
        return stream

    def pack(self, doc_indices: NDArray[np.integer[Any]], copies: NDArray[np.integer[Any]], seed: int) -> Tokens:
        """The stream a proxy trains on: `copies[i]` copies of document `doc_indices[i]`, order drawn by hash.

        Copy k of a document sits at the draw uniform(doc_hash, seed, "proxy-order/k"), ties by hash: the order does
        not depend on that of the arguments or on the segments. Every token of every copy is there exactly once.
        """
        indices = np.asarray(doc_indices, dtype=np.int64)
        counts = np.asarray(copies, dtype=np.int64)
        if counts.size and int(counts.min()) < 0:
            raise ValueError(f"found {counts.min()} copies of a document, wanted 0 or more")
        chosen, keys = [indices[:0]], [np.zeros(0)]
        for copy in range(int(counts.max(initial=0))):
            again = indices[counts > copy]
            chosen.append(again)
            keys.append(uniform(self.doc_hash[again], seed, f"proxy-order/{copy}"))
        documents, key = np.concatenate(chosen), np.concatenate(keys)
        return self.gather(documents[np.lexsort((self.doc_hash[documents], key))])


@dataclass(frozen=True)
class EvalRows:
    """Held-out text in rows of a model's window: inputs, targets (rows, seq_len) int64; counted: (rows, seq_len) bool,
    whether a prediction counts (the rest is padding or context)."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    counted: NDArray[np.bool_]


@dataclass(frozen=True)
class EvalSet:
    """Held-out text: its tokens as one stream (end tokens included) and the UTF-8 bytes that they stand for."""

    tokens: Tokens
    n_bytes: int

    def __post_init__(self) -> None:
        if len(self.tokens) < 2 or self.n_bytes < 1:
            raise InputError(
                f"found a held-out set of {len(self.tokens)} tokens and {self.n_bytes} bytes, "
                "wanted at least 2 tokens and 1 byte; give the target more text"
            )

    @classmethod
    def of_documents(cls, arrays: Sequence[Tokens], n_bytes: Sequence[int], max_tokens: int) -> EvalSet:
        """Whole documents in the given order until the next one would pass `max_tokens` (the first always counts)."""
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        fits = max(1, int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right")))
        kept = list(arrays[:fits])
        return cls(np.concatenate(kept) if kept else np.zeros(0, np.uint16), int(sum(n_bytes[:fits])))

    def save(self, path: str) -> None:
        """Write to one file, atomically."""
        write_arrays(path, (self.tokens, np.array([self.n_bytes], dtype=np.int64)))

    @classmethod
    def load(cls, path: str) -> EvalSet:
        tokens, n_bytes = read_arrays(path)
        return cls(tokens, int(n_bytes[0]))

    @property
    def n_tokens(self) -> int:
        """Tokens that the loss is a mean over: all."""
        return len(self.tokens)

    def unigram_entropy(self) -> float:
        """Nats per token of the set's own token frequencies: what a model of word frequencies could reach at best."""
        return token_entropy(self.tokens)

    def rows(self, seq_len: int) -> EvalRows:
        """The stream in rows of seq_len, each without what came before it, as in training; the very first token is
        predicted from the set's last one, which is an end token where the tokenizer has any."""
        targets = self.tokens.astype(np.int64)
        empty = -len(targets) % seq_len
        inputs, targets = (np.pad(part, (0, empty)).reshape(-1, seq_len) for part in (np.roll(targets, 1), targets))
        counted = (np.arange(targets.size) < len(self.tokens)).reshape(-1, seq_len)
        return EvalRows(inputs, targets, counted)

    def bits_per_byte(self, nats_per_token: float) -> float:
        """Total bits over total bytes, so that numbers of different tokenizers compare."""
        return nats_per_token * len(self.tokens) / (math.log(2.0) * self.n_bytes)


def token_entropy(tokens: Tokens) -> float:
    """Entropy of the tokens' own frequencies, nats."""
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def read_arrays(path: str) -> list[NDArray[Any]]:
    """All arrays of a file of `write_arrays`, which holds at least two."""
    found: list[NDArray[Any]] = []
    with open(path, "rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        while handle.tell() < size or len(found) < 2:
            found.append(_read_array(handle, path))
    return found


def write_arrays(path: str, arrays: Sequence[NDArray[Any]]) -> None:
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            for array in arrays:
                np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _map_segment(path: str) -> tuple[NDArray[np.uint64], NDArray[np.int64], Tokens]:
    with open(path, "rb") as handle:
        hashes, offsets = _read_array(handle, path), _read_array(handle, path)
        try:
            if np.lib.format.read_magic(handle) != (1, 0):
                raise ValueError("another version of the array format")
            (n_tokens,), _, dtype = np.lib.format.read_array_header_1_0(handle)
        except ValueError as error:
            raise _no_segment(path, str(error)) from error
        at = handle.tell()
        size = os.fstat(handle.fileno()).st_size
    sound = (
        dtype in (np.dtype(np.uint16), np.dtype(np.uint32))
        and len(offsets) == len(hashes) + 1
        and offsets[0] == 0
        and offsets[-1] == n_tokens
        and bool((np.diff(offsets) >= 0).all())
    )
    if not sound or size != at + n_tokens * dtype.itemsize:
        raise _no_segment(path, f"{len(hashes)} documents, {n_tokens} tokens of {dtype}, {size} bytes do not agree")
    if n_tokens == 0:  # an empty file region cannot be mapped
        return hashes, offsets, np.zeros(0, dtype=dtype)
    return hashes, offsets, np.memmap(path, dtype=dtype, mode="r", offset=at, shape=(n_tokens,))


def _read_array(handle: IO[bytes], path: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.lib.format.read_array(handle, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _no_segment(path, str(error)) from error
    if array.ndim != 1 or (array.size < 1 and array.dtype != np.uint64):
        raise _no_segment(path, f"an array of shape {array.shape}")
    return array


def _no_segment(path: str, found: str) -> InputError:
    return InputError(f"{path}: not a whole file of tokens ({found}); delete it and run the stage that wrote it again")
