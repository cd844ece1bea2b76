"""Tokens per second and core of a proxy, against the plain PyTorch loop of the same model on the same rows.

    python benchmarks/proxies.py [--tokens 60000] [--repeats 5] [--vocab 2048] [--set d_model=64 ...]

The plain loop is what one writes first: torch's own layers, fused attention, `cross_entropy` on all logits, the
default AdamW. Both start from the same weights and see the same batches; their loss curves must agree to 1e-3. Runs
are interleaved, times are CPU seconds, the best of the repeats counts. The text is the example pool's when its path is
given, else generated words of a Zipf law with bigram structure (speed does not depend on it).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxy_models.data import TokenPool, Tokens
from proxy_models.model import Decoder
from proxy_models.train import CURVE_POINTS, batches_of, fit, frequencies, one_thread, rows_of, schedule
from quadmix.config import ProxyConfig


class PlainBlock(nn.Module):
    def __init__(self, config: ProxyConfig) -> None:
        super().__init__()
        d, self.heads = config.d_model, config.heads
        self.norm1, self.norm2 = nn.RMSNorm(d, 1e-6, False), nn.RMSNorm(d, 1e-6, False)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.gate_up, self.down = nn.Linear(d, 2 * config.d_ff, bias=False), nn.Linear(config.d_ff, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time_, d = x.shape
        q, k, v = (
            part.view(batch, time_, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, time_, d))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        down: Tensor = self.down(F.silu(gate) * up)
        return x + down


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class PlainDecoder(nn.Module):
    """The same function as `proxy_models.model.Decoder`, in torch's own layers."""

    def __init__(self, source: Decoder) -> None:
        super().__init__()
        config = source.config
        self.embedding = nn.Embedding(*source.embedding.shape)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.layers))
        self.norm_in, self.norm_out = (nn.RMSNorm(config.d_model, 1e-6, False) for _ in range(2))
        self.register_buffer("bias", source.frequency.log())
        frequency = 10_000.0 ** (-torch.arange(0, config.d_model // config.heads, 2) * config.heads / config.d_model)
        angle = torch.outer(torch.arange(config.seq_len), frequency)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        with torch.no_grad():
            self.embedding.weight.copy_(source.embedding)
            for mine, theirs in zip(self.blocks, source.blocks, strict=True):
                for name in ("qkv", "out", "gate_up", "down"):
                    getattr(mine, name).weight.copy_(getattr(theirs, name))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm_in(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.linear(self.norm_out(x), self.embedding.weight, self.get_buffer("bias"))


def plain_fit(config: ProxyConfig, vocab_size: int, tokens: Tokens) -> list[float]:
    inputs, targets = rows_of(tokens, config.seq_len, vocab_size)
    source = Decoder(config, vocab_size, seed=0)
    source.frequency.copy_(frequencies(targets, vocab_size))
    model = PlainDecoder(source)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, eps=1e-10, weight_decay=config.weight_decay
    )
    losses = []
    batches = batches_of(len(inputs), config.batch, seed=0)
    for step, batch in enumerate(batches):
        rows = torch.from_numpy(batch)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * schedule(step, len(batches), config.warmup)
        loss = F.cross_entropy(model(inputs[rows]).flatten(0, 1), targets[rows].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        losses.append(loss.item() * len(batch) * config.seq_len)
    points = np.array_split(np.array(losses), CURVE_POINTS)
    sizes = np.array_split(np.array([len(batch) * config.seq_len for batch in batches]), CURVE_POINTS)
    return [float(p.sum() / s.sum()) for p, s in zip(points, sizes, strict=True)]


def generated(n: int, vocab: int) -> Tokens:
    """Zipf words; each follows its predecessor's fixed successor half of the time."""
    generator = np.random.Generator(np.random.PCG64(0))
    weights = 1.0 / (np.arange(vocab) + 8.0)
    words = generator.choice(vocab, size=n, p=weights / weights.sum())
    successor, follows = generator.permutation(vocab), generator.random(n) < 0.5
    for i in range(1, n):
        if follows[i]:
            words[i] = successor[words[i - 1]]
    return words.astype(np.uint16)


def matmul_peak() -> float:
    """GFLOP/s of a 1,024-cubed float32 product on one thread."""
    a = torch.randn(1024, 1024)
    started = time.process_time()
    for _ in range(8):
        a @ a
    return 8 * 2 * 1024**3 / (time.process_time() - started) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--segment", help="a token segment to read from (proxy_models.data.write_segment)")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of ProxyConfig")
    arguments = parser.parse_args()
    fields: dict[str, Any] = {
        k: json.loads(v) if v[0].isdigit() else v for k, v in (s.split("=") for s in arguments.set)
    }
    config = ProxyConfig(**fields)
    if config.optimiser != "adamw":
        raise SystemExit("the plain loop has AdamW only")
    if arguments.segment:
        pool = TokenPool([arguments.segment])
        tokens = pool.gather(np.arange(pool.n_docs))[: arguments.tokens + 1]
    else:
        tokens = generated(arguments.tokens + 1, arguments.vocab)
    ours, plain, peak = [], [], 0.0
    with one_thread():
        for _ in range(arguments.repeats):
            peak = max(peak, matmul_peak())
            started = time.process_time()
            _, curve = fit(config, arguments.vocab, tokens, init_seed=0, order_seed=0)
            ours.append(time.process_time() - started)
            started = time.process_time()
            plain_curve = plain_fit(config, arguments.vocab, tokens)
            plain.append(time.process_time() - started)
    gap = max(abs(loss / other - 1.0) for (_, loss), other in zip(curve, plain_curve, strict=True))
    seen = curve[-1][0]
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, peak {peak:.0f} GFLOP/s"
    )
    print(f"proxy {config.model_dump(exclude={'preset'})}")
    print(f"ours   {seen / min(ours):9,.0f} tokens/s/core, {min(ours):.2f} CPU s for {seen:,} tokens")
    print(f"plain  {seen / min(plain):9,.0f} tokens/s/core, {min(plain):.2f} CPU s")
    print(f"ratio  {min(plain) / min(ours):.2f}, median of pairs {np.median(np.array(plain) / np.array(ours)):.2f}")
    print(f"curves {'agree' if gap <= 1e-3 else 'DIFFER'}: largest relative gap {gap:.1e}")
    if gap > 1e-3:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
