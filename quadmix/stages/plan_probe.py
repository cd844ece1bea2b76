"""How long a proxy trains for a token here: measured, a dozen steps on made-up tokens."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from quadmix.config import RunConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.scorers.tokens import load_tokenizer
from quadmix.stages.compare.costs import training_flops

_PROBE_STEPS = 12
_PROBE_FLOPS = 1e11  # of the probe at most, some seconds
_BFLOAT16_PAYS = 1.2  # times as fast, to be worth a word


def bfloat16_advice(config: RunConfig, float32_seconds: float) -> list[str]:
    """Whether the search's proxies would train faster with bfloat16 products: measured where a processor has them."""
    assert config.search is not None
    # on a cluster the executors' processors count, and a GPU's proxies are none of this processor's
    if config.search.proxy.precision != "float32" or config.engine.kind != "local" or not has_bfloat16():
        return []
    gain = float32_seconds / step_seconds(config, config.search.proxy.model_copy(update={"precision": "bfloat16"}))
    if gain < _BFLOAT16_PAYS:
        return []
    return [f"search.proxy.precision: bfloat16 trains such proxies {gain:.1f} times as fast on this processor"]


def has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this processor multiplies bfloat16 (x86: avx512_bf16, amx_bf16; ARM: bf16); False where the system does
    not say, or where a GPU would train instead."""
    from proxy_models.swarm import pick_device

    with suppress(OSError):
        return pick_device(0) == "cpu" and "bf16" in Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    return False


def step_seconds(config: RunConfig, proxy: ProxyConfig) -> float:
    """Seconds of one core per token trained, from a dozen steps on made-up tokens or, of large proxies, fewer."""
    return _probed(proxy, load_tokenizer(config.tokenizer).vocab_size if config.tokenizer else 256)


@lru_cache(maxsize=64)
def _probed(proxy: ProxyConfig, vocabulary: int) -> float:
    from proxy_models.train import train_proxy

    rows = round(_PROBE_FLOPS / (training_flops(proxy, vocabulary) * proxy.seq_len))
    rows = min(max(rows, 1), proxy.batch * _PROBE_STEPS)
    chosen = proxy.model_copy(update={"batch": min(proxy.batch, max(1, rows // _PROBE_STEPS))})
    tokens = (np.arange(rows * (proxy.seq_len + 1)) * 7919 % vocabulary).astype(np.uint32)
    once = tokens[: chosen.batch * (proxy.seq_len + 1)]
    train_proxy(chosen, vocabulary, once, init_seed=0, order_seed=0, eval_sets={})  # what torch sets up at first use
    started = time.process_time()
    train_proxy(chosen, vocabulary, tokens, init_seed=0, order_seed=0, eval_sets={})
    return (time.process_time() - started) / tokens.size
