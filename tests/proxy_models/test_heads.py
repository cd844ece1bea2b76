"""The head's gradients against autograd, its drawn words against the plain inverse of cumulated probabilities."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proxy_models import heads
from proxy_models.heads import ROWS, STRIDE, TILE, LinearHead, PlainHead

D = 6


def case(vocab: int, n: int, size: float) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(vocab)
    hidden = size * torch.randn(n, D, generator=generator, dtype=torch.float64)
    embedding = torch.randn(vocab, D, generator=generator, dtype=torch.float64)
    frequency = torch.rand(vocab, generator=generator, dtype=torch.float64) + 1e-3
    return hidden, embedding, frequency, torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("vocab", [5, STRIDE, TILE + 7, 2 * TILE])
@pytest.mark.parametrize("size", [1.0, 40.0], ids=["small logits", "logits of hundreds"])
def test_gradients_and_drawn_words_are_those_of_all_logits_at_once(vocab: int, size: float) -> None:
    hidden, embedding, frequency, draws = case(vocab, ROWS + 9, size)
    logits = (hidden @ embedding.T + frequency.log()).requires_grad_()
    head, plain = LinearHead(embedding, frequency), PlainHead()
    gradient, words = head.sampled_gradient(hidden, draws)
    cumulated = logits.detach().softmax(1).cumsum(1)
    assert torch.equal(words, torch.searchsorted(cumulated, draws[:, None])[:, 0].clamp(max=vocab - 1))
    (by_logit,) = torch.autograd.grad(F.cross_entropy(logits, words, reduction="sum"), logits)
    assert (gradient - by_logit @ embedding).abs().max() < 1e-10 * size
    assert torch.equal(head.gradient(hidden, words), gradient)
    other, same = plain.sampled_gradient(logits.detach(), draws)
    assert torch.equal(same, words)
    assert (other - by_logit).abs().max() < 1e-12


def test_words_are_drawn_as_often_as_the_model_says() -> None:
    hidden, embedding, frequency, _ = case(300, 1, 1.0)
    draws = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    words = LinearHead(embedding, frequency).sampled_gradient(hidden.expand(20_000, D), draws)[1]
    share = torch.bincount(words, minlength=300) / 20_000
    assert (share - (hidden @ embedding.T + frequency.log()).softmax(1)[0]).abs().max() < 1.0 / 20_000 + 1e-12


def test_the_ends_of_the_draws_are_words_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "TILE", 64)
    hidden, embedding, frequency, _ = case(70, 2, 1.0)
    words = LinearHead(embedding.float(), frequency.float()).sampled_gradient(
        hidden.float(), torch.tensor([2.0**-54, 1.0 - 2.0**-53], dtype=torch.float64)
    )[1]
    assert words[0] == 0
    assert words[1] <= 69
