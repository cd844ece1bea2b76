"""The decoder against a literal loop over positions, and what follows from its definition."""

from __future__ import annotations

import math

import pytest
import torch

from proxy_models import model as model_module
from proxy_models.model import Decoder
from quadmix.config_proxy import ProxyConfig

CONFIG = ProxyConfig(preset="custom", d_model=16, layers=2, heads=2, d_ff=24, seq_len=12, batch=2)
VOCAB = 37


@pytest.fixture
def model() -> Decoder:
    model = Decoder(CONFIG, VOCAB, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # zero output matrices would hide every mistake in the blocks
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.frequency.copy_(torch.rand(VOCAB, generator=generator) + 0.1)
    return model


def literal_logits(model: Decoder, tokens: list[int]) -> torch.Tensor:
    """Every position by itself, in float64, straight from the definition: (time, vocab)."""

    def normed(x: torch.Tensor) -> torch.Tensor:
        return x / math.sqrt(float((x * x).mean()) + 1e-6)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        y = x.clone()
        for j in range(len(x) // 2):
            angle = position * 10_000.0 ** (-2 * j / len(x))
            y[2 * j] = x[2 * j] * math.cos(angle) - x[2 * j + 1] * math.sin(angle)
            y[2 * j + 1] = x[2 * j] * math.sin(angle) + x[2 * j + 1] * math.cos(angle)
        return y

    d, heads = CONFIG.d_model, CONFIG.heads
    width = d // heads
    embedding = model.embedding.detach().double()
    xs = [normed(embedding[token]) for token in tokens]
    for block in model.blocks:
        q, k, v = block.qkv.weight.detach().double().split(d)
        gate, up = block.gate_up.weight.detach().double().split(CONFIG.d_ff)
        out, down = block.out.weight.detach().double(), block.down.weight.detach().double()
        attended = []
        for now in range(len(xs)):
            parts = []
            for head in range(heads):
                rows = slice(head * width, (head + 1) * width)
                query = turned(q[rows] @ normed(xs[now]), now)
                scores = [float(query @ turned(k[rows] @ normed(xs[t]), t)) / math.sqrt(width) for t in range(now + 1)]
                total = sum(math.exp(s) for s in scores)
                parts.append(sum(math.exp(s) / total * (v[rows] @ normed(xs[t])) for t, s in enumerate(scores)))
            attended.append(xs[now] + out @ torch.cat(parts))
        xs = []
        for x in attended:
            g = gate @ normed(x)
            xs.append(x + down @ (g / (1 + torch.exp(-g)) * (up @ normed(x))))
    return torch.stack([embedding @ normed(x) + model.frequency.double().log() for x in xs])


@pytest.mark.parametrize("spelled_out", [128, 0], ids=["spelled out", "fused"])
def test_logits_equal_the_literal_definition(model: Decoder, monkeypatch: pytest.MonkeyPatch, spelled_out: int) -> None:
    monkeypatch.setattr(model_module, "SPELLED_OUT", spelled_out)
    tokens = [3, 30, 3, 7, 0, 36, 12, 12, 5, 1]
    logits = model(torch.tensor([tokens, tokens[::-1]]))
    assert (logits[0] - literal_logits(model, tokens)).abs().max() < 1e-5
    assert (logits[1] - literal_logits(model, tokens[::-1])).abs().max() < 1e-5


@pytest.mark.parametrize("spelled_out", [128, 0], ids=["spelled out", "fused"])
def test_future_tokens_change_nothing_before_them_and_something_after(
    model: Decoder, monkeypatch: pytest.MonkeyPatch, spelled_out: int
) -> None:
    monkeypatch.setattr(model_module, "SPELLED_OUT", spelled_out)
    tokens = torch.arange(12)[None] % VOCAB
    changed = tokens.clone()
    changed[0, 7] = 30
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :7], after[0, :7])
    assert (before[0, 7:] - after[0, 7:]).abs().amax(dim=-1).min() > 1e-3


def test_order_of_the_past_matters(model: Decoder) -> None:
    one, other = model(torch.tensor([[4, 9, 2]])), model(torch.tensor([[9, 4, 2]]))
    assert (one[0, 2] - other[0, 2]).abs().max() > 1e-3


def test_a_fresh_model_is_one_of_word_frequencies() -> None:
    model = Decoder(ProxyConfig(), 300, seed=1)
    share = torch.rand(300, generator=torch.Generator().manual_seed(0)) + 0.01
    model.frequency.copy_(share / share.sum())
    probabilities = model(torch.randint(0, 300, (4, 64), generator=torch.Generator().manual_seed(2))).softmax(-1)
    # embeddings start at 0.02: a logit moves by about 0.02 * sqrt(64) = 0.16
    assert (probabilities.mean(dim=(0, 1)) / model.frequency).log().abs().max().item() < 0.35


def test_presets_set_the_sizes_and_given_fields_override() -> None:
    big = ProxyConfig(preset="regmix_1m")
    assert (big.d_model, big.layers, big.heads, big.d_ff, big.seq_len, big.batch) == (256, 2, 8, 512, 2048, 512)
    assert (big.optimiser, big.lr, big.warmup) == ("adamw", 4e-4, 100)
    # RegMix's 1M: 1.3M parameters beside the embedding
    parameters = sum(p.numel() for p in Decoder(big, 8).parameters()) - 8 * 256
    assert 1.25e6 < parameters < 1.35e6
    assert ProxyConfig(preset="regmix_1m", layers=4).layers == 4
    assert ProxyConfig(preset="regmix_1m", layers=4).d_model == 256
    assert ProxyConfig(preset="tiny") == ProxyConfig().model_copy(update={"preset": "tiny"})
    with pytest.raises(ValueError, match=r"custom.*needs.*layers"):
        ProxyConfig(preset="custom", d_model=32)
    with pytest.raises(ValueError, match="heads of equal, even width"):
        ProxyConfig(d_model=60, heads=8)
