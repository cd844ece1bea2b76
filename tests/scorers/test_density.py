"""The density scorer: the kernel density of a sample's embeddings, the right way round, with its spread said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from quadmix.config_annotate import DensityScorerConfig
from quadmix.errors import ConfigError
from quadmix.scorers.context import Document
from quadmix.scorers.density import DensityScorer
from quadmix.scorers.embedders import embedder_from
from quadmix.scorers.model_files import load_model
from tests.scorers.list_context import ListContext, notices, speech

LSA = {"kind": "lsa", "dimensions": 8}


def config(**changes: object) -> DensityScorerConfig:
    return DensityScorerConfig.model_validate({"kind": "density", "embedder": LSA, **changes})


def sparsity(scorer: DensityScorer, documents: list[Document]) -> np.ndarray:
    columns = {"doc_id": [document.id for document in documents], "text": [document.text for document in documents]}
    return scorer.score(pa.record_batch(columns)).column(0).to_numpy().astype(float)


def test_it_is_minus_the_log_of_the_exact_kernel_density(tmp_path: Path) -> None:
    pool = [*speech(100), *notices(20)]
    scorer = DensityScorer.from_config(config(rows=4000, bits=4), ListContext(tmp_path, pool=pool))
    arrays, facts = load_model(scorer.model, "density")
    points = embedder_from(facts, arrays).transform([document.text for document in pool]).astype(float)
    angle = np.arccos(np.clip(points @ points.T, -1.0, 1.0))
    exact = ((1.0 - angle / np.pi) ** 4).mean(axis=1)
    found = np.exp(-sparsity(scorer, pool))
    assert (np.abs(found - exact) / np.sqrt(exact * (1.0 - exact) / 4000)).max() < 4.5


def test_what_is_rare_scores_higher_and_the_spread_is_said(tmp_path: Path) -> None:
    pool = [*speech(190), *notices(10)]
    scorer = DensityScorer.from_config(config(), ListContext(tmp_path, pool=pool))
    found = sparsity(scorer, pool)
    assert np.median(found[190:]) > np.median(found[:190]) + 0.5
    low, high = np.quantile(np.exp(-found), (0.05, 0.95), method="inverted_cdf")
    assert scorer.spread == pytest.approx(high / low, rel=1e-5)
    assert load_model(scorer.model, "density")[1]["effective_spread"] == scorer.spread
    assert f"{scorer.spread:.3g}" in scorer.notes[0]
    assert "nearly random" not in scorer.notes[0]


def test_a_kernel_that_sees_no_difference_is_said_to(tmp_path: Path) -> None:
    same = [Document(f"{index}", "the same words for all") for index in range(30)]
    scorer = DensityScorer.from_config(config(bits=1), ListContext(tmp_path, pool=same))
    assert "nearly random" in scorer.notes[0]
    assert sparsity(scorer, same).tolist() == [0.0] * 30


def test_members_of_the_sample_look_no_denser_than_others(tmp_path: Path) -> None:
    pool = [*speech(400), *notices(400)]
    context = ListContext(tmp_path, pool=pool)
    scorer = DensityScorer.from_config(config(sample_docs=80, bits=12), context)
    members = {document.id for document in context.sample(80, "density/sparsity")}
    inside = np.array([document.id in members for document in pool])
    found = sparsity(scorer, pool)
    # documents that nothing of the sample is near count themselves alone, inside or outside of it
    assert found[inside].max() == pytest.approx(found[~inside].max(), abs=0.2)
    assert found[inside].mean() == pytest.approx(found[~inside].mean(), abs=0.15)
    alone = Document("new", "zzz qqq xxx")
    assert sparsity(scorer, [alone])[0] <= np.log(81.0) + 1e-6


def test_an_empty_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sample is empty"):
        DensityScorer.from_config(config(), ListContext(tmp_path, pool=[]))
