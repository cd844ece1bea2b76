"""Training one proxy on one stream of tokens, and its loss on held-out text.

The stream is cut into rows once; `order_seed` permutes the rows, `init_seed` draws the weights, and nothing else is
random. The learning rate warms up and then falls linearly to zero: the last iterate is then as good as an average,
which halves the noise between seeds. A loss that is not finite ends the run as `failed`, never as a number.

One thread: a proxy is far too small for more, and the order of float additions stays the same on every machine of
one kind. Two processes with a thread each beat one process with two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from proxy_models.completions import HeldOut
from proxy_models.data import Tokens
from proxy_models.gradients import head_loss, token_losses
from proxy_models.model import Decoder
from proxy_models.optimiser import Optimiser
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import InputError

EVAL_POSITIONS = 8192  # positions evaluated at once
MICRO_POSITIONS = 4096  # positions in one backward pass: larger batches add up their gradients
CURVE_POINTS = 20


@dataclass(frozen=True)
class TrainResult:
    """What became of one proxy.

    losses: nats per token of every held-out set, end tokens included; bits_per_byte: the same over its UTF-8 bytes.
    tokens_seen: training targets. curve: (tokens seen, mean training loss since the last point), at most 20 points.
    A failed proxy has a reason and no losses.
    """

    status: Literal["ok", "failed"]
    losses: dict[str, float]
    bits_per_byte: dict[str, float]
    tokens_seen: int
    curve: tuple[tuple[int, float], ...]
    reason: str = ""


class Diverged(Exception):
    """The training loss stopped being finite."""

    def __init__(self, step: int, steps: int, curve: tuple[tuple[int, float], ...]) -> None:
        super().__init__(f"loss is not finite at step {step} of {steps}")
        self.curve = curve


def train_proxy(
    config: ProxyConfig,
    vocab_size: int,
    tokens: Tokens,
    *,
    init_seed: int,
    order_seed: int,
    eval_sets: Mapping[str, HeldOut],
    device: str = "cpu",
) -> TrainResult:
    """Train a fresh decoder on `tokens` (1-D packed stream, seen once) and evaluate it on every held-out set.

    Same arguments, machine and library versions give the same bits on a CPU. Raises InputError when the stream is
    shorter than one row or holds tokens outside the vocabulary.
    """
    with one_thread():
        try:
            model, curve = fit(config, vocab_size, tokens, init_seed=init_seed, order_seed=order_seed, device=device)
        except Diverged as error:
            return TrainResult("failed", {}, {}, 0, error.curve, str(error))
        losses = {name: evaluate(model, held_out) for name, held_out in eval_sets.items()}
    seen = curve[-1][0]
    broken = sorted(name for name, loss in losses.items() if not math.isfinite(loss))
    if broken:
        return TrainResult("failed", {}, {}, seen, curve, f"loss on {', '.join(broken)} is not finite")
    bits = {name: eval_sets[name].bits_per_byte(loss) for name, loss in losses.items()}
    return TrainResult("ok", losses, bits, seen, curve)


def fit(
    config: ProxyConfig,
    vocab_size: int,
    tokens: Tokens,
    *,
    init_seed: int,
    order_seed: int,
    device: str = "cpu",
    start: Decoder | None = None,
) -> tuple[Decoder, tuple[tuple[int, float], ...]]:
    """The trained decoder and its curve (see TrainResult). start: a decoder of the same sizes to begin from, word
    frequencies included, in place of drawn weights; it stays as it is. Raises Diverged, InputError."""
    inputs, targets = rows_of(tokens, config.seq_len, vocab_size)
    batches = batches_of(len(inputs), config.batch, order_seed)
    model = Decoder(config, vocab_size, init_seed)
    if start is None:
        model.frequency.copy_(frequencies(targets, vocab_size))
    else:
        model.load_state_dict(start.state_dict())
    model.to(device)
    optimiser = Optimiser(model, config)
    inputs, targets = inputs.to(device), targets.to(device)
    curve: list[tuple[int, float]] = []
    points = {int(part[-1]) for part in np.array_split(np.arange(len(batches)), CURVE_POINTS) if part.size}
    seen, since, total = 0, 0, 0.0
    for step, batch in enumerate(batches):
        losses = [
            backward(model, inputs[rows], targets[rows], len(rows) / len(batch))
            for rows in torch.split(torch.from_numpy(batch).to(device), max(1, MICRO_POSITIONS // config.seq_len))
        ]
        value = float(torch.stack(losses).sum())  # once a step: a GPU is waited for here
        if not math.isfinite(value):
            raise Diverged(step, len(batches), tuple(curve))
        optimiser.step(schedule(step, len(batches), config.warmup))
        seen += len(batch) * config.seq_len
        since += len(batch) * config.seq_len
        total += value * len(batch) * config.seq_len
        if step in points:
            curve.append((seen, total / since))
            since, total = 0, 0.0
    return model, tuple(curve)


def backward(model: Decoder, inputs: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
    """Add the gradients of `share` times the mean loss over (rows, seq_len) positions; returns that product.

    The embedding's gradient stays out of autograd, which would fill and add an array of the embedding's size for the
    head and one more for the rows that were looked up.
    """
    embedding = model.embedding
    if embedding.grad is None:
        embedding.grad = torch.zeros_like(embedding)
    looked_up = embedding.detach()[inputs].requires_grad_()
    halved = model.config.precision == "bfloat16"
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=halved):
        hidden = model.body(looked_up)
    loss, gradient = head_loss(
        hidden.detach().flatten(0, 1),
        embedding,
        model.frequency,
        targets.flatten(),
        embedding.grad,
        share,
        torch.bfloat16 if halved else None,
    )
    hidden.backward(gradient.view_as(hidden))  # type: ignore[no-untyped-call]
    assert looked_up.grad is not None
    embedding.grad.index_add_(0, inputs.flatten(), looked_up.grad.flatten(0, 1))
    return loss


def schedule(step: int, steps: int, warmup: int) -> float:
    """Factor on the learning rate: linear up over `warmup` steps (at most a tenth of all), then linear to zero."""
    warmup = min(warmup, steps // 10)
    return min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup))


def rows_of(tokens: Tokens, seq_len: int, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, each (rows, seq_len) int64: row i predicts tokens[1 + i*seq_len : 1 + (i+1)*seq_len].

    Every token but the first is a target exactly once; a tail shorter than a row is left out.
    """
    rows = (len(tokens) - 1) // seq_len
    if rows < 1:
        raise InputError(f"found a training stream of {len(tokens)} tokens, wanted at least {seq_len + 1} (one row)")
    if int(tokens.max()) >= vocab_size:
        raise InputError(f"found token {tokens.max()} in a training stream, wanted less than {vocab_size}")
    stream = torch.from_numpy(tokens[: rows * seq_len + 1].astype(np.int64))
    return stream[:-1].view(rows, seq_len), stream[1:].view(rows, seq_len)


