"""What every scorer and every domain labeller promises, run over the whole registry.

A new kind is picked up by itself; it only needs an example config below.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from quadmix.config import TokenizerConfig
from quadmix.config_annotate import (
    AskLlmScorerConfig,
    ClusterDomainConfig,
    ColorScorerConfig,
    ColumnClustersConfig,
    ColumnDomainConfig,
    ColumnScorerConfig,
    DensityScorerConfig,
    DsirScorerConfig,
    EmbeddingClustersConfig,
    HeadsScorerConfig,
    HeuristicScorerConfig,
    LinearDomainConfig,
    LinearScorerConfig,
    PerplexityScorerConfig,
    ProseScorerConfig,
    RarityScorerConfig,
)
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import ConfigError
from quadmix.scorers.context import Document
from quadmix.scorers.heuristics import OUTPUTS
from quadmix.scorers.registry import CLUSTERS, DOMAINS, SCORERS, make_clusters, make_labeler, make_scorer
from quadmix.scorers.tokens import load_tokenizer
from tests.scorers.asked_models import tiny_model
from tests.scorers.list_context import ListContext, notices, speech

NEEDS = {"perplexity": ("torch",), "color": ("torch",), "ask_llm": ("torch", "transformers")}
PROXY = ProxyConfig(preset="custom", d_model=16, layers=1, heads=2, d_ff=32, seq_len=32, batch=4, lr=1e-3, warmup=2)
SCORER_CONFIGS: dict[str, Callable[[], object]] = {
    "columns": lambda: ColumnScorerConfig(kind="columns", columns={"given": "meta.score"}, ranges={"given": (0, 1)}),
    "heuristics": lambda: HeuristicScorerConfig(kind="heuristics", outputs=tuple(OUTPUTS)),
    "prose": lambda: ProseScorerConfig(kind="prose"),
    "rarity": lambda: RarityScorerConfig(kind="rarity", buckets=2**12),
    "linear": lambda: LinearScorerConfig(kind="linear", name="like", positives=("target:speech",), buckets=2**12),
    "heads": lambda: HeadsScorerConfig(
        kind="heads",
        labelled=("labelled",),
        labels={"length": "length", "noise": "notice"},
        components=1,
        embedder={"kind": "lsa", "dimensions": 8},
    ),
    "perplexity": lambda: PerplexityScorerConfig(
        kind="perplexity", train_on=("pool",), train_tokens=6_000, max_tokens=64, proxy=PROXY
    ),
    "dsir": lambda: DsirScorerConfig(kind="dsir", targets=("target:speech",), least_words=3),
    "density": lambda: DensityScorerConfig(
        kind="density", rows=32, bits=6, sample_docs=100, embedder={"kind": "lsa", "dimensions": 8}
    ),
    "color": lambda: ColorScorerConfig(
        kind="color", targets=("target:speech",), train_tokens=6_000, target_tokens=3_000, max_tokens=64, proxy=PROXY
    ),
    "ask_llm": lambda: AskLlmScorerConfig(kind="ask_llm", path=tiny_model(), max_tokens=64),
}
DOMAIN_CONFIGS: dict[str, Callable[[], object]] = {
    "column": lambda: ColumnDomainConfig(allowed=("speech", "notice")),
    "linear": lambda: LinearDomainConfig(kind="linear", labelled=("labelled",), label="label", buckets=2**12),
    "clusters": lambda: ClusterDomainConfig(kind="clusters", k=4, embedder={"kind": "lsa", "dimensions": 8}),
}
CLUSTER_CONFIGS: dict[str, Callable[[], object]] = {
    "column": lambda: ColumnClustersConfig(kind="column", column="domain"),
    "embeddings": lambda: EmbeddingClustersConfig(),
}

WEIRD = [
    "x",  # one token
    "word " * 60_000,  # very long
    "\u202eright to left\u202c \ufeff\u200b\u200d\x00\x01 end",
    "e\u0301" * 50 + "🙂👩\u200d👩\u200d👧 \U000e0041 \U0010ffff \ufffe",
    "中文没有空格的句子。" * 20,
    " \t\n\u2028 \r\n",
    "{}" * 300,
    "a" * 5_000,
    "the the the the the",
    "<|endoftext|> [PAD] <s>",
]


def make_context(directory: Path) -> ListContext:
    directory.mkdir(parents=True, exist_ok=True)
    return ListContext(
        directory,
        pool=[*speech(60), *notices(60)],
        targets={"speech": speech(40, seed=1)},
        paths={"labelled": [labelled(document) for document in [*speech(40, seed=2), *notices(40, seed=2)]]},
        tokenizer=load_tokenizer(TokenizerConfig(path=_tokenizer_file(directory.parent))),
    )


def labelled(document: Document) -> Document:
    """With two numbers that its text shows."""
    numbers = {"length": len(document.text) / 100, "notice": float(document.domain == "notice")}
    return replace(document, columns={**document.columns, **numbers})


def _tokenizer_file(directory: Path) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    path = directory / "tokenizer.json"
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([document.text for document in [*speech(60), *notices(60)]], trainer)
        tokenizer.save(str(path))
    return str(path)


def fit(kind: str, directory: Path):
    """A scorer (`linear`) or a labeller (`domain:linear`, `cluster:column`), fitted in `directory`."""
    context = make_context(directory)
    if kind.startswith("domain:"):
        return make_labeler(DOMAIN_CONFIGS[kind.removeprefix("domain:")](), context)
    if kind.startswith("cluster:"):
        return make_clusters(CLUSTER_CONFIGS[kind.removeprefix("cluster:")](), context)
    return make_scorer(SCORER_CONFIGS[kind](), context)


def batch_of(texts: list[str]) -> pa.RecordBatch:
    rows = len(texts)
    return pa.record_batch(
        {
            "doc_id": pa.array([f"doc-{row}" for row in range(rows)], pa.string()),
            "text": pa.array(texts, pa.large_string()),
            "domain": pa.array([("speech", "notice")[len(text) % 2] for text in texts], pa.string()),
            "meta.score": pa.array([len(text) % 7 / 7 for text in texts], pa.float64()),
        }
    )


def results(fitted, texts: list[str]) -> list[list[object]]:
    """Per document: the scores' bits, or the label."""
    fitted.load()
    if hasattr(fitted, "label"):
        return [[label] for label in fitted.label(batch_of(texts)).to_pylist()]
    scored = fitted.score(batch_of(texts))
    return np.stack([column.to_numpy(zero_copy_only=False) for column in scored.columns], axis=1).tolist()


