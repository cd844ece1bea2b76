"""What is learned is learned: classifiers tell texts apart, clusters find kinds, perplexity knows fluent text."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from quadmix.config_annotate import (
    ClusterDomainConfig,
    ColumnDomainConfig,
    LinearDomainConfig,
    LinearScorerConfig,
    PerplexityScorerConfig,
)
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.clusters import ClusterLabeler, nearest
from quadmix.scorers.domains import ColumnLabeler, LinearLabeler
from quadmix.scorers.embeddings import fit_embedding
from quadmix.scorers.hashed_ngrams import hashed_ngrams
from quadmix.scorers.linear import LinearScorer
from quadmix.scorers.perplexity import PerplexityScorer
from tests.scorers.list_context import ListContext, notices, speech
from tests.scorers.literal_rules import words_of

pytest.importorskip("sklearn")


def batch(texts: list[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(texts, pa.string())], names=["text"])


def texts_of(documents) -> list[str]:
    return [document.text for document in documents]


def column(scorer, texts: list[str]) -> np.ndarray:
    scorer.load()
    return scorer.score(batch(texts)).column(0).to_numpy()


# ------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_hashed_ngrams_count_what_a_loop_counts(ngrams):
    texts = [*texts_of(speech(6)), "", "One", "one ONE one é é", "中文 text"]
    features = hashed_ngrams(texts, ngrams, 1 << 22)
    buckets: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for row, text in enumerate(texts):
        words = words_of(text.lower())
        grams = Counter(tuple(words[i : i + n]) for n in range(1, ngrams + 1) for i in range(len(words) - n + 1))
        start, end = features.indptr[row], features.indptr[row + 1]
        total = sum(grams.values())
        # 4 million buckets: these few n-grams do not collide, so the values are the counts' roots
        expected = sorted(np.sqrt(count / total) for count in grams.values())
        assert sorted(features.data[start:end].tolist()) == pytest.approx(expected, rel=1e-6)
        assert np.all(np.diff(features.indices[start:end]) > 0)
        for gram, count in grams.items():
            if list(grams.values()).count(count) == 1:
                value = np.float32(np.sqrt(count / total))
                buckets[gram] |= {int(i) for i in features.indices[start:end][features.data[start:end] == value]}
    assert all(len(found) == 1 for found in buckets.values())


# ------------------------------------------------------------------------------------------ linear


def test_a_linear_scorer_tells_unseen_positives_from_the_rest(context):
    config = LinearScorerConfig(kind="linear", name="like_speech", positives=("target:speech",), buckets=2**14)
    scorer = LinearScorer.from_config(config, context)
    good, bad = column(scorer, texts_of(speech(30, seed=8))), column(scorer, texts_of(notices(30, seed=8)))
    assert good.min() > bad.max()
    # the pool sample holds the same speech, so its logit is near 0: like both sides
    assert abs(float(np.median(good))) < 5 < -float(np.median(bad)) + 4


def test_negatives_may_come_from_files_and_logits_do_not_saturate(context):
    config = LinearScorerConfig(
        kind="linear", name="s", positives=("target:speech",), negatives=("notices",), buckets=2**14, epochs=100
    )
    scorer = LinearScorer.from_config(config, context)
    scores = column(scorer, texts_of(speech(40, seed=8)))
    assert len(np.unique(scores)) == len(scores)
    assert scores.max() < 20


def test_word_pairs_see_word_order(tmp_path):
    shuffled = []
    for index, document in enumerate(speech(150)):
        words = document.text.split()
        random.Random(index).shuffle(words)
        shuffled.append(type(document)(f"shuffled-{index}", " ".join(words)))
    context = ListContext(tmp_path, pool=shuffled, targets={"speech": speech(150, seed=1)})
    fresh = texts_of(speech(30, seed=5))
    mixed = [" ".join(random.Random(text).sample(text.split(), len(text.split()))) for text in fresh]
    for ngrams, margin in ((1, -1.0), (2, 0.9)):
        config = LinearScorerConfig(kind="linear", name="s", positives=("target:speech",), ngrams=ngrams, buckets=2**14)
        scorer = LinearScorer.from_config(config, context)
        seen = np.mean(column(scorer, fresh) > column(scorer, mixed))
        assert seen > margin
        if ngrams == 1:
            assert seen < 0.9


def test_the_order_of_the_documents_does_not_matter(context, tmp_path):
    config = LinearScorerConfig(kind="linear", name="s", positives=("labelled",), negatives=("notices",), buckets=2**12)
    first = LinearScorer.from_config(config, context)
    turned = ListContext(tmp_path, pool=(), paths={name: docs[::-1] for name, docs in context.paths.items()})
    assert LinearScorer.from_config(config, turned).model.sha256 == first.model.sha256


def test_a_trained_file_can_be_used_again_and_must_be_of_the_right_kind(context):
    config = LinearScorerConfig(kind="linear", name="s", positives=("target:speech",), buckets=2**12, ngrams=3)
    trained = LinearScorer.from_config(config, context)
    again = LinearScorer.from_config(LinearScorerConfig(kind="linear", name="s", model=trained.model.path), context)
    assert again == trained
    labeler = LinearLabeler.from_config(
        LinearDomainConfig(kind="linear", labelled=("labelled",), label="label"), context
    )
    with pytest.raises(InputError, match="'linear-domains' model, wanted a 'linear'"):
        LinearScorer.from_config(LinearScorerConfig(kind="linear", name="s", model=labeler.model.path), context)


def test_no_positives_or_no_pool_is_refused(context, tmp_path):
    empty = ListContext(tmp_path, pool=(), targets={"none": [], "speech": speech(3)})
    for target, side in (("none", "positives"), ("speech", "negatives")):
        config = LinearScorerConfig(kind="linear", name="s", positives=(f"target:{target}",))
        with pytest.raises(ConfigError, match=f"no {side}"):
            LinearScorer.from_config(config, empty)


# ------------------------------------------------------------------------------------------ domains


def test_a_linear_labeller_finds_the_kind_of_unseen_documents(context):
    config = LinearDomainConfig(kind="linear", labelled=("labelled",), label="label", buckets=2**12)
    labeler = LinearLabeler.from_config(config, context)
    assert labeler.domains == ("notice", "speech")
    assert set(labeler.label(batch(texts_of(speech(20, seed=8)))).to_pylist()) == {"speech"}
    assert set(labeler.label(batch(texts_of(notices(20, seed=8)))).to_pylist()) == {"notice"}


def test_three_labels_are_told_apart_and_one_is_refused(tmp_path):
    verse = [type(d)(f"v{i}", " ".join(d.text.split()[::-1]) + " thou thee", "verse", {"label": "verse"})
             for i, d in enumerate(speech(40, seed=4))]  # fmt: skip
    context = ListContext(tmp_path, (), paths={"l": [*speech(40), *notices(40), *verse], "one": speech(5)})
    config = LinearDomainConfig(kind="linear", labelled=("l",), label="label", buckets=2**14)
    labeler = LinearLabeler.from_config(config, context)
    assert labeler.domains == ("notice", "speech", "verse")
    texts = [*texts_of(speech(5, seed=7)), *texts_of(notices(5, seed=7)), *texts_of(verse[:5])]
    assert labeler.label(batch(texts)).to_pylist() == ["speech"] * 5 + ["notice"] * 5 + ["verse"] * 5
    with pytest.raises(ConfigError, match="1 different values"):
        LinearLabeler.from_config(config.model_copy(update={"labelled": ("one",)}), context)
    with pytest.raises(ConfigError, match="either labelled"):
        LinearLabeler.from_config(config.model_copy(update={"labelled": ()}), context)


def test_clusters_find_the_kinds_without_being_told(context):
    labeler = ClusterLabeler.from_config(
        ClusterDomainConfig(kind="clusters", k=2, embedder={"kind": "lsa", "dimensions": 8}), context
    )
    assert labeler.domains == ("cluster_000", "cluster_001")
    kinds = [labeler.label(batch(texts_of(docs))).to_pylist() for docs in (speech(20, seed=8), notices(20, seed=8))]
    assert [len(set(labels)) for labels in kinds] == [1, 1]
    assert kinds[0][0] != kinds[1][0]


def test_more_clusters_than_documents_are_refused(context):
    with pytest.raises(ConfigError, match="101 clusters for a sample of 100"):
        ClusterLabeler.from_config(ClusterDomainConfig(kind="clusters", k=101), context)


def test_embeddings_have_length_one_and_empty_texts_are_zero():
    embedding, embedded = fit_embedding([*texts_of(speech(30)), ""], 64, 3)
    lengths = np.linalg.norm(embedded, axis=1)
    assert lengths[:-1] == pytest.approx(1.0, abs=1e-5)
    assert lengths[-1] == 0.0
    few, many = embedding.transform(texts_of(speech(5))), embedding.transform(texts_of(speech(30)))
    assert np.array_equal(few, many[:5])


def test_nearest_is_the_smallest_distance_and_the_first_of_equals():
    draw = np.random.default_rng(1)
    points, centroids = draw.normal(size=(50, 4)).astype(np.float32), draw.normal(size=(7, 4)).astype(np.float32)
    distances = ((points[:, None, :].astype(float) - centroids[None].astype(float)) ** 2).sum(axis=2)
    assert nearest(points, centroids).tolist() == distances.argmin(axis=1).tolist()
    twice = np.concatenate([centroids, centroids])
    assert nearest(points, twice).max() < 7


def test_a_domain_column_passes_through_whatever_its_encoding(context):
    labeler = ColumnLabeler.from_config(ColumnDomainConfig(), context)
    values = pa.array(["a", None, "", "b"]).dictionary_encode()
    assert labeler.label(pa.record_batch({"domain": values})).to_pylist() == ["a", None, "", "b"]
    with pytest.raises(ConfigError, match="default"):
        ColumnLabeler.from_config(ColumnDomainConfig(allowed=("a",), unknown="default", default="b"), context)


# ------------------------------------------------------------------------------------------ perplexity


def test_perplexity_prefers_text_like_its_training_text(tmp_path):
    pytest.importorskip("torch")
    from tests.contracts.test_scorer_contract import make_context

    context = replace(make_context(tmp_path / "run"), targets={"speech": speech(300, seed=1)})
    proxy = ProxyConfig(preset="custom", d_model=32, layers=1, heads=2, d_ff=64, seq_len=64, batch=4, lr=1e-2, warmup=5)
    config = PerplexityScorerConfig(
        kind="perplexity", train_on=("target:speech",), train_tokens=40_000, max_tokens=64, proxy=proxy
    )
    scorer = PerplexityScorer.from_config(config, context)
    fluent = texts_of(speech(30, seed=8))
    mixed = [" ".join(random.Random(text).sample(text.split(), len(text.split()))) for text in fluent]
    scores = column(scorer, fluent)
    assert np.median(scores) > np.median(column(scorer, texts_of(notices(30, seed=8)))) + 0.3
    assert np.mean(scores > column(scorer, mixed)) > 0.9
    again = PerplexityScorer.from_config(
        PerplexityScorerConfig(kind="perplexity", model=scorer.model.directory, max_tokens=64), context
    )
    assert again.fingerprint == scorer.fingerprint


def test_perplexity_needs_a_tokenizer_and_a_model_that_fits_it(context, tmp_path):
    with pytest.raises(ConfigError, match="tokenizer"):
        PerplexityScorer.from_config(PerplexityScorerConfig(kind="perplexity", train_on=("pool",)), context)
    from tests.contracts.test_scorer_contract import make_context

    with pytest.raises(ConfigError, match=r"no model\.json"):
        PerplexityScorer.from_config(
            PerplexityScorerConfig(kind="perplexity", model=str(tmp_path)), make_context(tmp_path / "x")
        )
