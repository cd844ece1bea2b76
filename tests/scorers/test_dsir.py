"""DSIR's weights: their definition as a loop, the released package on the same features, and what they are for."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from quadmix.config_annotate import DsirScorerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.context import Document
from quadmix.scorers.dsir import LAST, DsirScorer
from quadmix.scorers.hashed_ngrams import layout_counts
from quadmix.scorers.model_files import save_model
from quadmix.scorers.text_layout import layouts
from tests.e2e.small_pool import documents as shipped
from tests.scorers.list_context import ListContext, notices, speech

BUCKETS = 10_000


def config(**changes: object) -> DsirScorerConfig:
    return DsirScorerConfig.model_validate({"kind": "dsir", "targets": ["target:speech"], **changes})


def weights_of(scorer: DsirScorer, texts: list[str]) -> np.ndarray:
    return scorer.score(pa.record_batch({"text": pa.array(texts, pa.large_string())})).column(0).to_numpy()


@pytest.fixture
def context(tmp_path: Path) -> ListContext:
    return ListContext(tmp_path, pool=[*speech(60), *notices(60)], targets={"speech": speech(40, seed=1), "none": []})


def words_of(text: str) -> list[str]:
    """The tests' sentences hold words, digits, commas and full stops alone."""
    for mark in ".,":
        text = text.replace(mark, f" {mark} ")
    return text.lower().split()


def grams_of(text: str) -> Counter[str]:
    words = words_of(text)
    return Counter(words) + Counter(f"{first} {second}" for first, second in pairwise(words))


def test_a_weight_is_the_sum_of_log_ratios_over_words_and_pairs(context: ListContext) -> None:
    # four million buckets: the thousand n-grams of these sentences have one each
    scorer = DsirScorer.from_config(config(buckets=2**22, least_words=0), context)
    sides = (context.target("speech"), context.pool)
    counts = [sum((grams_of(document.text) for document in documents), Counter()) for documents in sides]
    texts = [document.text for document in [*speech(10, seed=5), *notices(10, seed=5)]]
    target, pool = ({gram: n / one.total() for gram, n in one.items()} for one in counts)
    literal = [
        sum(
            n * (math.log(target.get(gram, 0.0) + 1e-8) - math.log(pool.get(gram, 0.0) + 1e-8))
            for gram, n in grams_of(text).items()
        )
        for text in texts
    ]
    assert weights_of(scorer, texts) == pytest.approx(literal, rel=1e-6, abs=1e-3)


def ours(text: str) -> np.ndarray:
    counts = np.zeros(BUCKETS, dtype=int)
    for _, layout in layouts([text.lower()]):
        _, bucket, count = layout_counts(layout, 2, BUCKETS)
        counts[bucket] += count
    return counts


@pytest.fixture(scope="module")
def real() -> tuple[list[str], list[str]]:
    """(pool, targets) of real text: every sixtieth document of the shipped pool, one domain's the target."""
    rows = list(shipped())[::60]
    domains = sorted({row["domain"] for row in rows})
    targets = [row["text"] for row in rows if row["domain"] == domains[0]]
    return [row["text"] for row in rows], targets[: len(targets) // 2]


def released(
    real: tuple[list[str], list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Log weights by the released package, and its word counts. same: it is given our features in place of its own."""
    pytest.importorskip("data_selection", reason="needs data-selection (extra `test`)")
    from data_selection import HashedNgramDSIR, hashed_ngram_dsir

    if same:

        def features(line: str, counts: np.ndarray | None = None, **_: object) -> np.ndarray:
            return ours(line) if counts is None else counts + ours(line)

        monkeypatch.setattr(hashed_ngram_dsir, "get_ngram_counts", features)
    files = []
    for name, texts in zip(("pool", "targets"), real, strict=True):
        files.append(folder / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    theirs = HashedNgramDSIR([str(files[0])], [str(files[1])], str(folder / "cache"), num_proc=1)
    theirs.fit_importance_estimator(num_tokens_to_fit="all")
    theirs.compute_importance_weights()
    saved = ("log_importance_weights", "perexample_metadata")
    return tuple(np.load(folder / "cache" / name / "0.npy") for name in saved)


def fitted(real: tuple[list[str], list[str]], folder: Path, **changes: object) -> DsirScorer:
    pool, targets = ([Document(f"{i}", text) for i, text in enumerate(side)] for side in real)
    return DsirScorer.from_config(config(**changes), ListContext(folder, pool=pool, targets={"speech": targets}))


def test_weights_are_those_of_the_released_package_on_the_same_features(
    real: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, lengths = released(real, tmp_path, monkeypatch, same=True)
    mine = weights_of(fitted(real, tmp_path, least_words=0), real[0])
    assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-3)
    assert spearmanr(mine, theirs).statistic > 0.9999
    # what it leaves out for being short is what comes last here
    short = weights_of(fitted(real, tmp_path), real[0]) == LAST
    assert short.tolist() == (lengths < 100).tolist()
    assert 0 < short.sum() < len(short)


@pytest.mark.long
def test_its_own_words_and_hashes_rank_alike(
    real: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, _ = released(real, tmp_path, monkeypatch, same=False)
    mine = weights_of(fitted(real, tmp_path, least_words=0), real[0])
    assert spearmanr(mine, theirs).statistic > 0.97


def test_documents_like_the_targets_weigh_more_and_short_ones_come_last(context: ListContext) -> None:
    scorer = DsirScorer.from_config(config(least_words=12), context)
    good, bad = (weights_of(scorer, [d.text for d in side]) for side in (speech(30, seed=8), notices(30, seed=8)))
    assert good.min() > bad.max() > LAST
    eleven, twelve = "one of the old words " * 2 + "again", "one of the old words " * 2 + "again and"
    assert weights_of(scorer, [eleven, twelve])[0] == LAST < weights_of(scorer, [eleven, twelve])[1]


def test_a_fitted_file_can_be_used_again(context: ListContext) -> None:
    first = DsirScorer.from_config(config(ngrams=3, buckets=512), context)
    again = DsirScorer.from_config(DsirScorerConfig(kind="dsir", model=first.model.path), context)
    assert again == first
    with pytest.raises(ValueError, match="targets \\(to fit\\) or model"):
        DsirScorerConfig(kind="dsir")
    other = save_model(context.directory, "x", "other", {"ratios": np.zeros(3)}, {"buckets": 3, "ngrams": 1})
    with pytest.raises(InputError, match="wanted a 'dsir' model"):
        DsirScorer.from_config(DsirScorerConfig(kind="dsir", model=other.path), context)


def test_no_words_on_either_side_are_refused(context: ListContext, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no words in targets \(target:none\)"):
        DsirScorer.from_config(config(targets=["target:none"]), context)
    with pytest.raises(ConfigError, match="no words in the pool's sample"):
        DsirScorer.from_config(config(), ListContext(tmp_path, pool=[], targets={"speech": speech(3)}))
