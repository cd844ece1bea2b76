"""The linear layers whose weights influence is about: q, k, v, o of attention; gate, up, down of the MLP.

Found by the module's type and name, under a parent that is an attention or an MLP. Left out: embeddings, norms, the
head, biases, and linear modules of no known name (routers of experts, say), which `describe` names.

One module may hold several layers stacked along its outputs (our qkv and gate_up, GPT-2's c_attn, Phi-3's
gate_up_proj). They are taken apart: a layer is a block of output rows with an S of its own, and all layers of a module
share one A, since they read the same input. That is the curvature of separate q, k, v modules, so a model and its
unstacked twin agree; one S over the stack would correlate q with v and cost nine times one block instead of three.
Stacks of unknown or interleaved order (Falcon, NeoX) stay one layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from proxy_models.model import Block
from quadmix.errors import ConfigError, InputError

Group = Literal["all", "attention", "mlp"]
# last name of a module -> the layers in it, top to bottom; of GPT-2, Llama, Qwen, Mistral, Gemma, Phi, OPT, NeoX, ...
ATTENTION = {
    **dict.fromkeys(("q_proj", "query", "wq", "q"), ("q",)),
    **dict.fromkeys(("k_proj", "key", "wk", "k"), ("k",)),
    **dict.fromkeys(("v_proj", "value", "wv", "v"), ("v",)),
    **dict.fromkeys(("o_proj", "out_proj", "c_proj", "dense", "wo", "o", "out"), ("o",)),
    **dict.fromkeys(("qkv_proj", "query_key_value", "Wqkv"), ("qkv",)),
    "c_attn": ("q", "k", "v"),
}
MLP = {
    **dict.fromkeys(("gate_proj", "w1", "gate"), ("gate",)),
    **dict.fromkeys(("up_proj", "w3", "fc1", "c_fc", "fc_in", "dense_h_to_4h", "up"), ("up",)),
    **dict.fromkeys(("down_proj", "w2", "fc2", "c_proj", "fc_out", "dense_4h_to_h", "down"), ("down",)),
    "gate_up_proj": ("gate", "up"),
}
OURS = {"qkv": ("q", "k", "v"), "out": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
PARENTS = {"attention": ("attn", "attention"), "mlp": ("mlp", "ffn", "feed_forward", "feedforward")}


@dataclass(frozen=True)
class Part:
    """One layer: rows first..last - 1 of a module's outputs. name: `<module>.<q|k|v|o|gate|up|down|qkv>`."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Layer:
    """One module. Its weight is (outputs, inputs), or (inputs, outputs) where `turned` (GPT-2's Conv1D)."""

    module: str
    inputs: int
    outputs: int
    turned: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Layers:
    """The layers of one model, by name, in its order; picklable, holds no weights."""

    group: Group
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, model: nn.Module, group: Group = "all") -> Layers:
        """Raises ConfigError on a group that is none, InputError when no module matches or two share a weight."""
        if group not in get_args(Group):
            raise ConfigError(f"found layers {group!r}, wanted one of {', '.join(get_args(Group))}")
        found, left_out, owner = [], [], dict[int, str]()
        for name, module in model.named_modules():
            if not _is_linear(model, module):
                continue
            turned = _is_turned(module)
            kind, parts = _role(model, name)
            if not parts:
                left_out.append(name)
            elif group in ("all", kind):
                weight = module.weight
                assert isinstance(weight, nn.Parameter)
                if id(weight) in owner:
                    raise InputError(
                        f"modules {owner[id(weight)]} and {name} share one weight; a layer's curvature is "
                        "that of one use, so such models are not supported: choose a group without them"
                    )
                owner[id(weight)] = name
                outputs, inputs = weight.shape[::-1] if turned else weight.shape
                found.append(Layer(name, inputs, outputs, turned, _stack(name, parts, inputs, outputs)))
        if not found:
            linear = ", ".join(left_out[:8]) or "none"
            raise InputError(
                f"no {'' if group == 'all' else group + ' '}layers in {type(model).__name__}; wanted linear modules "
                f"named like q_proj, c_attn, gate_proj or c_fc under an attention or MLP module, found: {linear}"
            )
        return cls(group, tuple(found))

    def describe(self, model: nn.Module) -> str:
        """One line for a log: how much of the model's linear weights, and what is left out."""
        inside = {layer.module for layer in self.layers}
        linear = {name: module.weight.numel() for name, module in model.named_modules() if _is_linear(model, module)}
        share = sum(size for name, size in linear.items() if name in inside) / sum(linear.values())
        others = [name for name in linear if name not in inside]
        ending = "" if not others else f"; not in it: {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}"
        return (
            f"influence on {sum(1 for _ in self.parts()):,} layers in {len(inside):,} modules, {share:.1%} of the "
            f"linear weights below the head{ending}"
        )

    def parts(self) -> Iterator[tuple[Layer, Part]]:
        """Every layer with its module, in the model's order."""
        for layer in self.layers:
            for part in layer.parts:
                yield layer, part

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of every layer's matrix."""
        return {part.name: (part.last - part.first, layer.inputs) for layer, part in self.parts()}


def _is_turned(module: nn.Module) -> bool:
    """GPT-2's Conv1D: a linear layer whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_linear(model: nn.Module, module: nn.Module) -> bool:
    """Whether it is a linear layer, the head apart."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return module is not head and (_is_turned(module) or isinstance(module, nn.Linear))


def _role(model: nn.Module, name: str) -> tuple[str, tuple[str, ...]]:
    """The group of a linear module and the layers in it; no layers where its name is not known."""
    above, _, last = name.rpartition(".")
    if isinstance(model.get_submodule(above), Block):
        return "attention" if last in ("qkv", "out") else "mlp", OURS[last]
    parents = [parent.lower() for parent in above.split(".")]
    for kind, table in (("attention", ATTENTION), ("mlp", MLP)):
        if last in table and any(word in parent for word in PARENTS[kind] for parent in parents):
            return kind, table[last]
    # decoder layers of OPT's kind hold fc1 and fc2 themselves
    if last in ("fc1", "fc2") and "layers" in parents:
        return "mlp", MLP[last]
    return "", ()


def _stack(module: str, parts: tuple[str, ...], inputs: int, outputs: int) -> tuple[Part, ...]:
    if len(parts) == 3 and outputs != 3 * inputs:  # fewer keys and values than queries (GPT-BigCode): not three equals
        parts = ("qkv",)
    height, rest = divmod(outputs, len(parts))
    if rest:
        raise InputError(f"{module} has {outputs} outputs, wanted {len(parts)} layers of equal height: {parts}")
    return tuple(Part(f"{module}.{part}", i * height, (i + 1) * height) for i, part in enumerate(parts))
