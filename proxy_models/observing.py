"""One forward and one backward pass that show, for every layer, what went in and the gradient of what came out.

No weight has a gradient and none is formed. The graph begins where the first layers' outputs do: a hook makes them
leaves, so nothing is computed for the embeddings or for what lies before. The gradients are handed on as the backward
pass reaches them and are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from proxy_models.causal import Causal
from proxy_models.documents import Batch
from proxy_models.layers import Layer, Layers
from quadmix.errors import InputError

# layer, what went in (rows, time, inputs), gradient of what came out (rows, time, outputs)
Visit = Callable[[Layer, Tensor, Tensor], None]
# hidden states of the real positions (n, d) -> their gradients (n, d)
Gradient = Callable[[Tensor], Tensor]


@contextmanager
def hooked(model: nn.Module, layers: Layers, hook: Callable[[Layer, Tensor, Tensor], Tensor]) -> Iterator[Called]:
    """Inside, hook(layer, input, output) gives what each layer's module returns; each may be called once a pass."""
    called = Called(layers)

    def register(layer: Layer) -> Any:
        def run(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            called.note(layer)
            return hook(layer, given[0], output)

        return model.get_submodule(layer.module).register_forward_hook(run)

    handles = [register(layer) for layer in layers.layers]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


class Called:
    """Which modules were called since the last `check`."""

    def __init__(self, layers: Layers) -> None:
        self._wanted = {layer.module for layer in layers.layers}
        self._seen: set[str] = set()

    def note(self, layer: Layer) -> None:
        if layer.module in self._seen:
            raise InputError(
                f"module {layer.module} was called twice in one forward pass; a layer's curvature is that of one use, "
                "so models with shared layers are not supported: choose a group without it"
            )
        self._seen.add(layer.module)

    def check(self) -> None:
        """Raises InputError where a module was not called."""
        missed = sorted(self._wanted - self._seen)
        self._seen.clear()
        if missed:
            raise InputError(f"module {missed[0]} was not called in the forward pass ({len(missed)} such modules)")


@contextmanager
def watched(model: nn.Module, layers: Layers, visit: Visit) -> Iterator[Callable[[Causal, Batch, Gradient], None]]:
    """Inside, calling what this yields runs one batch through the model and back; `model` must be `still`."""
    reached: set[str] = set()

    shape: list[int] = []  # rows, time of the batch at hand

    def begin(layer: Layer, given: Tensor, output: Tensor) -> Tensor:
        given = _by_rows(layer, given.detach(), shape)
        if not output.requires_grad:
            output.requires_grad_()

        def back(gradient: Tensor) -> None:
            reached.add(layer.module)
            with torch.no_grad():
                visit(layer, given, _by_rows(layer, gradient, shape))

        output.register_hook(back)  # type: ignore[no-untyped-call]
        return output

    with hooked(model, layers, begin) as called:

        def run(parts: Causal, batch: Batch, gradient: Gradient) -> None:
            shape[:] = batch.inputs.shape
            with torch.enable_grad():
                hidden = parts.body(batch.inputs)
            called.check()
            upstream = torch.zeros_like(hidden)
            upstream[batch.real] = gradient(hidden.detach()[batch.real])
            hidden.backward(upstream)  # type: ignore[no-untyped-call]
            unreached = sorted({layer.module for layer in layers.layers} - reached)
            reached.clear()
            if unreached:
                raise InputError(f"module {unreached[0]} does not reach the loss ({len(unreached)} such modules)")

        yield run


def _by_rows(layer: Layer, values: Tensor, shape: list[int]) -> Tensor:
    """(rows, time, d): some models (OPT) flatten rows and time into one before their linear layers.

    Raises InputError where a module reads neither (experts, which see some positions only).
    """
    if values.dim() == 2 and len(values) == shape[0] * shape[1]:
        return values.reshape(*shape, -1)
    if values.dim() == 3 and list(values.shape[:2]) == shape:
        return values
    raise InputError(
        f"module {layer.module} reads values of shape {tuple(values.shape)} for a batch of {shape[0]} documents of "
        f"{shape[1]} positions; wanted every position of every document. Layers that see some of them (experts) are "
        "not supported: choose `quad.layers: attention`"
    )
