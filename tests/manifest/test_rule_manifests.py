"""Selections by rules, by domain weights and by unions are published, verified and explained; forgeries are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.core.summary import PoolSummary
from quadmix.manifest import Manifest
from quadmix.manifest.explain import explain
from quadmix.manifest.verify import verify
from quadmix.progress import Progress
from quadmix.stages.page import Section
from quadmix.stages.quad import stage as quad_stage
from quadmix.stages.rule_sections import rule_sections
from quadmix.stages.select import select
from tests.manifest.conftest import InlineEngine, annotate_made_up
from tests.manifest.test_verify import tamper
from tests.selectors.contract_pools import RULES, measured_without_a_model

BUDGET, CLUSTERS = 20_000, 5
ODIS = {"dimensions": ("clean", "useful"), "explained_variance": 1.0, "examples": 0}
UNION = {
    "best": {"share": 2.0, "selector": "topk", "criterion": "clean"},
    "components": {"share": 1.0, "selector": "odis"},
    "groups": {"share": 1.0, "selector": "quad"},
    "varied": {"share": 1.0, "selector": "cluster_quality", "criterion": "useful"},
}
CHOSEN: dict[str, dict[str, Any]] = {
    **{name: {"selector": name, **settings} for name, settings in RULES.items()},
    "density": {"selector": "density", "criterion": "useful", "density": {"measures": "log_density"}},
    "mixture": {},
    "union": {"selector": "union", "union": UNION},
}
WEIGHTS = {"books": 1.0, "code": 0.2, "web": 2.0}
CASES = [
    *((name, "free", False) for name in CHOSEN if name != "mixture"),
    *((name, "weights", False) for name in CHOSEN),
    ("criteria_mix", "free", True),
    ("gumbel", "natural", True),
    ("union", "natural", True),
]  # fmt: skip
Make = Callable[..., Manifest]


def run(root: Path, name: str, mixture: str, ties: bool) -> Manifest:
    chosen = {**CHOSEN[name], "mixture": mixture, **({"weights": WEIGHTS} if mixture == "weights" else {})}
    config = RunConfig.model_validate(
        {
            "output": str(root), "seed": 5, "pool": {"inputs": ["pool"]}, "odis": ODIS, "select": chosen,
            "mixture": {"criteria": ("clean", "useful"), "budget": BUDGET},
        }
    )  # fmt: skip
    annotated = annotate_made_up(root, 3, 150, 5, ties=ties, clusters=CLUSTERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quad_stage, "measure", measured_without_a_model)
        return select(config, InlineEngine(), Progress.silent(), annotated, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    known: dict[tuple[str, str, bool], Manifest] = {}

    def make(name: str, mixture: str = "free", ties: bool = False) -> Manifest:
        key = name, mixture, ties
        if key not in known:
            known[key] = run(tmp_path_factory.mktemp(name), *key)
        return known[key]

    return make


@pytest.mark.parametrize(("name", "mixture", "ties"), CASES)
def test_a_published_selection_passes_and_has_its_budget(made: Make, name: str, mixture: str, ties: bool) -> None:
    manifest = made(name, mixture, ties)
    found = verify(manifest)
    assert found.ok, found.findings
    assert manifest.selector == (name if name != "mixture" else "weights")
    pool = [pq.read_table(manifest.annotation_path(file))["n_tokens"] for file in manifest.annotations.files]
    longest = max(tokens.to_numpy().max() for tokens in pool)
    assert abs(manifest.realised_tokens - BUDGET) <= longest / 2
    if mixture == "weights":
        wanted = {name: share.requested for name, share in manifest.domains.items()}
        assert wanted == {"books": 6_250, "code": 1_250, "web": 12_500}
    assert len({row["doc_id"] for row in rows_of(manifest)}) == manifest.documents


def test_the_report_says_what_was_kept(made: Make) -> None:
    def section(name: str, mixture: str = "free") -> Section:
        manifest = made(name, mixture)
        summary = PoolSummary.empty(("clean", "useful"))
        for file in manifest.annotations.files:
            table = pq.read_table(manifest.annotation_path(file)).to_pylist()
            rows = [row for row in table if row["status"] == "ok"]
            tokens = np.array([row["n_tokens"] for row in rows])
            scores = np.array([[row["score_clean"], row["score_useful"]] for row in rows], dtype=np.float32)
            one = PoolSummary.of_rows(["all"], np.zeros(len(rows), int), tokens, tokens, scores, ("clean", "useful"))
            summary = summary.merge(one)
        (found,) = rule_sections(manifest, summary)
        return found

    def column(found: Section, place: int) -> list[int]:
        return [int(row[place].replace(",", "")) for row in found.tables[0].rows]

    left = made("threshold").exclusions
    assert all(f"{left[name].tokens:,} tokens" in section("threshold").text for name in ("NOT_ELIGIBLE", "BEYOND_CUT"))
    density = section("density")
    held, kept = column(density, 1), column(density, 2)
    assert sum(kept) == made("density").realised_tokens
    assert all(took <= have for took, have in zip(kept, held, strict=True))
    rates = [have / of for have, of in zip(kept, held, strict=True)]
    assert rates[0] > 2 * rates[-1]  # the sparse come first
    assert max(held) < 0.3 * sum(held)
    for mixture in ("free", "weights"):
        clusters = section("cluster_quality", mixture)
        assert sum(column(clusters, 1)) == BUDGET
        assert sum(column(clusters, 2)) == made("cluster_quality", mixture).realised_tokens
    union = section("union")
    assert [row[0] for row in union.tables[0].rows] == sorted(UNION)
    assert column(union, 3) == [8_000, 4_000, 4_000, 4_000]
    assert sum(column(union, 4)) == made("union").realised_tokens


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for part in manifest.files for row in pq.read_table(manifest.part_path(part)).to_pylist()]


@pytest.mark.parametrize("name", [name for name in CHOSEN if name != "mixture"])
def test_documents_in_and_out_are_explained(made: Make, name: str) -> None:
    manifest = made(name)
    row = rows_of(manifest)[0]
    found = explain(manifest, row["doc_id"])
    assert (found.copies, found.stratum, found.key) == (1, row["stratum"], row["key"])
    assert found.why.startswith("Selected, 1 copy: its key")
    selected = {row["doc_id"] for row in rows_of(manifest)}
    annotated = pq.read_table(manifest.annotation_path(manifest.annotations.files[0])).to_pylist()
    out = next(row["doc_id"] for row in annotated if row["status"] == "ok" and row["doc_id"] not in selected)
    left = explain(manifest, out)
    assert left.copies == 0
    assert left.why.startswith("Not selected")
    assert json.dumps(left.to_json())
    if name == "union":
        assert f"The member {row['stratum'].partition(' / ')[0]!r} takes it" in found.why
        assert "the last member of the union" in left.why


def in_plan(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *steps, last = path.split(".")
        place = content["plan"]
        for step in steps:
            place = place[step]
        place[last] = value(place[last]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("threshold", "rule.least_score", lambda least: least + 1e-3),
        ("threshold", "rule.least_quantile", 0.5),
        ("gumbel", "rule.temperature", 0.6),
        ("criteria_mix", "rule.shares", [2.0, 1.1]),
        ("density", "rule.exponent", 0.99),
        ("density", "rule.measures", "minus_log_density"),
        ("cluster_quality", "rule.clusters", lambda names: names[:-1]),
        ("union", "members.best.share", 3.0),
        ("union", "members.best.budget", lambda budget: budget + 1),
        ("union", "members.varied.plan.rule.temperature", 2.0),
        ("union", "members.components.plan.odis.components.0.asked", None),
    ],
)
def test_a_changed_setting_is_named(made: Make, tmp_path: Path, name: str, path: str, value: Any) -> None:
    def change(content: dict[str, Any]) -> None:
        if value is None:
            content["plan"]["members"]["components"]["plan"]["odis"]["components"][0]["asked"] += 1
        else:
            in_plan(path, value)(content)

    assert not verify(tamper(made(name), tmp_path / "forged", content=change)).ok


def test_moved_weights_and_quotas_are_named(made: Make, tmp_path: Path) -> None:
    weights = in_plan("weights", {**WEIGHTS, "web": 1.9})
    assert not verify(tamper(made("mixture", "weights"), tmp_path / "weights", content=weights)).ok

    def move(content: dict[str, Any]) -> None:
        first, second, *_ = content["plan"]["strata"].values()
        first["quota"] += 5
        second["quota"] -= 5

    found = verify(tamper(made("union"), tmp_path / "moved", content=move))
    assert sum(finding.column.endswith(".quota") for finding in found.findings) == 2


def test_a_document_swapped_for_another_is_named(made: Make, tmp_path: Path) -> None:
    """What one member of a union took is given to another one, and a key is changed."""

    def edit(part: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if part == 0:
            best = next(row for row in rows if row["stratum"] == "best / pool")
            best["stratum"] = "components / PC1"
            rows[-1]["key"] += 1e-9
        return rows

    columns = {finding.column for finding in verify(tamper(made("union"), tmp_path / "row", rows=edit)).findings}
    assert {"stratum", "key"} <= columns
    dropped = tamper(made("gumbel"), tmp_path / "gone", rows=lambda part, rows: rows[1:] if part == 0 else rows)
    assert any(finding.column == "copies" for finding in verify(dropped).findings)
