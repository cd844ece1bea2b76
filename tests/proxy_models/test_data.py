"""Segments, packing and held-out sets."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_models.data import EvalSet, TokenPool, write_segment
from quadmix.errors import InputError
from quadmix.hashing import doc_hash

VOCAB = 1000


def documents(n: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(seed))
    # the first token of each names the document, so that a stream can be read back
    arrays = [np.r_[i, generator.integers(500, VOCAB, generator.integers(0, 9))] for i in range(n)]
    return arrays, doc_hash(f"doc-{i}" for i in range(n))


def write(directory: Path, arrays: list[np.ndarray], hashes: np.ndarray, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(cuts), len(arrays)]
    paths = []
    for index, (low, high) in enumerate(pairwise(bounds)):
        paths.append(str(directory / f"segment-{index}.tokens"))
        write_segment(paths[-1], arrays[low:high], hashes[low:high], VOCAB)
    return paths


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    copies=st.lists(st.integers(0, 4), min_size=30, max_size=30),
    seed=st.integers(0, 10),
)
def test_a_stream_holds_every_copy_once_however_the_pool_is_cut(
    tmp_path_factory: pytest.TempPathFactory, n: int, cuts: list[int], copies: list[int], seed: int
) -> None:
    arrays, hashes = documents(n)
    cut = TokenPool(write(tmp_path_factory.mktemp("cut"), arrays, hashes, [min(c, n) for c in cuts]))
    whole = TokenPool(write(tmp_path_factory.mktemp("whole"), arrays, hashes, []))
    counts = np.array(copies[:n])
    stream = cut.pack(np.arange(n), counts, seed)
    read, at = Counter[int](), 0
    while at < len(stream):
        index = int(stream[at])
        length = len(arrays[index])
        assert stream[at : at + length].tolist() == arrays[index].tolist()
        read[index] += 1
        at += length
    assert [read[i] for i in range(n)] == counts.tolist()
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(n)
    assert np.array_equal(stream, whole.pack(shuffled, counts[shuffled], seed))


def test_gather_keeps_the_given_order_and_repeats(tmp_path: Path) -> None:
    arrays, hashes = documents(9)
    pool = TokenPool(write(tmp_path, arrays, hashes, [4]))
    assert pool.gather(np.array([8, 0, 5, 5])).tolist() == np.concatenate([arrays[i] for i in (8, 0, 5, 5)]).tolist()
    assert pool.lengths.tolist() == [len(a) for a in arrays]
    assert np.array_equal(pool.doc_hash, hashes)
    with pytest.raises(IndexError):
        pool.gather(np.array([9]))


def test_order_changes_with_the_seed(tmp_path: Path) -> None:
    arrays, hashes = documents(30)
    pool = TokenPool(write(tmp_path, arrays, hashes, []))
    ones = np.ones(30, dtype=int)
    assert not np.array_equal(pool.pack(np.arange(30), ones, 0), pool.pack(np.arange(30), ones, 1))


@pytest.mark.parametrize(("vocab", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_tokens_take_two_bytes_up_to_65536_entries(tmp_path: Path, vocab: int, dtype: type) -> None:
    path = str(tmp_path / "s")
    write_segment(path, [np.array([0, vocab - 1])], np.array([1], np.uint64), vocab)
    pool = TokenPool([path])
    assert pool.dtype == dtype
    assert pool.gather(np.array([0])).tolist() == [0, vocab - 1]


def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found tokens 3\.\.7, wanted 0\.\.6"):
        write_segment(str(tmp_path / "s"), [np.array([3, 7])], np.array([1], np.uint64), 7)
    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_was_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    arrays, hashes = documents(5)
    (path,) = write(tmp_path, arrays, hashes, [])
    whole = Path(path).read_bytes()
    TokenPool([path])
    for size in range(0, len(whole), 7):
        Path(path).write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"segment-0\.tokens: not a whole file of tokens"):
            TokenPool([path])
    Path(path).write_bytes(whole + b"\0\0")
    with pytest.raises(InputError, match="do not agree"):
        TokenPool([path])


def test_equal_documents_make_equal_bytes(tmp_path: Path) -> None:
    arrays, hashes = documents(5)
    one, other = tmp_path / "1", tmp_path / "2"
    write_segment(str(one), arrays, hashes, VOCAB)
    write_segment(str(other), [a.astype(np.uint16) for a in arrays], hashes, VOCAB)
    assert one.read_bytes() == other.read_bytes()


def test_bits_per_byte_is_all_bits_over_all_bytes(tmp_path: Path) -> None:
    held_out = EvalSet(np.array([0, 1, 1, 2], dtype=np.uint16), n_bytes=6)
    # 4 tokens of ln 8 nats are 12 bits, over 6 bytes: 2 bits a byte
    assert held_out.bits_per_byte(math.log(8)) == pytest.approx(2.0)
    assert held_out.unigram_entropy() == pytest.approx(1.5 * math.log(2))
    held_out.save(str(tmp_path / "target"))
    again = EvalSet.load(str(tmp_path / "target"))
    assert (again.tokens.tolist(), again.n_bytes) == ([0, 1, 1, 2], 6)


def test_a_held_out_set_takes_whole_documents_and_their_bytes() -> None:
    arrays, sizes = [np.arange(4), np.arange(3), np.arange(5)], [10, 20, 30]
    assert len(EvalSet.of_documents(arrays, sizes, 7).tokens) == 7
    assert EvalSet.of_documents(arrays, sizes, 7).n_bytes == 30
    assert EvalSet.of_documents(arrays, sizes, 11).n_bytes == 30
    assert EvalSet.of_documents(arrays, sizes, 12).n_bytes == 60
    assert EvalSet.of_documents(arrays, sizes, 2).n_bytes == 10
    with pytest.raises(InputError, match="at least 2 tokens"):
        EvalSet.of_documents([], [], 5)
