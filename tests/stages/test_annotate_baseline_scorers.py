"""The scorers of the baselines as the stage runs them: the same numbers however the pool is split, on either engine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from quadmix.config import RunConfig
from quadmix.config_reader import read_config
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.progress import Progress
from quadmix.scorers.model_files import describe_model, load_model
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.plan import make_estimate
from tests.e2e.small_pool import config, write_config
from tests.pool.building import write_jsonl
from tests.scorers.list_context import notices, speech
from tests.stages.annotate_pools import rows_of
from tests.stages.inline_engine import InlineEngine

PROXY = {"preset": "custom", "d_model": 16, "layers": 1, "heads": 2, "d_ff": 32, "seq_len": 32, "batch": 8}
SCORERS: list[dict[str, Any]] = [
    {"kind": "dsir", "targets": ["target:howto"], "least_words": 30, "sample_docs": 100},
    {
        "kind": "density", "rows": 64, "bits": 6, "sample_docs": 100,
        "embedder": {"kind": "lsa", "dimensions": 8},
    },
    {"kind": "color", "name": "given", "columns": {"prior": "loss.prior", "conditional": "loss.conditional"}},
]  # fmt: skip
COLOR = {
    "kind": "color", "targets": ["target:howto"], "train_tokens": 6_000, "target_tokens": 3_000, "max_tokens": 64,
    "proxy": PROXY,
}  # fmt: skip
NAMES = ("dsir", "sparsity", "given")


def rows() -> list[dict[str, Any]]:
    found = []
    for index, document in enumerate([*speech(120), *notices(120)]):
        losses = {"prior": 3.0 + index % 5, "conditional": 2.75}
        found.append({"id": document.id, "text": document.text, "domain": "d", "loss": losses})
    return found


def run_config(pool: Path, scorers: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    values = config(pool, pool.parent / "out")
    del values["search"]
    values["targets"] = values["targets"][1:]
    values["annotate"] = {"scorers": scorers}
    values["mixture"] = {"criteria": ["dsir"], "budget": 1_000}
    values["select"] = {"mixture": "natural"}
    values["pool"]["unit_bytes"] = "128MiB"
    return {**values, **sections}


def annotated(pool: Path, engine: Engine, scorers: list[dict[str, Any]], unit_bytes: str = "128MiB") -> Annotated:
    values = run_config(pool, scorers)
    values["pool"]["unit_bytes"] = unit_bytes
    return annotate(RunConfig.model_validate(values), engine, Progress.silent())


def scores_of(done: Annotated, names: tuple[str, ...] = NAMES) -> dict[str, tuple[float, ...]]:
    table = rows_of(done)
    columns = [table[f"score_{name}"].to_pylist() for name in names]
    return dict(zip(table["doc_id"].to_pylist(), zip(*columns, strict=True), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Annotated:
    pool = tmp_path_factory.mktemp("whole") / "pool"
    write_jsonl(pool / "a.jsonl", rows())
    return annotated(pool, InlineEngine(), SCORERS)


def split(folder: Path) -> Path:
    shuffled = rows()
    random.Random(1).shuffle(shuffled)
    for place in range(4):
        write_jsonl(folder / f"{place}.jsonl", shuffled[place::4])
    return folder


def test_scores_do_not_depend_on_files_or_units(whole: Annotated, tmp_path: Path) -> None:
    many = annotated(split(tmp_path / "pool"), InlineEngine(), SCORERS, "8KiB")
    assert len(many.files) > 3
    assert scores_of(many) == scores_of(whole)
    found = list(zip(*scores_of(whole).values(), strict=True))
    assert [len(set(values)) > 4 for values in found] == [True] * 3
    assert set(found[2]) == {0.25, 1.25, 2.25, 3.25, 4.25}


def test_the_effective_spread_is_in_the_record(whole: Annotated) -> None:
    notes = {scorer["name"]: scorer["notes"] for scorer in whole.record.summary["scorers"]}
    assert notes["dsir"] == []
    (note,) = notes["sparsity"]
    (model,) = (whole.directory / "models").glob("density-sparsity-*.json")
    facts = load_model(describe_model(str(model)), "density")[1]
    assert f"effective spread of the density {facts['effective_spread']:.3g} " in note


def test_both_models_of_color_are_kept_and_other_targets_give_others(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pool = split(tmp_path / "pool")
    done = annotated(pool, InlineEngine(), [*SCORERS, COLOR], "8KiB")
    assert len(list((done.directory / "models").glob("color-color-*/model.safetensors"))) == 2
    assert len({score for (score,) in scores_of(done, ("color",)).values()}) > 20


@pytest.mark.parametrize(
    ("scorer", "problem"),
    [
        ({"kind": "dsir", "targets": ["target:howtoo"]}, "did you mean 'howto'"),
        ({"kind": "dsir", "targets": ["no/such/folder"]}, "does not exist"),
        ({"kind": "color", "models": {"prior": "no/prior", "conditional": "examples"}}, "no/prior"),
        ({"kind": "ask_llm", "path": "no/model"}, "no/model"),
        ({"kind": "density", "embedder": {"kind": "model2vec", "path": "no/embedder"}}, "no/embedder"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
def test_paths_and_targets_are_checked_before_work(scorer: dict[str, Any], problem: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows()[:3])
    file = write_config(tmp_path / "run.yaml", run_config(tmp_path / "pool", [*SCORERS, {"name": "more", **scorer}]))
    with pytest.raises(ConfigError, match=problem):
        read_config(file)


def test_plan_knows_what_they_cost(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers (extra `test`)")
    from tests.scorers.asked_models import write_model

    write_jsonl(tmp_path / "pool" / "a.jsonl", rows())
    model = write_model(tmp_path / "model")
    asked = [{"kind": "ask_llm", "path": model, "max_tokens": tokens} for tokens in (10, 60)]
    costs = [
        make_estimate(RunConfig.model_validate(run_config(tmp_path / "pool", [*SCORERS, *more]))).seconds["annotate"]
        for more in ([], [COLOR], [{**asked[0]}], [{**asked[1]}])
    ]
    assert costs[0] < min(costs[1:])
    assert costs[2] < costs[3]
