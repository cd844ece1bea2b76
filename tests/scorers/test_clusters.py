"""Clusters: sizes within their bounds, k from the pool's size, a user's own column, pretrained embedders by the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from quadmix.config_annotate import ColumnClustersConfig, EmbeddingClustersConfig, PretrainedEmbedderConfig
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import doc_hash, uniform
from quadmix.scorers import embedders
from quadmix.scorers.clusters import ClusterLabeler, ColumnClusterLabeler, automatic_k, k_means, nearest, repaired
from quadmix.scorers.context import Document
from quadmix.scorers.embedders import fit_embedder
from tests.scorers.list_context import ListContext, notices, speech


def uneven(seed: int) -> np.ndarray:
    """One heap of 900 points, 30 of 10 each and 20 lone points, far from each other."""
    draw = np.random.default_rng(seed)
    heaps = [draw.normal(size=(900, 5))]
    heaps += [draw.normal(size=(10, 5)) * 0.1 + draw.normal(size=5) * 40 for _ in range(30)]
    heaps += [draw.normal(size=(1, 5)) * 90 for _ in range(20)]
    return np.concatenate(heaps).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_sizes_are_repaired(seed: int) -> None:
    points = uneven(seed)
    plain = k_means(points, 24, seed)
    before = np.bincount(nearest(points, plain), minlength=24)
    mean = len(points) / 24
    assert before.max() > 4 * mean
    assert before.min() < mean / 4
    centroids = repaired(points, plain, seed)
    sizes = np.bincount(nearest(points, centroids), minlength=len(centroids))
    # documents go to the nearest centroid, which is not always the one of the cluster that was merged or cut
    assert sizes.max() <= 4 * mean * 1.25
    assert sizes.min() >= 1
    assert np.median(sizes) >= mean / 4
    assert np.array_equal(centroids, repaired(points, plain, seed))


def test_points_that_are_all_alike_cannot_be_cut() -> None:
    points = np.concatenate([np.ones((500, 3)), np.eye(3) * 9]).astype(np.float32)
    centroids = repaired(points, k_means(points, 4, 0), 0)
    assert 2 <= len(centroids) <= 4
    assert np.bincount(nearest(points, centroids)).max() >= 500


def test_k_follows_from_the_pool_whatever_the_sample() -> None:
    ids = [f"doc-{index}" for index in range(40_000)]
    order = np.argsort(uniform(doc_hash(ids), 7, "clusters"))
    drawn = [Document(ids[index], "") for index in order]
    assert automatic_k(drawn, 50_000, 7) == 141  # sqrt(20,000)
    assert automatic_k(drawn[:4_000], 4_000, 7) == pytest.approx(141, rel=0.03)
    assert automatic_k(drawn[:300], 300, 7) == 30  # one for ten documents of the sample
    assert automatic_k(drawn[:5], 300, 7) == 2


def test_clusters_of_embeddings_name_every_document(tmp_path: Path) -> None:
    context = ListContext(tmp_path, pool=[*speech(300), *notices(300)])
    labeler = ClusterLabeler.from_config(EmbeddingClustersConfig(), context)
    assert 2 <= len(labeler.domains) <= 30
    texts = pa.record_batch({"text": [document.text for document in [*speech(50, seed=3), *notices(50, seed=3)]]})
    found = labeler.label(texts).to_pylist()
    assert set(found) <= set(labeler.domains)
    assert not set(found[:50]) & set(found[50:])  # the two kinds share no word, so no cluster holds both
    with pytest.raises(ConfigError, match=r"annotate\.clusters\.k: found 700 clusters for a sample of 600"):
        ClusterLabeler.from_config(EmbeddingClustersConfig(k=700), context)


def test_a_column_of_ones_own(tmp_path: Path) -> None:
    labeler = ColumnClusterLabeler.from_config(
        ColumnClustersConfig(kind="column", column="meta.topic"), ListContext(tmp_path, pool=[])
    )
    assert labeler.inputs == ("meta.topic",)
    batch = pa.record_batch({"meta.topic": pa.array([3, None, 12])})
    assert labeler.label(batch).to_pylist() == ["3", None, "12"]


def static_model(folder: Path) -> Path:
    model2vec = pytest.importorskip("model2vec")
    tokenizers = pytest.importorskip("tokenizers")
    words = sorted({word for document in [*speech(40), *notices(40)] for word in document.text.lower().split()})
    model = tokenizers.models.WordLevel({"[UNK]": 0, **{word: i + 1 for i, word in enumerate(words)}}, "[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    vectors = np.random.default_rng(0).normal(size=(len(words) + 1, 16)).astype(np.float32)
    model2vec.StaticModel(vectors, tokenizer).save_pretrained(str(folder))
    return folder


def sentence_model(folder: Path) -> Path:
    """A BERT of one layer with random weights."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    words = sorted({word for document in [*speech(40), *notices(40)] for word in document.text.lower().split()})
    plain = folder / "plain"
    plain.mkdir(parents=True)
    (plain / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words) + 5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(plain)
    transformers.BertTokenizer(str(plain / "vocab.txt")).save_pretrained(plain)
    sentence_transformers.SentenceTransformer(str(plain), device="cpu").save(str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("model2vec", static_model),
        # ten seconds of imports
        pytest.param("sentence_transformers", sentence_model, marks=pytest.mark.long),
    ],
)
def test_pretrained_embeddings_depend_on_the_text_alone(kind: str, make, tmp_path: Path) -> None:
    config = PretrainedEmbedderConfig(kind=kind, path=str(make(tmp_path / "model")))
    texts = [document.text for document in [*speech(6), *notices(6)]]
    fitted, points = fit_embedder(config, texts, 0)
    assert points.shape == (12, 16)
    assert np.allclose((points.astype(float) ** 2).sum(axis=1), 1.0, atol=1e-5)
    assert np.array_equal(points, fitted.ready().transform(texts[::-1])[::-1])
    assert np.array_equal(points[3:4], fitted.ready().transform(texts[3:4]))
    assert len(np.unique(points, axis=0)) > 6
    context = ListContext(tmp_path / "run", pool=[*speech(60), *notices(60)])
    context.directory.mkdir()
    labeler = ClusterLabeler.from_config(EmbeddingClustersConfig(k=4, embedder=config), context)
    assert len(set(labeler.label(pa.record_batch({"text": texts})).to_pylist())) > 1


