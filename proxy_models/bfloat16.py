"""The head's loss and gradients with bfloat16 products, for processors that have units for them.

Three products a block of positions, as in `proxy_models.gradients`; what is summed, exponentiated or kept is float32.
Word probabilities enter as logits, since eight bits of f exp(h e) would lose the rare words. The body's products are
torch's own autocast (`proxy_models.train`); evaluation is float32 whatever training was.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 4096  # positions, for vocabularies up to 4,096 words; fewer for larger ones


def head_loss_in_bfloat16(
    hidden: Tensor, embedding: Tensor, frequency: Tensor, targets: Tensor, grad_embedding: Tensor, share: float = 1.0
) -> tuple[Tensor, Tensor]:
    """As `gradients.head_loss`: the scalar, and its gradient by `hidden`; that by `embedding` is added."""
    with torch.no_grad():
        weight = share / len(targets)
        logs = frequency.log()
        words, positions = embedding.bfloat16(), hidden.bfloat16()
        grad_hidden = torch.empty_like(hidden)
        loss = hidden.new_zeros(())
        block = max(128, BLOCK * 4096 // max(len(embedding), 4096))
        for begin in range(0, len(targets), block):
            part = slice(begin, begin + block)
            logits = torch.mm(positions[part], words.T).float().add_(logs)
            wanted = logits.gather(1, targets[part, None])[:, 0]
            normaliser = logits.logsumexp(dim=1)
            loss += (normaliser - wanted).sum()
            gradient = logits.sub_(normaliser[:, None]).exp_()
            gradient[torch.arange(len(wanted), device=hidden.device), targets[part]] -= 1.0
            halved = gradient.mul_(weight).bfloat16()
            grad_hidden[part] = torch.mm(halved, words).float()
            grad_embedding.add_(torch.mm(halved.T, positions[part]).float())
        return loss.mul_(weight), grad_hidden
