"""Token ids are those of the library that made the file, whichever way they are computed."""

from __future__ import annotations

import base64
import dataclasses
import json
import pickle
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.config import TokenizerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.byte_level import CLAUSES, GPT2_PATTERN, convert, cuts_alike
from quadmix.scorers.tokens import load_tokenizer
from tests.scorers.list_context import notices, speech

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("tiktoken")

END = "<|endoftext|>"
QWEN_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
EXAMPLE_PATTERN = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train(path: Path, pattern: str | None = None, vocab_size: int = 500, **normalizer) -> Path:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level]) if split else byte_level
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([document.text for document in [*speech(80), *notices(80)]], trainer)
    if normalizer:
        tokenizer.normalizer = normalizer["normalizer"]
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module", params=[None, QWEN_PATTERN, EXAMPLE_PATTERN], ids=["gpt2", "qwen", "example"])
def both(request, tmp_path_factory):
    """The fast tokenizer and the same file through Hugging Face."""
    path = train(tmp_path_factory.mktemp("bpe") / "tokenizer.json", request.param)
    fast = load_tokenizer(TokenizerConfig(path=str(path)))
    assert fast.fast
    return fast, dataclasses.replace(fast, fast=False)


def lists(arrays) -> list[list[int]]:
    return [array.tolist() for array in arrays]


@given(texts=st.lists(st.text(max_size=60), max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_fast_way_gives_the_same_ids_on_any_text(both, texts):
    fast, exact = both
    assert lists(fast.encode_batch(texts)) == lists(exact.encode_batch(texts))
    assert fast.count(texts).tolist() == [len(ids) for ids in exact.encode_batch(texts)] == exact.count(texts).tolist()


def test_both_regular_expression_engines_know_the_same_letters_numbers_and_blanks(both):
    fast, exact = both
    points = [*range(0x3100), *range(0x3100, 0x110000, 211)]
    texts = [
        "".join(
            f"a{c}1{c} {c}.{c}{c}\n" for c in map(chr, points[start : start + 64]) if unicodedata.category(c) != "Cs"
        )
        for start in range(0, len(points), 64)
    ]
    assert lists(fast.encode_batch(texts)) == lists(exact.encode_batch(texts))


@pytest.mark.long
def test_both_regular_expression_engines_agree_on_every_code_point(both):
    fast, exact = both
    for start in range(0, 0x110000, 256):
        points = [chr(c) for c in range(start, start + 256) if not 0xD800 <= c < 0xE000]
        text = "".join(f"a{c}1{c} {c}.{c}{c}\n" for c in points)
        assert lists(fast.encode_batch([text])) == lists(exact.encode_batch([text])), hex(start)


def test_endless_blanks_are_encoded_though_tiktoken_gives_up_on_them(tmp_path):
    blanks = " " * 1_200_000 + "x"
    path = train(tmp_path / "tokenizer.json")
    fast = load_tokenizer(TokenizerConfig(path=str(path)))
    exact = dataclasses.replace(fast, fast=False)
    assert lists(fast.encode_batch([blanks])) == lists(exact.encode_batch([blanks]))
    ranks = write_ranks(tmp_path / "x.tiktoken", path)
    alone = load_tokenizer(TokenizerConfig(path=str(ranks), end_token=None, pattern="gpt2"))
    assert alone.count([blanks])[0] == pytest.approx(exact.count([blanks])[0], rel=0.01)


def test_a_special_token_inside_a_text_is_plain_text_and_the_end_token_is_counted(both):
    for tokenizer in both:
        (ids,) = tokenizer.encode_batch([f"a{END}b"])
        assert ids.dtype == np.uint32
        assert ids.tolist().count(tokenizer.end_id) == 1
        assert ids[-1] == tokenizer.end_id
        assert len(ids) > 5
        assert tokenizer.count([""]).tolist() == [1]


def test_without_an_end_token_nothing_is_appended(tmp_path):
    path = train(tmp_path / "tokenizer.json")
    with_end = load_tokenizer(TokenizerConfig(path=str(path)))
    without = load_tokenizer(TokenizerConfig(path=str(path), end_token=None))
    assert without.end_id is None
    assert lists(without.encode_batch(["a b"]))[0] == lists(with_end.encode_batch(["a b"]))[0][:-1]
    assert without.digest != with_end.digest


def test_a_token_that_the_merges_cannot_reach_keeps_the_slow_way(tmp_path):
    # "abc" is made of a + bc, but ab comes first: Hugging Face leaves ab, c, tiktoken would join them
    spec = json.loads(train(tmp_path / "tokenizer.json", vocab_size=257).read_text(encoding="utf-8"))
    for pair in (["a", "b"], ["b", "c"], ["a", "bc"]):
        spec["model"]["merges"].append(pair)
        spec["model"]["vocab"]["".join(pair)] = len(spec["model"]["vocab"])
    path = tmp_path / "unreachable.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    tokenizer = load_tokenizer(TokenizerConfig(path=str(path)))
    assert not tokenizer.fast
    vocab = spec["model"]["vocab"]
    assert lists(tokenizer.encode_batch(["abc"]))[0][:-1] == [vocab["ab"], vocab["c"]]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"added_tokens": [{"id": 5, "content": "zz", "special": False}]},
    ],
)
def test_what_tiktoken_would_not_do_keeps_the_slow_way(tmp_path, change):
    path = train(tmp_path / "tokenizer.json")
    spec = json.loads(path.read_text(encoding="utf-8"))
    model = tokenizers.Tokenizer.from_file(str(path)).model
    assert convert(spec, model) is not None
    assert convert(spec | change, model) is None


