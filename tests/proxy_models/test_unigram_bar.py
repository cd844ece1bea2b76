"""On the shipped pool, at the quick start's size, a proxy is more than a model of word frequencies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer

from proxy_models.data import EvalSet
from proxy_models.train import train_proxy
from quadmix.config import ProxyConfig
from quadmix.hashing import doc_hash

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKENS = 200_000


def records(path: Path) -> list[dict[str, str]]:
    raw = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    return [json.loads(line) for line in raw.split(b"\n") if line]


def test_proxies_end_below_the_targets_own_unigram_entropy() -> None:
    tokenizer = Tokenizer.from_file(str(EXAMPLES / "tokenizer" / "tokenizer.json"))
    end, vocab_size = tokenizer.token_to_id("<|endoftext|>"), tokenizer.get_vocab_size()

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array([*e.ids, end], dtype=np.uint16) for e in tokenizer.encode_batch(texts)]

    # the first shard holds every domain in hash order: its head is the natural mixture
    shard = records(EXAMPLES / "pool" / "shard-00000.jsonl.zst")
    shard.sort(key=lambda record: int(doc_hash([record["id"]])[0]))
    stream = np.concatenate(encode([record["text"] for record in shard]))[:TOKENS]
    eval_sets = {}
    for path in sorted((EXAMPLES / "targets").glob("*.jsonl.zst")):
        texts = [record["text"] for record in records(path)[:40]]
        eval_sets[path.name.split(".")[0]] = EvalSet.of_documents(
            encode(texts), [len(text.encode()) for text in texts], 20_000
        )
    assert len(eval_sets) >= 2
    result = train_proxy(ProxyConfig(), vocab_size, stream, init_seed=0, order_seed=0, eval_sets=eval_sets)
    gaps = {name: result.losses[name] - eval_sets[name].unigram_entropy() for name in eval_sets}
    assert max(gaps.values()) < -0.3, gaps
    assert all(1.0 < bits < 4.0 for bits in result.bits_per_byte.values()), result.bits_per_byte
