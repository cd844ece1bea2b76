"""The shipped example pool is what its README and POOL.json say it is."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import xxhash
import zstandard

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LISTING: dict[str, Any] = json.loads((EXAMPLES / "POOL.json").read_text(encoding="utf-8"))
# the ranges of `build_pool.py`: id hash modulo 1000 below this number
TARGET_RESIDUES = {"encyclopedia": 270, "howto": 170}


@cache
def records(name: str) -> list[dict[str, str]]:
    """The records of one shipped file."""
    packed = (EXAMPLES / name).read_bytes()
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    return [json.loads(line) for line in raw.decode("utf-8").split("\n") if line]


@cache
def pool() -> list[dict[str, str]]:
    return [record for name in LISTING["shards"] for record in records(name)]


@cache
def targets() -> dict[str, list[dict[str, str]]]:
    return {name: records(entry["file"]) for name, entry in LISTING["targets"].items()}


def size(group: list[dict[str, str]]) -> int:
    return sum(len(record["text"].encode("utf-8")) for record in group)


def test_the_pool_has_at_least_ten_thousand_documents_and_25_megabytes() -> None:
    assert len(pool()) >= 10_000
    assert size(pool()) >= 25_000_000


def test_the_pool_has_at_least_eight_sources_in_six_domains() -> None:
    assert len({record["source"] for record in pool()}) >= 8
    assert len({record["domain"] for record in pool()}) >= 6


def test_no_domain_dominates_and_none_is_negligible() -> None:
    shares = {name: entry["tokens"] / LISTING["tokens"] for name, entry in LISTING["domains"].items()}
    assert min(shares.values()) >= 0.06, shares
    assert max(shares.values()) <= 0.30, shares


def test_a_source_belongs_to_one_domain() -> None:
    pairs = {(record["source"], record["domain"]) for record in pool()}
    assert len(pairs) == len({source for source, _ in pairs})


def test_every_domain_of_text_has_several_sources_so_that_quality_varies_inside_it() -> None:
    pairs = {(record["source"], record["domain"]) for record in pool()}
    for domain in LISTING["domains"]:
        assert sum(d == domain for _, d in pairs) >= 2, domain


def test_examples_take_at_most_nine_megabytes_on_disk() -> None:
    files = [path for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 9_000_000


@pytest.mark.parametrize("name", sorted(LISTING["shards"]))
def test_a_shard_is_the_listed_one_and_holds_every_domain(name: str) -> None:
    entry = LISTING["shards"][name]
    packed = (EXAMPLES / name).read_bytes()
    assert hashlib.sha256(packed).hexdigest() == entry["sha256"]
    assert len(packed) == entry["bytes"]
    assert len(records(name)) == entry["documents"]
    assert size(records(name)) == entry["text_bytes"]
    assert {record["domain"] for record in records(name)} == set(LISTING["domains"])


def test_no_shard_or_target_file_is_unlisted() -> None:
    listed = {*LISTING["shards"], *(entry["file"] for entry in LISTING["targets"].values())}
    found = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*/*.jsonl.zst")}
    assert found == listed


@pytest.mark.parametrize("name", sorted(LISTING["targets"]))
def test_a_target_set_is_the_listed_one_and_of_useful_size(name: str) -> None:
    entry = LISTING["targets"][name]
    assert hashlib.sha256((EXAMPLES / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert len(targets()[name]) == entry["documents"] >= 150
    assert 300_000 <= size(targets()[name]) == entry["text_bytes"] <= 400_000


def test_there_are_at_least_two_different_targets() -> None:
    sets = [{record["domain"] for record in group} for group in targets().values()]
    assert len(sets) >= 2
    assert not set.intersection(*sets)


@pytest.mark.parametrize("name", sorted(LISTING["targets"]))
def test_targets_are_split_off_by_the_hash_of_their_ids(name: str) -> None:
    residues = [xxhash.xxh64_intdigest(record["id"].encode("utf-8"), seed=0) % 1000 for record in targets()[name]]
    assert max(residues) < TARGET_RESIDUES[name]


@pytest.mark.parametrize("field", ["source", "domain"])
def test_the_listing_counts_what_is_in_the_files(field: str) -> None:
    for key, entry in LISTING[field + "s"].items():
        group = [record for record in pool() if record[field] == key]
        assert len(group) == entry["documents"], key
        assert size(group) == entry["text_bytes"], key
    assert {record[field] for record in pool()} == set(LISTING[field + "s"])


def test_every_record_has_the_four_fields_and_a_tidy_text() -> None:
    for record in [*pool(), *(r for group in targets().values() for r in group)]:
        assert list(record) == ["id", "source", "domain", "text"]
        assert record["id"].startswith(record["source"] + "/")
        assert record["text"].strip()
        assert "\x00" not in record["text"]


def test_documents_are_of_reasonable_length() -> None:
    lengths = sorted(len(record["text"].encode("utf-8")) for record in pool())
    assert lengths[0] >= 200
    assert lengths[len(lengths) * 99 // 100] <= 12_000
    assert lengths[-1] <= 32_000


def test_ids_are_unique_across_pool_and_targets() -> None:
    ids = [record["id"] for record in [*pool(), *(r for group in targets().values() for r in group)]]
    assert len(ids) == len(set(ids))


def test_no_target_text_is_in_the_pool() -> None:
    held = {" ".join(record["text"].split()) for group in targets().values() for record in group}
    assert not [record["id"] for record in pool() if " ".join(record["text"].split()) in held]


def test_no_paragraph_of_a_target_is_in_the_pool() -> None:
    held = {
        line
        for group in targets().values()
        for record in group
        for line in record["text"].split("\n")
        if len(line) > 500
    }
    assert len(held) > 200
    assert not [record["id"] for record in pool() if not held.isdisjoint(record["text"].split("\n"))]


def test_the_tokenizer_is_small_and_loses_nothing() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(EXAMPLES / "tokenizer" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 2048
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    sample = [record["text"] for record in random.Random(0).sample(pool(), 200)]
    for text in [*sample, "\u2028 naïve\r\n\t 北京 \U0001f980 \x00", ""]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_tiktoken_ranks_give_the_same_ids_as_the_tokenizer() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tiktoken = pytest.importorskip("tiktoken")
    described = json.loads((EXAMPLES / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    pattern = described["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    rows = (EXAMPLES / "tokenizer" / "ranks.tiktoken").read_text(encoding="ascii").split("\n")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (row.split() for row in rows if row)}
    encoding = tiktoken.Encoding("example", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 0})
    tokenizer = tokenizers.Tokenizer.from_file(str(EXAMPLES / "tokenizer" / "tokenizer.json"))
    sample = [record["text"] for record in random.Random(1).sample(pool(), 500)]
    for text, encoded in zip(sample, tokenizer.encode_batch(sample), strict=True):
        assert encoding.encode_ordinary(text) == encoded.ids


def test_the_tokenizer_files_are_the_listed_ones() -> None:
    for name, digest in LISTING["tokenizer"].items():
        assert hashlib.sha256((EXAMPLES / name).read_bytes()).hexdigest() == digest


def test_the_readme_names_the_licence_of_every_source_and_its_text_is_shipped() -> None:
    rows = [line.split("|") for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").split("\n")]
    table = {row[1].strip(" `"): row for row in rows if len(row) == 9}
    for source in LISTING["sources"]:
        assert source in table, source
        licence, files = table[source][5].strip(), table[source][6].strip()
        assert licence, source
        for name in files.split(", "):
            assert (EXAMPLES / "LICENSES" / name).is_file(), (source, name)


def test_the_readme_names_version_and_checksum_of_every_package() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name, entry in LISTING["packages"].items():
        assert f"| `{name}` |" in readme, name
        assert entry["version"] in readme
        assert entry["sha256"] in readme


def test_the_readme_tells_the_true_numbers() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"{LISTING['documents']:,} documents" in readme
    for source, entry in LISTING["sources"].items():
        numbers = f"| {entry['documents']:,} | {entry['text_bytes'] / 1e6:.2f} | {entry['tokens'] / 1e6:.3f} |"
        assert f"| `{source}` {numbers}" in readme, source
