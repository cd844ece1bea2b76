"""Benefits of documents: b(z) = <v, gradient of L(z)>, v one fixed vector over the layers' weights.

L(z) is the mean over a document's predictions (`proxy_models.documents`); higher is better (algorithms.md, section 3).
No gradient of a weight is ever formed, for a document or at all. Two ways to the same number:

- `hooks`: the sum over positions and layers of g_t . X a_t, with a_t what goes into a layer, g_t the gradient of what
  comes out and X the layer's part of v: a forward and a backward pass through activations, and one product a layer
  more. Several vectors share both passes.
- `forward_mode`: the derivative of the loss along v, in one pass. Each layer adds X a_t to the tangent of its output
  (what a tangent X of its weight adds); several vectors need as many passes.

`auto` is `hooks`: it was the faster at every size measured (`benchmarks/influence.py`), and forward mode also has to
spell attention out, since no fused kernel has a forward derivative. A rule and not a stopwatch, so that the bits of a
benefit do not depend on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from proxy_models.causal import Causal, causal, device_of, still
from proxy_models.curvature import Vector
from proxy_models.data import Tokens
from proxy_models.documents import Batch, batches, predictions
from proxy_models.layers import Layer, Layers
from proxy_models.observing import hooked, watched
from proxy_models.train import one_thread
from quadmix.errors import ConfigError, InputError

Way = Literal["auto", "forward_mode", "hooks"]
Combine = Literal["mean", "max"]


def score(
    model: nn.Module,
    layers: Layers,
    vectors: Vector | Sequence[Vector],
    docs: Sequence[Tokens],
    *,
    combine: Combine = "mean",
    way: Way = "auto",
    max_tokens: int = 512,
    device: str = "auto",
) -> NDArray[np.float64]:
    """Benefit of every document: (n,) float64, finite; exactly 0 for a document of one token, which predicts nothing.

    Several vectors, one a reference: their mean (one pass, since benefits are linear in the vector) or each document's
    highest. The order and company of a document move its benefit by rounding only; the same call gives the same bits
    on a CPU. Raises InputError on an empty document, a foreign token, a vector of other layers, or a benefit that is
    not finite.
    """
    chosen = [vectors] if isinstance(vectors, Vector) else list(vectors)
    if combine in ("mean", "max"):
        asked = [Vector.mean(chosen)] if combine == "mean" else chosen
        each = score_each(model, layers, asked, docs, way=way, max_tokens=max_tokens, device=device)
        highest: NDArray[np.float64] = each.max(axis=0)
        return highest
    raise ConfigError(f"found combine {combine!r}, wanted mean or max")


def score_each(
    model: nn.Module,
    layers: Layers,
    vectors: Sequence[Vector],
    docs: Sequence[Tokens],
    *,
    way: Way = "auto",
    max_tokens: int = 512,
    device: str = "auto",
) -> NDArray[np.float64]:
    """As `score`, of every vector by itself: (vectors, n) float64."""
    for vector in vectors:
        vector.check(layers)
    place = device_of(device)
    lengths = predictions(docs, max_tokens)
    totals = np.zeros((len(vectors), len(docs)))
    with one_thread(), still(model, place):
        parts = causal(model)
        dtype = next(model.parameters()).dtype
        matrices = {
            layer.module: [_matrix(layer, vector).to(place, dtype) for vector in vectors] for layer in layers.layers
        }
        run = {"hooks": _by_hooks, "forward_mode": _by_forward_mode}[chosen_way(way)]
        with run(model, layers, matrices) as sums:
            for batch in batches(docs, parts.vocab, max_tokens, place):
                totals[:, batch.members] = sums(parts, batch).cpu().numpy()
    benefits = np.divide(totals, lengths, out=np.zeros_like(totals), where=lengths > 0)
    broken = np.flatnonzero(~np.isfinite(benefits).all(axis=0))
    if broken.size:
        raise InputError(
            f"document {broken[0]} of {len(docs)} has benefit {benefits[:, broken[0]].tolist()}, wanted a finite one; "
            f"there are {broken.size} such documents, so the model's weights or the reference's vector are not finite"
        )
    return benefits


def chosen_way(way: Way) -> Literal["forward_mode", "hooks"]:
    """What `auto` stands for."""
    if way == "auto":
        return "hooks"
    if way in ("forward_mode", "hooks"):
        return way
    raise ConfigError(f"found way {way!r}, wanted auto, forward_mode or hooks")


Sums = Callable[[Causal, Batch], Tensor]  # (vectors, rows) float64: a batch's benefits before the division by length


def _matrix(layer: Layer, vector: Vector) -> Tensor:
    """The vector's part of a module, (outputs, inputs), its layers stacked as the module's outputs are."""
    return torch.from_numpy(np.concatenate([vector.parts[part.name] for part in layer.parts]))


@contextmanager
def _by_hooks(model: nn.Module, layers: Layers, matrices: dict[str, list[Tensor]]) -> Iterator[Sums]:
    found: list[Tensor] = []

    def visit(layer: Layer, given: Tensor, gradient: Tensor) -> None:
        # the product on the side of fewer numbers, then one dot product a row
        by_input = layer.inputs < layer.outputs
        other = given if by_input else gradient
        for index, matrix in enumerate(matrices[layer.module]):
            product = gradient @ matrix if by_input else given @ matrix.T
            found[0][index] += _dots(product, other)

    with watched(model, layers, visit) as run:

        def sums(parts: Causal, batch: Batch) -> Tensor:
            rows, vectors = len(batch.members), len(next(iter(matrices.values())))
            found[:] = [torch.zeros(vectors, rows, dtype=torch.float64, device=batch.inputs.device)]
            run(parts, batch, lambda hidden: parts.head.gradient(hidden, batch.targets[batch.real]))
            return found[0]

        yield sums


@contextmanager
def _by_forward_mode(model: nn.Module, layers: Layers, matrices: dict[str, list[Tensor]]) -> Iterator[Sums]:
    along = [0]  # the vector whose derivative is taken

    def add_tangent(layer: Layer, given: Tensor, output: Tensor) -> Tensor:
        own = _unpacked(given)[0] @ matrices[layer.module][along[0]].T
        primal, tangent = _unpacked(output)
        dual: Tensor = forward_ad.make_dual(primal, own if tangent is None else own.add_(tangent))  # type: ignore[no-untyped-call]
        return dual

    with hooked(model, layers, add_tangent) as called:

        def sums(parts: Causal, batch: Batch) -> Tensor:
            return torch.stack([derivative(parts, batch, index) for index in range(len(matrices[first]))])

        def derivative(parts: Causal, batch: Batch, index: int) -> Tensor:
            along[0] = index
            # the fused attention kernels have no forward mode
            with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                hidden, tangent = _unpacked(parts.body(batch.inputs))
                called.check()
                assert tangent is not None
                gradient = torch.zeros_like(hidden)
                gradient[batch.real] = parts.head.gradient(hidden[batch.real], batch.targets[batch.real])
                return _dots(gradient, tangent)

        first = layers.layers[0].module
        yield sums


def _unpacked(dual: Tensor) -> tuple[Tensor, Tensor | None]:
    primal, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return primal, tangent


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """The dot product of every row: (rows, time, k) twice -> (rows,) float64."""
    rows = len(one)
    return torch.bmm(one.reshape(rows, 1, -1), other.reshape(rows, -1, 1)).view(rows).double()
