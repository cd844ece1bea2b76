"""A question about documents, put to a causal language model: how much likelier is `yes` than `no` as the next word?

The prompt's two halves and the document are tokenised apart. So a document is cut at one of its own tokens (never
inside a character, never into the question), and a special token's name inside it is ordinary text. As in
`proxy_models.scoring`, every forward pass has one of a few fixed shapes and what remains of the last bits is rounded
away, so an answer does not depend on the documents that share its batch. Padding stands behind the last token, where a
causal model cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from proxy_models.causal import Causal, causal, device_of
from proxy_models.heads import PlainHead
from proxy_models.loading import load_causal
from proxy_models.train import one_thread
from quadmix.errors import ConfigError, EnvironmentFault, InputError

KEY = "annotate.scorers (ask_llm)"
CHARS_PER_TOKEN = 8
POSITIONS = 4096  # in one forward pass
PLAIN_POSITIONS = 512  # where the model gives logits of all positions and nothing less
SHORTEST = 32
QUANTUM = 2.0**-10  # nats
_MARK = "\ufffc"  # stands for the document while the prompt goes through a chat template


@dataclass(frozen=True)
class Question:
    """prompt: holds `{text}` once; yes, no: answers of which those count that are one token; max_tokens: of a document;
    chat: put the prompt as a user's message, by the tokenizer's chat template."""

    prompt: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    max_tokens: int
    chat: bool


class AskedModel:
    """A model, its tokenizer and the question, ready. Raises what `load_causal` does, and InputError or ConfigError for
    what cannot be asked: no tokenizer.json, no such answers, too few positions, no chat template."""

    def __init__(self, path: str, question: Question) -> None:
        library = _tokenizer(path)
        self._tokenizer = _plain(library)
        self._max_tokens = question.max_tokens
        self._before, self._after = _halves(library, question, path)
        self._yes, self._no = (_answers(self._tokenizer, words, path) for words in (question.yes, question.no))
        if shared := sorted(set(self._yes) & set(self._no)):
            raise ConfigError(f"{KEY}: yes and no share the tokens {shared} of {path}; wanted answers that differ")
        self._longest = len(self._before) + question.max_tokens + len(self._after)
        model = load_causal("huggingface", path, KEY)
        positions = getattr(model.config, "max_position_embeddings", None)
        if isinstance(positions, int) and self._longest > positions:
            raise ConfigError(
                f"{KEY}: the prompt's {self._longest - question.max_tokens:,} tokens and max_tokens, "
                f"{question.max_tokens:,}, are more than the {positions:,} positions of {path}; lower max_tokens"
            )
        self._device = device_of("auto")
        model.requires_grad_(False).eval().to(self._device)
        with one_thread(), torch.inference_mode():
            self._causal: Causal = causal(model)
        highest = max((*self._yes, *self._no, *self._before, *self._after))
        if highest >= self._causal.vocab:
            raise InputError(
                f"{KEY}: the tokenizer of {path} has token {highest}, its model only {self._causal.vocab} of them; "
                "wanted a model's own tokenizer"
            )

    def ask(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n,) log p(yes) - log p(no) in nats after each text, the same whatever else is asked with it."""
        prompts = [[*self._before, *ids, *self._after] for ids in self._cut(texts)]
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        answers = np.zeros(len(texts))
        widths = [SHORTEST << k for k in range(32) if SHORTEST << k < self._longest] + [self._longest]
        width_of = np.searchsorted(widths, lengths)
        positions = PLAIN_POSITIONS if isinstance(self._causal.head, PlainHead) else POSITIONS
        with one_thread(), torch.inference_mode():
            for index, width in enumerate(widths):
                members = np.flatnonzero(width_of == index)
                rows = max(1, positions // width)
                for begin in range(0, len(members), rows):
                    chosen = members[begin : begin + rows]
                    answers[chosen] = self._answers([prompts[i] for i in chosen], rows, width)
        return (np.round(answers / QUANTUM) * QUANTUM).astype(np.float32)

    def _answers(self, prompts: Sequence[list[int]], rows: int, width: int) -> NDArray[np.float64]:
        """Exactly (rows, width) positions go through the model, however few are asked."""
        table = np.zeros((rows, width), dtype=np.int64)
        last = np.zeros(rows, dtype=np.int64)
        for row, prompt in enumerate(prompts):
            table[row, : len(prompt)] = prompt
            last[row] = len(prompt) - 1
        hidden = self._causal.body(torch.from_numpy(table).to(self._device))
        at_end = hidden[torch.arange(rows, device=self._device), torch.from_numpy(last).to(self._device)]
        yes, no = (self._causal.head.logits(at_end, words).double().logsumexp(dim=1) for words in (self._yes, self._no))
        odds: NDArray[np.float64] = (yes - no).cpu().numpy()[: len(prompts)]
        return odds

    def _cut(self, texts: Sequence[str]) -> list[list[int]]:
        """The first tokens of each text, whole characters."""
        found = []
        limit = self._max_tokens
        heads = [text[: CHARS_PER_TOKEN * limit] for text in texts]
        for encoded in self._tokenizer.encode_batch(heads, add_special_tokens=False):
            ids, offsets, cut = encoded.ids, encoded.offsets, limit
            if len(ids) > limit:
                while (
                    cut and offsets[cut][0] < offsets[cut - 1][1]
                ):  # the next token has a part of this one's character
                    cut -= 1
            found.append(ids[:cut])
        return found


def prompt_tokens(path: str, question: Question) -> int:
    """Of the question without the document. Raises as `AskedModel` does, for a tokenizer that cannot ask it."""
    before, after = _halves(_tokenizer(path), question, path)
    return len(before) + len(after)


def _tokenizer(path: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{KEY}: needs the package {error.name!r}, which is not installed; pip install transformers"
        ) from error
    try:
        library = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{KEY}.path: {path} holds no tokenizer that can be read ({error})") from error
    if not library.is_fast:
        raise InputError(f"{KEY}.path: the tokenizer of {path} has no tokenizer.json; save it as a fast tokenizer")
    return library


def _plain(library: Any) -> Any:
    """A tokenizer that takes special tokens' names as ordinary text, cuts nothing and pads nothing."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(library.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain


def _halves(library: Any, question: Question, path: str) -> tuple[list[int], list[int]]:
    """The tokens before the document, with the one that begins a text where the tokenizer has it, and after it."""
    prompt = question.prompt.replace("{text}", _MARK)
    begins: list[int] = []
    if question.chat:
        if library.chat_template is None:
            raise ConfigError(f"{KEY}.chat: the tokenizer of {path} has no chat template; leave `chat` out")
        message = [{"role": "user", "content": prompt}]
        prompt = library.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        if prompt.count(_MARK) != 1:
            raise ConfigError(f"{KEY}.chat: the chat template of {path} repeats or drops the message; leave `chat` out")
    elif library.bos_token_id is not None and library("a")["input_ids"][:1] == [library.bos_token_id]:
        begins = [library.bos_token_id]
    before, after = (library(half, add_special_tokens=False)["input_ids"] for half in prompt.split(_MARK))
    return [*begins, *before], list(after)


def _answers(tokenizer: Any, words: Sequence[str], path: str) -> list[int]:
    """The tokens of those words that are one token each. Raises ConfigError when none is."""
    encoded = [tokenizer.encode(word, add_special_tokens=False).ids for word in words]
    found = sorted({ids[0] for ids in encoded if len(ids) == 1})
    if not found:
        raise ConfigError(
            f"{KEY}: none of {', '.join(map(repr, words))} is one token of {path}; wanted answers that are, since the "
            "probability of one token is read"
        )
    return found
