"""Token counts and token ids with a real tokenizer file: Hugging Face `tokenizer.json` or tiktoken ranks.

A document is its text's tokens and then the end token, which is counted. The text is data: a special token's name
inside it is encoded as ordinary characters, never as the special token. A tokenizer object holds the file's path and
digest; each process reads the file when it first encodes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quadmix.config import TokenizerConfig
from quadmix.errors import ConfigError, EnvironmentFault, InputError
from quadmix.hashing import fingerprint, sha256_file
from quadmix.scorers.byte_level import GPT2_PATTERN, convert

NAMED_PATTERNS = {"gpt2": GPT2_PATTERN}
_PIECE_CHARS = 1 << 16  # a run of blanks this long is no trouble for tiktoken, one of a million is


class Tokenizer(Protocol):
    """Text to token ids. Picklable; equal digests give equal ids."""

    @property
    def digest(self) -> str:
        """Identity of the ids: file content, end token and pattern."""
        ...

    @property
    def vocab_size(self) -> int:
        """Largest id + 1."""
        ...

    @property
    def end_id(self) -> int | None: ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text, the end token last when there is one."""
        ...

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """(n,) number of tokens of each text, the end token included."""
        ...


@dataclass(frozen=True)
class FileTokenizer:
    """A tokenizer file. `form`: huggingface | tiktoken; `fast`: a Hugging Face file that runs through tiktoken."""

    path: str
    sha256: str
    form: str
    end_id: int | None
    vocab_size: int
    pattern: str | None = None
    fast: bool = False

    @property
    def digest(self) -> str:
        return fingerprint(self.sha256, self.form, str(self.end_id), str(self.pattern))

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return _encoder(self).encode(texts)

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return _encoder(self).count(texts)


def load_tokenizer(config: TokenizerConfig) -> FileTokenizer:
    """Check the file and what the config says about it. Raises ConfigError; EnvironmentFault for a missing package."""
    path = str(Path(config.path).absolute())
    try:
        sha256 = sha256_file(path)
        with open(path, "rb") as handle:
            is_json = handle.read(64).lstrip()[:1] == b"{"
    except OSError as error:
        raise ConfigError(f"tokenizer.path: cannot read {config.path}: {error.strerror}") from error
    return _describe_json(config, path, sha256) if is_json else _describe_ranks(config, path, sha256)


def _describe_json(config: TokenizerConfig, path: str, sha256: str) -> FileTokenizer:
    if config.pattern is not None:
        raise ConfigError(f"tokenizer.pattern: only for tiktoken ranks, {config.path} is a tokenizer.json")
    spec = json.loads(_read(path, sha256))
    tokenizer = _hugging_face(path, sha256)
    end_id = None
    if config.end_token is not None:
        end_id = tokenizer.token_to_id(config.end_token)
        if end_id is None:
            special = [token["content"] for token in spec.get("added_tokens") or () if token.get("special")]
            raise ConfigError(
                f"tokenizer.end_token: {config.end_token!r} is not in {config.path}; "
                f"its special tokens: {', '.join(special) or 'none'}; or null for no end token"
            )
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    fast = _has_tiktoken() and convert(spec, tokenizer.model) is not None
    return FileTokenizer(path, sha256, "huggingface", end_id, vocab_size, fast=fast)


def _describe_ranks(config: TokenizerConfig, path: str, sha256: str) -> FileTokenizer:
    ranks = _read_ranks(path, sha256)
    if config.pattern is None:
        raise ConfigError(
            f"tokenizer.pattern: tiktoken ranks need the pre-tokenisation pattern they were made with: "
            f"a regular expression, or one of {', '.join(NAMED_PATTERNS)}"
        )
    pattern = NAMED_PATTERNS.get(config.pattern, config.pattern)
    end_id, vocab_size = None, max(ranks.values()) + 1
    if config.end_token is not None:
        end_id = vocab_size
        vocab_size += 1
    tokenizer = FileTokenizer(path, sha256, "tiktoken", end_id, vocab_size, pattern)
    try:
        tokenizer.encode_batch(["a b"])
    except ValueError as error:
        raise ConfigError(f"tokenizer.pattern: not a regular expression that tiktoken accepts: {error}") from error
    return tokenizer


class _Encoder(Protocol):
    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]: ...

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]: ...