def _fit_and_score_all(connection, directory: str, pickled: dict[str, bytes], texts: list[str]) -> None:
    answers = {}
    for kind, body in pickled.items():
        again = fit(kind, Path(directory) / kind.replace(":", "-"))
        answers[kind] = (again.fingerprint, results(again, texts), results(pickle.loads(body), texts))
    connection.send(answers)


LABELERS = [*(f"domain:{kind}" for kind in DOMAINS), *(f"cluster:{kind}" for kind in CLUSTERS)]
KINDS = [*SCORERS, *LABELERS]
TEXTS = [*WEIRD, *(document.text for document in [*speech(12, seed=9), *notices(12, seed=9)])]


FEW = TEXTS[8:20]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    root = tmp_path_factory.mktemp("scorers")

    @lru_cache
    def of_kind(kind: str):
        for package in NEEDS.get(kind, ()):
            pytest.importorskip(package)
        return fit(kind, root / kind.replace(":", "-"))

    return of_kind


@lru_cache
def _cached_results(fitted_one, texts: tuple[str, ...]) -> list[list[object]]:
    return results(fitted_one, list(texts))


def test_every_kind_has_an_example_config():
    assert set(SCORER_CONFIGS) == set(SCORERS)
    assert set(DOMAIN_CONFIGS) == set(DOMAINS)
    assert set(CLUSTER_CONFIGS) == set(CLUSTERS)


