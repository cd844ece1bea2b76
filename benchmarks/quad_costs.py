"""What a selection costs, in floating-point operations as torch's own counter finds them.

Each pass is run on one batch of random tokens and counted (`torch.utils.flop_counter`: matrix products and attention),
so a token has a price in every pass: a training step, a benefit, the two passes for the curvature, a reference's
gradient. Counted: training the proxy, curvature, reference, benefits; and training the target model. Not counted, for
nobody: clustering and counting tokens, which every contestant but random documents needs and which use no model; nor
eigendecompositions and the solve, less than a thousandth of the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from proxy_models.influence import Layers, corrected, covariances, curvature, eigenbases, reference_gradient, score
from proxy_models.scoring import fit_language_model
from proxy_models.train import backward
from quadmix.config_proxy import ProxyConfig

_ROWS = 8


@dataclass(frozen=True)
class Prices:
    """FLOPs of a token: of a step of the target model and of the proxy, of a benefit, of both passes for the
    curvature together, of a reference's gradient."""

    target: float
    proxy: float
    benefit: float
    curvature: float
    reference: float


@dataclass(frozen=True)
class Used:
    """Tokens that a selection read in each of its passes."""

    proxy: int = 0
    benefit: int = 0
    curvature: int = 0
    reference: int = 0

    def flops(self, prices: Prices) -> float:
        return (
            self.proxy * prices.proxy
            + self.benefit * prices.benefit
            + self.curvature * prices.curvature
            + self.reference * prices.reference
        )


def prices(target: ProxyConfig, proxy: ProxyConfig, vocab_size: int, max_tokens: int) -> Prices:
    """Count every pass once. max_tokens: of a document that is scored."""
    rng = np.random.default_rng(0)
    docs = [rng.integers(0, vocab_size, max_tokens) for _ in range(_ROWS)]
    hashes = np.arange(_ROWS, dtype=np.uint64)
    # a few steps of training: a fresh decoder has no curvature yet
    model = fit_language_model(docs * 4, proxy, vocab_size, end_id=0, max_tokens=max_tokens).decoder
    layers = Layers.of(model, "all")
    sizes = {"max_tokens": max_tokens}
    positions = _ROWS * max_tokens
    bases = eigenbases(covariances(model, layers, docs, hashes, 0, **sizes))
    gradient = reference_gradient(model, layers, docs, **sizes)
    vector = curvature("identity", layers).solve(gradient)
    return Prices(
        target=_step(target, vocab_size),
        proxy=_step(proxy, vocab_size),
        benefit=_count(lambda: score(model, layers, vector, docs, **sizes)) / positions,
        curvature=(
            _count(lambda: covariances(model, layers, docs, hashes, 0, **sizes))
            + _count(lambda: corrected(model, layers, bases, docs, hashes, 0, **sizes))
        )
        / positions,
        reference=_count(lambda: reference_gradient(model, layers, docs, **sizes)) / positions,
    )


def _step(config: ProxyConfig, vocab_size: int) -> float:
    """A training step's, a token."""
    from proxy_models.model import Decoder

    model = Decoder(config, vocab_size, 0)
    rows = torch.randint(0, vocab_size, (config.batch, config.seq_len), generator=torch.Generator().manual_seed(0))
    return _count(lambda: backward(model, rows, rows, 1.0)) / rows.numel()


def _count(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
