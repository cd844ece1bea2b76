"""Megabytes per CPU second of a tokenizer.json through tiktoken and through Hugging Face, and of tiktoken ranks.

    python -m benchmarks.tokenizers [--tokenizer FILE] [--megabytes 3] [--rounds 3]

The first two must give the same ids for every document; exit code 1 when they do not, or when the first is not at
least twice as fast. CPU time of one thread, rounds interleaved, the median of them. (As a module: run by its path,
this file would hide the library of the same name.)
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from quadmix.config import TokenizerConfig
from quadmix.scorers.tokens import FileTokenizer, load_tokenizer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RANKS_PATTERN = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BAR = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default=str(EXAMPLES / "tokenizer" / "tokenizer.json"))
    parser.add_argument("--megabytes", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    fast = load_tokenizer(TokenizerConfig(path=asked.tokenizer))
    if not fast.fast:
        print(f"{asked.tokenizer}: equality with tiktoken is not proven, so it runs through Hugging Face")
        return 1
    sides: dict[str, FileTokenizer] = {
        "tokenizer.json through tiktoken": fast,
        "tokenizer.json through Hugging Face": dataclasses.replace(fast, fast=False),
    }
    ranks = Path(asked.tokenizer).with_name("ranks.tiktoken")
    if ranks.exists():
        sides["tiktoken ranks"] = load_tokenizer(TokenizerConfig(path=str(ranks), pattern=RANKS_PATTERN))
    texts = sample(asked.megabytes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    encoded, counted = {name: [] for name in sides}, {name: [] for name in sides}
    for side in sides.values():
        side.encode_batch(["warm"])
    for _ in range(asked.rounds):
        for name, side in sides.items():
            encoded[name].append(cpu_seconds(side.encode_batch, texts))
            counted[name].append(cpu_seconds(side.count, texts))
    for name in sides:
        encode, count = statistics.median(encoded[name]), statistics.median(counted[name])
        print(f"{name:36s} encode {megabytes / encode:6.2f} MB/s, count {megabytes / count:6.2f} MB/s of one core")
    names = list(sides)
    alike = all(map(np.array_equal, *(sides[name].encode_batch(texts) for name in names[:2])))
    ratio = statistics.median(encoded[names[1]]) / statistics.median(encoded[names[0]])
    same = "equal" if alike else "DIFFER"
    print(f"{len(texts)} documents, {megabytes:.2f} MB, ids {same}; ratio {ratio:.1f}, bar {BAR}")
    return 0 if alike and ratio >= BAR else 1


def cpu_seconds(function: Callable[[list[str]], object], texts: list[str]) -> float:
    begun = time.process_time()
    function(texts)
    return time.process_time() - begun


def sample(megabytes: float) -> list[str]:
    """Every k-th document of the example pool, about so many megabytes."""
    texts = []
    for path in sorted((EXAMPLES / "pool").glob("*.jsonl.zst")):
        with path.open("rb") as handle:
            stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(handle), encoding="utf-8")
            texts += [json.loads(line)["text"] for line in stream]
    return texts[:: max(1, int(sum(map(len, texts)) / (megabytes * 1e6)))]


if __name__ == "__main__":
    sys.exit(main())
