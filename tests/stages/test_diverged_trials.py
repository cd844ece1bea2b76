"""A loss that is not a number is a failed trial on every engine: never fitted, never a rival, never a winner."""

from __future__ import annotations

import io
import shutil
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from quadmix.config_reader import check_config
from quadmix.engine.local import LocalEngine
from quadmix.errors import ConfigError
from quadmix.progress import Progress
from quadmix.search.result import JOINT, SearchResult
from quadmix.stages import search_inputs
from quadmix.stages.pipeline import Pipeline
from quadmix.stages.report import _confirmation, _regression
from tests.e2e.small_pool import config, documents, write_shards
from tests.stages import diverging_jobs
from tests.stages.diverging_jobs import DivergingJobs
from tests.stages.inline_engine import InlineEngine

TRIALS = 11
DIVERGING = (("trial-00002", "search"), ("trial-00007", "search"), ("uniform", "search"), ("natural", "confirm"))


def values(folder: Path, output: str, **search: Any) -> dict[str, Any]:
    found = config(folder / "pool", folder / output)
    found["annotate"] = {"scorers": [{"kind": "heuristics"}]}
    found["mixture"] = {"criteria": ["heuristic_quality"], "budget": 60_000}
    confirm = {"seeds": 3, "rivals": ["natural", "topk", "best_observed"]}
    found["search"] |= {"trials": TRIALS, "tokens_per_trial": 6_000, "confirm": confirm, **search}
    return found


def run(folder: Path, output: str, engine: Any, **search: Any) -> tuple[bytes, str]:
    """(the search's result, what it said) in `output`, whose annotations are those of `base`."""
    shutil.copytree(folder / "base", folder / output)
    said = io.StringIO()
    Pipeline(check_config(values(folder, output, **search)), engine, Progress("plain", said), "search").run()
    (result,) = (folder / output).glob("stages/search-*/result.json")
    return result.read_bytes(), said.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("diverged")
    write_shards(found / "pool", list(islice(documents(), 300)), 4)
    Pipeline(check_config(values(found, "base")), InlineEngine(), Progress.silent(), "annotate").run()
    return found


@pytest.fixture(scope="module")
def diverged(folder: Path) -> tuple[bytes, str]:
    """A search in this process in which four mixtures diverge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_inputs, "TrainJobs", partial(DivergingJobs, diverging=DIVERGING))
        return run(folder, "inline", InlineEngine())


def test_a_diverged_trial_is_a_failed_one_and_is_never_fitted(diverged: tuple[bytes, str]) -> None:
    result = SearchResult.from_json(diverged[0])
    failed = {trial.name: trial for trial in result.trials if trial.losses is None}
    assert failed.keys() == {"trial-00002", "trial-00007", "uniform"}
    for trial in failed.values():
        assert trial.error is not None
        assert trial.error.startswith("loss is not finite at step 3 of ")
        assert (trial.joint, trial.bits_per_byte) == (None, None)
        assert trial.mixture is not None  # what it was trained on is known all the same
    assert result.cross_validation.rows == TRIALS - 2
    assert {len(column) for column in result.cross_validation.out_of_fold.values()} == {TRIALS - 2}
    assert failed["trial-00002"].predicted is None
    assert b"NaN" not in diverged[0]


def test_it_is_no_rival_and_no_winner(diverged: tuple[bytes, str]) -> None:
    result = SearchResult.from_json(diverged[0])
    best = min((t for t in result.trials if t.kind == "theta" and t.joint is not None), key=lambda t: t.joint or 0.0)
    observed = next(one for one in result.proposals if one.origin == "best_observed")
    assert observed.theta == best.theta
    natural = next(one for one in result.confirmation.mixtures if one.name == "natural")
    assert natural.losses[JOINT] == [None] * 3
    assert (natural.loss[JOINT].mean, natural.loss[JOINT].n) == (None, 0)
    assert result.confirmation.winner not in (None, "natural")
    assert "natural" not in result.confirmation.ties
    assert "was not compared with natural" in result.confirmation.verdict


def test_failures_are_told_with_their_reasons(diverged: tuple[bytes, str]) -> None:
    raw, said = diverged
    assert "training proxies: 3 of 20 failed and count for nothing (trial-00002: loss is not finite at step 3" in said
    assert "confirming the proposal: 3 of 12 failed and count for nothing (natural: loss is not finite" in said
    result = SearchResult.from_json(raw)
    table = _regression(result).tables[-1]
    assert table.header == ("failed proxy", "why")
    assert [row[0] for row in table.rows] == ["trial-00002", "trial-00007", "uniform"]
    assert all("not finite" in row[1] for row in table.rows)
    assert "natural cannot win: 0 of its 3 proxies finished." in _confirmation(result).text


@pytest.mark.long
def test_worker_processes_find_the_same(
    folder: Path, diverged: tuple[bytes, str], local_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_inputs, "TrainJobs", partial(DivergingJobs, diverging=DIVERGING))
    assert run(folder, "local", local_engine)[0] == diverged[0]


@pytest.mark.spark
@pytest.mark.long
def test_spark_finds_the_same(
    folder: Path, diverged: tuple[bytes, str], spark_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyspark import cloudpickle

    cloudpickle.register_pickle_by_value(diverging_jobs)
    monkeypatch.setattr(search_inputs, "TrainJobs", partial(DivergingJobs, diverging=DIVERGING))
    assert run(folder, "spark", spark_engine)[0] == diverged[0]


def test_too_many_failures_end_with_what_to_do(folder: Path) -> None:
    """Truly diverging proxies: a decay that makes the weights overflow."""
    proxy = values(folder, "all")["search"]["proxy"] | {"lr": 1.0, "weight_decay": 1e38}
    with pytest.raises(ConfigError, match=rf"0 of {TRIALS} proxies finished, wanted at least 8 \(loss is not finite"):
        run(folder, "all", InlineEngine(), proxy=proxy)
