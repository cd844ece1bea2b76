"""What the heads of `{kind: heads}` may be: a linear map of embeddings, or a small transformer encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quadmix.config_values import Section


class RidgeModelConfig(Section):
    """Ridge regression from the scorer's `embedder`."""

    kind: Literal["ridge"] = "ridge"


class EncoderModelConfig(Section):
    """A bidirectional transformer over the run's tokens, trained from scratch on the labelled documents.

    max_tokens: read of a document, from its beginning; it trains on those too. batch: documents a step.
    """

    kind: Literal["encoder"]
    d_model: Annotated[int, Field(ge=8, le=4096)] = 128
    layers: Annotated[int, Field(ge=1, le=64)] = 2
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    d_ff: Annotated[int, Field(ge=8, le=32768)] = 384
    max_tokens: Annotated[int, Field(ge=16, le=8192)] = 256
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1

    @model_validator(mode="after")
    def _sizes_fit(self) -> EncoderModelConfig:
        if self.d_model % (2 * self.heads):
            raise ValueError(f"found d_model {self.d_model} and heads {self.heads}, wanted heads of equal, even width")
        return self


HeadsModelConfig = Annotated[RidgeModelConfig | EncoderModelConfig, Field(discriminator="kind")]
