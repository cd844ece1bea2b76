"""Small models with weights that hide no mistake, documents, and what influence is by plain autograd."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxy_models.curvature import Curvature, Vector
from proxy_models.data import Tokens
from proxy_models.influence import Layers, corrected, covariances, curvature, eigenbases
from proxy_models.model import Decoder
from quadmix.config_proxy import ProxyConfig

VOCAB = 41


def decoder(seed: int = 0, d: int = 16, d_ff: int = 24, layers: int = 2, vocab: int = VOCAB) -> Decoder:
    config = ProxyConfig(preset="custom", d_model=d, layers=layers, heads=2, d_ff=d_ff, seq_len=32, batch=2)
    return filled(Decoder(config, vocab), seed)


def filled(model: nn.Module, seed: int, size: float = 0.3) -> nn.Module:
    """Every parameter drawn anew, in float64: norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def documents(count: int, longest: int = 60, seed: int = 0, vocab: int = VOCAB) -> list[Tokens]:
    """Lengths 2..longest, half of the words follow their predecessor."""
    generator = np.random.Generator(np.random.PCG64(seed))
    docs = []
    for length in generator.integers(2, longest + 1, count).tolist():
        words = generator.integers(0, vocab, length)
        for i in np.flatnonzero(generator.random(length) < 0.5)[1:].tolist():
            words[i] = (words[i - 1] + 1) % vocab
        docs.append(words.astype(np.uint16))
    return docs


def hashes_of(docs: list[Tokens]) -> np.ndarray:
    return np.arange(len(docs), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    out = model(tokens)
    return getattr(out, "logits", out)


def loss(model: nn.Module, doc: Tokens, reduction: str = "mean") -> Tensor:
    """One document by itself, no batch, no padding."""
    tokens = torch.from_numpy(doc.astype(np.int64))[None]
    return F.cross_entropy(logits_of(model, tokens[:, :-1])[0], tokens[0, 1:], reduction=reduction)


def weight(model: nn.Module, module: str) -> nn.Parameter:
    found = model.get_submodule(module).weight
    assert isinstance(found, nn.Parameter)
    return found


def literal_gradient(model: nn.Module, layers: Layers, value: Tensor) -> dict[str, Tensor]:
    """Gradient of a scalar by every layer's matrix, (outputs, inputs), by autograd on the whole weights."""
    weights = [weight(model, layer.module) for layer in layers.layers]
    found = {}
    for layer, gradient in zip(layers.layers, torch.autograd.grad(value, weights), strict=True):
        turned = gradient.T if layer.turned else gradient
        for part in layer.parts:
            found[part.name] = turned[part.first : part.last]
    return found


def literal_scores(model: nn.Module, layers: Layers, vector: Vector, docs: list[Tokens]) -> np.ndarray:
    found = []
    for doc in docs:
        gradient = literal_gradient(model, layers, loss(model, doc))
        found.append(
            sum(float((gradient[name].detach() * torch.from_numpy(x)).sum()) for name, x in vector.parts.items())
        )
    return np.array(found)


def random_vector(layers: Layers, seed: int = 0) -> Vector:
    generator = np.random.Generator(np.random.PCG64(seed))
    return Vector({name: generator.normal(size=shape) for name, shape in layers.shapes().items()}, "ekfac")


def ekfac(model: nn.Module, layers: Layers, docs: list[Tokens], seed: int = 0, damping: float = 0.1) -> Curvature:
    hashes = hashes_of(docs)
    bases = eigenbases(covariances(model, layers, docs, hashes, seed, device="cpu"))
    found = corrected(model, layers, bases, docs, hashes, seed, device="cpu")
    return curvature("ekfac", layers, bases=bases, corrected=found, damping=damping)
