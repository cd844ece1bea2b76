"""The decoder that all proxies are: pre-norm blocks of causal attention (RoPE) and SwiGLU, RMSNorm, a tied head.

    x = embedding[token]
    x = x + out(attention(rope(q), rope(k), v))   with q, k, v = qkv(rms_norm(x))
    x = x + down(silu(gate) * up)                 with gate, up = gate_up(rms_norm(x))
    logits = rms_norm(x) @ embedding.T + log p

`p` are the word frequencies of the proxy's own training stream: it starts as a model of word frequencies and spends
its few steps on what comes beyond them. The blocks start at zero output for the same reason. Norms have no gains: the
matrix that follows each of them holds them already.

Written for one core: the attention over short rows is spelled out because that is 1.5 times as fast as the fused CPU
kernel, and the loss never holds the logits of more than a few hundred positions (`proxy_models.gradients`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxy_models.gradients import rms_norm, swiglu
from quadmix.config_proxy import ProxyConfig

ROPE_BASE = 10_000.0
EMBEDDING_STD = 0.02
SPELLED_OUT = 128  # positions a row; beyond, holding all attention weights costs more than torch's fused kernel does


class Block(nn.Module):
    """One layer. All matrices are stored as (outputs, inputs); q, k, v and gate, up are stacked by rows.

    They are modules, so that hooks can see what goes into each and what comes out (`proxy_models.layers`).
    """

    def __init__(self, d_model: int, d_ff: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _matrix(d_model, 3 * d_model)
        self.out = _matrix(d_model, d_model)
        self.gate_up = _matrix(d_model, 2 * d_ff)
        self.down = _matrix(d_ff, d_model)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        """x: (batch, time, d_model) -> same shape. rotation: (time, 1, head/2) complex; mask: (time, time).

        Rows longer than SPELLED_OUT need no mask.
        """
        x = x + self.out(self._attention(x, rotation, mask))
        down: Tensor = self.down(swiglu(self.gate_up(rms_norm(x))))
        return x + down

    def _attention(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        batch, time, d_model = x.shape
        head = d_model // self.heads
        qkv = self.qkv(rms_norm(x)).view(batch, time, 3 * self.heads, head)
        qk, v = torch.split(qkv, [2 * self.heads, self.heads], dim=2)
        q, k = rotate(qk, rotation).chunk(2, dim=2)
        attended = self._attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        return attended.transpose(1, 2).reshape(batch, time, d_model)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Causal attention over (batch, heads, time, head)."""
        time = q.shape[2]
        if time > SPELLED_OUT:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        # one batched product a step, the mask added by the first of them
        rows = [part.reshape(-1, time, q.shape[3]) for part in (q, k, v)]
        weights = torch.baddbmm(mask, rows[0], rows[1].transpose(1, 2), alpha=q.shape[3] ** -0.5).softmax(dim=-1)
        return torch.bmm(weights, rows[2]).view(q.shape)


def _matrix(inputs: int, outputs: int) -> nn.Linear:
    """A product without bias that starts at zero and draws nothing: `Decoder` draws, and from its own seed."""
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)  # type: ignore[no-untyped-call]
    nn.init.zeros_(linear.weight)
    return linear


class Decoder(nn.Module):
    """A decoder of the configured sizes over `vocab_size` tokens, on the CPU, initialised from `seed`."""

    def __init__(self, config: ProxyConfig, vocab_size: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(vocab_size, config.d_model))
        blocks = [Block(config.d_model, config.d_ff, config.heads) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.frequency: Tensor
        self.register_buffer("frequency", torch.full((vocab_size,), 1.0 / vocab_size))
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.embedding, std=EMBEDDING_STD, generator=generator)
        for block in blocks:
            nn.init.normal_(block.qkv.weight, std=config.d_model**-0.5, generator=generator)
            nn.init.normal_(block.gate_up.weight, std=config.d_model**-0.5, generator=generator)

    def hidden(self, tokens: Tensor) -> Tensor:
        """tokens: (batch, time) int64 -> (batch, time, d_model), ready for the head."""
        return self.body(F.embedding(tokens, self.embedding))

    def body(self, x: Tensor) -> Tensor:
        """x: the tokens' rows of the embedding, (batch, time, d_model) -> same shape, ready for the head."""
        time = x.shape[1]
        rotation = rope(time, self.config.d_model // self.config.heads, x.device)
        side = time if time <= SPELLED_OUT else 0
        mask = torch.full((side, side), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        x = rms_norm(x)
        for block in self.blocks:
            x = block(x, rotation, mask)
        return rms_norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (batch, time) int64 -> logits of the next token (batch, time, vocab_size)."""
        return F.linear(self.hidden(tokens), self.embedding, self.frequency.log())


def rope(time: int, head: int, device: torch.device) -> Tensor:
    """exp(i * position * base**(-2j / head)): (time, 1, head / 2) complex64."""
    frequency = ROPE_BASE ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    angle = torch.outer(torch.arange(time, dtype=torch.float64), frequency)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).unsqueeze(1).to(device)


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding: neighbouring entries (2j, 2j + 1) of every head are turned as one complex number."""
    if heads.dtype is torch.bfloat16:  # which has no complex numbers
        heads = heads.float()
    pairs = torch.view_as_complex(heads.view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2)
