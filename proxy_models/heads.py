"""What turns hidden states into words: its gradient at every position, for given words or for words drawn from it.

A position's loss is -log p[word], p = softmax(h E^T + log f), so its gradient by h is the mean of E's rows under p,
less E[word]. Two products with the vocabulary and no third: the gradient by E, which training needs, is never formed.
The order is that of fused linear cross-entropy (`proxy_models.gradients`), by tiles of the vocabulary with a running
maximum as in online softmax (arXiv 1805.02867), so that no position's logits are ever whole in memory.

A drawn word comes from the inverse of the cumulated probabilities at a given uniform number: first among the sums of
STRIDE words that the same pass kept, then among the words of that stride. So it depends on the position, not on a
generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_models.gradients import LOG2_E, SAFE_LOGIT

TILE = 1024  # words
ROWS = 256  # positions: 256 x 1,024 float32 exponentials are 1 MiB, half of a server core's second-level cache
GPU_ROWS = 4096
STRIDE = 32  # words whose probabilities are kept as one sum until a word is drawn


class Head(Protocol):
    """hidden: (n, d), one row a position -> gradients (n, d), each of that position's own loss alone."""

    def gradient(self, hidden: Tensor, words: Tensor) -> Tensor:
        """words: (n,) int64, those that followed."""
        ...

    def sampled_gradient(self, hidden: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Words drawn from the model by uniform numbers `draws`, (n,): the gradients, and the words (n,)."""
        ...

    def logits(self, hidden: Tensor, words: Sequence[int]) -> Tensor:
        """Of a few words alone: (n, len(words)). The same constant a row may be missing from all of them."""
        ...


class LinearHead:
    """Logits are hidden @ embedding.T + log frequency. embedding: (vocab, d); frequency: (vocab,) positive."""

    def __init__(self, embedding: Tensor, frequency: Tensor) -> None:
        self._last_word = len(embedding) - 1
        filled = -len(embedding) % STRIDE  # words of no weight fill the last stride
        self._embedding = F.pad(embedding.detach(), (0, 0, 0, filled))
        self._frequency = F.pad(frequency.detach(), (0, filled))
        self._longest = self._embedding.norm(dim=1).amax()
        self._rows = ROWS if embedding.device.type == "cpu" else GPU_ROWS

    @cached_property
    def _weighted(self) -> Tensor:
        """As large as the embedding, and not needed for logits."""
        return self._embedding * self._frequency[:, None]

    def logits(self, hidden: Tensor, words: Sequence[int]) -> Tensor:
        rows = list(words)
        return torch.mm(hidden, self._embedding[rows].T) + self._frequency[rows].log()

    def gradient(self, hidden: Tensor, words: Tensor) -> Tensor:
        with torch.no_grad():
            expected = [self._expected(block, None) for block in torch.split(hidden, self._rows)]
            return torch.cat(expected).sub_(self._embedding[words])

    def sampled_gradient(self, hidden: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            expected, words = [], []
            for block, part in zip(torch.split(hidden, self._rows), torch.split(draws, self._rows), strict=True):
                masses = block.new_empty(len(block), len(self._embedding) // STRIDE)
                expected.append(self._expected(block, masses))
                words.append(self._draw(block, masses, part))
            drawn = torch.cat(words)
            return torch.cat(expected).sub_(self._embedding[drawn]), drawn

    def _expected(self, hidden: Tensor, masses: Tensor | None) -> Tensor:
        """The mean of E's rows under each position's p, (n, d). `masses` gets f exp(logit - highest) by strides.

        Logits are in units of log 2 here: powers of two take less time than powers of e."""
        safe = bool(hidden.norm(dim=1).amax() * self._longest <= SAFE_LOGIT)  # by Cauchy-Schwarz: no maximum needed
        highest = hidden.new_full((len(hidden), 1), 0.0 if safe else float("-inf"))
        mass = hidden.new_zeros(len(hidden))
        expected = torch.zeros_like(hidden)
        highest_then = []
        scaled = hidden * LOG2_E
        for start in range(0, len(self._embedding), TILE):
            words = slice(start, start + TILE)
            block = torch.mm(scaled, self._embedding[words].T)
            if not safe:
                higher = torch.maximum(highest, block.amax(dim=1, keepdim=True))
                shrink = (highest - higher).exp2_()
                expected.mul_(shrink)
                mass.mul_(shrink[:, 0])
                highest = higher
                block.sub_(highest)
            block.exp2_()
            mass.addmv_(block, self._frequency[words])
            expected.addmm_(block, self._weighted[words])
            if masses is not None:
                strides = slice(start // STRIDE, (start + block.shape[1]) // STRIDE)
                by_stride = block.mul_(self._frequency[words]).view(len(block), -1, STRIDE)
                torch.sum(by_stride, dim=2, out=masses[:, strides])
                highest_then.append((strides, highest))
        if masses is not None and not safe:
            for strides, then in highest_then:
                masses[:, strides] *= (then - highest).exp2_()
        return expected.div_(mass[:, None])

    def _draw(self, hidden: Tensor, masses: Tensor, draws: Tensor) -> Tensor:
        """The words at which the cumulated probability passes `draws`: (n,) int64."""
        stride, rest = _passed(masses.double().cumsum(dim=1), draws.double()[:, None])
        words = stride * STRIDE + torch.arange(STRIDE, device=hidden.device)
        logits = torch.bmm(self._embedding[words], hidden[:, :, None])[:, :, 0]
        weights = (logits - logits.amax(dim=1, keepdim=True)).exp_().mul_(self._frequency[words])
        within, _ = _passed(weights.double().cumsum(dim=1), rest)
        return (stride * STRIDE + within)[:, 0].clamp_(max=self._last_word)


class PlainHead:
    """For models whose last step is not one matrix (capped or scaled logits): the hidden states are the logits."""

    def logits(self, hidden: Tensor, words: Sequence[int]) -> Tensor:
        return hidden[:, list(words)]

    def gradient(self, hidden: Tensor, words: Tensor) -> Tensor:
        with torch.no_grad():
            gradient = hidden.softmax(dim=1)
            gradient[torch.arange(len(words), device=words.device), words] -= 1.0
            return gradient

    def sampled_gradient(self, hidden: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            cumulated = hidden.softmax(dim=1).double().cumsum(dim=1)
            words = _passed(cumulated, draws.double()[:, None])[0][:, 0]
            return self.gradient(hidden, words), words


def _passed(cumulated: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row of (n, k) cumulated weights passes `share`, (n, 1), of its end: the place, and the share of that
    place's own weight at which it does, both (n, 1)."""
    wanted = share * cumulated[:, -1:]
    place = torch.searchsorted(cumulated, wanted, right=True).clamp_(max=cumulated.shape[1] - 1)
    before = torch.where(place > 0, cumulated.gather(1, (place - 1).clamp(min=0)), torch.zeros_like(wanted))
    weight = cumulated.gather(1, place) - before
    return place, ((wanted - before) / weight.clamp(min=torch.finfo(weight.dtype).tiny)).clamp_(0.0, 1.0)