def test_patterns_with_unknown_clauses_or_uncovered_characters_are_not_trusted():
    assert cuts_alike(GPT2_PATTERN)
    assert not cuts_alike(GPT2_PATTERN + r"|(?i:abc)")
    assert not cuts_alike(GPT2_PATTERN.replace(r"|\s+(?!\S)|\s+", ""))
    assert all(len(covers) <= 1 for covers in CLAUSES.values())


def write_ranks(path: Path, tokenizer_json: Path) -> Path:
    spec = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    found = convert(spec, tokenizers.Tokenizer.from_file(str(tokenizer_json)).model)
    assert found is not None
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in found.ranks.items()]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path


def test_tiktoken_ranks_give_the_ids_that_they_list(tmp_path):
    path = train(tmp_path / "tokenizer.json")
    ranks = load_tokenizer(TokenizerConfig(path=str(write_ranks(tmp_path / "x.tiktoken", path)), pattern="gpt2"))
    other = load_tokenizer(TokenizerConfig(path=str(path)))
    assert ranks.end_id == ranks.vocab_size - 1
    texts = [document.text for document in speech(5)]
    # the tokenizer.json numbers the same tokens otherwise, in the same order of merges
    assert ranks.count(texts).tolist() == other.count(texts).tolist()
    with pytest.raises(ConfigError, match="pattern"):
        load_tokenizer(TokenizerConfig(path=str(tmp_path / "x.tiktoken")))


def test_a_tokenizer_travels_by_pickle_and_equal_files_have_equal_digests(both, tmp_path):
    fast, _ = both
    again = pickle.loads(pickle.dumps(fast))
    assert again == fast
    copy = tmp_path / "copy.json"
    copy.write_bytes(Path(fast.path).read_bytes())
    assert load_tokenizer(TokenizerConfig(path=str(copy))).digest == fast.digest


def test_a_file_changed_after_loading_is_refused(tmp_path):
    path = train(tmp_path / "tokenizer.json")
    tokenizer = load_tokenizer(TokenizerConfig(path=str(path), end_token=None))
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    moved = dataclasses.replace(tokenizer, vocab_size=tokenizer.vocab_size + random.Random(1).randint(1, 9))  # no cache
    with pytest.raises(InputError, match="changed during the run"):
        moved.encode_batch(["a"])


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        (None, {}, "cannot read"),
        (b"{}", {}, "not a tokenizer.json"),
        (b"\x80\x04pickle", {}, "not `base64 rank`"),
        (b"YQ== 0\n", {"pattern": "gpt2"}, "255 of 256 single bytes missing"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path, content, config, message):
    path = tmp_path / "tokenizer.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(TokenizerConfig(path=str(path), **config))


def test_an_end_token_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = train(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"</s>.*<\|endoftext\|>"):
        load_tokenizer(TokenizerConfig(path=str(path), end_token="</s>"))
    with pytest.raises(ConfigError, match="only for tiktoken"):
        load_tokenizer(TokenizerConfig(path=str(path), pattern="gpt2"))
