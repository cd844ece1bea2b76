"""Pairs: the loss of the completions given their prompts, as one pair after the other gives it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from proxy_models.completions import CompletionSet, load_held_out
from proxy_models.data import EvalSet
from proxy_models.model import Decoder
from proxy_models.train import evaluate, train_proxy
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import InputError

VOCAB, WINDOW = 64, 16
CONFIG = ProxyConfig(preset="custom", d_model=16, layers=1, heads=2, d_ff=32, seq_len=WINDOW, batch=8, lr=1e-2)


def pairs(sizes: list[tuple[int, int]], seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = [[rng.integers(0, VOCAB, size).astype(np.uint16) for size in pair] for pair in sizes]
    return [pair[0] for pair in made], [pair[1] for pair in made]


def literal_loss(model: Decoder, contexts: list[np.ndarray], completions: list[np.ndarray]) -> float:
    """Every pair by itself, no padding, no mask: full logits, and the completion's part of their log-likelihood."""
    total, count = 0.0, 0
    for context, completion in zip(contexts, completions, strict=True):
        piece = len(completion) if len(completion) <= WINDOW else WINDOW // 2
        for first in range(0, len(completion), piece):
            part = completion[first : first + piece].astype(np.int64)
            before = np.concatenate([context, completion[:first]]).astype(np.int64)
            before = before[-(WINDOW - len(part) + 1) :]
            sequence = torch.from_numpy(np.concatenate([before, part]))
            with torch.inference_mode():
                logits = model(sequence[None, :-1])[0].double().log_softmax(-1)
            wanted = logits[torch.arange(len(sequence) - 1), sequence[1:]]
            total -= float(wanted[-len(part) :].sum())
            count += len(part)
    return total / count


@pytest.mark.parametrize(
    "sizes",
    [
        [(3, 4), (1, 1), (5, 2)],
        [(40, 6), (100, 1)],  # the prompt is cut from the left
        [(4, 16), (9, 15), (30, 17), (2, 45)],  # completions as long as the window and longer
    ],
)
def test_masked_losses_are_those_of_every_pair_alone(sizes: list[tuple[int, int]]) -> None:
    contexts, completions = pairs(sizes)
    model = Decoder(CONFIG, VOCAB, seed=3)
    held_out = CompletionSet.of_pairs(contexts, completions, [5] * len(sizes), 10**6)
    assert evaluate(model, held_out) == pytest.approx(literal_loss(model, contexts, completions), rel=1e-5)


def test_the_prompt_matters_and_its_own_tokens_do_not_count() -> None:
    contexts, completions = pairs([(6, 5)] * 30)
    model = Decoder(CONFIG, VOCAB, seed=3)
    held_out = CompletionSet.of_pairs(contexts, completions, [5] * 30, 10**6)
    others = CompletionSet.of_pairs(pairs([(6, 5)] * 30, seed=9)[0], completions, [5] * 30, 10**6)
    assert evaluate(model, held_out) != evaluate(model, others)
    assert held_out.unigram_entropy() == others.unigram_entropy()
    assert held_out.unigram_entropy() == EvalSet(np.concatenate(completions), 1).unigram_entropy()
    assert held_out.rows(WINDOW).counted.sum() == held_out.n_tokens == 150
    assert held_out.bits_per_byte(2.0) == pytest.approx(2.0 * 150 / math.log(2) / 150)


def test_every_completion_token_counts_once_and_only_what_precedes_it_is_seen() -> None:
    rng = np.random.default_rng(1)
    sizes = [(int(a), int(b)) for a, b in rng.integers(1, 60, (40, 2))]
    contexts, completions = pairs(sizes, 1)
    rows = CompletionSet.of_pairs(contexts, completions, [1] * 40, 10**6).rows(WINDOW)
    assert rows.targets[rows.counted].tolist() == np.concatenate(completions).tolist()
    # in a row, the target of a position is the input of the next one
    held = np.arange(WINDOW - 1)[None] < rows.counted.shape[1]
    length = np.array([np.flatnonzero(mask)[-1] for mask in rows.counted])
    inside = held & (np.arange(WINDOW - 1)[None] < length[:, None])
    assert (rows.inputs[:, 1:][inside] == rows.targets[:, :-1][inside]).all()


def test_a_set_comes_back_from_its_file_and_stops_at_its_limit(tmp_path: Path) -> None:
    contexts, completions = pairs([(3, 4)] * 5)
    held_out = CompletionSet.of_pairs(contexts, completions, [7] * 5, 9)
    assert (held_out.n_tokens, held_out.n_bytes) == (8, 14)
    held_out.save(str(tmp_path / "pairs"))
    again = load_held_out(str(tmp_path / "pairs"))
    assert isinstance(again, CompletionSet)
    assert np.array_equal(again.tokens, held_out.tokens)
    assert again.lengths.tolist() == held_out.lengths.tolist() == [[3, 4]] * 2
    EvalSet(np.arange(5, dtype=np.uint16), 9).save(str(tmp_path / "text"))
    assert isinstance(load_held_out(str(tmp_path / "text")), EvalSet)
    with pytest.raises(InputError, match="pairs"):
        CompletionSet(np.zeros(3, np.uint16), np.array([[0, 3]]), 3)


def test_a_proxy_is_measured_on_both_kinds() -> None:
    contexts, completions = pairs([(5, 6)] * 20)
    stream = np.random.default_rng(0).integers(0, VOCAB, 3000).astype(np.uint16)
    sets = {"pairs": CompletionSet.of_pairs(contexts, completions, [9] * 20, 10**6), "text": EvalSet(stream[:500], 900)}
    found = train_proxy(CONFIG, VOCAB, stream, init_seed=0, order_seed=0, eval_sets=sets)
    assert found.status == "ok"
    assert found.bits_per_byte["pairs"] == pytest.approx(found.losses["pairs"] * 120 / math.log(2) / 180)