def test_a_pretrained_model_that_changed_or_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = static_model(tmp_path / "model")
    fitted, _ = fit_embedder(PretrainedEmbedderConfig(kind="model2vec", path=str(folder)), ["a word"], 0)
    (folder / "more.txt").write_text("x")
    embedders._pretrained.cache_clear()  # as in another process
    with pytest.raises(InputError, match="changed since it was first used"):
        fitted.ready()
    with pytest.raises(ConfigError, match=r"embedder\.path: found .*nowhere"):
        fit_embedder(PretrainedEmbedderConfig(kind="model2vec", path=str(tmp_path / "nowhere")), ["a word"], 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([["a"], ["b"]]), "'topic' holds list<"),
        (pa.array([b"a", b"b"]), "'topic' holds binary"),
        (pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).buffers()), "1 values that are not UTF-8"),
    ],
    ids=["lists", "bytes", "broken text"],
)
def test_a_column_that_names_no_clusters_is_refused_by_name(values: pa.Array, message: str) -> None:
    labeler = ColumnClusterLabeler(("topic",))
    with pytest.raises(InputError, match=message):
        labeler.label(pa.RecordBatch.from_arrays([values], ["topic"]))
    text = pa.array(["1", None])
    for fine in (pa.array([1, None]), pa.array([1.0, None]), text.dictionary_encode(), text.cast(pa.large_string())):
        found = labeler.label(pa.RecordBatch.from_arrays([fine], ["topic"]))
        assert (found.type, found.to_pylist()) == (pa.string(), ["1", None])
