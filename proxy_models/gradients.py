"""Three pieces of the decoder with gradients written by hand, because their arrays are what a small proxy waits for.

`head_loss` never holds the logits of all positions at once (2,048 entries each, against 64 in the model). The idea is
that of fused linear cross-entropy (Liger kernel, arXiv 2410.10989): loss and gradients in one go, block by block. Here
everything that can be moved off the logits is: with word probabilities p as the head's bias,
softmax(h E^T + log p) = exp(h E^T) p / (exp(h E^T) p summed), so p scales the rows of E, and the sums scale the rows
of h. `rms_norm` and `swiglu` save passes that autograd would make.

Two orders of the same sums. By rows, for vocabularies of a few thousand: a block of rows against all of E. By tiles of
the vocabulary, for more: E would be read from memory anew for every block of rows, so a tile of E stays in the cache
and meets a panel of rows. E's gradient needs the sums over all tiles; the exponentials of the panel are kept until
then. That is the least a head can do, three products; computing them twice instead took 1.3 times as long.

What is left beside the products is exponentials. They are powers of two, of logits in units of log 2: torch takes .3
to .8 of the time for them that it takes for powers of e, by processor. Bounded logits need no maximum first. Rows of
the exponentials are a little apart in memory: at distances of a power of two, a column of them meets in one set of the
cache, and the product that reads columns takes a third longer.

On processors with units for it, products can be of bfloat16 numbers. torch rounds what comes out of them as well
(logits, and each block's part of a sum); exponentials, their sums and the sums of parts are float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128  # positions: 128 x 2,048 float32 logits are 1 MiB, a server core's second-level cache
ROWWISE = 4096  # words: up to here E is small enough to be read for every block of rows
TILE = 1024  # words
TILE_ROWS = 256  # positions: 256 x 1,024 float32 exponentials are 1 MiB
PANEL_ROWS = 512  # positions: their exponentials are kept for all tiles, 64 MiB at 32,768 words
PANEL_BYTES = 2**27  # at most, for larger vocabularies
SAFE_LOGIT = 64.0  # exp of it, summed over millions of words, is far from float32's end on either side
EPSILON = 1e-6
LOG2_E, LOG_2 = 1.0 / math.log(2.0), math.log(2.0)
GAP = 32  # entries, a cache line or two: between a row of exponentials and the next


def head_loss(
    hidden: Tensor,
    embedding: Tensor,
    frequency: Tensor,
    targets: Tensor,
    grad_embedding: Tensor,
    share: float = 1.0,
    products: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """share times the mean over positions of -log softmax(hidden @ embedding.T + log frequency)[target].

    hidden: (n, d); embedding: (vocab, d); frequency: (vocab,) positive, a constant; targets: (n,) int64 -> the scalar
    and its gradient by `hidden`, (n, d). Its gradient by `embedding` is added to `grad_embedding`: an array of that
    size is not made, filled, scaled and added for every micro batch. products: what is multiplied is rounded to this
    type first; not at all without it.
    """
    with torch.no_grad():
        head = _Head(embedding, frequency, products or embedding.dtype)
        weight = share / len(targets)
        safe = _bounded(hidden, embedding)
        if safe and len(embedding) > ROWWISE:
            normaliser, grad_hidden = _by_tiles(hidden, head, weight, grad_embedding)
        else:
            normaliser, grad_hidden = _by_rows(hidden, head, weight, grad_embedding, safe)
        rows = embedding[targets]
        grad_hidden.sub_(rows, alpha=weight)
        grad_embedding.index_add_(0, targets, hidden, alpha=-weight)
        wanted = rows.mul_(hidden).sum(dim=1).add_(frequency[targets].log())
        return normaliser.sub_(wanted).sum().mul_(weight), grad_hidden


def token_losses(hidden: Tensor, embedding: Tensor, frequency: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(...)[target] of every position, without gradient: (n,). The maximum is always taken off: a
    position's value has the same bits whatever else is asked for."""
    with torch.no_grad():
        wanted = (hidden * embedding[targets]).sum(dim=1).add_(frequency[targets].log())
        normaliser = torch.empty_like(wanted)
        block = _block(len(embedding), hidden.device)
        scratch = _apart(min(len(targets), block), len(embedding), hidden.dtype, hidden.device)
        for begin in range(0, len(targets), block):
            part = slice(begin, begin + block)
            _, highest, mass = _exponentials(hidden[part] * LOG2_E, embedding, frequency, scratch, scratch, False)
            torch.add(mass.log_(), highest, out=normaliser[part])
        return normaliser.sub_(wanted)


