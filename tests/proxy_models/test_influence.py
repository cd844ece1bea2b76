"""Influence of documents, end to end: against autograd on whole weights, exact matrices and real steps."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from proxy_models import documents as documents_module
from proxy_models import model as model_module
from proxy_models.documents import batches, label_draws
from proxy_models.influence import (
    Bases,
    Covariances,
    Curvature,
    Layers,
    Vector,
    corrected,
    covariances,
    curvature,
    eigenbases,
    predictions,
    reference_gradient,
    score,
    score_each,
)
from quadmix.errors import ConfigError, InputError
from tests.proxy_models.influence_cases import (
    VOCAB,
    decoder,
    documents,
    ekfac,
    filled,
    hashes_of,
    literal_gradient,
    literal_scores,
    logits_of,
    loss,
    random_vector,
    weight,
)

WAYS = ("hooks", "forward_mode")
CPU = torch.device("cpu")


def hugging_face(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra `test`)")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB}
    sizes |= {
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    elif kind == "qwen2":  # biases on q, k, v; tied head
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, tie_word_embeddings=True))
    elif kind == "gemma2":  # caps its logits, so its head is not one matrix
        model = transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**sizes, head_dim=4, final_logit_softcapping=2.0)
        )
    elif kind == "opt":  # may flatten rows and time before its linear layers
        ids = {name: sizes[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model = transformers.OPTForCausalLM(
            transformers.OPTConfig(
                vocab_size=VOCAB, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=64, **ids,
            )
        )  # fmt: skip
    elif kind == "gpt_bigcode":  # one head of keys and values for all queries
        model = transformers.GPTBigCodeForCausalLM(
            transformers.GPTBigCodeConfig(
                n_embd=16, n_layer=2, n_head=2, vocab_size=VOCAB, n_positions=64, bos_token_id=0, eos_token_id=0,
                multi_query=True,
            )
        )  # fmt: skip
    else:  # Conv1D, dropout
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=16, n_layer=2, n_head=2, vocab_size=VOCAB, n_positions=64, bos_token_id=0, eos_token_id=0
            )
        )
    return filled(model, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", ["all", "attention", "mlp"])
@pytest.mark.parametrize("spelled_out", [128, 0], ids=["spelled out", "fused attention"])
def test_both_ways_equal_gradients_of_single_documents(
    monkeypatch: pytest.MonkeyPatch, way: Any, group: Any, spelled_out: int
) -> None:
    monkeypatch.setattr(model_module, "SPELLED_OUT", spelled_out)
    monkeypatch.setattr(documents_module, "POSITIONS", 150)
    model, docs = decoder(), documents(12)
    layers = Layers.of(model, group)
    vector = random_vector(layers)
    wanted = literal_scores(model, layers, vector, docs)
    assert np.abs(score(model, layers, vector, docs, way=way, device="cpu") - wanted).max() < 1e-12
    single = score(model.float(), layers, vector, docs, way=way, device="cpu")
    assert np.abs(single - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma2", "opt", "gpt_bigcode"])
def test_hugging_face_models_score_as_autograd_says(kind: str, way: Any) -> None:
    model, docs = hugging_face(kind), documents(6, longest=40)
    layers = Layers.of(model)
    vector = random_vector(layers)
    wanted = literal_scores(model, layers, vector, docs)
    found = score(model, layers, vector, docs, way=way, device="cpu")
    # their norms and rotary embeddings are computed in float32, whatever the weights are
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    gradient = reference_gradient(model, layers, docs, device="cpu")
    literal = literal_gradient(model, layers, sum(loss(model, doc, "sum") for doc in docs))
    for name, value in literal.items():
        assert np.abs(gradient.sums[name] - value.numpy()).max() < 1e-5 * float(value.abs().max())
    assert np.isfinite(score(model, layers, ekfac(model, layers, docs).solve(gradient), docs, device="cpu")).all()


def drawn_labels(model: nn.Module, docs: list[Any], seed: int) -> list[torch.Tensor]:
    """The words drawn for every document: where its cumulated probabilities pass its draws, each by itself."""
    hashes, found = hashes_of(docs), []
    for index, doc in enumerate(docs):
        (batch,) = batches([doc], VOCAB, 512, CPU)
        draws = label_draws(hashes[index : index + 1], batch, seed)
        cumulated = logits_of(model, batch.inputs)[0].detach().softmax(-1).cumsum(-1)
        found.append(torch.searchsorted(cumulated, draws[:, None])[:, 0].clamp(max=VOCAB - 1))
    return found


def test_factors_are_the_sums_of_their_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single documents without padding, whole weights, and inputs and output gradients from literal hooks."""
    monkeypatch.setattr(documents_module, "POSITIONS", 100)
    model, docs = decoder(layers=1), documents(9, longest=30)
    layers, hashes = Layers.of(model), hashes_of(docs)
    found = covariances(model, layers, docs, hashes, 5, device="cpu")
    bases = eigenbases(found)
    squares = corrected(model, layers, bases, docs, hashes, 5, device="cpu")
    diagonal = corrected(model, layers, Bases.none(), docs, hashes, 5, device="cpu")
    inputs = {layer.module: torch.zeros(layer.inputs, layer.inputs).double() for layer in layers.layers}
    outputs, wanted, plain = (dict.fromkeys(layers.shapes(), 0.0) for _ in range(3))
    for doc, labels in zip(docs, drawn_labels(model, docs, 5), strict=True):
        given, came = {}, {}

        def keep(layer: Any, given: Any = given, came: Any = came) -> Any:
            def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                given[layer.module], came[layer.module] = args[0].detach()[0], output

            return hook

        handles = [model.get_submodule(layer.module).register_forward_hook(keep(layer)) for layer in layers.layers]
        tokens = torch.from_numpy(doc.astype(np.int64))[None, :-1]
        value = nn.functional.cross_entropy(model(tokens)[0], labels, reduction="sum")
        for handle in handles:
            handle.remove()
        whole = literal_gradient_kept(model, layers, value)
        gradients = dict(zip(came, torch.autograd.grad(value, list(came.values())), strict=True))
        for layer, part in layers.parts():
            g = gradients[layer.module][0, :, part.first : part.last]
            outputs[part.name] = outputs[part.name] + g.T @ g
            q_out, q_in = bases.outputs[part.name].vectors, bases.inputs[layer.module].vectors
            wanted[part.name] = wanted[part.name] + (q_out.T @ whole[part.name].numpy() @ q_in) ** 2
            plain[part.name] = plain[part.name] + whole[part.name].numpy() ** 2
        for layer in layers.layers:
            inputs[layer.module] += given[layer.module].T @ given[layer.module]
    assert (found.n_tokens, found.n_docs) == (sum(len(doc) - 1 for doc in docs), 9)
    for name, value in inputs.items():
        assert np.abs(found.inputs[name] - value.numpy()).max() < 1e-10
    for name in layers.shapes():
        assert np.abs(found.outputs[name] - outputs[name].numpy()).max() < 1e-10  # type: ignore[attr-defined]
        assert np.abs(squares.sums[name] - wanted[name]).max() < 1e-10
        assert np.abs(diagonal.sums[name] - plain[name]).max() < 1e-10


