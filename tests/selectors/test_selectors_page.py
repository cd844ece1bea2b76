"""docs/selectors.md: every example is a config that can be run, and no selector is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from quadmix.config import SelectConfig
from quadmix.config_reader import check_config
from quadmix.errors import ConfigError
from quadmix.stages.weights_file import read_weights

PAGE = (Path(__file__).parents[2] / "docs" / "selectors.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
TOKENIZER = Path(__file__).parents[2] / "docs" / "selectors.md"  # any file that exists: nothing is read here


def with_base(select: dict[str, Any], folder: Path) -> dict[str, Any]:
    scorers = [{"kind": "columns", "columns": {name: name for name in ("edu", "clean", "dsir", "rarity")}}]
    annotate: dict[str, Any] = {"scorers": scorers, "clusters": {"kind": "column", "column": "cluster"}}
    return {
        "output": str(folder / "out"),
        "pool": {"inputs": ["pool/*.parquet"], "columns": {"domain": "domain", "tokens": "tokens"}},
        "annotate": annotate,
        "mixture": {"criteria": ["edu", "clean"], "budget": "1M"},
        "odis": {"dimensions": ["edu", "clean", "dsir"]},
        "targets": [{"name": "t", "path": str(TOKENIZER)}],
        "tokenizer": {"path": str(TOKENIZER)},
        "search": {},
        "select": select,
    }


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_config(example: str, tmp_path: Path) -> None:
    content = yaml.safe_load(example)
    assert list(content) == ["select"]
    assert check_config(with_base(content["select"], tmp_path)).select.selector in PAGE


def test_every_selector_and_mixture_is_on_the_page() -> None:
    assert len(EXAMPLES) >= 9
    for field in ("selector", "mixture"):
        for name in SelectConfig.model_fields[field].annotation.__args__:  # type: ignore[union-attr]
            assert f"`{name}`" in PAGE


def problems(select: dict[str, Any], folder: Path, **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as told:
        check_config({**with_base(select, folder), **changes})
    return told.value.problems


def test_names_that_do_not_exist_are_told_with_those_that_do(tmp_path: Path) -> None:
    (line,) = problems({"selector": "topk", "mixture": "free", "criterion": "edo"}, tmp_path)
    assert line.startswith("select.criterion: found 'edo', wanted a criterion of annotate.scorers (clean, dsir, edu,")
    assert "did you mean 'edu'?" in line
    mix = {"selector": "criteria_mix", "mixture": "free", "criteria_mix": {"criteria": ["edu", "cleen"]}}
    (line,) = problems(mix, tmp_path)
    assert line.startswith("select.criteria_mix.criteria.1: found 'cleen'")
    member = {"share": 1.0, "selector": "gumbel", "criterion": "edo"}
    union = {"selector": "union", "mixture": "free", "union": {"a": member, "b": {**member, "selector": "quad"}}}
    told = problems({**union, "union": {**union["union"], "b": {"share": 1.0, "selector": "random"}}}, tmp_path)  # type: ignore[dict-item]
    assert told[0].startswith("select.union.a.criterion: found 'edo'")
    twice = {name: {"share": 1.0, "selector": "odis"} for name in ("a", "b")}
    (line,) = problems({**union, "union": twice}, tmp_path)
    assert "`union`: found a and b with selector odis, wanted one" in line
    (line,) = problems({"mixture": "weights", "weights": "nowhere.json"}, tmp_path)
    assert line.startswith("select.weights: found 'nowhere.json'")
    (line,) = problems({"mixture": "natural", "weights": {"web": 1.0}}, tmp_path)
    assert "`weights` must be given when, and only when, `mixture: weights`" in line
    quality = {"selector": "cluster_quality", "mixture": "free", "criterion": "edu"}
    without = {"scorers": with_base({}, tmp_path)["annotate"]["scorers"]}
    (line,) = problems(quality, tmp_path, annotate=without)
    assert line.startswith("annotate.clusters: missing, but select.selector is cluster_quality")


def test_weights_come_from_a_mapping_or_a_search(tmp_path: Path) -> None:
    plain, searched = tmp_path / "plain.json", tmp_path / "trials_search.json"
    plain.write_text(json.dumps({"web": 3, "code": 1}))
    rows = [{"origin": "argmin", "weights": {"web": 1.0}}, {"origin": "average", "weights": {"web": 0.7, "code": 0.3}}]
    searched.write_text(json.dumps({"proposals": rows}))
    assert read_weights(str(plain)) == ({"web": 3.0, "code": 1.0}, "the domain weights of plain.json")
    found, source = read_weights(str(searched))
    assert found == {"web": 0.7, "code": 0.3}
    assert source.endswith("a search's proposal that no fresh run has confirmed")
    for content, told in (("[1]", "one number of at least 0"), ('{"a": -1}', "at least 0"), ('{"a": 0}', "above 0")):
        plain.write_text(content)
        with pytest.raises(ConfigError, match=told):
            read_weights(str(plain))
    plain.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_weights(str(plain))