def rms_norm(x: Tensor) -> Tensor:
    """x / root mean square over the last axis."""
    if not torch.is_grad_enabled():  # the same bits, of operations that have a forward-mode derivative
        return x * _inverse_root_mean_square(x)
    normed: Tensor = _RmsNorm.apply(x)  # type: ignore[no-untyped-call]
    return normed


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where gate_up holds both side by side: (..., 2 f) -> (..., f)."""
    if not torch.is_grad_enabled():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    product: Tensor = _SwiGlu.apply(gate_up)  # type: ignore[no-untyped-call]
    return product


class _Head:
    """What the sums over words need of a head; `words` and `weighted`, rows times frequency, only enter products."""

    def __init__(self, embedding: Tensor, frequency: Tensor, products: torch.dtype) -> None:
        self.frequency = frequency
        self.words = embedding.to(products)
        self.weighted = (embedding * frequency[:, None]).to(products)

    def __len__(self) -> int:
        return len(self.words)


def _exponentials(
    scaled: Tensor, words: Tensor, frequency: Tensor, scratch: Tensor, out: Tensor, safe: bool
) -> tuple[Tensor, Tensor | float, Tensor]:
    """exp(h E^T - highest), the highest product of each row, and the row sums weighted by frequency.

    scaled: h LOG2_E. out: an array of at least as many rows, of the type of both factors, which gets the exponentials:
    made anew for every block, its pages are what the product waits for. scratch: the same array, or a float32 one where
    `out` is rounded. safe: products are bounded, and nothing is subtracted.
    """
    out = torch.mm(scaled, words.T, out=out[: len(scaled)])
    logits = out if scratch.dtype is out.dtype else scratch[: len(scaled)].copy_(out)
    highest: Tensor | float = 0.0
    if not safe:
        largest = logits.amax(dim=1)
        logits.sub_(largest[:, None])
        highest = largest.mul_(LOG_2)
    mass = torch.mv(logits.exp2_(), frequency)
    return (out if logits is out else out.copy_(logits)), highest, mass


def _by_rows(hidden: Tensor, head: _Head, weight: float, grad_embedding: Tensor, safe: bool) -> tuple[Tensor, Tensor]:
    """Log of the normaliser of every row, (n,), and `weight` times the gradients of their sum by hidden, (n, d).

    The gradient by the embedding is added to `grad_embedding`.
    """
    n, products = len(hidden), head.words.dtype
    scaled = (hidden * LOG2_E).to(products)
    grad_hidden = torch.empty_like(hidden)
    grad_weighted = torch.zeros_like(grad_embedding)
    normaliser = hidden.new_empty(n)
    block = _block(len(head), hidden.device)
    scratch = _apart(min(n, block), len(head), hidden.dtype, hidden.device)
    rounded = scratch if products is hidden.dtype else _apart(len(scratch), len(head), products, hidden.device)
    for begin in range(0, n, block):
        part = slice(begin, begin + block)
        exponentials, highest, mass = _exponentials(scaled[part], head.words, head.frequency, scratch, rounded, safe)
        scale = (weight / mass)[:, None]
        torch.add(mass.log_(), highest, out=normaliser[part])
        torch.mul(torch.mm(exponentials, head.weighted), scale, out=grad_hidden[part])
        _add_product(grad_weighted, exponentials.T, hidden[part] * scale)
    grad_embedding.addcmul_(grad_weighted, head.frequency[:, None])
    return normaliser, grad_hidden


def _by_tiles(hidden: Tensor, head: _Head, weight: float, grad_embedding: Tensor) -> tuple[Tensor, Tensor]:
    """As `_by_rows`, for logits within SAFE_LOGIT: nothing is subtracted before they are exponentiated."""
    n, vocab, products = len(hidden), len(head), head.words.dtype
    panel = _panel(vocab)
    tiles = [slice(begin, min(begin + TILE, vocab)) for begin in range(0, vocab, TILE)]
    scaled = (hidden * LOG2_E).to(products)
    mass = hidden.new_zeros(n)
    grad_hidden = torch.zeros_like(hidden)
    grad_weighted = torch.zeros_like(grad_embedding)
    kept = [_apart(min(n, panel), tile.stop - tile.start, products, hidden.device) for tile in tiles]
    scratch = hidden.new_empty(min(n, TILE_ROWS) if products is not hidden.dtype else 0, TILE)
    for begin in range(0, n, panel):
        end = min(begin + panel, n)
        for tile, exponentials in zip(tiles, kept, strict=True):
            for first in range(begin, end, TILE_ROWS):
                part = slice(first, min(first + TILE_ROWS, end))
                block = exponentials[part.start - begin : part.stop - begin]
                full = block if products is hidden.dtype else scratch[:, : block.shape[1]]
                _, _, sums = _exponentials(scaled[part], head.words[tile], head.frequency[tile], full, block, True)
                mass[part].add_(sums)
                _add_product(grad_hidden[part], block, head.weighted[tile])
        part = slice(begin, end)
        scale = (weight / mass[part])[:, None]
        grad_hidden[part].mul_(scale)
        divided = (hidden[part] * scale).to(products)
        for tile, exponentials in zip(tiles, kept, strict=True):
            _add_product(grad_weighted[tile], exponentials[: end - begin].T, divided)
    grad_embedding.addcmul_(grad_weighted, head.frequency[:, None])
    return mass.log_(), grad_hidden


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, the right one rounded as the left one is; the sum is of total's type."""
    if left.dtype is total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left, right.to(left.dtype)))


