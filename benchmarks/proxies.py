"""Tokens per second and core of a proxy, against the plain PyTorch loop of the same model on the same rows.

    python -m benchmarks.proxies [--shapes small,large] [--repeats 3] [--set d_model=64 ...]

small: two layers of 64 under a vocabulary of 4,096; large: RegMix's 1M shape under 32,768. `--set` changes fields of
either. The plain loop is what one writes first: torch's own layers, fused attention, `cross_entropy` on all logits, the
default AdamW. Both start from the same weights and see the same batches; their loss curves must agree to 1e-3. Runs
are interleaved, times are CPU seconds, the best of the repeats counts. Then: the floating-point rate beside a large
matrix product's, which operations the time goes to, and how much faster two processes are than one (wall clock). The
exit code is 1 where curves differ or a goal is missed. Text is generated, words of a Zipf law with bigram structure:
speed does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxy_models.data import Tokens
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
    parts = min(CURVE_POINTS, len(batches))
    points = np.array_split(np.array(losses), parts)
    sizes = np.array_split(np.array([len(batch) * config.seq_len for batch in batches]), parts)
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


@dataclass(frozen=True)
class Shape:
    """A proxy to time. tokens: of one run; goal: the ratio per core that it should reach."""

    config: ProxyConfig
    vocab: int
    tokens: int
    goal: float

    @property
    def flops(self) -> float:
        """Of one trained token: six a weight (the head's included), and causal attention over half a row."""
        c = self.config
        weights = c.layers * (4 * c.d_model**2 + 3 * c.d_model * c.d_ff) + self.vocab * c.d_model
        return 6.0 * weights + 6.0 * c.layers * c.d_model * c.seq_len


def shapes(changes: dict[str, Any]) -> dict[str, Shape]:
    small = {"preset": "custom", "d_model": 64, "layers": 2, "heads": 2, "d_ff": 192, "seq_len": 64, "batch": 16}
    # RegMix's batch of 512 rows would be one step of hours here; the optimiser's part is a little too large with 4
    large = {"preset": "regmix_1m", "batch": 4, "warmup": 0}
    return {
        "small": Shape(ProxyConfig(**{**small, **changes}), 4096, 40_000, 1.3),
        "large": Shape(ProxyConfig(**{**large, **changes}), 32_768, 16 * 2048, 1.7),
    }


def train(shape: Shape, tokens: Tokens) -> tuple[tuple[int, float], ...]:
    """Ours, its curve."""
    return fit(shape.config, shape.vocab, tokens, init_seed=0, order_seed=0)[1]


def compare(name: str, shape: Shape, repeats: int) -> bool:
    """Time one shape; whether the curves agree and the goal is met."""
    tokens = generated(shape.tokens + 1, shape.vocab)
    ours, plain, peak = [], [], 0.0
    for _ in range(repeats):
        peak = max(peak, matmul_peak())
        started = time.process_time()
        curve = train(shape, tokens)
        ours.append(time.process_time() - started)
        started = time.process_time()
        plain_curve = plain_fit(shape.config, shape.vocab, tokens)
        plain.append(time.process_time() - started)
    gap = max(abs(loss / other - 1.0) for (_, loss), other in zip(curve, plain_curve, strict=True))
    seen, ratio = curve[-1][0], min(plain) / min(ours)
    rate = shape.flops * seen / min(ours) / 1e9
    print(f"\n{name}: {shape.config.model_dump(exclude={'preset'})}, vocabulary {shape.vocab:,}")
    print(f"ours   {seen / min(ours):9,.0f} tokens/s/core, {rate:.0f} GFLOP/s of {peak:.0f} in a large product")
    print(f"plain  {seen / min(plain):9,.0f} tokens/s/core")
    print(f"ratio  {ratio:.2f}, goal {shape.goal}: {'met' if ratio >= shape.goal else 'MISSED'}")
    print(f"curves {'agree' if gap <= 1e-3 else 'DIFFER'}: largest relative gap {gap:.1e}", flush=True)
    where_time_goes(shape, tokens)
    return gap <= 1e-3 and ratio >= shape.goal


def where_time_goes(shape: Shape, tokens: Tokens) -> None:
    """The operations of ours that take most of its CPU time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(shape, tokens[: len(tokens) // 4 + 1])
    table = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in table)
    parts = [f"{row.key.removeprefix('aten::')} {row.self_cpu_time_total / total:.0%}" for row in table[:8]]
    print(f"time   {', '.join(parts)}", flush=True)


def scaling(name: str, shape: Shape) -> None:
    """Wall clock of one process and of two at once, each with its own proxy."""
    walls = []
    for processes in (1, 2):
        started = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.proxies", "--shapes", name, "--one"]
        running = [subprocess.Popen(command) for _ in range(processes)]
        if any(process.wait() for process in running):
            raise SystemExit("a proxy of the scaling run failed")
        walls.append(time.monotonic() - started)
    print(f"{name}: two processes do {2 * walls[0] / walls[1]:.2f} times the work of one (start-up included)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="small,large")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of ProxyConfig")
    parser.add_argument("--one", action="store_true", help="train one proxy of ours and say nothing")
    arguments = parser.parse_args()
    changes = {k: json.loads(v) if v[0].isdigit() else v for k, v in (s.split("=") for s in arguments.set)}
    chosen = {name: shapes(changes)[name] for name in arguments.shapes.split(",")}
    if any(shape.config.optimiser != "adamw" for shape in chosen.values()):
        raise SystemExit("the plain loop has AdamW only")
    with one_thread():
        if arguments.one:
            for shape in chosen.values():
                train(shape, generated(shape.tokens + 1, shape.vocab))
            return
        print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
        met = [compare(name, shape, arguments.repeats) for name, shape in chosen.items()]
        print()
        for name, shape in chosen.items():
            scaling(name, shape)
    raise SystemExit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
