"""A Quad selection, alone and inside domain quotas, is published, verified and explained; forgeries are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.core.budget import whole_shares
from quadmix.manifest import Manifest
from quadmix.manifest.explain import explain
from quadmix.manifest.publish import publish
from quadmix.manifest.published_quad import Clusters
from quadmix.manifest.verify import verify
from quadmix.selectors.quad import Bandit, BanditSettings
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_baselines import cluster_uniform
from quadmix.selectors.quad_outcome import Outcome, filled
from quadmix.selectors.quad_plan import quad_plan, quad_plan_within
from quadmix.stages.annotate import Annotated
from quadmix.stages.records import begin, commit
from quadmix.stages.select import manifest_of, run_plan
from tests.manifest.conftest import InlineEngine, annotate_made_up, cluster_name
from tests.manifest.test_verify import tamper

BUDGET, CLUSTERS = 40_000, 7
Make = Callable[[str], Manifest]


def arms_of(annotated: Annotated) -> tuple[Arms, np.ndarray]:
    """The arms, and their tokens by domain: (3, 7)."""
    domains = annotated.summary.domains
    names = [cluster_name(code, CLUSTERS) for code in range(CLUSTERS)]
    documents, tokens = (np.zeros((len(domains), CLUSTERS), dtype=np.int64) for _ in range(2))
    for path in annotated.files:
        for row in pq.read_table(path, columns=["status", "domain", "n_tokens", "cluster"]).to_pylist():
            if row["status"] == "ok" and row["cluster"] is not None:
                cell = domains.index(row["domain"]), names.index(row["cluster"])
                documents[cell] += 1
                tokens[cell] += row["n_tokens"]
    docs = documents.sum(axis=0)
    arms = Arms.of(names, np.arange(CLUSTERS), docs, tokens.sum(axis=0), docs)
    return arms, tokens[:, arms.codes]


def outcome_of(arms: Arms, kind: str) -> Outcome:
    if kind == "baseline":
        return cluster_uniform(arms, BUDGET)
    rng = np.random.default_rng(0)
    bandit = Bandit(arms, BanditSettings(BUDGET, 150, docs_per_pull=6))
    while (asked := bandit.ask()) is not None:
        bandit.tell(asked.number, np.concatenate([rng.normal(0.3 * p.arm, 1.0, p.count) for p in asked.pulls]))
    return bandit.outcome()


def run_quad(root: Path, kind: str) -> Manifest:
    config = RunConfig.model_validate(
        {
            "output": str(root), "seed": 5, "pool": {"inputs": ["pool"]},
            "mixture": {"criteria": ("clean", "useful"), "budget": BUDGET}, "select": {"mixture": "natural"},
        }
    )  # fmt: skip
    annotated = annotate_made_up(root, 3, 200, 5, ties=False, clusters=CLUSTERS)
    arms, tokens = arms_of(annotated)
    outcome, domains = outcome_of(arms, kind), annotated.summary.domains
    plan = quad_plan(outcome)
    if kind == "within":
        quotas = whole_shares(np.array([3.0, 1.0, 6.0]), BUDGET).tolist()
        plan = quad_plan_within(outcome, domains, quotas, tokens)
    parts = {"kind": kind}
    directory = begin(root, "select", parts)
    record = run_plan(config, InlineEngine(), annotated, plan, directory, parts)  # type: ignore[arg-type]
    commit(root, record)
    folder = root / "stages" / f"select-{record.fingerprint[:16]}"
    manifest = manifest_of(config, annotated, record)
    return publish(root, manifest, {entry.path: folder / entry.path for entry in record.files})


@pytest.fixture(scope="module")
def quad(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Manifest] = {}

    def make(kind: str) -> Manifest:
        if kind not in made:
            made[kind] = run_quad(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ["alone", "within", "baseline"])
def test_a_published_selection_passes_and_has_its_budget(quad: Make, kind: str) -> None:
    manifest = quad(kind)
    found = verify(manifest)
    assert found.ok, found.findings
    assert manifest.selector == "quad"
    # a boundary document may be one that was not taken
    pool = [pq.read_table(manifest.annotation_path(file))["n_tokens"] for file in manifest.annotations.files]
    longest = max(tokens.to_numpy().max() for tokens in pool)
    assert abs(manifest.realised_tokens - BUDGET) <= longest / 2
    strata = manifest.plan["strata"]
    assert sum(stratum["quota"] for stratum in strata.values()) == BUDGET
    if kind == "within":
        wanted = {name: share.requested for name, share in manifest.domains.items()}
        assert wanted == manifest.plan["domain_quotas"] == {"books": 12_000, "code": 4_000, "web": 24_000}
        for name in wanted:
            mine = [stratum["quota"] for stratum_name, stratum in strata.items() if stratum_name.startswith(name)]
            assert sum(mine) == wanted[name]
    else:
        assert len(strata) == CLUSTERS


def test_the_outcome_comes_back_from_a_manifest(quad: Make) -> None:
    described = Manifest.load(quad("alone").run_directory).plan
    outcome = Outcome.from_json({**described["outcome"], "rounds": []})
    assert sum(cluster.granted + cluster.fill for cluster in outcome.clusters) == BUDGET
    assert described["stop"].startswith("as many documents were scored as the limit allows")


def changed(cluster: int, field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        found = content["plan"]["outcome"]["clusters"][cluster]
        found[field] = value(found[field])

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("granted", lambda tokens: tokens - 100),
        ("fill", lambda tokens: tokens + 1),
        ("tokens", lambda tokens: tokens + 1),
        ("documents", lambda documents: documents - 1),
        ("kept", lambda kept: not kept),
        ("bound", lambda bound: bound + 1e-12),
        ("error", lambda error: error + 0.01),
    ],
)
@pytest.mark.parametrize("kind", ["alone", "within"])
def test_a_changed_number_of_a_cluster_is_named(quad: Make, tmp_path: Path, kind: str, field: str, value: Any) -> None:
    best = max(range(CLUSTERS), key=lambda at: quad(kind).plan["outcome"]["clusters"][at]["granted"])
    found = verify(tamper(quad(kind), tmp_path / "forged", content=changed(best, field, value)))
    assert not found.ok
    name = quad(kind).plan["outcome"]["clusters"][best]["name"]
    assert any(name in finding.column or "requested" in finding.column for finding in found.findings)


@pytest.mark.parametrize("kind", ["alone", "within"])
def test_moved_quotas_and_strata_are_named(quad: Make, tmp_path: Path, kind: str) -> None:
    def move(content: dict[str, Any]) -> None:
        first, second = [stratum for stratum in content["plan"]["strata"].values() if stratum["quota"] > 10][:2]
        first["quota"] += 5
        second["quota"] -= 5

    found = verify(tamper(quad(kind), tmp_path / "moved", content=move))
    assert sum(finding.column.endswith(".quota") for finding in found.findings) == 2

    def rename(content: dict[str, Any]) -> None:
        strata = content["plan"]["strata"]
        strata["cluster_x"] = strata.pop(next(iter(strata)))

    found = verify(tamper(quad(kind), tmp_path / "renamed", content=rename))
    assert "plan.strata" in [finding.column for finding in found.findings]


def test_fill_inside_domain_quotas_is_published_and_a_forged_one_named(quad: Make, tmp_path: Path) -> None:
    plan = quad("within").plan
    name = max(plan["fill"], key=plan["fill"].get)
    assert 0 < plan["fill"][name] <= plan["strata"][name]["quota"]
    told = sum(plan["fill"].values())
    assert f"{told:,} tokens ({100 * told / BUDGET:.1f} % of the budget) are fill" in plan["stop"]

    def forge(content: dict[str, Any]) -> None:
        content["plan"]["fill"][name] -= 1

    found = verify(tamper(quad("within"), tmp_path / "forged", content=forge))
    assert [finding.column for finding in found.findings] == [f"plan.fill.{name}"]

    def drop(content: dict[str, Any]) -> None:
        content["plan"]["fill"] = None

    assert not verify(tamper(quad("within"), tmp_path / "dropped", content=drop)).ok


def test_fill_is_recomputed_where_clusters_are_believed_equal() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        size = int(rng.integers(1, 8))
        tokens, mean, kept = rng.integers(0, 40, size), rng.choice([0.0, 0.5], size), rng.random(size) < 0.5
        granted = rng.integers(0, tokens + 1)
        budget = int(rng.integers(max(granted.sum(), 1), max(tokens.sum(), 1) + 1))
        rows = [
            {"name": f"c{i}", "code": i, "documents": 1, "tokens": int(tokens[i]), "pulls": 1, "scored": 1,
             "raw_mean": 0.0, "mean": float(mean[i]), "error": 0.1, "bound": 0.1, "kept": bool(kept[i]),
             "granted": int(granted[i]), "fill": 0}
            for i in range(size)
        ]  # fmt: skip
        told = Clusters.model_validate({"kind": "bandit", "budget": budget, "threshold": 0.0, "clusters": rows})
        wanted = granted + filled(tokens - granted, kept, mean, min(budget, int(tokens.sum())) - int(granted.sum()))
        assert told.quotas() == wanted.tolist()


def test_a_row_of_another_cluster_is_named(quad: Make, tmp_path: Path) -> None:
    def edit(part: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if part == 0:
            others = [row["stratum"] for row in rows if row["stratum"] != rows[0]["stratum"]]
            rows[0]["stratum"] = others[0]
        return rows

    found = verify(tamper(quad("alone"), tmp_path / "row", rows=edit))
    assert any(finding.column == "stratum" for finding in found.findings)


def test_a_document_is_explained_by_its_cluster(quad: Make) -> None:
    manifest = quad("alone")
    rows = pq.read_table(manifest.part_path(manifest.files[0])).to_pylist()
    clusters = {cluster["name"]: cluster for cluster in manifest.plan["outcome"]["clusters"]}
    found = explain(manifest, rows[0]["doc_id"])
    own = clusters[rows[0]["stratum"]]
    assert (found.copies, found.cluster, found.stratum) == (1, own["name"], own["name"])
    assert (found.pulls, found.mean_benefit, found.bound) == (own["pulls"], own["mean"], own["bound"])
    assert found.why.startswith("Selected, 1 copy: its key")
    assert f"{own['granted']:,} were granted and {own['fill']:,} are fill." in found.why
    assert f"had {own['scored']:,} of its {own['documents']:,} documents scored in {own['pulls']:,} pulls" in found.why
    assert json.dumps(found.to_json())
    table = pq.read_table(manifest.annotation_path(manifest.annotations.files[0])).to_pylist()
    lost = next(row for row in table if row["status"] == "ok" and row["cluster"] is None)
    assert "in none of the clusters" in explain(manifest, lost["doc_id"]).why
    left = next(name for name, cluster in clusters.items() if not cluster["granted"] + cluster["fill"])
    out = next(row for row in table if row["status"] == "ok" and row["cluster"] == left)
    assert f"nothing was taken from the stratum {left!r}" in explain(manifest, out["doc_id"]).why


def test_a_document_inside_domain_quotas_and_one_of_a_baseline_are_explained(quad: Make) -> None:
    for kind, words in (("within", "documents scored in"), ("baseline", "was not scored")):
        manifest = quad(kind)
        row = pq.read_table(manifest.part_path(manifest.files[0])).to_pylist()[0]
        found = explain(manifest, row["doc_id"])
        assert found.stratum == row["stratum"]
        assert words in found.why
        if kind == "within":
            stratum, fill = manifest.plan["strata"][row["stratum"]], manifest.plan["fill"][row["stratum"]]
            assert f"takes {stratum['quota']:,} tokens of it" in found.why
            assert f"{fill:,} as fill." in found.why
    assert row["stratum"] == found.cluster
