"""An ODiS selection, alone and inside domain quotas, is published, verified and explained; forgeries are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.manifest import Manifest
from quadmix.manifest.explain import explain
from quadmix.manifest.verify import verify
from quadmix.progress import Progress
from quadmix.stages.select import select
from tests.manifest.conftest import InlineEngine, annotate_made_up
from tests.manifest.test_verify import tamper

BUDGET = 20_000
Make = Callable[..., Manifest]


def run_odis(root: Path, mixture: str, ties: bool) -> Manifest:
    odis = {"dimensions": ("clean", "useful"), "explained_variance": 1.0, "examples": 0}
    config = RunConfig.model_validate(
        {
            "output": str(root), "seed": 5, "pool": {"inputs": ["pool"]}, "odis": odis,
            "mixture": {"criteria": ("clean", "useful"), "budget": BUDGET},
            "select": {"selector": "odis", "mixture": mixture},
        }
    )  # fmt: skip
    annotated = annotate_made_up(root, 3, 200, 5, ties=ties)
    return select(config, InlineEngine(), Progress.silent(), annotated, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def odis(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[tuple[str, bool], Manifest] = {}

    def make(mixture: str = "free", ties: bool = False) -> Manifest:
        if (mixture, ties) not in made:
            made[mixture, ties] = run_odis(tmp_path_factory.mktemp("odis"), mixture, ties)
        return made[mixture, ties]

    return make


@pytest.mark.parametrize(("mixture", "ties"), [("free", False), ("free", True), ("natural", True), ("uniform", False)])
def test_a_published_selection_passes_and_has_its_budget(odis: Make, mixture: str, ties: bool) -> None:
    manifest = odis(mixture, ties)
    found = verify(manifest)
    assert found.ok, found.findings
    assert manifest.selector == "odis"
    pool = [pq.read_table(manifest.annotation_path(file))["n_tokens"] for file in manifest.annotations.files]
    longest = max(tokens.to_numpy().max() for tokens in pool)
    assert abs(manifest.realised_tokens - BUDGET) <= longest / 2
    strata = manifest.plan["strata"]
    assert sum(stratum["quota"] for stratum in strata.values()) == BUDGET
    if mixture == "free":
        assert sorted(strata) == ["PC1", "PC2"]
        assert [strata[name]["quota"] for name in sorted(strata)] == [BUDGET // 2] * 2
    else:
        wanted = {name: share.requested for name, share in manifest.domains.items()}
        assert wanted == manifest.plan["domain_quotas"]
        assert sorted(strata) == [f"{name} / PC{k}" for name in sorted(wanted) for k in (1, 2)]


def at(path: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *steps, last = path.split(".")
        place = content["plan"]["odis"]
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place[step]
        last_step = int(last) if isinstance(place, list) else last
        place[last_step] = value(place[last_step])

    return change


@pytest.mark.parametrize(
    ("path", "by"),
    [
        ("dimensions.0.mean", 1e-3),
        ("dimensions.1.deviation", 1e-3),
        ("correlation.0.1", 1e-4),
        ("components.0.loadings.0", 1e-3),
        ("components.1.weights.0", 1e-3),
        ("components.0.asked", 1),
        ("components.1.documents", -1),
        ("components.0.shared.1", 1),
        ("below_floor.1", 1),
        ("floor", 0.1),
        *(
            pytest.param(path, by, marks=pytest.mark.long)
            for path, by in (
                ("eigenvalues.1", 1e-4),
                ("components.1.tokens", -1),
                ("components.0.top", 1),
                ("components.0.share", 0.01),
                ("tokens", 1),
                ("explained_variance", -0.7),
            )
        ),
    ],
)
def test_a_changed_number_of_the_fit_is_named(odis: Make, tmp_path: Path, path: str, by: float) -> None:
    found = verify(tamper(odis(), tmp_path / "forged", content=at(path, lambda value: value + by)))
    assert not found.ok
    assert any(finding.column.startswith("plan.odis.") for finding in found.findings)


def test_components_turned_around_are_named(odis: Make, tmp_path: Path) -> None:
    def turn(content: dict[str, Any]) -> None:
        for component in content["plan"]["odis"]["components"][:1]:
            for name in ("loadings", "weights"):
                component[name] = [-value for value in component[name]]

    found = verify(tamper(odis(), tmp_path / "turned", content=turn))
    assert any("less than 0" in str(finding.found) for finding in found.findings)


def test_moved_quotas_and_a_row_of_another_component_are_named(odis: Make, tmp_path: Path) -> None:
    def move(content: dict[str, Any]) -> None:
        first, second = content["plan"]["strata"].values()
        first["quota"] += 5
        second["quota"] -= 5

    found = verify(tamper(odis(), tmp_path / "moved", content=move))
    assert sum(finding.column.endswith(".quota") for finding in found.findings) == 2

    def edit(part: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if part == 0:
            rows[0]["stratum"] = {"PC1": "PC2", "PC2": "PC1"}[rows[0]["stratum"]]
            rows[1]["key"] += 1e-7
        return rows

    columns = {finding.column for finding in verify(tamper(odis(), tmp_path / "row", rows=edit)).findings}
    assert {"stratum", "key"} <= columns


def test_documents_are_explained_by_component_and_quantiles(odis: Make) -> None:
    manifest = odis()
    rows = pq.read_table(manifest.part_path(manifest.files[0])).to_pylist()
    found = explain(manifest, rows[0]["doc_id"])
    assert (found.copies, found.component, found.stratum) == (1, rows[0]["stratum"], rows[0]["stratum"])
    assert found.quantiles is not None
    assert found.quantiles[rows[0]["stratum"]] == max(found.quantiles.values())
    assert found.why.startswith("Selected, 1 copy: its key")
    assert "is its highest quantile" in found.why
    assert f"{found.component} goes most with" in found.why
    assert json.dumps(found.to_json())
    assert any(line.startswith("quantiles") for line in found.lines())
    annotated = pq.read_table(manifest.annotation_path(manifest.annotations.files[0])).to_pylist()
    usable = (explain(manifest, row["doc_id"]) for row in annotated if row["status"] == "ok")
    below = next(explained for explained in usable if "below the floor 0.3" in explained.why)
    assert below.quantiles is not None
    assert below.quantiles["PC1"] < min(0.3, below.quantiles["PC2"])
    assert below.component == "PC1"
