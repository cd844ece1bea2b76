"""What a target's documents are as tokens: texts, or pairs of a context and a completion that alone counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quadmix.scorers.tokens import FileTokenizer
from quadmix.stages.targets import TargetSet

if TYPE_CHECKING:
    from proxy_models.data import Tokens


def context_tokens(half: TargetSet, rows: Sequence[int], tokenizer: FileTokenizer) -> list[Tokens]:
    """Of pairs: each prompt, tokenised apart from its completion, so that the border between them is one between
    tokens. The end token stands before it, where the document before it ended."""
    if half.prompts is None:
        raise ValueError(f"target {half.name!r} has no prompts")
    contexts = tokenizer.encode_batch([half.prompts[row] for row in rows])
    return [np.roll(tokens, 1) for tokens in contexts] if tokenizer.end_id is not None else list(contexts)


def joined(context: Tokens, completion: Tokens, max_tokens: int) -> tuple[Tokens, int]:
    """(a pair as one document of at most `max_tokens`, how many of them are context). A context that does not fit
    beside its completion is cut from the left; a completion that does not fit by itself leaves it half."""
    room = max_tokens - len(completion)
    kept = context[-(room if room > 0 else max_tokens // 2) :]
    return np.concatenate([kept, completion])[:max_tokens], len(kept)
