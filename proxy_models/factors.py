"""Sums over documents from which curvature and references are made: three passes of one kind.

Each returns a partial that merges (`proxy_models.curvature`): an engine may deal the documents out as it likes. The
words that stand in for labels are drawn from the model by (seed, document hash, position), so the covariances and the
eigenvalues see the same ones, however the documents are split. In float32 a document's activations change in their
last bits with the batch it is in, so partitions agree to about 1e-6; for equal bits, use equal partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proxy_models.causal import Causal, causal, device_of, still
from proxy_models.curvature import Bases, Corrected, Covariances, Gradient
from proxy_models.data import Tokens
from proxy_models.documents import Batch, batches, label_draws, predictions
from proxy_models.layers import Layer, Layers
from proxy_models.observing import watched
from proxy_models.train import one_thread
from quadmix.errors import InputError

BLOCK_BYTES = 2**24  # documents' gradients of one layer at once

# the batch at hand, layer, what went in (rows, time, inputs), gradient of what came out (rows, time, outputs)
Add = Callable[[Batch, Layer, Tensor, Tensor], None]
Labels = Callable[[Causal, Batch, Tensor], Tensor]


def covariances(
    model: nn.Module,
    layers: Layers,
    docs: Sequence[Tokens],
    hashes: NDArray[np.uint64],
    seed: int,
    *,
    max_tokens: int = 512,
    device: str = "auto",
) -> Covariances:
    """Sums for A and S over the documents' predictions, with drawn labels. hashes: (n,) uint64, the documents'."""
    inputs = {layer.module: Sum(layer.inputs, layer.inputs) for layer in layers.layers}
    outputs = {name: Sum(height, height) for name, (height, _) in layers.shapes().items()}
    last: list[tuple[Tensor, Tensor]] = []  # an input and its product: separate q, k, v read the same one

    def add(batch: Batch, layer: Layer, given: Tensor, gradient: Tensor) -> None:
        if not (last and _same_memory(last[0][0], given)):
            real = given[batch.real]
            last[:] = [(given, real.T @ real)]
        inputs[layer.module].add(last[0][1])
        flat = gradient.flatten(0, 1)  # padding has no gradient
        for part in layer.parts:
            rows = flat[:, part.first : part.last]
            outputs[part.name].add(rows.T @ rows)

    _pass(model, layers, docs, max_tokens, device, _drawn(docs, hashes, seed), add)
    lengths = predictions(docs, max_tokens)
    return Covariances(
        {name: total.matrix() for name, total in inputs.items()},
        {name: total.matrix() for name, total in outputs.items()},
        int(lengths.sum()),
        int((lengths > 0).sum()),
    )


def corrected(
    model: nn.Module,
    layers: Layers,
    bases: Bases,
    docs: Sequence[Tokens],
    hashes: NDArray[np.uint64],
    seed: int,
    *,
    max_tokens: int = 512,
    device: str = "auto",
) -> Corrected:
    """Sums over documents of squared gradients in the bases; `Bases.none()`: in the weights' own."""
    place, dtype = device_of(device), next(model.parameters()).dtype
    totals = {name: Sum(*shape) for name, shape in layers.shapes().items()}
    # copied: those that an engine shares are mapped read-only, which a tensor over their memory would warn of
    q_in = {name: torch.tensor(eigen.vectors, dtype=dtype, device=place) for name, eigen in bases.inputs.items()}
    q_out = {name: torch.tensor(eigen.vectors, dtype=dtype, device=place) for name, eigen in bases.outputs.items()}

    def add(batch: Batch, layer: Layer, given: Tensor, gradient: Tensor) -> None:
        del batch
        for part in layer.parts:
            squares = squared_gradients(
                given, gradient[:, :, part.first : part.last], q_in.get(layer.module), q_out.get(part.name)
            )
            totals[part.name].add(squares)

    _pass(model, layers, docs, max_tokens, device, _drawn(docs, hashes, seed), add)
    n_docs = int((predictions(docs, max_tokens) > 0).sum())
    return Corrected({name: total.matrix() for name, total in totals.items()}, n_docs, bases.digest)


