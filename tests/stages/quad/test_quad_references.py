"""References as tokens: whole texts, or pairs of which the completion alone counts."""

from __future__ import annotations

import numpy as np
import pytest

from quadmix.config import QuadConfig, TokenizerConfig
from quadmix.hashing import content_hash, doc_hash
from quadmix.scorers.tokens import FileTokenizer, load_tokenizer
from quadmix.stages.quad.curvature import reference_groups
from quadmix.stages.target_tokens import context_tokens, joined
from quadmix.stages.targets import TargetSet
from tests.e2e.small_pool import ROOT

PROMPTS = tuple(f"Question {index}: what comes after {index}?" for index in range(40))
ANSWERS = tuple(f" The number {index + 1}, of course." for index in range(40))


@pytest.fixture(scope="module")
def tokenizer() -> FileTokenizer:
    return load_tokenizer(TokenizerConfig(path=str(ROOT / "examples" / "tokenizer" / "tokenizer.json")))


def target(pairs: bool) -> TargetSet:
    texts = tuple(prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True))
    return TargetSet("t", texts, texts, doc_hash(texts), content_hash(texts), PROMPTS if pairs else None)


def test_a_pair_is_its_prompt_as_context_and_its_completion(tokenizer: FileTokenizer) -> None:
    whole = target(pairs=True)
    wanted = {
        (*context_tokens(whole, [row], tokenizer)[0].tolist(), *tokenizer.encode_batch([ANSWERS[row]])[0].tolist())
        for row in range(len(whole))
    }
    (found,) = reference_groups(whole, tokenizer, QuadConfig(), 3)
    assert len(found) == len(whole.search)
    for tokens, context in found:
        assert tuple(tokens.tolist()) in wanted
        assert tokens[0] == tokenizer.end_id
        answer = tokenizer.encode_batch(ANSWERS)
        assert tokens[context:].tolist() in [one.tolist() for one in answer]


def test_a_text_is_all_reference_and_the_limit_counts_what_counts(tokenizer: FileTokenizer) -> None:
    (found,) = reference_groups(target(pairs=False), tokenizer, QuadConfig(), 3)
    assert {context for _, context in found} == {0}
    for pairs in (False, True):
        (some,) = reference_groups(target(pairs), tokenizer, QuadConfig(reference_tokens=60), 3)
        counted = np.cumsum([len(tokens) - context for tokens, context in some])
        assert counted[-1] >= 60 > counted[-2]


def test_a_context_is_cut_from_the_left_and_a_long_completion_from_the_right() -> None:
    context, completion = np.arange(10), np.arange(100, 106)
    assert joined(context, completion, 16)[0].tolist() == [*range(10), *range(100, 106)]
    tokens, kept = joined(context, completion, 9)
    assert (tokens.tolist(), kept) == ([7, 8, 9, *range(100, 106)], 3)
    tokens, kept = joined(context, completion, 6)
    assert (tokens.tolist(), kept) == ([7, 8, 9, 100, 101, 102], 3)
