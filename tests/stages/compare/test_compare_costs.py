"""What models read on behalf of an entry where they are not trained by the run: prompts, and encoders' training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from proxy_models.asking import Question, prompt_tokens
from proxy_models.loading import load_causal, stored_weights
from quadmix.config import RunConfig
from quadmix.config_annotate import ASK_PROMPT
from quadmix.search.journal import Journal
from quadmix.stages.compare.costs import Costs
from quadmix.stages.compare.entries import contenders
from quadmix.stages.label import answered_tokens
from tests.e2e.command_line import quadmix
from tests.e2e.small_pool import write_config
from tests.scorers.asked_models import tiny_model
from tests.stages.compare.made_up import entry, values, write_pool
from tests.stages.inline_engine import InlineEngine

ENCODER = {"kind": "encoder", "d_model": 16, "heads": 2, "d_ff": 16, "layers": 1, "epochs": 2, "max_tokens": 32}


def test_prompts_and_an_encoders_training_are_counted(tmp_path: Path, inline: InlineEngine) -> None:
    pool = tmp_path / "pool"
    write_pool(pool)
    config = values(pool, tmp_path / "out", entry("random", mixture="natural"), *(
        entry(name, selector="topk", mixture="free", criterion=name) for name in ("asked", "first")
    ))  # fmt: skip
    files = [str(path) for path in sorted(pool.iterdir())]
    config["annotate"]["scorers"] += [
        {"kind": "ask_llm", "name": "asked", "path": tiny_model(), "max_tokens": 40},
        {
            "kind": "heads", "labelled": files, "labels": {"first": "sound", "second": "wrong"}, "model": ENCODER,
            "least_spearman": -1.0,
        },
    ]  # fmt: skip
    config["diversity"] = None
    done = quadmix("compare", write_config(tmp_path / "run.yaml", config), "--json")
    assert done.code == 0, done.err
    costs = {one["name"]: {cost["what"]: cost for cost in one["costs"]} for one in done.json["entries"]}
    rows = [json.loads(line) for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    longest = 40 * len(rows)
    asked = costs["asked"]["asking asked"]
    prompts = len(rows) * prompt_tokens(tiny_model(), Question(ASK_PROMPT, ("yes",), ("no",), 40, chat=False))
    assert prompts > 0
    assert asked["documents"] == len(rows)
    assert prompts < asked["tokens"] <= prompts + longest
    assert asked["flops"] == 2.0 * stored_weights(tiny_model()) * asked["tokens"]
    training, scoring = (costs["first"][f"{what} heads"] for what in ("training", "scoring"))
    assert training["documents"] is None
    assert 0 < training["tokens"] <= 2 * 32 * len(rows)
    assert 0 < scoring["tokens"] <= 32 * len(rows)
    # a token of training is three of scoring
    assert training["flops"] / training["tokens"] == 3.0 * scoring["flops"] / scoring["tokens"]


def test_what_was_never_selected_has_no_passes_of_quad(tmp_path: Path) -> None:
    """Its stages left no records, since the search's shares were refused before it measured."""
    write_pool(tmp_path / "pool")
    quad = entry("quad", selector="quad", mixture="proposal")
    own = values(tmp_path / "pool", tmp_path / "out", entry("random", mixture="natural"), quad)
    (_, one) = contenders(RunConfig.model_validate_json(json.dumps(own)))
    assert one.trains
    summary = SimpleNamespace(docs=np.array([3]), total_tokens=100)
    annotated: Any = SimpleNamespace(summary=summary, directory=tmp_path)
    assert [cost.what for cost in Costs(InlineEngine(), annotated, None, 2048, ()).of(one, [], built=False)] == [
        "scoring like_howto"
    ]


def test_bought_labels_cost_what_the_endpoint_counted(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool")
    topk = entry("learned", selector="topk", mixture="free", criterion="first")
    own = values(tmp_path / "pool", tmp_path / "out", entry("random", mixture="natural"), topk)
    file = str(tmp_path / "labels.jsonl")
    one_file = {"kind": "heads", "labelled": [file]}
    own["annotate"]["scorers"] += [
        {**one_file, "labels": {"first": "sound", "second": "wrong"}},
        {**one_file, "labels": {"third": "sound", "fourth": "wrong"}},
    ]
    own["labels"] = {"file": file, "endpoint": {"url": "http://x/v1", "model": "m"}, "price": {"input": 1, "output": 1}}
    config = RunConfig.model_validate_json(json.dumps(own))
    folder = tmp_path / "out" / "labels"
    folder.mkdir(parents=True)
    journal = Journal(folder / "answers.jsonl")
    for number in range(3):
        journal.append(str(number), {"score": number, "input_tokens": 100, "output_tokens": 5})
    assert answered_tokens(config) == {}  # somebody else's file
    (folder / "written.json").write_text(json.dumps({file: ["0" * 64]}))
    (_, one) = contenders(config)
    annotated: Any = SimpleNamespace(summary=SimpleNamespace(docs=np.array([3]), total_tokens=100), directory=tmp_path)
    costs = Costs(InlineEngine(), annotated, None, 2048, (), answered_tokens(config)).of(one, ["first", "third"])
    assert [(cost.what, cost.tokens, cost.flops is None) for cost in costs] == [
        ("scoring heads", 100, False), ("scoring heads", 100, False), ("labels", 315, True),
    ]  # fmt: skip


def test_stored_weights_are_those_of_the_model() -> None:
    model = load_causal("huggingface", tiny_model())
    assert stored_weights(tiny_model()) == sum(part.numel() for part in model.parameters())
