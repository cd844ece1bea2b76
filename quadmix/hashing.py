"""Hashes and draws: everything random in a selection is a function of (document id, seed, purpose).

`doc_hash` is xxHash64 (seed 0) of the UTF-8 document id. A draw is xxHash64 of the document hash's eight
little-endian bytes under a 64-bit key derived from seed and purpose, so it never depends on file order,
partitioning, engine, worker or retry (algorithms.md, section 6). The eight-byte xxHash64 is vectorised here;
the tests hold it against the reference library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)

_WHITE_SPACE = b" \t\n\r\x0b\x0c"


def doc_hash(doc_ids: Iterable[str]) -> NDArray[np.uint64]:
    """xxHash64, seed 0, of every id's UTF-8 bytes: (n,) uint64."""
    digest = xxhash.xxh64_intdigest
    return np.fromiter((digest(doc_id.encode("utf-8")) for doc_id in doc_ids), dtype=np.uint64)


def content_hash(texts: Iterable[str]) -> NDArray[np.uint64]:
    """xxh3 (64 bits) of every text's UTF-8 bytes without ASCII white space: (n,) uint64.

    Texts that differ in white space only are exact duplicates here. White space is removed rather than collapsed:
    that is one pass in C, four times as fast as splitting.
    """
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(text.encode("utf-8").translate(None, _WHITE_SPACE)) for text in texts), dtype=np.uint64)


def purpose_key(seed: int, purpose: str) -> int:
    """The 64-bit key under which all draws of one purpose are made."""
    return int(xxhash.xxh64_intdigest(f"{seed}:{purpose}".encode()))


def hash_words(words: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """xxHash64 of each value's eight little-endian bytes under seed `key`: (n,) uint64."""
    with np.errstate(over="ignore"):
        mixed = words.astype(np.uint64, copy=True)
        mixed *= _P2
        mixed = _rotate(mixed, 31)
        mixed *= _P1
        mixed ^= np.uint64(key) + _P5 + np.uint64(8)
        mixed = _rotate(mixed, 27)
        mixed *= _P1
        mixed += _P4
        mixed ^= mixed >> np.uint64(33)
        mixed *= _P2
        mixed ^= mixed >> np.uint64(29)
        mixed *= _P3
        mixed ^= mixed >> np.uint64(32)
    return mixed


def uniform(doc_hashes: NDArray[np.uint64], seed: int, purpose: str) -> NDArray[np.float64]:
    """One draw a document in the open interval (0, 1): ((h >> 11) + 1/2) * 2**-53, never 0, never 1."""
    mixed = hash_words(doc_hashes, purpose_key(seed, purpose))
    mixed >>= np.uint64(11)
    draws = mixed.astype(np.float64)
    draws += 0.5
    draws *= 2.0**-53
    # the largest integers round up to 2**53 when 1/2 is added: keep the draw below 1
    np.minimum(draws, 1.0 - 2.0**-53, out=draws)
    return draws


def seed_for(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one named purpose, for generators that take an integer."""
    return purpose_key(seed, "/".join(str(part) for part in purpose)) >> 1


def sha256_file(path: str) -> str:
    """Hex sha256 of a local file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def folder_digest(folder: str) -> str:
    """Identity of a folder: names and contents of all files below it."""
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return fingerprint(*(f"{path.relative_to(root)}:{sha256_file(str(path))}" for path in files))


def fingerprint(*parts: str) -> str:
    """32 hex digits that identify an ordered list of strings."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:32]


def _rotate(values: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    return (values << np.uint64(bits)) | (values >> np.uint64(64 - bits))
