"""The proxy pool: bounded, the same however the input is cut, refused when it no longer fits its annotations."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadmix.config import RunConfig
from quadmix.core.normalise import save_score_maps
from quadmix.engine.local import LocalEngine
from quadmix.errors import InputError
from quadmix.progress import Progress
from quadmix.scorers.tokens import load_tokenizer
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.fitting import fit_score_maps
from quadmix.stages.proxy_pool import ProxyPool, Sample, load_sample, proxy_pool
from quadmix.stages.select import packs
from quadmix.stages.swarm import ProxyJob, TrainJobs, sample_budget

TOKENIZER = Path(__file__).parents[2] / "examples" / "tokenizer" / "tokenizer.json"
CRITERIA = ("x", "y")


@pytest.fixture(scope="module")
def engine() -> Any:
    with LocalEngine(1) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of 150 documents with given scores; every twentieth row has no text and is quarantined."""
    found = tmp_path_factory.mktemp("pool")
    (found / "pool").mkdir()
    rng = random.Random(5)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    for file in range(4):
        rows = []
        for row in range(150):
            text = " ".join(rng.choice(words) for _ in range(rng.randint(3, 60)))
            rows.append({"id": f"{file}/{row}", "text": text if row % 20 else "", "domain": rng.choice("ab"),
                         "x": rng.random(), "y": rng.randint(0, 3)})  # fmt: skip
        (found / "pool" / f"part-{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def config_for(folder: Path, output: str, unit_bytes: int = 1 << 20) -> RunConfig:
    return RunConfig.model_validate({
        "output": str(folder / output),
        "pool": {"inputs": [str(folder / "pool")], "columns": {"domain": "domain"}, "unit_bytes": unit_bytes,
                 "max_quarantine_fraction": 0.2},
        "tokenizer": {"path": str(TOKENIZER)},
        "annotate": {"scorers": [{"kind": "columns", "columns": {"x": "x", "y": "y"}}]},
        "mixture": {"criteria": CRITERIA, "budget": 5_000},
    })  # fmt: skip


def build(config: RunConfig, engine: LocalEngine, limit: int) -> tuple[Annotated, ProxyPool, Sample, str]:
    annotated = annotate(config, engine, Progress.silent())
    assert config.tokenizer is not None
    pool = proxy_pool(config, engine, Progress.silent(), annotated, load_tokenizer(config.tokenizer), limit)
    maps = str(Path(config.output) / "maps.npz")
    save_score_maps(maps, fit_score_maps(engine, packs(annotated.files), annotated.summary, config.mixture))
    return annotated, pool, load_sample(pool, maps), maps


def test_a_sample_is_bounded_and_the_same_however_the_input_is_cut(folder: Path, engine: LocalEngine) -> None:
    annotated, pool, sample, _ = build(config_for(folder, "whole"), engine, 8_000)
    cut_annotated, cut_pool, cut, _ = build(config_for(folder, "cut", unit_bytes=2_000), engine, 8_000)
    assert len(cut_annotated.units) > len(annotated.units)
    assert 6_000 < pool.tokens <= 8_000 < annotated.summary.total_tokens
    assert pool.docs == cut_pool.docs == len(sample.doc_hash)
    for field in ("doc_hash", "domain", "n_tokens", "scores", "lengths", "normalised"):
        assert np.array_equal(getattr(sample, field), getattr(cut, field)), field
    assert np.array_equal(sample.n_tokens, sample.lengths)  # the pool counts with the same tokenizer


def test_every_document_of_status_ok_is_there_with_its_own_text(folder: Path, engine: LocalEngine) -> None:
    from proxy_models.data import TokenPool

    config = config_for(folder, "all")
    annotated, pool, sample, _ = build(config, engine, 10**9)
    assert pool.tokens == annotated.summary.total_tokens
    assert pool.docs == int(annotated.summary.docs.sum()) == 4 * 142
    tokens = TokenPool(pool.segments)
    assert config.tokenizer is not None
    tokenizer = load_tokenizer(config.tokenizer)
    from quadmix.hashing import doc_hash

    row = json.loads((folder / "pool" / "part-2.jsonl").read_text().splitlines()[77])
    (where,) = np.flatnonzero(sample.doc_hash == doc_hash([row["id"]])[0])
    assert np.array_equal(tokens.gather(sample.place[[where]]), tokenizer.encode_batch([row["text"]])[0])
    assert sample.scores[where] == pytest.approx([row["x"], row["y"]])


def test_input_that_changed_after_annotation_is_refused(folder: Path, engine: LocalEngine, tmp_path: Path) -> None:
    shutil.copytree(folder / "pool", tmp_path / "pool")
    config = config_for(tmp_path, "out")
    annotated = annotate(config, engine, Progress.silent())
    with open(tmp_path / "pool" / "part-1.jsonl", "a") as handle:
        handle.write('{"id": "new", "text": "one more", "domain": "a", "x": 0.5, "y": 1}\n')
    assert config.tokenizer is not None
    with pytest.raises(InputError, match="part-1"):
        proxy_pool(config, engine, Progress.silent(), annotated, load_tokenizer(config.tokenizer), 10**9)


def test_a_mixture_that_cannot_be_drawn_is_a_failed_proxy_with_its_reason(folder: Path, engine: LocalEngine) -> None:
    config = config_for(folder, "all")
    annotated, pool, sample, maps = build(config, engine, 10**9)
    task = TrainJobs(
        directory=config.output, swarm="s", pool=pool, score_maps=maps, eval_sets=(), proxy=_proxy(), vocab_size=2048,
        mixture=config.mixture, budget=annotated.summary.total_tokens + 1, tokens=1_000,
    )  # fmt: skip
    (outcome,) = task((ProxyJob(0, "topk_x", "topk", "search", 1, criterion="x"),))
    assert outcome["losses"] is None
    assert "mixture.budget" in outcome["error"]
    natural = task.draw(ProxyJob(1, "natural", "natural", "search", 1), sample)
    assert 900 < int((natural * sample.lengths).sum()) <= 1_000


def test_trials_of_one_seed_share_their_draws_and_seeds_do_not(folder: Path, engine: LocalEngine) -> None:
    config = config_for(folder, "all")
    _, pool, sample, maps = build(config, engine, 10**9)
    task = TrainJobs(
        directory=config.output, swarm="s", pool=pool, score_maps=maps, eval_sets=(), proxy=_proxy(), vocab_size=2048,
        mixture=config.mixture, budget=5_000, tokens=2_000,
    )  # fmt: skip
    one, again, other = (
        task.draw(ProxyJob(index, name, "natural", "search", seed), sample)
        for index, name, seed in ((0, "a", 1), (1, "b", 1), (2, "a", 2))
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_budget_of_a_sample_is_its_part_of_the_whole() -> None:
    assert sample_budget(1_000, 30, 100) == 300
    assert sample_budget(10**15, 10**9, 10**9) == 10**15


def _proxy() -> Any:
    from quadmix.config_proxy import ProxyConfig

    return ProxyConfig(preset="custom", d_model=16, layers=1, heads=2, d_ff=32, seq_len=64, batch=16)
