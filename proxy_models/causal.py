"""A causal language model in the two halves that influence needs: a body, and the head that turns it into words.

Ours and any Hugging Face one (nothing of `transformers` is imported). A Hugging Face model's head is taken as one
matrix only where that gives the model's own logits on a few probe tokens; models that cap or scale them keep their own
way, and then hold the logits of all positions of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proxy_models.heads import Head, LinearHead, PlainHead
from proxy_models.model import Decoder

PROBE = 8  # tokens
SAME_LOGITS = 1e-4  # of the largest


@dataclass(frozen=True)
class Causal:
    """body: (batch, time) int64 tokens -> (batch, time, d) hidden states. vocab: what a token must be below."""

    body: Callable[[Tensor], Tensor]
    head: Head
    vocab: int


def causal(model: nn.Module) -> Causal:
    """The halves of a model; call it inside `still`."""
    if isinstance(model, Decoder):
        return Causal(model.hidden, LinearHead(model.embedding, model.frequency), len(model.embedding))

    # nothing is generated here: keys and values need not be kept
    options = {"use_cache": False} if hasattr(getattr(model, "config", None), "use_cache") else {}

    def logits(tokens: Tensor) -> Tensor:
        out = model(tokens, **options)
        found: Tensor = getattr(out, "logits", out)
        return found

    device = next(model.parameters()).device
    with torch.no_grad():
        probe = logits(torch.zeros(1, 1, dtype=torch.int64, device=device))
        vocab = probe.shape[-1]
        tokens = torch.arange(min(PROBE, vocab), device=device)[None]
        wanted = logits(tokens)
        head, base = getattr(model, "get_output_embeddings", lambda: None)(), getattr(model, "base_model", model)
        if isinstance(head, nn.Linear) and base is not model and head.out_features == vocab:
            found = head(base(tokens, **options)[0])
            if bool((found - wanted).abs().amax() <= SAME_LOGITS * wanted.abs().amax()):
                bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias
                return Causal(lambda given: base(given, **options)[0], LinearHead(head.weight, bias.exp()), vocab)
    return Causal(logits, PlainHead(), vocab)


@contextmanager
def still(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the model is on the device, its weights want no gradients and it drops nothing; as it was, outside."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = [(module, module.training) for module in model.modules()]
    came_from = next(model.parameters()).device
    model.requires_grad_(False).eval().to(device)
    try:
        yield
    finally:
        model.to(came_from)
        for parameter, wants in wanted:
            parameter.requires_grad_(wants)
        for module, was in training:
            module.training = was


def device_of(asked: str) -> torch.device:
    """`auto`: the GPU when there is one."""
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)
