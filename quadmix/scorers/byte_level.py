"""When a Hugging Face byte-level BPE may run through tiktoken, and the ranks that make it do so.

Hugging Face merges a pair of neighbours when that pair is in the merge list; tiktoken merges any neighbours whose
concatenation is a token. The two agree for every text if

1. each token is made by exactly one merge, merges are listed in the order of their results, and the 256 byte symbols
   are all there, and
2. applied to its own bytes, the BPE turns every token into itself.

Why that is enough: let neighbours u, v stand for a token t = uv that is made by another pair, when every merge before
t's has been applied. No merge crossed the borders of u·v, so the same merges on the bytes of t alone give u, v as
well, and then nothing can make t: the BPE would not turn t into itself. Both conditions are checked when a tokenizer
is loaded (its own vocabulary through its own model), not assumed.

Besides, the pre-tokeniser must be GPT-2's or a list of the clauses in `CLAUSES`, together covering every character
(what no clause matches, tiktoken would drop). These clauses only use the classes letter, number and blank; the tests
compare the two regular-expression engines on them code point by code point. And there must be no normaliser, dropout,
affixes, or added tokens that would match inside a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# clauses of pre-tokenisation patterns, with the class each covers: letter, number, blank or other character
CLAUSES = {
    **dict.fromkeys(("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"), ""),
    r" ?\p{L}+": "L",
    r"\p{L}+": "L",
    r"[^\r\n\p{L}\p{N}]?\p{L}+": "L",
    r" ?\p{N}+": "N",
    r" ?\p{N}{1,3}": "N",
    r"\p{N}{1,3}": "N",
    r"\p{N}": "N",
    r" ?[^\s\p{L}\p{N}]+": "P",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*": "P",
    r"\s*[\r\n]+": "",
    r"\s+(?!\S)": "",
    r"\s+": "S",
}
_EVERY_CLASS = set("LNPS")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NEUTRAL = {
    "dropout": (None, 0, 0.0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


def byte_symbols() -> list[str]:
    """The printable character that byte-level BPE files write for each of the 256 bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    symbols, spare = [], 256
    for byte in range(256):
        if byte in printable:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(spare))
            spare += 1
    return symbols


@dataclass(frozen=True)
class Conversion:
    """What tiktoken needs: token bytes -> rank, the pattern, and (n,) the id of each rank."""

    ranks: dict[bytes, int]
    pattern: str
    ids: NDArray[np.uint32]


def convert(spec: dict[str, Any], model: Any) -> Conversion | None:
    """The conversion of a parsed tokenizer.json, or None when equality is not proven.

    `model` is the file's `tokenizers` BPE model, used to apply the BPE to every token's own bytes.
    """
    pattern = _pattern(spec.get("pre_tokenizer") or {})
    if pattern is None or not _is_plain_bpe(spec):
        return None
    vocab: dict[str, int] = spec["model"]["vocab"]
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in spec["model"]["merges"]]
    symbols = byte_symbols()
    order = symbols + ["".join(pair) for pair in pairs]
    if len(set(order)) != len(order) or any(token not in vocab for token in order):
        return None
    for token in order:
        pieces = model.tokenize(token)
        if len(pieces) != 1 or pieces[0].id != vocab[token]:
            return None
    value = {symbol: byte for byte, symbol in enumerate(symbols)}
    ranks = {bytes(value[symbol] for symbol in token): rank for rank, token in enumerate(order)}
    return Conversion(ranks, pattern, np.array([vocab[token] for token in order], dtype=np.uint32))


def cuts_alike(pattern: str) -> bool:
    """Whether both libraries are known to cut the same pieces: only known clauses, and no character without one."""
    clauses = pattern.split("|")
    return all(clause in CLAUSES for clause in clauses) and {CLAUSES[clause] for clause in clauses} >= _EVERY_CLASS


def _pattern(splitter: dict[str, Any]) -> str | None:
    """The pattern of a pre-tokeniser that is ByteLevel with GPT-2's, or a Split by pattern and ByteLevel without."""
    steps = splitter.get("pretokenizers") or [] if splitter.get("type") == "Sequence" else [splitter]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space") is not False:
        return None
    own_pattern = steps[-1].get("use_regex", True)
    if len(steps) == 1 and own_pattern is True:
        return GPT2_PATTERN
    if len(steps) == 2 and own_pattern is False and steps[0].get("type") == "Split":
        split = steps[0]
        pattern = (split.get("pattern") or {}).get("Regex")
        if pattern and split.get("behavior") == "Isolated" and split.get("invert") is False and cuts_alike(pattern):
            return str(pattern)
    return None


def _is_plain_bpe(spec: dict[str, Any]) -> bool:
    model = spec.get("model") or {}
    return (
        model.get("type") == "BPE"
        and all(model.get(key) in neutral for key, neutral in _NEUTRAL.items())
        and spec.get("normalizer") is None
        # special tokens are read as plain text (see tokens.py); other added tokens would match inside a text
        and all(token.get("special") for token in spec.get("added_tokens") or ())
    )
