"""Hand-written gradients against autograd on the plain formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proxy_models import gradients
from proxy_models.gradients import BLOCK, TILE, TILE_ROWS, head_loss, rms_norm, swiglu, token_losses


def case(n: int, vocab: int, d: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, d, generator=generator, dtype=dtype, requires_grad=True)
    embedding = torch.randn(vocab, d, generator=generator, dtype=dtype, requires_grad=True)
    frequency = torch.rand(vocab, generator=generator, dtype=dtype) + 1e-6
    return hidden, embedding, frequency, torch.randint(0, vocab, (n,), generator=generator)


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_blockwise_loss_equals_plain_cross_entropy(n: int, dtype: torch.dtype, tolerance: float) -> None:
    hidden, embedding, frequency, targets = case(n, 101, 12, dtype)
    ours = head_loss(hidden, embedding, frequency, targets)
    plain = F.cross_entropy(hidden @ embedding.T + frequency.log(), targets)
    assert abs(ours.item() - plain.item()) < tolerance
    got = torch.autograd.grad(3.0 * ours, (hidden, embedding))
    wanted = torch.autograd.grad(3.0 * plain, (hidden, embedding))
    for mine, reference in zip(got, wanted, strict=True):
        assert float((mine - reference).abs().max()) < tolerance
    each = F.cross_entropy(hidden @ embedding.T + frequency.log(), targets, reduction="none")
    assert float((token_losses(hidden, embedding, frequency, targets) - each.detach()).abs().max()) < 10 * tolerance


def test_loss_survives_logits_of_hundreds() -> None:
    hidden, embedding, frequency, targets = case(50, 101, 12, torch.float32)
    ours = head_loss(100 * hidden, embedding, frequency, targets)
    plain = F.cross_entropy(100 * hidden @ embedding.T + frequency.log(), targets)
    assert torch.isfinite(ours)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("n", [1, TILE_ROWS + 3])
@pytest.mark.parametrize("size", [1.0, 8.0], ids=["by tiles", "logits too large for tiles"])
def test_a_large_vocabulary_gives_the_same_sums_in_either_order(
    n: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, embedding, frequency, targets = case(n, 4 * TILE + 7, 12, torch.float64)
    asked = []
    by_tiles = gradients._by_tiles
    monkeypatch.setattr(gradients, "_by_tiles", lambda *given: (asked.append(n), by_tiles(*given))[1])
    ours = head_loss(size * hidden, embedding, frequency, targets)
    plain = F.cross_entropy(size * hidden @ embedding.T + frequency.log(), targets)
    assert bool(asked) == (size == 1.0)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-12)
    got, wanted = (torch.autograd.grad(loss, (hidden, embedding)) for loss in (ours, plain))
    for mine, reference in zip(got, wanted, strict=True):
        assert float((mine - reference).abs().max()) < 1e-12


def test_rms_norm_and_swiglu_have_the_gradients_of_their_formulas() -> None:
    x = torch.randn(3, 4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(rms_norm, x)
    assert torch.autograd.gradcheck(swiglu, x)
    assert torch.allclose(rms_norm(x), F.rms_norm(x, (10,), eps=1e-6), atol=1e-12)
    gate, up = x.chunk(2, dim=-1)
    assert torch.allclose(swiglu(x), F.silu(gate) * up, atol=1e-12)


def test_swiglu_of_extreme_gates_is_finite() -> None:
    x = torch.tensor([[-200.0, 200.0, 3.0, 3.0]], requires_grad=True)
    y = swiglu(x)
    y.sum().backward()
    assert y.tolist() == [[0.0, 600.0]]
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
