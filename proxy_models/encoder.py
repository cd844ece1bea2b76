"""A small bidirectional transformer that reads a document's beginning and gives some numbers: heads over its mean.

    x = rms_norm(embedding[token]); x = blocks(x), every token attending to all; y = head(mean over tokens rms_norm(x))

The blocks are the decoder's (RoPE, SwiGLU, RMSNorm), trained from scratch on labelled documents. Targets are
standardised, and the head starts at zero: the first guess is the mean.

As with language models, a document's numbers must not depend on its company: every pass of `predict` has one of a few
fixed shapes, filled up with padding that nothing attends to, and the last bits are rounded away (QUANTUM). On one kind
of device, that is; a GPU, which is taken when there is one, adds in another order than a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from proxy_models.causal import device_of
from proxy_models.data import Tokens
from proxy_models.gradients import rms_norm
from proxy_models.model import Block, rope
from proxy_models.scoring import POSITIONS, by_width
from proxy_models.train import batches_of, one_thread, schedule
from quadmix.config_heads import EncoderModelConfig
from quadmix.errors import InputError
from quadmix.hashing import seed_for

QUANTUM = 2.0**-10  # of a standard deviation
WARMUP = 50  # steps, at most a tenth of all
CLIP = 1.0  # norm of a step's gradient
_ROUND = 16  # positions: a training batch is as wide as its longest document, rounded up

Arrays = dict[str, NDArray[Any]]


class _Seeing(Block):
    """A block in which every token attends to all tokens of its document. mask: (batch, 1, 1, time) bool."""

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Encoder(nn.Module):
    """outputs: how many numbers a document gets. On the CPU, initialised from `seed`."""

    def __init__(self, config: EncoderModelConfig, vocab_size: int, outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(vocab_size, config.d_model))
        blocks = [_Seeing(config.d_model, config.d_ff, config.heads) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.weight = nn.Parameter(torch.zeros(outputs, config.d_model))
        self.bias = nn.Parameter(torch.zeros(outputs))
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.embedding, generator=generator)
        for block in blocks:
            nn.init.normal_(block.qkv.weight, std=config.d_model**-0.5, generator=generator)
            nn.init.normal_(block.gate_up.weight, std=config.d_model**-0.5, generator=generator)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """tokens: (batch, time) int64; real: (batch, time) bool, False for padding -> (batch, outputs)."""
        rotation = rope(tokens.shape[1], self.config.d_model // self.config.heads, tokens.device)
        # a row of padding alone attends to itself, and is thrown away
        mask = (real | ~real.any(dim=1, keepdim=True))[:, None, None, :]
        x = rms_norm(F.embedding(tokens, self.embedding))
        for block in self.blocks:
            x = block(x, rotation, mask)
        x = rms_norm(x) * real[:, :, None]
        mean = x.sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        return F.linear(mean, self.weight, self.bias)

    def arrays(self) -> Arrays:
        """The weights, by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, config: EncoderModelConfig, arrays: Mapping[str, NDArray[Any]]) -> Encoder:
        """Raises InputError when the arrays are not those of such an encoder."""
        try:
            encoder = cls(config, len(arrays["embedding"]), len(arrays["bias"]))
            encoder.load_state_dict({name: torch.tensor(arrays[name]) for name in encoder.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise InputError(f"encoder: the arrays are not those of the sizes that its facts name: {error}") from error
        return encoder.to(device_of("auto"))

    def predict(self, documents: Sequence[Tokens]) -> NDArray[np.float64]:
        """(n, outputs), in deviations from the mean of what it was trained on; 0 for a document without tokens.

        Raises InputError for tokens beyond the vocabulary.
        """
        found = np.zeros((len(documents), len(self.bias)))
        lengths = np.array([min(len(document), self.config.max_tokens) for document in documents], dtype=np.int64)
        filled = np.flatnonzero(lengths)
        _check_tokens(documents, len(self.embedding))
        with one_thread(), torch.inference_mode():
            for width, members in by_width(lengths[filled], self.config.max_tokens):
                rows = max(1, POSITIONS // width)
                for begin in range(0, len(members), rows):
                    chosen = filled[members[begin : begin + rows]]
                    tokens, real = _table([documents[index] for index in chosen], rows, width)
                    device = self.embedding.device
                    out = self(tokens.to(device), real.to(device)).double().cpu().numpy()
                    found[chosen] = np.round(out[: len(chosen)] / QUANTUM) * QUANTUM
        return found


def fit_encoder(
    documents: Sequence[Tokens],
    targets: NDArray[np.float64],
    config: EncoderModelConfig,
    vocab_size: int,
    seed: int,
    device: str = "auto",
) -> Encoder:
    """Learn (n, outputs) standardised targets by mean squared error; documents without tokens teach nothing.

    The same bits for the same arguments on a CPU. Raises InputError when there is nothing to learn from or the loss
    stops being finite.
    """
    filled = np.flatnonzero([len(document) for document in documents])
    if not len(filled):
        raise InputError("encoder: no labelled document has any tokens")
    _check_tokens(documents, vocab_size)
    with one_thread():
        where = device_of(device)
        encoder = Encoder(config, vocab_size, targets.shape[1], seed_for(seed, "encoder", "init")).to(where)
        weights = [p for p in encoder.parameters() if p.ndim > 1]
        groups: list[dict[str, Any]] = [
            {"params": weights, "weight_decay": config.weight_decay},
            {"params": [encoder.bias]},
        ]
        optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        wanted = torch.from_numpy(targets[filled]).float().to(where)
        batches = [
            batch
            for epoch in range(config.epochs)
            for batch in batches_of(len(filled), config.batch, seed_for(seed, "encoder", "order", epoch))
        ]
        for step, batch in enumerate(batches):
            chosen = [documents[index][: config.max_tokens] for index in filled[batch]]
            width = -(-max(map(len, chosen)) // _ROUND) * _ROUND
            tokens, real = _table(chosen, len(chosen), width)
            loss = F.mse_loss(encoder(tokens.to(where), real.to(where)), wanted[batch])
            if not math.isfinite(float(loss.detach())):
                raise InputError(f"encoder: the loss is not finite at step {step} of {len(batches)}; lower model.lr")
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
            for group in optimiser.param_groups:
                group["lr"] = config.lr * schedule(step, len(batches), WARMUP)
            optimiser.step()
            optimiser.zero_grad()
    return encoder.eval()


def _table(documents: Sequence[Tokens], rows: int, width: int) -> tuple[Tensor, Tensor]:
    """(rows, width) tokens and which of them are real."""
    tokens = np.zeros((rows, width), dtype=np.int64)
    real = np.zeros((rows, width), dtype=np.bool_)
    for row, document in enumerate(documents):
        length = min(len(document), width)
        tokens[row, :length] = document[:length]
        real[row, :length] = True
    return torch.from_numpy(tokens), torch.from_numpy(real)


def _check_tokens(documents: Sequence[Tokens], vocab_size: int) -> None:
    highest = max((int(document.max()) for document in documents if len(document)), default=0)
    if highest >= vocab_size:
        raise InputError(f"encoder: found token {highest} in a document, wanted less than {vocab_size}")
