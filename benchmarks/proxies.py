"""Tokens per second and core of a proxy, against the plain PyTorch loop of the same model on the same rows.

    python -m benchmarks.proxies [--shapes small,large] [--repeats 3] [--set d_model=64 ...]

small: two layers of 64 under a vocabulary of 4,096; large: RegMix's 1M shape under 32,768. `--set` changes fields of
either. The plain loop is what one writes first: torch's own layers, fused attention, `cross_entropy` on all logits, the
default AdamW; batches beyond 8,192 positions add up their gradients. Both start from the same weights and see the same
batches; their loss curves must agree to 1e-3, and to 5e-3 where ours multiplies in bfloat16 (`precision`), which it
also does here where the processor has units for that. Runs are interleaved, times are CPU seconds, and a ratio is the
median over the pairs: what neighbours on the machine slow down is then mostly the same for both. The goal is for the
better precision of those that this processor has. Then:

- the floor: the time of nothing but the matrix products that no exact loop can do without, each at the rate that its
  shape reaches here, so what ratio is possible at all;
- which operations our time goes to;
- how much faster as many processes as there are cores are than one (wall clock of training alone, all starting
  together), beside the same for large products: two hardware threads of one core share its multipliers.

The exit code is 1 where curves differ or a goal is missed. Text is generated, words of a Zipf law with bigram
structure: speed does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxy_models.data import Tokens
from proxy_models.gradients import BLOCK, PANEL_ROWS, ROWWISE, TILE, TILE_ROWS
from proxy_models.model import Decoder
from proxy_models.train import (
    CURVE_POINTS,
    MICRO_POSITIONS,
    batches_of,
    fit,
    frequencies,
    one_thread,
    rows_of,
    schedule,
)
from quadmix.config_proxy import ProxyConfig
from quadmix.stages.plan_probe import has_bfloat16

Curve = list[float]  # mean losses of equal parts of a training

PLAIN_POSITIONS = 8192  # in one backward pass of the plain loop: a gigabyte of logits at 32,768 words


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
                    getattr(mine, name).weight.copy_(getattr(theirs, name).weight)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm_in(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.linear(self.norm_out(x), self.embedding.weight, self.get_buffer("bias"))


def plain_fit(config: ProxyConfig, vocab_size: int, tokens: Tokens) -> Curve:
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
        for group in optimiser.param_groups:
            group["lr"] = config.lr * schedule(step, len(batches), config.warmup)
        optimiser.zero_grad()
        value = 0.0
        for rows in torch.split(torch.from_numpy(batch), max(1, PLAIN_POSITIONS // config.seq_len)):
            loss = F.cross_entropy(model(inputs[rows]).flatten(0, 1), targets[rows].flatten())
            (loss * (len(rows) / len(batch))).backward()  # type: ignore[no-untyped-call]
            value += loss.item() * len(rows)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        losses.append(value * config.seq_len)
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


@dataclass(frozen=True)
class Product:
    """`batch` products of (rows, inner) by (inner, columns); flops: of all of its kind, for one trained token."""

    batch: int
    rows: int
    inner: int
    columns: int
    flops: float

    def rate(self) -> float:
        """FLOP/s on one thread, the better of two tries of some tens of milliseconds."""
        left = torch.randn(self.batch, self.rows, self.inner)
        right = torch.randn(self.batch, self.inner, self.columns)
        out = torch.empty(self.batch, self.rows, self.columns)
        once = 2.0 * self.batch * self.rows * self.inner * self.columns
        times = max(1, round(2e9 / once))
        best = 0.0
        for _ in range(2):
            started = time.process_time()
            for _ in range(times):
                torch.bmm(left, right, out=out)
            best = max(best, times * once / (time.process_time() - started))
        return best


LARGE = Product(1, 1024, 1024, 1024, 0.0)


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

    def products(self) -> list[Product]:
        """The matrix products behind `flops`, in the shapes that ours multiplies."""
        c, d = self.config, self.config.d_model
        n = min(c.batch * c.seq_len, MICRO_POSITIONS)
        tile, block, panel = (TILE, TILE_ROWS, PANEL_ROWS) if self.vocab > ROWWISE else (self.vocab, BLOCK, BLOCK)
        head = [(block, d, tile), (block, tile, d), (tile, panel, d)]
        found = [Product(1, *sizes, 2.0 * self.vocab * d) for sizes in head]
        for inputs, outputs in ((d, 3 * d), (d, d), (d, 2 * c.d_ff), (c.d_ff, d)):
            body = [(n, inputs, outputs), (n, outputs, inputs), (outputs, n, inputs)]
            found += [Product(1, *sizes, 2.0 * c.layers * inputs * outputs) for sizes in body]
        # attention, half of each square: scores and their gradient; values, and the gradients of queries, keys, values
        side, width = min(c.seq_len, 256), d // c.heads
        half = c.layers * c.seq_len * d
        return [
            *found,
            Product(c.heads, side, width, side, 2.0 * half),
            Product(c.heads, side, side, width, 4.0 * half),
        ]


def shapes(changes: dict[str, Any]) -> dict[str, Shape]:
    small = {"preset": "custom", "d_model": 64, "layers": 2, "heads": 2, "d_ff": 192, "seq_len": 64, "batch": 16}
    # RegMix's batch of 512 rows would be one step of hours here; the optimiser's part is a little too large with 4
    large = {"preset": "regmix_1m", "batch": 4, "warmup": 0}
    return {
        "small": Shape(ProxyConfig(**{**small, **changes}), 4096, 40_000, 1.3),
        "large": Shape(ProxyConfig(**{**large, **changes}), 32_768, 16 * 2048, 1.7),
    }


def train(shape: Shape, tokens: Tokens) -> Curve:
    """Ours, its curve."""
    return [loss for _, loss in fit(shape.config, shape.vocab, tokens, init_seed=0, order_seed=0)[1]]


def compare(name: str, shape: Shape, repeats: int) -> bool:
    """Time one shape; whether the curves agree and the goal is met."""
    tokens = generated(shape.tokens + 1, shape.vocab)
    products, rates, large = shape.products(), [0.0] * len(shape.products()), 0.0
    with_units = has_bfloat16() and shape.config.precision == "float32"
    precisions = ["float32", "bfloat16"] if with_units else [shape.config.precision]
    shaped = {each: replace(shape, config=shape.config.model_copy(update={"precision": each})) for each in precisions}
    loops = {each: partial(train, one) for each, one in shaped.items()}
    loops["plain"] = partial(plain_fit, shape.config, shape.vocab)
    seconds: dict[str, list[float]] = {loop: [] for loop in loops}
    curves = {}
    for run in loops.values():  # the first training of a process pays for loading; workers train many
        run(tokens[: len(tokens) // 8 + 1])
    for _ in range(repeats):
        large = max(large, LARGE.rate())
        rates = [max(rate, product.rate()) for rate, product in zip(rates, products, strict=True)]
        for loop, run in loops.items():
            started = time.process_time()
            curves[loop] = run(tokens)
            seconds[loop].append(time.process_time() - started)
    seen = shape.tokens // shape.config.seq_len * shape.config.seq_len
    print(f"\n{name}: {shape.config.model_dump(exclude={'preset', 'precision'})}, vocabulary {shape.vocab:,}")
    for loop, times in seconds.items():
        speed = seen / min(times)
        label = "plain" if loop == "plain" else f"ours, {loop}"
        print(f"{label:<14} {speed:9,.0f} tokens/s/core, {shape.flops * speed / 1e9:.0f} GFLOP/s")
    best, agree = 0.0, True
    for precision in precisions:
        ratios = sorted(theirs / mine for theirs, mine in zip(seconds["plain"], seconds[precision], strict=True))
        ratio = statistics.median(ratios)
        gap, bound = apart(curves[precision], curves["plain"]), 1e-3 if precision == "float32" else 5e-3
        best, agree = max(best, ratio * (gap <= bound)), agree and gap <= bound
        verdict = f"curve {'agrees' if gap <= bound else 'DIFFERS'}: largest relative gap {gap:.1e}"
        print(
            f"{precision:<14} {ratio:.2f} times the plain loop (pairs {ratios[0]:.2f} to {ratios[-1]:.2f}), {verdict}"
        )
    print(f"goal           {shape.goal}: {'met' if best >= shape.goal else 'MISSED'}")
    floor = sum(product.flops / rate for product, rate in zip(products, rates, strict=True))
    mine, theirs = (min(seconds[loop]) / seen for loop in (precisions[0], "plain"))
    rate = f"{shape.flops / floor / 1e9:.0f} GFLOP/s, a large product's {large / 1e9:.0f}"
    print(f"floor          {1 / floor:9,.0f} tokens/s/core by float32 matrix products alone ({rate})")
    taken = f"ours in {precisions[0]} takes {mine / floor:.2f} times as long"
    print(f"               they would be {theirs / floor:.2f} times the plain loop; {taken}")
    for precision, one in shaped.items():
        where_time_goes(precision, one, tokens)
    return agree and best >= shape.goal


def apart(curve: Curve, other: Curve) -> float:
    """The largest relative gap between two curves."""
    return max(abs(loss / theirs - 1.0) for loss, theirs in zip(curve, other, strict=True))


def where_time_goes(precision: str, shape: Shape, tokens: Tokens) -> None:
    """The operations of ours that take most of its CPU time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(shape, tokens[: len(tokens) // 4 + 1])
    table = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in table)
    parts = [f"{row.key.removeprefix('aten::')} {row.self_cpu_time_total / total:.0%}" for row in table[:8]]
    print(f"time           of {precision}: {', '.join(parts)}", flush=True)


def scaling(name: str, changes: list[str]) -> None:
    """Wall clock of one process and of one a core, each with work of its own; print the gain."""
    cores, walls = os.cpu_count() or 1, []
    for processes in (1, cores):
        command = [sys.executable, "-m", "benchmarks.proxies", "--one", name, "--set", *changes]
        running = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()  # it has started and is warm
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        seconds = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit("a process of the scaling run failed")
        walls.append(statistics.mean(float(text) for text in seconds))
    print(f"{name}: {cores} processes do {cores * walls[0] / walls[1]:.2f} times the work of one", flush=True)


def one(name: str, chosen: dict[str, Shape]) -> None:
    """A process of `scaling`: get ready, wait for the start, print the wall seconds of the work."""

    def work(part: int) -> None:
        if name in chosen:
            train(chosen[name], tokens[: len(tokens) // part + 1])
        else:
            for _ in range(200 // part):
                LARGE.rate()

    tokens = generated(chosen[name].tokens + 1, chosen[name].vocab) if name in chosen else np.zeros(0, np.uint16)
    work(8)
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    work(1)
    print(time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="small,large")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of ProxyConfig")
    parser.add_argument("--one", metavar="NAME", help="one process of the scaling run: a shape, or `products`")
    arguments = parser.parse_args()
    changes = {k: json.loads(v) if v[0].isdigit() else v for k, v in (s.split("=") for s in arguments.set)}
    chosen = {name: shapes(changes)[name] for name in arguments.shapes.split(",")}
    if any(shape.config.optimiser != "adamw" for shape in chosen.values()):
        raise SystemExit("the plain loop has AdamW only")
    with one_thread():
        if arguments.one:
            one(arguments.one, chosen)
            return
        print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
        met = [compare(name, shape, arguments.repeats) for name, shape in chosen.items()]
        print()
        for name in (*chosen, "products"):
            scaling(name, arguments.set)
    raise SystemExit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