def literal_gradient_kept(model: nn.Module, layers: Layers, value: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = [weight(model, layer.module) for layer in layers.layers]
    whole = dict(zip(layers.layers, torch.autograd.grad(value, weights, retain_graph=True), strict=True))
    return {part.name: whole[layer][part.first : part.last] for layer, part in layers.parts()}


def test_rotating_early_or_late_gives_the_same_squares() -> None:
    """Long documents rotate the gradient that they make, short ones what it is made of."""
    model, docs = decoder(layers=1), [*documents(4, longest=3), *documents(2, longest=300, seed=1)]
    layers, hashes = Layers.of(model), hashes_of(docs)
    bases = eigenbases(covariances(model, layers, docs, hashes, 0, device="cpu"))
    apart = [corrected(model, layers, bases, [d], hashes[i : i + 1], 0, device="cpu") for i, d in enumerate(docs)]
    merged = apart[0]
    for part in apart[1:]:
        merged = merged.merge(part)
    whole = corrected(model, layers, bases, docs, hashes, 0, device="cpu")
    assert all(np.abs(whole.sums[name] - merged.sums[name]).max() < 1e-10 for name in layers.shapes())


@pytest.mark.parametrize("pieces", [2, 7])
def test_partitions_and_their_order_change_nothing(pieces: int) -> None:
    model, docs = decoder(), documents(40)
    layers, hashes = Layers.of(model), hashes_of(docs)
    whole = covariances(model, layers, docs, hashes, 3, device="cpu")
    bases = eigenbases(whole)
    squares, gradient = corrected(model, layers, bases, docs, hashes, 3), reference_gradient(model, layers, docs)
    order = np.random.Generator(np.random.PCG64(pieces)).permutation(40)
    found: list[Any] = [None, None, None]
    for part in np.array_split(order, pieces):
        chosen, ids = [docs[i] for i in part], hashes[part]
        partials = (
            covariances(model, layers, chosen, ids, 3, device="cpu"),
            corrected(model, layers, bases, chosen, ids, 3, device="cpu"),
            reference_gradient(model, layers, chosen, device="cpu"),
        )
        for index, partial in enumerate(pickle.loads(pickle.dumps(partials))):
            found[index] = partial if found[index] is None else partial.merge(found[index])
    assert (found[0].n_tokens, found[0].n_docs, found[1].n_docs) == (whole.n_tokens, 40, 40)
    assert found[2].n_tokens == gradient.n_tokens
    for mine, other in (
        (found[0].inputs, whole.inputs),
        (found[0].outputs, whole.outputs),
        (found[1].sums, squares.sums),
        (found[2].sums, gradient.sums),
    ):
        for name, value in other.items():
            assert np.abs(mine[name] - value).max() < 1e-12 * max(1.0, np.abs(value).max())


def test_padding_and_company_add_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, docs = decoder(), documents(20)
    layers = Layers.of(model)
    vector = random_vector(layers)
    together = score(model, layers, vector, docs, device="cpu")
    apart = [score(model, layers, vector, [doc], device="cpu")[0] for doc in docs]
    assert np.abs(together - apart).max() < 1e-12
    assert np.array_equal(together, score(model, layers, vector, docs, device="cpu"))
    original = documents_module._batch

    def with_junk(*given: Any) -> Any:
        batch = original(*given)
        inputs, targets = batch.inputs.clone(), batch.targets.clone()
        inputs[~batch.real], targets[~batch.real] = 7, 9
        return dataclasses.replace(batch, inputs=inputs, targets=targets)

    monkeypatch.setattr(documents_module, "_batch", with_junk)
    assert np.abs(score(model, layers, vector, docs, device="cpu") - together).max() < 1e-12
    changed = covariances(model, layers, docs, hashes_of(docs), 0, device="cpu")
    monkeypatch.undo()
    plain = covariances(model, layers, docs, hashes_of(docs), 0, device="cpu")
    for name, value in {**plain.inputs, **plain.outputs}.items():
        assert np.abs({**changed.inputs, **changed.outputs}[name] - value).max() < 1e-10


def test_documents_of_one_token_are_worth_exactly_nothing_and_add_nothing() -> None:
    model, docs = decoder(), documents(5)
    layers, short = Layers.of(model), np.array([3], dtype=np.uint32)
    vector = random_vector(layers)
    mixed = [short, *docs[:2], short, *docs[2:]]
    benefits = score(model, layers, vector, mixed, device="cpu")
    assert benefits[[0, 3]].tolist() == [0.0, 0.0]
    assert np.abs(np.delete(benefits, [0, 3]) - score(model, layers, vector, docs, device="cpu")).max() < 1e-14
    assert score(model, layers, vector, [short], device="cpu").tolist() == [0.0]
    assert score(model, layers, vector, [], device="cpu").shape == (0,)
    ids = np.concatenate([hashes_of(docs)[[0]], hashes_of(docs)])
    assert covariances(model, layers, [short, *docs], ids, 0, device="cpu").n_docs == 5
    assert predictions(mixed, 10).min() == 0
    assert reference_gradient(model, layers, [short], device="cpu").n_tokens == 0


def test_long_documents_are_cut() -> None:
    model, docs = decoder(), documents(8)
    layers = Layers.of(model)
    vector = random_vector(layers)
    cut = score(model, layers, vector, docs, max_tokens=11, device="cpu")
    assert np.abs(cut - literal_scores(model, layers, vector, [doc[:11] for doc in docs])).max() < 1e-12


def test_read_only_bases_give_the_same_sums_without_a_warning() -> None:
    model, docs = decoder(layers=1), documents(3)
    layers, hashes = Layers.of(model), hashes_of(docs)
    bases = eigenbases(covariances(model, layers, docs, hashes, 1, device="cpu"))
    wanted = corrected(model, layers, bases, docs, hashes, 1, device="cpu")
    for eigen in (*bases.inputs.values(), *bases.outputs.values()):
        eigen.vectors.flags.writeable = False
    torch.set_warn_always(True)  # else torch says it once a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = corrected(model, layers, bases, docs, hashes, 1, device="cpu")
    finally:
        torch.set_warn_always(False)
    for name, value in wanted.sums.items():
        np.testing.assert_array_equal(found.sums[name], value)


def test_of_a_pair_only_the_completion_counts() -> None:
    model, docs = decoder(), [*documents(5, seed=3), np.array([4, 9, 2], dtype=np.uint16)]
    contexts = [0, 1, len(docs[2]) // 2, len(docs[3]) - 1, len(docs[4]) - 1, 2]
    layers = Layers.of(model)
    found = reference_gradient(model, layers, docs, contexts=contexts, device="cpu")
    starts = [max(context, 1) for context in contexts]
    assert found.n_tokens == sum(len(doc) - start for doc, start in zip(docs, starts, strict=True))
    # what the whole document loses less what its context loses by itself: no later token changes an earlier loss
    value = sum(
        loss(model, doc, "sum") - (loss(model, doc[:start], "sum") if start > 1 else 0.0)
        for doc, start in zip(docs, starts, strict=True)
    )
    for name, wanted in literal_gradient(model, layers, value).items():
        assert np.abs(found.sums[name] - wanted.numpy()).max() < 1e-10 * float(wanted.abs().max())


def test_one_prediction_has_the_exact_curvature_of_rank_one() -> None:
    """A document of two tokens: G is one outer product, and the factors hold it whole."""
    model, doc = decoder(layers=1), np.array([4, 9], dtype=np.uint16)
    layers, hashes = Layers.of(model, "mlp"), np.array([77], dtype=np.uint64)
    curved = ekfac_of(model, layers, [doc], hashes)
    (labels,) = drawn_labels_of(model, doc, hashes)
    value = nn.functional.cross_entropy(model(torch.tensor([[4]]))[0], labels[None])
    drawn = literal_gradient(model, layers, value)
    gradient = reference_gradient(model, layers, documents(3), device="cpu")
    solved = curved.solve(gradient)
    for name, v in gradient.mean().items():
        u, damping = drawn[name].numpy().ravel(), curved.damping[name]
        assert damping == pytest.approx(0.1 * float(u @ u) / u.size)
        # Sherman-Morrison: (uu' + d)^-1 v
        wanted = (v.ravel() - u * (u @ v.ravel()) / (damping + u @ u)) / damping
        assert np.abs(solved.parts[name].ravel() - wanted).max() < 1e-9 * np.abs(wanted).max()


def ekfac_of(model: nn.Module, layers: Layers, docs: list[Any], hashes: Any) -> Curvature:
    bases = eigenbases(covariances(model, layers, docs, hashes, 0, device="cpu"))
    return curvature("ekfac", layers, bases=bases, corrected=corrected(model, layers, bases, docs, hashes, 0))


def drawn_labels_of(model: nn.Module, doc: Any, hashes: Any) -> list[torch.Tensor]:
    (batch,) = batches([doc], VOCAB, 512, CPU)
    cumulated = logits_of(model, batch.inputs)[0].detach().softmax(-1).cumsum(-1)
    return list(torch.searchsorted(cumulated, label_draws(hashes, batch, 0)[:, None])[:, 0])


def test_labels_depend_on_seed_and_document_alone() -> None:
    docs = documents(6)
    hashes = hashes_of(docs)

    def draws(order: list[int], seed: int) -> dict[int, list[float]]:
        found = {}
        for batch in batches([docs[i] for i in order], VOCAB, 512, CPU):
            values = iter(label_draws(hashes[order], batch, seed).tolist())
            for member, length in zip(batch.members.tolist(), batch.lengths.tolist(), strict=True):
                found[order[member]] = list(itertools.islice(values, length))
        return found

    assert draws([0, 1, 2, 3, 4, 5], 1) == draws([5, 3, 1, 0, 2, 4], 1)
    assert draws([0], 1)[0] == draws([2, 0], 1)[0]
    assert draws([0], 1) != draws([0], 2)
    every = [value for values in draws([0, 1, 2, 3, 4, 5], 1).values() for value in values]
    assert len(set(every)) == len(every)
    assert abs(np.mean(every) - 0.5) < 4 * 12**-0.5 * len(every) ** -0.5


@pytest.mark.parametrize("way", WAYS)
def test_several_references_by_mean_and_by_maximum(way: Any) -> None:
    model, docs = decoder(), documents(10)
    layers = Layers.of(model)
    vectors = [random_vector(layers, seed) for seed in range(3)]
    single = np.stack([score(model, layers, vector, docs, way=way, device="cpu") for vector in vectors])
    assert np.abs(score_each(model, layers, vectors, docs, way=way, device="cpu") - single).max() < 1e-13
    assert np.abs(score(model, layers, vectors, docs, way=way, device="cpu") - single.mean(axis=0)).max() < 1e-12
    highest = score(model, layers, vectors, docs, combine="max", way=way, device="cpu")
    assert np.abs(highest - single.max(axis=0)).max() < 1e-13


def test_bad_documents_and_options_are_refused() -> None:
    model, docs = decoder(), documents(3)
    layers = Layers.of(model)
    vector = random_vector(layers)
    with pytest.raises(InputError, match="document 1 of 2 has no tokens"):
        score(model, layers, vector, [docs[0], docs[0][:0]], device="cpu")
    with pytest.raises(InputError, match=rf"document 1 of 2: found tokens .*{VOCAB}, wanted 0\.\.{VOCAB - 1}"):
        score(model, layers, vector, [docs[0], np.array([1, VOCAB], dtype=np.uint16)], device="cpu")
    with pytest.raises(InputError, match="max_tokens 1, wanted at least 2"):
        score(model, layers, vector, docs, max_tokens=1, device="cpu")
    with pytest.raises(InputError, match="found 2 hashes of 3 documents"):
        covariances(model, layers, docs, hashes_of(docs)[:2], 0, device="cpu")
    broken = Vector({name: part * np.nan for name, part in vector.parts.items()}, "ekfac")
    with pytest.raises(InputError, match=r"document 0 of 3 has benefit \[nan\], wanted a finite one"):
        score(model, layers, broken, docs, device="cpu")
    with pytest.raises(ConfigError, match="wanted mean or max"):
        score(model, layers, vector, docs, combine="sum", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="wanted auto, forward_mode or hooks"):
        score(model, layers, vector, docs, way="fast", device="cpu")  # type: ignore[arg-type]


def exact_matrix(model: nn.Module, layers: Layers, docs: list[Any]) -> np.ndarray:
    """Gauss-Newton of the mean over documents of the summed loss, of all layers together: J' (diag p - pp') J.

    The documents have one length, so one backward pass from a logit gives its row of J for every document.
    """
    given, came, handles = {}, {}, []
    for layer in layers.layers:

        def keep(module: nn.Module, args: Any, output: torch.Tensor, name: str = layer.module) -> None:
            given[name], came[name] = args[0].detach(), output

        handles.append(model.get_submodule(layer.module).register_forward_hook(keep))
    logits = model(torch.from_numpy(np.stack(docs).astype(np.int64))[:, :-1])
    for handle in handles:
        handle.remove()
    total: Any = 0.0
    for position in logits.unbind(dim=1):
        rows = []
        for logit in position.unbind(dim=1):
            gradients = torch.autograd.grad(logit.sum(), list(came.values()), retain_graph=True)
            whole = [torch.bmm(g.transpose(1, 2), a) for g, a in zip(gradients, given.values(), strict=True)]
            rows.append(torch.cat([matrix.flatten(1) for matrix in whole], dim=1))
        jacobian, p = torch.stack(rows, dim=1), position.detach().softmax(-1)
        middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        total = total + torch.einsum("dvi,dvw,dwj->ij", jacobian, middle, jacobian)
    found: np.ndarray = total.numpy() / len(docs)
    return found


def flat(layers: Layers, parts: Any) -> np.ndarray:
    return np.concatenate([parts[name].ravel() for name in layers.shapes()])


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def directions(seed: int) -> dict[str, float]:
    """Cosine with the exact damped solve, by kind of curvature, on a transformer whose layers have 544 weights."""
    model = decoder(seed, d=8, d_ff=12, layers=1, vocab=11)
    docs = [doc[:8] for doc in documents(60, longest=20, seed=seed, vocab=11) if len(doc) >= 8][:32]
    layers, hashes = Layers.of(model), hashes_of(docs)
    seen: Covariances | None = None
    for label_seed in range(8):  # labels drawn eight times: the noise of one draw is no part of the claim
        more = covariances(model, layers, docs, hashes, label_seed, device="cpu")
        seen = more if seen is None else seen.merge(more)
    assert seen is not None
    bases = eigenbases(seen)
    rotated, plain = (
        merged([corrected(model, layers, b, docs, hashes, s, device="cpu") for s in range(8)])
        for b in (bases, Bases.none())
    )
    curved = {
        "ekfac": curvature("ekfac", layers, bases=bases, corrected=rotated),
        "kfac": curvature("kfac", layers, bases=bases),
        "diagonal": curvature("diagonal", layers, corrected=plain),
        "identity": curvature("identity", layers),
    }
    gradient = reference_gradient(model, layers, documents(8, longest=12, seed=seed + 50, vocab=11), device="cpu")
    damping = {name: np.full(shape, curved["ekfac"].damping[name]) for name, shape in layers.shapes().items()}
    exact = exact_matrix(model, layers, docs) + np.diag(flat(layers, damping))
    wanted = np.linalg.solve(exact, flat(layers, gradient.mean()))
    return {kind: cosine(flat(layers, found.solve(gradient).parts), wanted) for kind, found in curved.items()}


def merged(partials: list[Any]) -> Any:
    total = partials[0]
    for partial in partials[1:]:
        total = total.merge(partial)
    return total


def test_ekfac_points_closer_to_the_exact_solve_than_identity() -> None:
    found = [directions(seed) for seed in range(3)]
    # seen: ekfac .58, .52, .50; kfac .57, .51, .50; diagonal .47, .50, .38; identity .23, .25, .23
    assert min(f["ekfac"] - f["identity"] for f in found) > 0.2


def test_a_step_along_a_document_changes_the_references_loss_as_its_benefit_says() -> None:
    model, docs = decoder(3), documents(120, seed=4)
    layers = Layers.of(model)
    reference = documents(6, seed=9)
    curved = ekfac(model, layers, docs)
    vector = curved.solve(reference_gradient(model, layers, reference, device="cpu"))
    benefits = score(model, layers, vector, docs, device="cpu")
    order = np.argsort(benefits)
    chosen = np.concatenate([order[:20], order[50:70], order[-20:]])

    def change(parts: Vector, size: float) -> float:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for layer in layers.layers:
                step = torch.from_numpy(np.concatenate([parts.parts[part.name] for part in layer.parts]))
                weight(moved, layer.module).sub_(size * step)
            return reference_loss(moved, reference) - before

    with torch.no_grad():
        before = reference_loss(model, reference)
    size = 1e-6
    steps = [curved.solve(reference_gradient(model, layers, [docs[i]], device="cpu")) for i in chosen]
    found = np.array([-change(step, size) / size for step in steps])
    assert spearmanr(found, benefits[chosen]).statistic > 0.95
    assert np.abs(found / benefits[chosen] - 1.0).max() < 0.05
    # control: a plain gradient step does something else
    plain = [Vector(reference_gradient(model, layers, [docs[i]]).mean(), "identity") for i in chosen]
    other = np.array([-change(step, size) / size for step in plain])
    assert np.median(np.abs(other / benefits[chosen] - 1.0)) > 0.05


def reference_loss(model: nn.Module, docs: list[Any]) -> float:
    return float(sum(loss(model, doc, "sum") for doc in docs)) / sum(len(doc) - 1 for doc in docs)
