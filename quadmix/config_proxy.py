"""Sizes and optimiser of a proxy: the small decoder of the search, of scorers and of Quad."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quadmix.config_values import Section

ARITHMETIC = 2  # raised where the same model's losses or gradients have other bits than before


class ProxyConfig(Section):
    """Sizes and optimiser of a decoder proxy (RoPE, SwiGLU, RMSNorm, tied head).

    The preset sets every field that is not given; `custom` is `tiny` with sizes of one's own, all of them given.
    `tiny` is tuned for 200k-300k tokens on one core; `regmix_1m` is RegMix's (arXiv 2407.01492) proxy.
    """

    preset: Literal["tiny", "regmix_1m", "custom"] = "tiny"
    d_model: Annotated[int, Field(ge=8, le=8192)] = 64
    layers: Annotated[int, Field(ge=1, le=128)] = 1
    heads: Annotated[int, Field(ge=1, le=128)] = 2
    d_ff: Annotated[int, Field(ge=8, le=65536)] = 192
    seq_len: Annotated[int, Field(ge=8, le=65536)] = 64
    batch: Annotated[int, Field(ge=1, le=65536)] = 16  # sequences per optimiser step
    optimiser: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    embedding_lr: Annotated[float, Field(gt=0.0, le=1.0)] = 4e-3  # muon only: AdamW's rate for the embedding
    warmup: Annotated[int, Field(ge=0)] = 20  # steps, at most a tenth of all
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    clip: Annotated[float, Field(gt=0.0)] = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"  # of training's products; weights and losses stay float32

    @property
    def identity(self) -> str:
        """What two proxies must share to be the same; a later field counts where it is not at its default."""
        return self.model_dump_json(exclude={"precision"} if self.precision == "float32" else None)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        if isinstance(given.get("betas"), list):  # behind this function a list from JSON is no tuple any more
            given = {**given, "betas": tuple(given["betas"])}
        preset = given.get("preset")
        return {**PROXY_PRESETS.get(preset, {}), **given} if isinstance(preset, str) else given

    @model_validator(mode="after")
    def _sizes_fit(self) -> ProxyConfig:
        missing = [name for name in PROXY_SIZES if name not in self.model_fields_set]
        if self.preset == "custom" and missing:
            raise ValueError(f"`preset: custom` needs {', '.join(missing)}")
        if self.d_model % (2 * self.heads):
            raise ValueError(f"found d_model {self.d_model} and heads {self.heads}, wanted heads of equal, even width")
        return self


PROXY_SIZES = ("d_model", "layers", "heads", "d_ff", "seq_len", "batch")
# `tiny` is the defaults above
PROXY_PRESETS: dict[str, dict[str, object]] = {
    "regmix_1m": {
        "d_model": 256,
        "layers": 2,
        "heads": 8,
        "d_ff": 512,
        "seq_len": 2048,
        "batch": 512,
        "optimiser": "adamw",
        "lr": 4e-4,
        "warmup": 100,
    },
}
