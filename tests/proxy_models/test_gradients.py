"""Hand-written gradients against autograd on the plain formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proxy_models import gradients
from proxy_models.gradients import (
    BLOCK,
    PANEL_ROWS,
    ROWWISE,
    TILE,
    TILE_ROWS,
    head_loss,
    rms_norm,
    swiglu,
    token_losses,
)


def case(n: int, vocab: int, d: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, d, generator=generator, dtype=dtype, requires_grad=True)
    embedding = torch.randn(vocab, d, generator=generator, dtype=dtype, requires_grad=True)
    frequency = torch.rand(vocab, generator=generator, dtype=dtype) + 1e-6
    return hidden, embedding, frequency, torch.randint(0, vocab, (n,), generator=generator)


def compare(
    hidden: torch.Tensor,
    embedding: torch.Tensor,
    frequency: torch.Tensor,
    targets: torch.Tensor,
    tolerance: float,
    share: float = 1.0,
) -> None:
    """head_loss and both its gradients against autograd through cross-entropy of all logits."""
    before = torch.full_like(embedding, 0.25)
    grad_embedding = before.clone().detach()
    ours, grad_hidden = head_loss(hidden, embedding, frequency, targets, grad_embedding, share)
    plain = share * F.cross_entropy(hidden @ embedding.T + frequency.log(), targets)
    assert ours.item() == pytest.approx(plain.item(), rel=tolerance, abs=tolerance)
    wanted = torch.autograd.grad(plain, (hidden, embedding))
    for mine, reference in zip((grad_hidden, grad_embedding - before), wanted, strict=True):
        assert float((mine - reference).abs().max()) < tolerance


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_blockwise_loss_equals_plain_cross_entropy(n: int, dtype: torch.dtype, tolerance: float) -> None:
    hidden, embedding, frequency, targets = case(n, 101, 12, dtype)
    compare(hidden, embedding, frequency, targets, tolerance, share=3.0)
    each = F.cross_entropy(hidden @ embedding.T + frequency.log(), targets, reduction="none")
    assert float((token_losses(hidden, embedding, frequency, targets) - each.detach()).abs().max()) < 10 * tolerance


def test_loss_survives_logits_of_hundreds() -> None:
    hidden, embedding, frequency, targets = case(50, 101, 12, torch.float32)
    ours, gradient = head_loss(100 * hidden, embedding, frequency, targets, torch.zeros_like(embedding))
    plain = F.cross_entropy(100 * hidden @ embedding.T + frequency.log(), targets)
    assert torch.isfinite(gradient).all()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("n", [1, TILE_ROWS + 3, 2 * PANEL_ROWS + TILE_ROWS + 1])
@pytest.mark.parametrize("size", [1.0, 8.0], ids=["by tiles", "logits too large for tiles"])
def test_a_large_vocabulary_gives_the_same_sums_in_either_order(
    n: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, embedding, frequency, targets = case(n, ROWWISE + TILE + 7, 12, torch.float64)
    asked = []
    by_tiles = gradients._by_tiles
    monkeypatch.setattr(gradients, "_by_tiles", lambda *given: (asked.append(n), by_tiles(*given))[1])
    compare((size * hidden).detach().requires_grad_(), embedding, frequency, targets, 1e-12, share=0.5)
    assert bool(asked) == (size == 1.0)


@pytest.mark.parametrize("vocab", [101, ROWWISE + TILE + 7], ids=["by rows", "by tiles"])
@pytest.mark.parametrize(("size", "bound"), [(1.0, 0.02), (30.0, 0.1)], ids=["bounded logits", "large logits"])
def test_rounded_products_change_the_loss_and_its_gradients_by_their_rounding_alone(
    vocab: int, size: float, bound: float
) -> None:
    hidden, embedding, frequency, targets = case(2 * PANEL_ROWS + 3, vocab, 12, torch.float32)
    found = {}
    for products in (None, torch.bfloat16):
        total = torch.full_like(embedding, 0.25)
        loss, grad_hidden = head_loss(size * hidden, embedding, frequency, targets, total, 2.0, products)
        found[products] = (loss.detach(), grad_hidden, total - 0.25)
    for name, exact, rounded in zip(("loss", "hidden", "embedding"), *found.values(), strict=True):
        error = float((exact - rounded).norm() / exact.norm())
        assert 1e-7 < error < bound, f"{name}: {error}"  # eight bits: .002 of a logit, and of every factor


def test_a_panel_holds_no_more_bytes_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, embedding, frequency, targets = case(3 * BLOCK + 1, ROWWISE + TILE, 12, torch.float64)
    monkeypatch.setattr(gradients, "PANEL_BYTES", 4 * len(embedding) * (BLOCK + 5))
    assert gradients._panel(len(embedding)) == BLOCK + 5
    compare(hidden, embedding, frequency, targets, 1e-12)


def test_a_gpu_gets_large_products_with_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gradients._block(4096, torch.device("cpu")) == BLOCK
    assert gradients._block(4096, torch.device("cuda")) == PANEL_ROWS
    hidden, embedding, frequency, targets = case(PANEL_ROWS + 5, 101, 12, torch.float64)
    monkeypatch.setattr(gradients, "_block", lambda *_: PANEL_ROWS)
    compare(hidden, embedding, frequency, targets, 1e-12)


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
