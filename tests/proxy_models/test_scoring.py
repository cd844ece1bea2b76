"""The perplexity scorer's model: what a score is, that it belongs to the document alone, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from proxy_models.scoring import LanguageModel, fit_language_model, load_language_model
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import InputError

VOCAB = 80
CONFIG = ProxyConfig(preset="custom", d_model=16, layers=1, heads=2, d_ff=32, seq_len=32, batch=8, lr=1e-2)


def documents(n: int, seed: int, longest: int = 150) -> list[np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(seed))
    out = []
    for length in generator.integers(1, longest, n):
        steps = np.where(generator.random(length) < 0.7, 1, generator.integers(0, VOCAB - 1, length))
        out.append((1 + np.cumsum(steps) % (VOCAB - 1)).astype(np.uint16))
    return out


@pytest.fixture(scope="module", params=[0, None], ids=["end token", "no end token"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return fit_language_model(documents(250, 0), CONFIG, VOCAB, end_id=request.param, max_tokens=100)


def test_a_score_is_the_mean_loss_of_the_first_tokens(model: LanguageModel) -> None:
    for document in [*documents(6, 1), np.array([5], dtype=np.uint16)]:
        kept = [model.start_id, *document[: model.max_tokens].tolist()]
        total = 0.0
        for begin in range(0, len(kept) - 1, CONFIG.seq_len):
            window = kept[begin : begin + CONFIG.seq_len + 1]
            losses = torch.nn.functional.cross_entropy(
                model.decoder(torch.tensor([window[:-1]]))[0], torch.tensor(window[1:]), reduction="sum"
            )
            total += float(losses)
        assert model.score([document])[0] == pytest.approx(total / (len(kept) - 1), abs=6e-4)


def test_scores_do_not_depend_on_the_batch(model: LanguageModel) -> None:
    batch = documents(120, 2)
    together = model.score(batch)
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(batch))
    assert np.array_equal(model.score([batch[i] for i in order]), together[order])
    assert np.array_equal(np.concatenate([model.score([d]) for d in batch[:12]]), together[:12])
    assert np.array_equal(np.concatenate([model.score(batch[i : i + 7]) for i in range(0, 120, 7)]), together)


def test_shuffled_text_scores_worse(model: LanguageModel) -> None:
    fluent = documents(50, 3, longest=100)
    generator = np.random.Generator(np.random.PCG64(0))
    assert model.score([generator.permutation(d) for d in fluent]).mean() > model.score(fluent).mean() + 0.3


def test_a_saved_model_gives_the_same_scores(model: LanguageModel, tmp_path: Path) -> None:
    batch = documents(20, 4)
    digest = model.save(tmp_path / "a")
    assert model.save(tmp_path / "b") == digest
    assert np.array_equal(load_language_model(tmp_path / "a").score(batch), model.score(batch))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_fitting_is_a_function_of_documents_config_and_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        fitted = fit_language_model(documents(60, 0), CONFIG, VOCAB, end_id=0, max_tokens=50, seed=seed)
        return fitted.decoder.embedding

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_changed_missing_or_foreign_files_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no language model there"):
        load_language_model(tmp_path / "nowhere")
    model.save(tmp_path)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="changed after training"):
        load_language_model(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    model.save(tmp_path)
    for broken in (
        {**description, "vocab_size": 3},
        {**description, "proxy": {"layrs": 1}},
        {**description, "format": 1},
        {},
        [],
    ):
        (tmp_path / "model.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"model\.json: not a language model"):
            load_language_model(tmp_path)


def test_empty_documents_and_unknown_tokens_are_refused(model: LanguageModel) -> None:
    assert model.score([]).tolist() == []
    with pytest.raises(InputError, match="document 1 of the batch has no tokens"):
        model.score([np.array([3]), np.array([], dtype=np.int64)])
    with pytest.raises(InputError, match="found token 300"):
        model.score([np.array([3, 300])])
    with pytest.raises(InputError, match="training stream of"):
        fit_language_model([np.array([3])], CONFIG, VOCAB, end_id=0, max_tokens=50)
