"""Heads on a small transformer encoder, trained from scratch on the labelled documents' tokens.

The network is `proxy_models.encoder`; torch is imported when one is trained or loaded, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quadmix.config_heads import EncoderModelConfig
from quadmix.errors import ConfigError, EnvironmentFault
from quadmix.scorers.language_models import beginnings
from quadmix.scorers.tokens import Tokenizer

if TYPE_CHECKING:
    from proxy_models.encoder import Encoder

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EncoderHeads:
    """What the encoder says is in deviations of the labels that it was trained on."""

    encoder: Encoder

    def predict(self, texts: Sequence[str], tokenizer: Tokenizer | None) -> Floats:
        """(n, D), standardised. tokenizer: that it was trained with."""
        assert tokenizer is not None  # the scorer travels with it
        return self.encoder.predict(beginnings(texts, tokenizer, self.encoder.config.max_tokens))


def fit_encoder_heads(
    config: EncoderModelConfig,
    tokenizer: Tokenizer | None,
    texts: Sequence[str],
    labels: Floats,
    learn: NDArray[np.bool_],
    seed: int,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], Floats]:
    """(facts and arrays of the model, (n, D) what it says of all texts). learn: those whose labels it may see.

    Raises ConfigError without a tokenizer, InputError when the loss diverges.
    """
    if tokenizer is None:
        raise ConfigError("heads scorer: an encoder needs the section `tokenizer`")
    tokens = beginnings(texts, tokenizer, config.max_tokens)
    seen = labels[learn]
    targets = (seen - seen.mean(axis=0)) / seen.std(axis=0)
    shown = [tokens[index] for index in np.flatnonzero(learn)]
    encoder = _encoders().fit_encoder(shown, targets, config, tokenizer.vocab_size, seed)
    facts = {
        "encoder": config.model_dump(mode="json"),
        "tokenizer": tokenizer.digest,
        "trained_tokens": config.epochs * sum(map(len, shown)),
        "device": encoder.embedding.device.type,
    }
    return facts, encoder.arrays(), encoder.predict(tokens)


def load_encoder_heads(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> EncoderHeads:
    """The heads of a model file."""
    config = EncoderModelConfig.model_validate(facts["encoder"])
    return EncoderHeads(_encoders().Encoder.from_arrays(config, arrays))


def _encoders() -> ModuleType:
    try:
        from proxy_models import encoder
    except ModuleNotFoundError as error:
        raise EnvironmentFault(f"an encoder needs the package {error.name}; pip install '.[search]'") from error
    return encoder
