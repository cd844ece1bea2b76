"""The search finds quality: with half of every domain's documents word-shuffled, the proposal avoids them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from quadmix.config_reader import check_config
from quadmix.engine.local import LocalEngine
from quadmix.hashing import doc_hash, uniform
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.stages.pipeline import Pipeline
from tests.e2e.small_pool import config, documents, write_shards

pytestmark = pytest.mark.long  # a whole search of 24 trials

MARK = "~shuffled"


def half_shuffled(docs: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Half of the documents of every domain, by hash, with their words in random order: same words, no sense."""
    changed = []
    for doc in docs:
        if uniform(doc_hash([doc["id"]]), 3, "shuffle")[0] < 0.5:
            words = doc["text"].split(" ")
            random.Random(doc["id"]).shuffle(words)
            doc = {**doc, "id": doc["id"] + MARK, "text": " ".join(words)}
        changed.append(doc)
    return changed


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, local_engine: LocalEngine) -> Manifest:
    """What the search's proposal selects from such a pool, with the quick start's scorers and proxies."""
    base = tmp_path_factory.mktemp("shuffled")
    write_shards(base / "pool", half_shuffled(itertools.islice(documents(), 5000)), 8)
    values = config(base / "pool", base / "out", seed=5)
    values["pool"]["unit_bytes"] = "4MiB"
    values["annotate"] = {
        "scorers": [
            {"kind": "heuristics"},
            {"kind": "linear", "name": "like_encyclopedia", "positives": ["target:encyclopedia"]},
            {"kind": "linear", "name": "like_howto", "positives": ["target:howto"]},
            {"kind": "perplexity", "train_on": ["target:encyclopedia", "target:howto"], "max_tokens": 64},
        ]
    }
    values["targets"] = [{key: value for key, value in t.items() if key != "max_docs"} for t in values["targets"]]
    values["mixture"] = {
        "criteria": ["heuristic_quality", "like_encyclopedia", "like_howto", "fluency"], "budget": 500_000,
    }  # fmt: skip
    values["search"] = {
        "trials": 24, "tokens_per_trial": 100_000, "eval_tokens": 20_000, "candidates": 20_000, "finalists": 500,
        "confirm": {"seeds": 3, "rivals": ["natural"]},
    }  # fmt: skip
    values["select"] = {"mixture": "proposal"}
    pipeline = Pipeline(check_config(values), local_engine, Progress.silent(), "select")
    pipeline.run()
    assert pipeline.manifest is not None
    return pipeline.manifest


def tokens(manifest: Manifest, shuffled: bool) -> int:
    """Selected tokens of one kind, copies counted."""
    total = 0
    for part in manifest.files:
        table = pq.read_table(manifest.part_path(part), columns=["doc_id", "n_tokens", "copies"])
        for doc_id, n, copies in zip(*(column.to_pylist() for column in table.columns), strict=True):
            total += n * copies * (doc_id.endswith(MARK) == shuffled)
    return total


def test_at_least_four_fifths_of_the_proposal_are_not_shuffled(manifest: Manifest) -> None:
    sound, broken = tokens(manifest, False), tokens(manifest, True)
    assert sound + broken == manifest.realised_tokens
    assert sound / (sound + broken) >= 0.8


def test_the_pool_itself_was_half_shuffled(manifest: Manifest) -> None:
    """The control: shuffled documents are about half of the pool's tokens, so 80 % is not chance."""
    total = {False: 0, True: 0}
    for entry in manifest.annotations.files:
        table = pq.read_table(manifest.annotation_path(entry), columns=["doc_id", "n_tokens"])
        for doc_id, n in zip(*(column.to_pylist() for column in table.columns), strict=True):
            total[doc_id.endswith(MARK)] += n
    assert 0.4 < total[True] / sum(total.values()) < 0.65
