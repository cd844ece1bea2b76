"""The encoder against a literal forward pass, that order is what it sees, and that a document is scored for itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from proxy_models.encoder import QUANTUM, Encoder, fit_encoder
from proxy_models.model import rope
from quadmix.config_heads import EncoderModelConfig
from quadmix.errors import InputError

VOCAB = 20
CONFIG = EncoderModelConfig(
    kind="encoder", d_model=32, layers=1, heads=2, d_ff=64, max_tokens=48, epochs=14, batch=16, lr=6e-3
)


def ordered(n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Twelve pairs a document, with a word of no meaning before each; the labels count how many pairs stand in order:
    every document of a kind has the same words."""
    rng = np.random.default_rng(seed)
    documents, labels = [], []
    for _ in range(n):
        first, second = (rng.uniform(size=6) < rng.uniform() for _ in range(2))
        pairs = [(1, 2) if right else (2, 1) for right in first] + [(3, 4) if right else (4, 3) for right in second]
        rng.shuffle(pairs)
        documents.append(np.array([word for a, b in pairs for word in (int(rng.integers(5, VOCAB)), a, b)]))
        labels.append((first.sum(), second.sum()))
    return documents, np.array(labels, dtype=np.float64)


@pytest.fixture(scope="module")
def trained() -> Encoder:
    documents, labels = ordered(400, 0)
    return fit_encoder(documents, (labels - labels.mean(axis=0)) / labels.std(axis=0), CONFIG, VOCAB, seed=1)


def some(lengths: list[int], seed: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, length).astype(np.uint16) for length in lengths]


def test_word_order_is_learned(trained: Encoder) -> None:
    documents, labels = ordered(200, 1)
    found = trained.predict(documents)
    for head in range(2):
        assert spearmanr(found[:, head], labels[:, head]).statistic > 0.75
    rng = np.random.default_rng(0)
    shuffled = trained.predict([rng.permutation(document) for document in documents])
    assert abs(spearmanr(shuffled[:, 0], labels[:, 0]).statistic) < 0.3


def test_a_prediction_is_the_literal_forward_pass_of_the_beginning(trained: Encoder) -> None:
    weights = {name: torch.tensor(array).double() for name, array in trained.arrays().items()}

    def normed(x: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def turned(head: torch.Tensor, time: int) -> torch.Tensor:
        rotation = rope(time, head.shape[-1], head.device)[:, 0]
        pairs = torch.view_as_complex(head.float().reshape(time, -1, 2)) * rotation
        return torch.view_as_real(pairs).reshape(time, -1).double()

    for document in some([1, 7, 16, 33, 48, 90]):
        tokens = document[: CONFIG.max_tokens].astype(np.int64)
        x = normed(weights["embedding"][tokens])
        time, width = len(tokens), CONFIG.d_model // CONFIG.heads
        queries, keys, values = (normed(x) @ weights["blocks.0.qkv.weight"].T).split(CONFIG.d_model, dim=1)
        heads = []
        for head in range(CONFIG.heads):
            part = slice(head * width, (head + 1) * width)
            q, k, v = turned(queries[:, part], time), turned(keys[:, part], time), values[:, part]
            heads.append((q @ k.T / width**0.5).softmax(dim=1) @ v)
        x = x + torch.cat(heads, dim=1) @ weights["blocks.0.out.weight"].T
        gate, up = (normed(x) @ weights["blocks.0.gate_up.weight"].T).chunk(2, dim=1)
        x = x + (torch.nn.functional.silu(gate) * up) @ weights["blocks.0.down.weight"].T
        wanted = weights["weight"] @ normed(x).mean(dim=0) + weights["bias"]
        assert trained.predict([document])[0] == pytest.approx(wanted.numpy(), abs=QUANTUM)


def test_a_document_s_numbers_do_not_depend_on_its_company(trained: Encoder) -> None:
    documents = some([*np.random.default_rng(5).integers(0, 60, 300).tolist(), 0, 1, 15, 16, 17, 48])
    together = trained.predict(documents)
    order = np.random.default_rng(1).permutation(len(documents))
    assert np.array_equal(trained.predict([documents[index] for index in order]), together[order])
    parts = [trained.predict(documents[start : start + 37]) for start in range(0, len(documents), 37)]
    assert np.array_equal(np.concatenate(parts), together)
    assert np.array_equal(np.concatenate([trained.predict([document]) for document in documents[-8:]]), together[-8:])
    assert not together[-6].any()  # without tokens: the mean


def test_weights_are_a_function_of_documents_labels_and_seed() -> None:
    documents, labels = ordered(48, 2)
    config = CONFIG.model_copy(update={"epochs": 1})
    first, again, other = (fit_encoder(documents, labels, config, VOCAB, seed).arrays() for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["embedding"], other["embedding"])


def test_saved_weights_predict_the_same_and_foreign_ones_are_refused(trained: Encoder) -> None:
    documents = some([5, 40])
    arrays = trained.arrays()
    assert np.array_equal(Encoder.from_arrays(CONFIG, arrays).predict(documents), trained.predict(documents))
    with pytest.raises(InputError, match="not those of the sizes"):
        Encoder.from_arrays(CONFIG.model_copy(update={"d_ff": 128}), arrays)
    with pytest.raises(InputError, match="not those of the sizes"):
        Encoder.from_arrays(CONFIG, {name: array for name, array in arrays.items() if name != "bias"})


def test_tokens_beyond_the_vocabulary_and_nothing_to_learn_from_are_refused(trained: Encoder) -> None:
    with pytest.raises(InputError, match=r"found token 20 in a document, wanted less than 20"):
        trained.predict([np.array([3, 20])])
    with pytest.raises(InputError, match="no labelled document has any tokens"):
        fit_encoder([np.zeros(0, np.uint16)], np.zeros((1, 2)), CONFIG, VOCAB, seed=0)


def test_a_diverging_loss_is_refused() -> None:
    documents, labels = ordered(16, 0)
    with pytest.raises(InputError, match=r"not finite at step \d+ of \d+; lower model\.lr"):
        fit_encoder(documents, labels * 1e30, CONFIG, VOCAB, seed=0)
