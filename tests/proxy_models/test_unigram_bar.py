"""On the shipped pool, at the quick start's size, a proxy is more than a model of word frequencies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer

from proxy_models.data import EvalSet
from proxy_models.train import train_proxy
from quadmix.config_reader import read_config
from quadmix.hashing import doc_hash

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def records(path: Path) -> list[dict[str, str]]:
    raw = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    return [json.loads(line) for line in raw.split(b"\n") if line]


def test_the_median_proxy_ends_below_the_targets_own_unigram_entropy() -> None:
    """At the quick start's setting, over a natural and two lopsided mixtures."""
    search = read_config(ROOT / "configs" / "quickstart.yaml").search
    assert search is not None
    tokenizer = Tokenizer.from_file(str(EXAMPLES / "tokenizer" / "tokenizer.json"))
    end, vocab_size = tokenizer.token_to_id("<|endoftext|>"), tokenizer.get_vocab_size()

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array([*e.ids, end], dtype=np.uint16) for e in tokenizer.encode_batch(texts)]

    # the first shard holds every domain in hash order: its head is the natural mixture
    shard = records(EXAMPLES / "pool" / "shard-00000.jsonl.zst")
    shard.sort(key=lambda record: int(doc_hash([record["id"]])[0]))
    streams = []
    for favoured in (None, "code", "encyclopedia"):
        first = [record for record in shard if record["domain"] == favoured]
        rest = [record for record in shard if record["domain"] != favoured]
        # about half of a lopsided mixture is its domain
        halves = [np.concatenate(encode([r["text"] for r in part])) for part in (first, rest) if part]
        share = search.tokens_per_trial // len(halves)
        streams.append(np.concatenate([half[:share] for half in halves]))
    eval_sets = {}
    for path in sorted((EXAMPLES / "targets").glob("*.jsonl.zst")):
        texts = [record["text"] for record in records(path)[:40]]
        eval_sets[path.name.split(".")[0]] = EvalSet.of_documents(
            encode(texts), [len(text.encode()) for text in texts], 20_000
        )
    assert len(eval_sets) >= 2
    results = [
        train_proxy(search.proxy, vocab_size, stream, init_seed=0, order_seed=0, eval_sets=eval_sets)
        for stream in streams
    ]
    for name, held_out in eval_sets.items():
        gaps = [result.losses[name] - held_out.unigram_entropy() for result in results]
        assert np.median(gaps) < -0.1, (name, gaps)
        assert all(1.0 < result.bits_per_byte[name] < 4.0 for result in results)