def batches_of(rows: int, batch: int, seed: int) -> list[NDArray[np.int64]]:
    """A permutation of 0..rows-1 in batches as equal as can be: no last step rests on a handful of sequences."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(rows)
    return np.array_split(order, max(1, round(rows / batch)))


def frequencies(targets: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Shares of the vocabulary in the training targets, half a count added to every entry: (vocab_size,) float32."""
    counts = torch.bincount(targets.flatten(), minlength=vocab_size).double() + 0.5
    return (counts / counts.sum()).float()


def evaluate(model: Decoder, held_out: HeldOut) -> float:
    """Mean nats per token over every token of the set that counts (see its `rows`). NaN stays NaN."""
    seq_len, device = model.config.seq_len, model.embedding.device
    rows = held_out.rows(seq_len)
    highest = int(max(rows.inputs.max(), rows.targets.max()))
    if highest >= len(model.embedding):
        raise InputError(f"found held-out token {highest}, wanted less than {len(model.embedding)}")
    inputs, targets, counted = (torch.from_numpy(part) for part in (rows.inputs, rows.targets, rows.counted))
    total = 0.0
    rows_at_once = max(1, EVAL_POSITIONS // seq_len)
    with torch.inference_mode():
        for begin in range(0, len(inputs), rows_at_once):
            part = slice(begin, begin + rows_at_once)
            mask = counted[part].flatten().to(device)
            wanted = targets[part].flatten().to(device)[mask]
            hidden = model.hidden(inputs[part].to(device)).flatten(0, 1)[mask]
            total += float(token_losses(hidden, model.embedding, model.frequency, wanted).double().sum())
    return total / held_out.n_tokens


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside, as it was before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
