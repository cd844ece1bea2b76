"""A model of the user's own, held against the run before anything is tokenised for it: its words and its positions.

A model reads ids, not words: under another tokenizer every benefit would be measured on noise, and nothing later would
tell. Only the folder's JSON files are read here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quadmix.errors import ConfigError
from quadmix.scorers.tokens import FileTokenizer

# what a config.json calls the most tokens of a document (Llama and most others; GPT-2 and GPT-J; MPT)
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
# the parts of a tokenizer.json that decide which ids a text becomes
_DECIDES = ("model", "normalizer", "pre_tokenizer")


def check_folder(path: str, tokenizer: FileTokenizer, max_tokens: int) -> tuple[str, ...]:
    """What could not be checked, as sentences. Raises ConfigError where the model's folder contradicts the run."""
    facts = _json(Path(path) / "config.json")
    if facts is None:
        raise ConfigError(f"quad.model.path: {path} holds no config.json; wanted the folder of a saved model")
    for section in (facts, facts.get("text_config") or {}):
        _check_positions(path, section, max_tokens)
    return tuple(_tokenizer_doubts(path, tokenizer))


def _check_positions(path: str, facts: dict[str, Any], max_tokens: int) -> None:
    for name in POSITIONS:
        most = facts.get(name)
        if isinstance(most, int) and 0 < most < max_tokens:
            raise ConfigError(
                f"quad.max_tokens: found {max_tokens:,}, but the model in {path} has {most:,} positions ({name} of its "
                f"config.json). Wanted at most {most:,}"
            )


def _tokenizer_doubts(path: str, tokenizer: FileTokenizer) -> Iterator[str]:
    theirs = Path(path) / "tokenizer.json"
    if tokenizer.form != "huggingface" or not theirs.is_file():
        lacking = f"{path} holds no tokenizer.json" if tokenizer.form == "huggingface" else "its ranks are tiktoken's"
        yield f"quad.model: not checked whether the model reads the run's tokens ({lacking}); they must be the same"
        return
    ours = Path(tokenizer.path)
    mine, other = _canonical(ours), _canonical(theirs)
    different = [name for name in _DECIDES if mine[name] != other[name]]
    if different:
        raise ConfigError(
            f"quad.model.path: the model in {path} was trained on other tokens than the run's: {theirs.name} there and "
            f"{ours} differ in {', '.join(different)}. Set tokenizer.path to the model's own file, or choose a model "
            "of the run's tokenizer"
        )


def _canonical(path: Path) -> dict[str, Any]:
    """The file as the tokenizers library writes it, so that two releases' spellings of one tokenizer are equal."""
    from tokenizers import Tokenizer

    try:
        found: dict[str, Any] = json.loads(Tokenizer.from_file(str(path)).to_str())
    except Exception as error:  # the library raises plain Exception
        raise ConfigError(f"quad.model.path: cannot read {path}: {error}") from error
    found["model"].pop("dropout", None)
    return found


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
