"""A causal language model from a folder: what influence is measured with, and what is asked about documents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from proxy_models.scoring import load_language_model
from quadmix.errors import EnvironmentFault, InputError


def stored_weights(path: str) -> int:
    """How many numbers the safetensors files of a model's folder hold, from their headers; 0 without such files."""
    from safetensors import safe_open

    total = 0
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def load_causal(kind: str, path: str, key: str = "quad.model") -> nn.Module:
    """kind: proxy (as `scoring.LanguageModel.save` leaves it) or huggingface (safetensors; no code of it is run).
    key: of the config, for errors.

    Raises InputError for a folder that holds no such model, EnvironmentFault without `transformers`.
    """
    if kind == "proxy":
        return load_language_model(Path(path)).decoder
    try:
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{key}: a Hugging Face model needs the package {error.name!r}, which is not installed; "
            "pip install transformers"
        ) from error
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="float32",
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{key}.path: {path} holds no causal language model in safetensors ({error})") from error
    model: nn.Module
    model, found = loaded
    # what is tied to another weight is not in the file and not missing either
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"{key}.path: {path} lacks {len(missing):,} weights of {type(model).__name__}, {missing[0]} for one; "
            "they would be random. Wanted a whole checkpoint of a causal language model"
        )
    return model.eval()