class _HuggingFaceEncoder:
    def __init__(self, spec: FileTokenizer) -> None:
        self._tokenizer = _hugging_face(spec.path, spec.sha256)
        self._end_id = spec.end_id

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [_ended(ids, self._end_id) for ids in self._ids(texts)]

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return _lengths(self._ids(texts), self._end_id)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [batch.ids for batch in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


class _TiktokenEncoder:
    """Ranks through tiktoken. table: (ranks,) their ids; exact: encodes what tiktoken cannot."""

    def __init__(
        self,
        ranks: dict[bytes, int],
        pattern: str,
        end_id: int | None,
        table: NDArray[np.uint32] | None = None,
        exact: _Encoder | None = None,
    ) -> None:
        from tiktoken import Encoding

        self._encoding = Encoding("quadmix", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._end_id, self._table, self._exact = end_id, table, exact

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [self._encode_one(text) for text in texts]

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return np.fromiter((self._count_one(text) for text in texts), dtype=np.int64, count=len(texts))

    def _encode_one(self, text: str) -> NDArray[np.uint32]:
        ranks = self._ranks(text)
        if ranks is None:
            return self._exact.encode([text])[0] if self._exact else _ended(self._in_pieces(text), self._end_id)
        if self._table is None:
            return _ended(ranks, self._end_id)
        ids = np.empty(len(ranks) + (self._end_id is not None), dtype=np.uint32)
        ids[: len(ranks)] = self._table[ranks]
        if self._end_id is not None:
            ids[-1] = self._end_id
        return ids

    def _count_one(self, text: str) -> int:
        ranks = self._ranks(text)
        return len(self._encode_one(text)) if ranks is None else len(ranks) + (self._end_id is not None)

    def _ranks(self, text: str) -> list[int] | None:
        """None where a long run of blanks overflows the backtracking stack of tiktoken's regular expressions."""
        if len(text) <= _PIECE_CHARS:
            ranks: list[int] = self._encoding.encode_ordinary(text)
            return ranks
        try:  # slower, but this one raises where the other would panic
            ranks = self._encoding.encode_to_numpy(text, disallowed_special=()).tolist()
        except ValueError:
            return None
        return ranks

    def _in_pieces(self, text: str) -> list[int]:
        """Lossless, though a word at a cut may be split otherwise: for texts that tiktoken cannot take at once."""
        pieces = (text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS))
        return [rank for piece in pieces for rank in self._encoding.encode_ordinary(piece)]


def _ended(ids: list[int], end_id: int | None) -> NDArray[np.uint32]:
    return np.array(ids if end_id is None else [*ids, end_id], dtype=np.uint32)


def _lengths(ids: list[list[int]], end_id: int | None) -> NDArray[np.int64]:
    return np.array([len(one) + (end_id is not None) for one in ids], dtype=np.int64)


@lru_cache(maxsize=4)
def _encoder(spec: FileTokenizer) -> _Encoder:
    if spec.form == "tiktoken":
        assert spec.pattern is not None
        return _TiktokenEncoder(_read_ranks(spec.path, spec.sha256), spec.pattern, spec.end_id)
    exact = _HuggingFaceEncoder(spec)
    if spec.fast:
        tokenizer = _hugging_face(spec.path, spec.sha256)
        found = convert(json.loads(_read(spec.path, spec.sha256)), tokenizer.model)
        if found is not None:
            return _TiktokenEncoder(found.ranks, found.pattern, spec.end_id, found.ids, exact)
    return exact


@lru_cache(maxsize=4)
def _hugging_face(path: str, sha256: str) -> Any:
    # one thread: the engine runs one process a core, and threads in forked or pooled workers oversubscribe
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer as HuggingFace
    except ModuleNotFoundError as error:
        raise EnvironmentFault("tokenizer.json needs the package tokenizers; pip install '.[score]'") from error
    raw = _read(path, sha256)
    try:
        tokenizer = HuggingFace.from_buffer(raw)
    except Exception as error:  # the library raises a bare Exception for a file that it cannot parse
        raise ConfigError(f"tokenizer.path: {path} is not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a text is eleven or so ordinary characters
    return tokenizer


def _read_ranks(path: str, sha256: str) -> dict[bytes, int]:
    if not _has_tiktoken():
        raise EnvironmentFault("tiktoken ranks need the package tiktoken; pip install '.[score]'")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_read(path, sha256).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ConfigError(
                f"tokenizer.path: {path} line {number} is not `base64 rank`; "
                f"wanted a Hugging Face tokenizer.json or tiktoken ranks"
            ) from error
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing or len(set(ranks.values())) != len(ranks) or min(ranks.values()) < 0:
        raise ConfigError(f"tokenizer.path: {path} is not a full set of ranks ({missing} of 256 single bytes missing)")
    return ranks


def _read(path: str, sha256: str) -> bytes:
    """The file's bytes, which must be those that were checked when the run began."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"tokenizer file {path} cannot be read here: {error.strerror}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise InputError(f"tokenizer file {path} changed during the run: sha256 {found[:16]}…, wanted {sha256[:16]}…")
    return raw


def _has_tiktoken() -> bool:
    return find_spec("tiktoken") is not None