def reference_gradient(
    model: nn.Module,
    layers: Layers,
    docs: Sequence[Tokens],
    *,
    contexts: Sequence[int] | None = None,
    max_tokens: int = 512,
    device: str = "auto",
) -> Gradient:
    """The gradient of the reference's loss: summed over all predictions, with their number.

    contexts: of each document, how many of its first tokens are context and do not count (a prompt); none where left
    out.
    """
    # a document's first token is never predicted, so it is context anyhow
    before = np.maximum(np.zeros(len(docs), np.int64) if contexts is None else np.array(contexts, np.int64), 1)
    totals = {name: Sum(*shape) for name, shape in layers.shapes().items()}

    def add(batch: Batch, layer: Layer, given: Tensor, gradient: Tensor) -> None:
        del batch
        whole = gradient.flatten(0, 1).T @ given.flatten(0, 1)
        for part in layer.parts:
            totals[part.name].add(whole[part.first : part.last])

    def actual(parts: Causal, batch: Batch, hidden: Tensor) -> Tensor:
        gradient = parts.head.gradient(hidden, batch.targets[batch.real])
        position = torch.arange(1, batch.inputs.shape[1] + 1, device=gradient.device)  # of the token that is predicted
        counts = position >= torch.from_numpy(before[batch.members]).to(gradient.device)[:, None]
        return gradient * counts[batch.real][:, None]

    _pass(model, layers, docs, max_tokens, device, actual, add)
    counted = np.maximum(predictions(docs, max_tokens) + 1 - before, 0)
    return Gradient({name: total.matrix() for name, total in totals.items()}, int(counted.sum()))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and (one.shape, one.stride()) == (other.shape, other.stride())


def squared_gradients(given: Tensor, gradient: Tensor, q_in: Tensor | None, q_out: Tensor | None) -> Tensor:
    """Sum over rows of (Q_S' G Q_A)^2, G = sum over time of g a': (outputs, inputs).

    given: (rows, time, inputs); gradient: (rows, time, outputs). Either the activations are rotated or the gradients
    that they make, whichever is the smaller work.
    """
    _rows, time, inputs = given.shape
    outputs = gradient.shape[2]
    total = given.new_zeros(outputs, inputs)
    early = time * (inputs**2 + outputs**2) < inputs * outputs * (inputs + outputs)
    if early and q_in is not None and q_out is not None:
        given, gradient = given @ q_in, gradient @ q_out
    at_once = max(1, BLOCK_BYTES // (total.element_size() * total.numel()))
    for a, g in zip(torch.split(given, at_once), torch.split(gradient, at_once), strict=True):
        each = torch.bmm(g.transpose(1, 2), a)
        if not early and q_in is not None and q_out is not None:
            each = torch.matmul(q_out.T, each @ q_in)
        total += each.square_().sum(dim=0)
    return total


class Sum:
    """A float64 sum of matrices (rows, columns) of any float type, kept where they are."""

    def __init__(self, rows: int, columns: int) -> None:
        self._shape = rows, columns
        self._total: Tensor | None = None

    def add(self, matrix: Tensor) -> None:
        if self._total is None:
            self._total = matrix.double()  # a copy unless it is float64: nobody writes to those
        else:
            self._total = self._total + matrix if matrix.dtype == torch.float64 else self._total.add_(matrix)

    def matrix(self) -> NDArray[np.float64]:
        if self._total is None:
            return np.zeros(self._shape)
        found: NDArray[np.float64] = self._total.cpu().numpy().copy()
        return found


def _drawn(docs: Sequence[Tokens], hashes: NDArray[np.uint64], seed: int) -> Labels:
    if len(hashes) != len(docs):
        raise InputError(f"found {len(hashes)} hashes of {len(docs)} documents, wanted one each")

    def gradient(parts: Causal, batch: Batch, hidden: Tensor) -> Tensor:
        return parts.head.sampled_gradient(hidden, label_draws(hashes, batch, seed))[0]

    return gradient


def _pass(
    model: nn.Module, layers: Layers, docs: Sequence[Tokens], max_tokens: int, device: str, labels: Labels, add: Add
) -> None:
    """Every document once through the model and back."""
    place = device_of(device)
    current: list[Batch] = []

    def visit(layer: Layer, given: Tensor, gradient: Tensor) -> None:
        add(current[0], layer, given, gradient)

    with one_thread(), still(model, place):
        parts = causal(model)
        with watched(model, layers, visit) as run:
            for batch in batches(docs, parts.vocab, max_tokens, place):
                current[:] = [batch]
                run(parts, batch, partial(labels, parts, batch))