def _panel(vocab: int) -> int:
    """Positions whose exponentials of all words may be in memory at once."""
    return max(BLOCK, min(PANEL_BYTES // (4 * vocab), PANEL_ROWS))


def _block(vocab: int, device: torch.device) -> int:
    """Positions of a block of `_by_rows`: what fits a core's cache, or on a GPU few large products."""
    return BLOCK if device.type == "cpu" else _panel(vocab)


def _apart(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An array to be filled, (rows, columns), with GAP entries between its rows."""
    return torch.empty(rows, columns + GAP, dtype=dtype, device=device)[:, :columns]


def _bounded(hidden: Tensor, embedding: Tensor) -> bool:
    """Whether every |h . e| is at most SAFE_LOGIT for certain (Cauchy-Schwarz). A GPU is not asked: the answer would be
    waited for in every micro batch."""
    if hidden.device.type != "cpu":
        return False
    return float(hidden.norm(dim=1).amax() * embedding.norm(dim=1).amax()) <= SAFE_LOGIT


def _inverse_root_mean_square(x: Tensor) -> Tensor:
    return (x * x).mean(dim=-1, keepdim=True).add_(EPSILON).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = _inverse_root_mean_square(x)
        normed = x * inverse
        ctx.save_for_backward(normed, inverse)
        return normed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (gradient,) = upstream
        normed, inverse = ctx.saved_tensors
        along = (gradient * normed).mean(dim=-1, keepdim=True)
        return torch.addcmul(gradient, normed, along, value=-1.0).mul_(inverse)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        silu = F.silu(gate)
        ctx.save_for_backward(gate_up, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (gradient,) = upstream
        gate_up, silu = ctx.saved_tensors
        width = gradient.shape[-1]
        gate, up = gate_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_up)  # autograd would make two halves and then put them together
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=both[..., :width])
        torch.mul(gradient, silu, out=both[..., width:])
        return both
