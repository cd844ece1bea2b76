"""Training: what decides the bits, what is seen, and how it fails."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from proxy_models import train
from proxy_models.data import EvalSet
from proxy_models.gradients import ROWWISE
from proxy_models.model import Decoder
from proxy_models.optimiser import orthogonalise
from proxy_models.train import backward, batches_of, evaluate, frequencies, rows_of, schedule, train_proxy
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import InputError

VOCAB = 64
CONFIG = ProxyConfig(preset="custom", d_model=16, layers=1, heads=2, d_ff=32, seq_len=16, batch=8, lr=1e-2)


def words(n: int, seed: int = 0) -> np.ndarray:
    """Half the time the successor of the last word, else any word: unigrams are flat, bigrams are not."""
    generator = np.random.Generator(np.random.PCG64(seed))
    stream = generator.integers(0, VOCAB, n)
    follows = generator.random(n) < 0.5
    for i in range(1, n):
        if follows[i]:
            stream[i] = (stream[i - 1] + 1) % VOCAB
    return stream.astype(np.uint16)


TARGETS = {"text": EvalSet(words(1000, seed=9), 3000)}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_proxy_learns_what_frequencies_do_not_know(optimiser: str) -> None:
    config = CONFIG.model_copy(update={"optimiser": optimiser})
    result = train_proxy(config, VOCAB, words(16_000), init_seed=0, order_seed=0, eval_sets=TARGETS)
    assert result.status == "ok"
    assert result.losses["text"] < TARGETS["text"].unigram_entropy() - 0.3
    assert result.bits_per_byte["text"] == pytest.approx(result.losses["text"] * 1000 / math.log(2) / 3000)
    assert result.curve[-1][0] == result.tokens_seen == 15_984
    assert result.curve[-1][1] < result.curve[0][1]


@pytest.mark.parametrize("vocab", [VOCAB, 2 * ROWWISE])
def test_bfloat16_products_give_the_same_curve_within_half_a_percent(vocab: int) -> None:
    curves, losses = {}, {}
    for precision in ("float32", "bfloat16"):
        config = CONFIG.model_copy(update={"precision": precision})
        found = train_proxy(config, vocab, words(8000), init_seed=0, order_seed=0, eval_sets=TARGETS)
        curves[precision] = np.array([loss for _, loss in found.curve])
        losses[precision] = found.losses["text"]
    apart = np.abs(curves["bfloat16"] / curves["float32"] - 1.0)
    assert 0.0 < apart.max() < 5e-3
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=5e-3)


def test_same_seeds_same_bits_other_seeds_other_bits() -> None:
    def losses(init_seed: int, order_seed: int) -> tuple[object, ...]:
        result = train_proxy(CONFIG, VOCAB, words(2000), init_seed=init_seed, order_seed=order_seed, eval_sets=TARGETS)
        return (*result.losses.values(), *result.curve)

    torch.manual_seed(1)
    first = losses(0, 0)
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert losses(0, 0) == first
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert losses(1, 0) != first
    assert losses(0, 1) != first


def test_large_batches_add_up_to_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_proxy(CONFIG, VOCAB, words(2000), init_seed=0, order_seed=0, eval_sets=TARGETS)
    monkeypatch.setattr(train, "MICRO_POSITIONS", 3 * CONFIG.seq_len)
    pieces = train_proxy(CONFIG, VOCAB, words(2000), init_seed=0, order_seed=0, eval_sets=TARGETS)
    assert pieces.losses["text"] == pytest.approx(whole.losses["text"], rel=1e-4)
    assert pieces.tokens_seen == whole.tokens_seen


@pytest.mark.parametrize("vocab", [VOCAB, ROWWISE + 50])
def test_gradients_are_those_of_autograd_on_the_whole_model(vocab: int) -> None:
    model = Decoder(CONFIG, vocab, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.frequency.copy_(torch.rand(vocab, generator=generator) + 0.1)
    tokens = torch.randint(0, vocab, (5, CONFIG.seq_len + 1), generator=generator)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    plain = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    wanted = torch.autograd.grad(plain, list(model.parameters()))
    parts = [backward(model, inputs[:2], targets[:2], 2 / 5), backward(model, inputs[2:], targets[2:], 3 / 5)]
    assert float(sum(parts)) == pytest.approx(plain.item(), rel=1e-5)
    for parameter, reference in zip(model.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - reference).abs().max()) < 1e-5 * float(reference.abs().max())


def test_every_token_but_the_first_is_a_target_once() -> None:
    inputs, targets = rows_of(np.arange(50, dtype=np.uint16), 16, 64)
    assert targets.flatten().tolist() == list(range(1, 49))
    assert inputs.flatten().tolist() == list(range(48))
    batches = batches_of(103, 8, seed=1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(103))
    assert {len(batch) for batch in batches} <= {7, 8}


def test_a_stream_shorter_than_a_row_or_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="found a training stream of 16 tokens, wanted at least 17"):
        train_proxy(CONFIG, VOCAB, words(16), init_seed=0, order_seed=0, eval_sets={})
    with pytest.raises(InputError, match="wanted less than 8"):
        train_proxy(CONFIG, 8, words(100), init_seed=0, order_seed=0, eval_sets={})


def test_frequencies_count_the_training_targets() -> None:
    share = frequencies(torch.tensor([[0, 0], [0, 2]]), 3)
    assert share.tolist() == pytest.approx([3.5 / 5.5, 0.5 / 5.5, 1.5 / 5.5])


def test_a_loss_that_is_not_finite_is_a_failed_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = train.head_loss, []

    def broken(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        loss, gradient = real(*arguments)
        return loss * (float("nan") if len(calls) == 10 else 1.0), gradient

    monkeypatch.setattr(train, "head_loss", broken)
    result = train_proxy(CONFIG, VOCAB, words(2000), init_seed=0, order_seed=0, eval_sets=TARGETS)
    assert (result.status, result.losses, result.bits_per_byte) == ("failed", {}, {})
    assert "step 9 of" in result.reason
    assert all(math.isfinite(loss) for _, loss in result.curve)


def test_weights_that_break_after_the_last_step_fail_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "evaluate", lambda model, held_out: float("inf"))
    result = train_proxy(CONFIG, VOCAB, words(2000), init_seed=0, order_seed=0, eval_sets=TARGETS)
    assert (result.status, result.losses) == ("failed", {})
    assert result.reason == "loss on text is not finite"


@pytest.mark.parametrize("length", [2, 15, 16, 17, 100])
def test_evaluation_is_the_mean_over_every_token(length: int) -> None:
    model = Decoder(CONFIG, VOCAB, seed=1)
    torch.nn.init.normal_(model.embedding, generator=torch.Generator().manual_seed(1))
    tokens = words(length)
    total = 0.0
    for begin in range(0, length, CONFIG.seq_len):
        window = range(begin, min(begin + CONFIG.seq_len, length))
        logits = model(torch.tensor([[int(tokens[i - 1]) for i in window]]))  # tokens[-1] comes before the first
        total += sum(float(-logits[0, k].log_softmax(-1)[int(tokens[i])]) for k, i in enumerate(window))
    assert evaluate(model, EvalSet(tokens, 1)) == pytest.approx(total / length, rel=1e-5)


def test_evaluation_in_many_batches_equals_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Decoder(CONFIG, VOCAB, seed=1)
    whole = evaluate(model, TARGETS["text"])
    monkeypatch.setattr(train, "EVAL_POSITIONS", 48)
    assert evaluate(model, TARGETS["text"]) == pytest.approx(whole, rel=1e-6)


def test_the_learning_rate_warms_up_then_falls_to_zero() -> None:
    factors = [schedule(step, 100, 5) for step in range(100)]
    assert max(factors) <= 1.0
    assert factors[:6] == sorted(factors[:6])
    assert factors[6:] == sorted(factors[6:], reverse=True)
    assert 0 < factors[-1] < 0.02
    assert all(0 < schedule(step, 3, 500) <= 1 for step in range(3))


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((3, 16, 16), (2, 16, 40), (2, 40, 16)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrices))
        assert float(values.min()) > 0.3
        assert float(values.max()) < 1.3
