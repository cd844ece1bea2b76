"""AdamW, or Muon for the matrices of the blocks with AdamW for the rest.

Muon (Jordan et al., 2024): the momentum of every matrix is replaced by its nearest orthogonal matrix, found by a
Newton-Schulz iteration, so that all directions of a matrix learn at one speed. A proxy has a few hundred steps, and
the rare directions are what it would otherwise not learn in time. Stacked matrices (q, k, v; gate, up) are treated
one by one; those of equal shape run through the iteration as one batch.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from proxy_models.model import Block, Decoder
from quadmix.config_proxy import ProxyConfig

MOMENTUM = 0.95
# quintic coefficients of the reference implementation: steep at zero, five steps bring singular values near 1
QUINTIC = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest orthogonal matrices, roughly (singular values in about 0.7..1.2): (k, rows, columns) -> same shape."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(STEPS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Optimiser:
    """One step over all parameters of a decoder; `scale` is the schedule's factor on every learning rate."""

    def __init__(self, model: Decoder, config: ProxyConfig) -> None:
        self._config = config
        muon = config.optimiser == "muon"
        matrices = [m for block in model.blocks for m in _matrices(block)]
        embedding_lr = config.embedding_lr if muon else config.lr
        groups = [
            {"params": [model.embedding], "lr": embedding_lr, "weight_decay": config.weight_decay},
        ]
        if not muon:
            groups.append({"params": [m for m, _ in matrices], "lr": config.lr, "weight_decay": config.weight_decay})
        self._adam = torch.optim.AdamW(groups, betas=config.betas, eps=1e-10, fused=True)
        self._base = [group["lr"] for group in self._adam.param_groups]
        self._parameters = list(model.parameters())
        self._muon: list[tuple[list[tuple[Tensor, int]], Tensor]] = []
        if muon:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, int]]] = defaultdict(list)
            for matrix, stacked in matrices:
                by_shape[(len(matrix) // stacked, matrix.shape[1])].append((matrix, stacked))
            for (rows, columns), members in by_shape.items():
                count = sum(stacked for _, stacked in members)
                self._muon.append((members, members[0][0].new_zeros(count, rows, columns)))

    def step(self, scale: float) -> None:
        """Apply the gradients, then drop them."""
        torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip, foreach=True)
        for group, base in zip(self._adam.param_groups, self._base, strict=True):
            group["lr"] = base * scale
        self._adam.step()
        for members, momentum in self._muon:
            self._muon_step(members, momentum, self._config.lr * scale)
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def _muon_step(self, members: list[tuple[Tensor, int]], momentum: Tensor, lr: float) -> None:
        _, rows, columns = momentum.shape
        gradients = torch.cat([m.grad.view(-1, rows, columns) for m, _ in members if m.grad is not None])
        momentum.lerp_(gradients, 1.0 - MOMENTUM)
        update = orthogonalise(gradients.lerp_(momentum, MOMENTUM))  # Nesterov
        step = lr * max(1.0, rows / columns) ** 0.5
        for (matrix, _), part in zip(members, torch.split(update, [stacked for _, stacked in members]), strict=True):
            matrix.mul_(1.0 - lr * self._config.weight_decay).add_(part.reshape(matrix.shape), alpha=-step)


def _matrices(block: nn.Module) -> list[tuple[Tensor, int]]:
    """The block's matrices, each with the number of matrices that are stacked in it."""
    assert isinstance(block, Block)
    stacked = [(block.qkv, 3), (block.out, 1), (block.gate_up, 2), (block.down, 1)]
    return [(matrix.weight, count) for matrix, count in stacked]
