"""Three pieces of the decoder with gradients written by hand, because their arrays are what a small proxy waits for.

`head_loss` never holds the logits of all positions at once (2,048 entries each, against 64 in the model): a block of
them is exponentiated in the cache, multiplied into both gradients and forgotten. The idea is that of fused linear
cross-entropy (Liger kernel, arXiv 2410.10989); here everything that can be moved off the logits is: with word
probabilities p as the head's bias, softmax(h E^T + log p) = exp(h E^T) p / (exp(h E^T) p summed), so p scales the rows
of E, and the sums scale the rows of h. `rms_norm` and `swiglu` save passes that autograd would make.

Two orders of the same sums. By rows, for vocabularies of a few thousand: a block of rows against all of E. By tiles of
the vocabulary, for more: E would be read from memory anew for every block of rows, so a tile of E stays in the cache
and meets all rows, once for the sums and once more for the gradients; the logits computed twice cost less than what is
saved (256 x 32,768: 0.67 ms a position against 0.81, and 1.02 by torch's own layers).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # positions: 128 x 2,048 float32 logits are 1 MiB, a server core's second-level cache
ROWWISE = 4096  # words: up to here E is small enough to be read for every block of rows
TILE = 1024  # words
TILE_ROWS = 512  # positions: 512 x 1,024 float32 exponentials are 2 MiB
SAFE_LOGIT = 64.0  # exp of it, summed over millions of words, is far from float32's end on either side
EPSILON = 1e-6


def head_loss(hidden: Tensor, embedding: Tensor, frequency: Tensor, targets: Tensor) -> Tensor:
    """Mean over positions of -log softmax(hidden @ embedding.T + log frequency)[target].

    hidden: (n, d); embedding: (vocab, d); frequency: (vocab,) positive, a constant; targets: (n,) int64 -> scalar.
    """
    loss: Tensor = _HeadLoss.apply(hidden, embedding, frequency, targets)  # type: ignore[no-untyped-call]
    return loss


def token_losses(hidden: Tensor, embedding: Tensor, frequency: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(...)[target] of every position, without gradient: (n,)."""
    with torch.no_grad():
        wanted = (hidden * embedding[targets]).sum(dim=1).add_(frequency[targets].log())
        normaliser = torch.empty_like(wanted)
        transposed = embedding.T.contiguous()
        for begin in range(0, len(targets), BLOCK):
            part = slice(begin, begin + BLOCK)
            _, highest, mass = _exponentials(hidden[part], transposed, frequency)
            torch.add(mass.log_(), highest, out=normaliser[part])
        return normaliser.sub_(wanted)


def rms_norm(x: Tensor) -> Tensor:
    """x / root mean square over the last axis."""
    normed: Tensor = _RmsNorm.apply(x)  # type: ignore[no-untyped-call]
    return normed


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where gate_up holds both side by side: (..., 2 f) -> (..., f)."""
    product: Tensor = _SwiGlu.apply(gate_up)  # type: ignore[no-untyped-call]
    return product


def _exponentials(h: Tensor, transposed: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(h E^T - highest), the highest product of each row, and the row sums weighted by frequency."""
    logits = torch.mm(h, transposed)
    highest = logits.amax(dim=1)
    exponentials = logits.sub_(highest[:, None]).exp_()
    return exponentials, highest, torch.mv(exponentials, frequency)


def _by_rows(hidden: Tensor, embedding: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the normaliser of every row, and the gradients of their mean: (n,), (n, d), (vocab, d)."""
    n = len(hidden)
    transposed = embedding.T.contiguous()
    weighted = embedding * frequency[:, None]
    grad_hidden = torch.empty_like(hidden)
    grad_weighted = torch.zeros_like(transposed)
    normaliser = hidden.new_empty(n)
    for begin in range(0, n, BLOCK):
        part = slice(begin, begin + BLOCK)
        exponentials, highest, mass = _exponentials(hidden[part], transposed, frequency)
        scale = (n * mass).reciprocal_()[:, None]
        torch.add(mass.log_(), highest, out=normaliser[part])
        torch.mm(exponentials, weighted, out=grad_hidden[part]).mul_(scale)
        grad_weighted.addmm_((hidden[part] * scale).T, exponentials)
    return normaliser, grad_hidden, grad_weighted.T * frequency[:, None]


def _by_tiles(hidden: Tensor, embedding: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_by_rows`, for logits within SAFE_LOGIT: nothing is subtracted before they are exponentiated."""
    n, vocab = len(hidden), len(embedding)
    tiles = [slice(begin, min(begin + TILE, vocab)) for begin in range(0, vocab, TILE)]
    blocks = [slice(begin, min(begin + TILE_ROWS, n)) for begin in range(0, n, TILE_ROWS)]
    mass = hidden.new_zeros(n)
    for tile in tiles:
        words, shares = embedding[tile].T.contiguous(), frequency[tile]
        for part in blocks:
            mass[part].addmv_(torch.mm(hidden[part], words).exp_(), shares)
    scale = (n * mass).reciprocal()[:, None]
    scaled = (hidden * scale).T.contiguous()
    grad_hidden = torch.zeros_like(hidden)
    grad_embedding = torch.empty_like(embedding)
    for tile in tiles:
        words, shares = embedding[tile].T.contiguous(), frequency[tile]
        weighted = words.T * shares[:, None]
        grad_words = torch.zeros_like(words)
        for part in blocks:
            exponentials = torch.mm(hidden[part], words).exp_()
            grad_hidden[part].addmm_(exponentials, weighted)
            grad_words.addmm_(scaled[:, part], exponentials)
        torch.mul(grad_words.T, shares[:, None], out=grad_embedding[tile])
    return mass.log_(), grad_hidden.mul_(scale), grad_embedding


def _largest_logit(hidden: Tensor, embedding: Tensor) -> float:
    """An upper bound on |h . e| over all rows (Cauchy-Schwarz)."""
    return float(hidden.norm(dim=1).amax() * embedding.norm(dim=1).amax())


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, embedding: Tensor, frequency: Tensor, targets: Tensor) -> Tensor:
        n = len(targets)
        tiled = len(embedding) > ROWWISE and _largest_logit(hidden, embedding) <= SAFE_LOGIT
        order = _by_tiles if tiled else _by_rows
        normaliser, grad_hidden, grad_embedding = order(hidden, embedding, frequency)
        rows = embedding[targets]
        grad_hidden.sub_(rows, alpha=1.0 / n)
        grad_embedding.index_add_(0, targets, hidden, alpha=-1.0 / n)
        ctx.save_for_backward(grad_hidden, grad_embedding)
        wanted = rows.mul_(hidden).sum(dim=1).add_(frequency[targets].log())
        return normaliser.sub_(wanted).mean()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (scale,) = upstream
        grad_hidden, grad_embedding = ctx.saved_tensors
        return grad_hidden * scale, grad_embedding * scale, None, None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = (x * x).mean(dim=-1, keepdim=True).add_(EPSILON).rsqrt_()
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
        sigmoid = torch.exp(-gate).add_(1.0).reciprocal_()
        silu = gate * sigmoid
        ctx.save_for_backward(gate_up, sigmoid, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (gradient,) = upstream
        gate_up, sigmoid, silu = ctx.saved_tensors
        width = gradient.shape[-1]
        both = torch.empty_like(gate_up)
        slope = torch.addcmul(sigmoid, silu, 1.0 - sigmoid)  # d silu(gate) / d gate = s + silu (1 - s)
        torch.mul(gradient, gate_up[..., width:], out=both[..., :width]).mul_(slope)
        torch.mul(gradient, silu, out=both[..., width:])
        return both
