"""Hashes against the reference library; draws uniform, open at both ends, and a function of the document alone."""

from __future__ import annotations

import struct

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix import hashing

words = st.integers(0, 2**64 - 1)


@settings(max_examples=40)
@given(st.lists(words, max_size=20), words)
def test_the_vectorised_hash_is_xxhash64_of_eight_little_endian_bytes(values: list[int], key: int) -> None:
    found = hashing.hash_words(np.array(values, dtype=np.uint64), key)
    assert found.tolist() == [xxhash.xxh64_intdigest(struct.pack("<Q", value), seed=key) for value in values]


@settings(max_examples=40)
@given(st.lists(st.text(max_size=30)))
def test_document_hashes_are_xxhash64_of_the_utf8_id(ids: list[str]) -> None:
    wanted = [xxhash.xxh64_intdigest(doc_id.encode("utf-8")) for doc_id in ids]
    assert hashing.doc_hash(ids).tolist() == wanted


@settings(max_examples=40)
@given(st.text(max_size=40), st.lists(st.sampled_from([" ", "\n", "\t", "\r\n"]), max_size=5))
def test_content_hashes_see_no_white_space(text: str, blanks: list[str]) -> None:
    spread = "".join(blanks) + text + "".join(blanks)
    one, two = hashing.content_hash([text, spread]).tolist()
    assert one == two
    assert hashing.content_hash([text + "x"])[0] != one


@settings(max_examples=40)
@given(st.lists(words, min_size=1, max_size=50), st.integers(0, 2**63 - 1), st.text(max_size=10))
def test_a_draw_depends_on_document_seed_and_purpose_alone(values: list[int], seed: int, purpose: str) -> None:
    hashes = np.array(values, dtype=np.uint64)
    draws = hashing.uniform(hashes, seed, purpose)
    key = xxhash.xxh64_intdigest(f"{seed}:{purpose}".encode())
    for value, draw in zip(values, draws, strict=True):
        mixed = xxhash.xxh64_intdigest(struct.pack("<Q", value), seed=key)
        assert draw == min(((mixed >> 11) + 0.5) * 2.0**-53, 1 - 2.0**-53)
    assert (draws > 0).all()
    assert (draws < 1).all()
    assert np.array_equal(hashing.uniform(hashes[::-1], seed, purpose), draws[::-1])
    assert hashes.tolist() == values  # the input is left as it was


def test_draws_are_uniform_and_those_of_other_seeds_and_purposes_are_independent() -> None:
    hashes = hashing.hash_words(np.arange(200_000, dtype=np.uint64), 1)
    columns = [hashing.uniform(hashes, seed, purpose) for seed, purpose in ((0, "a"), (1, "a"), (0, "b"))]
    for draws in columns:
        counts = np.histogram(draws, bins=100, range=(0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 99 + 6 * (2 * 99) ** 0.5
    correlation = np.corrcoef(columns)
    assert np.abs(correlation - np.eye(3)).max() < 5 / len(hashes) ** 0.5


def test_known_values_never_change() -> None:
    """Published manifests depend on them: xxh64 of the empty string and of one known key."""
    assert hashing.doc_hash([""])[0] == 0xEF46DB3751D8E999
    assert hashing.purpose_key(7, "select") == xxhash.xxh64_intdigest(b"7:select")
    assert 0 <= hashing.seed_for(7, "trial", 3) < 2**63
    assert hashing.seed_for(7, "trial", 3) != hashing.seed_for(7, "trial", 4)


def test_the_largest_hash_still_draws_below_one(monkeypatch) -> None:
    monkeypatch.setattr(hashing, "hash_words", lambda words, key: np.full(words.size, 2**64 - 1, dtype=np.uint64))
    assert hashing.uniform(np.zeros(1, dtype=np.uint64), 0, "x")[0] == 1 - 2.0**-53


def test_fingerprints_tell_apart_where_parts_end() -> None:
    assert hashing.fingerprint("ab", "c") != hashing.fingerprint("a", "bc")
    assert hashing.fingerprint("a") != hashing.fingerprint("a", "")
    assert len(hashing.fingerprint("ab", "c")) == 32