def test_unknown_kinds_are_refused_with_the_known_ones(tmp_path):
    config = SCORER_CONFIGS["linear"]().model_copy(update={"kind": "liner"})
    with pytest.raises(ConfigError, match=r"liner.*linear"):
        make_scorer(config, make_context(tmp_path / "x"))


@pytest.mark.parametrize("kind", SCORERS)
def test_scores_are_float32_finite_in_range_and_one_a_row(kind, fitted):
    scorer = fitted(kind)
    scorer.load()
    scored = scorer.score(batch_of(TEXTS))
    assert scored.num_rows == len(TEXTS)
    assert scored.schema.names == [criterion.name for criterion in scorer.outputs]
    for criterion, column in zip(scorer.outputs, scored.columns, strict=True):
        assert column.type == pa.float32()
        assert column.null_count == 0
        values = column.to_numpy()
        assert np.isfinite(values).all(), criterion.name
        if criterion.range is not None:
            assert criterion.range[0] <= values.min() <= values.max() <= criterion.range[1], criterion.name


@pytest.mark.parametrize("kind", LABELERS)
def test_labels_are_strings_among_the_declared_ones(kind, fitted):
    labeler = fitted(kind)
    labeler.load()
    labels = labeler.label(batch_of(TEXTS))
    assert len(labels) == len(TEXTS)
    assert pa.types.is_string(labels.type)
    assert labeler.domains is None or set(labels.to_pylist()) <= set(labeler.domains)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_s_result_does_not_depend_on_its_batch(kind, fitted):
    part = fitted(kind)
    whole = _cached_results(part, tuple(TEXTS))
    one_by_one = [results(part, [text])[0] for text in TEXTS]
    assert one_by_one == whole
    backwards = results(part, TEXTS[::-1])[::-1]
    assert backwards == whole
    cut = [row for start in range(0, len(TEXTS), 7) for row in results(part, TEXTS[start : start + 7])]
    assert cut == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_sliced_batch_is_read_at_its_offset(kind, fitted):
    part = fitted(kind)
    part.load()
    sliced = batch_of(TEXTS[10:20]).slice(3, 4)
    method = part.label if hasattr(part, "label") else part.score
    assert method(sliced) == method(batch_of(TEXTS[10:20])).slice(3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_gives_an_empty_result(kind, fitted):
    part = fitted(kind)
    part.load()
    if hasattr(part, "label"):
        assert len(part.label(batch_of([]))) == 0
    else:
        scored = part.score(batch_of([]))
        assert scored.num_rows == 0
        assert scored.schema.types == [pa.float32()] * len(part.outputs)


@pytest.fixture(scope="module")
def elsewhere(fitted, tmp_path_factory):
    """kind -> (fingerprint, scores, scores of the pickled one) from one fresh process that fitted everything again."""
    kinds = [kind for kind in KINDS if all(map(find_spec, NEEDS.get(kind, ())))]
    pickled = {kind: pickle.dumps(fitted(kind)) for kind in kinds}
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    directory = str(tmp_path_factory.mktemp("elsewhere"))
    process = spawn.Process(target=_fit_and_score_all, args=(sender, directory, pickled, FEW))
    process.start()
    sender.close()
    answers = receiver.recv()
    process.join()
    return answers


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_fits_and_scores_the_same_bits(kind, fitted, elsewhere):
    part = fitted(kind)
    assert pickle.loads(pickle.dumps(part)) == part
    fingerprint, refitted, unpickled = elsewhere[kind]
    assert unpickled == results(part, FEW)
    assert refitted == unpickled
    assert fingerprint == part.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_no_model_file_is_a_pickle_and_all_are_named_by_their_content(kind, fitted, tmp_path_factory):
    fitted(kind)
    directory = tmp_path_factory.getbasetemp() / "scorers0" / kind.replace(":", "-")
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    assert not [path for path in files if path.name.startswith(".")]
