"""A causal language model of a few thousand weights with a tokenizer of its own, as a Hugging Face folder."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from tests.scorers.list_context import notices, speech

TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}<|answer|>"


@lru_cache
def tiny_model() -> str:
    """The same bytes in every process; the folder lives as long as the process does."""
    return write_model(Path(_folder().name))


@lru_cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="asked-model-")


def write_model(folder: Path, kind: str = "llama", positions: int = 512, chat: str | None = None) -> str:
    """kind: llama, or gemma2, whose logits are capped."""
    import torch
    import transformers

    words = write_tokenizer(folder, chat)
    sizes = {
        "vocab_size": words, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": positions,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(3)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, initializer_range=0.4))
    else:
        config = transformers.Gemma2Config(**sizes, head_dim=8, initializer_range=0.4, final_logit_softcapping=5.0)
        model = transformers.Gemma2ForCausalLM(config)
    model.save_pretrained(folder)
    return str(folder)


def write_tokenizer(folder: Path, chat: str | None = None) -> int:
    """Bytes and merges of the tests' own sentences; returns the number of entries."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|start|>", "<|user|>", "<|end|>", "<|answer|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    answers = ["yes no Yes No yes no yes no Yes No", "Answer: yes", "Answer: no"] * 50
    tokenizer.train_from_iterator([*answers, *(d.text for d in [*speech(30), *notices(30)])], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|start|>")
    fast.chat_template = chat
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()
