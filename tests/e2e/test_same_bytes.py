"""Local engine, Spark on local[2] and a standalone cluster publish the same bytes, by the commands a user types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.small_pool import ROOT, config, write_config
from tests.e2e.submitting import submit, tree_digest
from tests.e2e.whole_run import WholeRun

pytestmark = [pytest.mark.spark, pytest.mark.long]  # five minutes of starting engines
STAGES = ("annotate", "search", "select")


@pytest.fixture(scope="module")
def runs(
    whole_run: WholeRun, cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Each engine's output directory and what its jobs printed: the local engine's is `quadmix run`, local[2] goes
    through one job that does all stages, the cluster through one for each."""
    assert whole_run.done.code == 0, whole_run.done.err
    base = tmp_path_factory.mktemp("same-bytes")
    pool = whole_run.config.parent / "pool"
    found: dict[str, tuple[Path, list[dict[str, Any]]]] = {"local": (whole_run.output, [])}
    for name, master, stages in (("local[2]", "local[2]", STAGES[-1:]), ("cluster", cluster.master, STAGES)):
        output = base / name.strip("]").replace("[", "-")
        file = write_config(base / f"{output.name}.yaml", config(pool, output))
        found[name] = (output, [submit(stage, file, master, base) for stage in stages])
    return found


def test_every_engine_publishes_the_same_bytes(runs: dict[str, tuple[Path, list[dict[str, Any]]]]) -> None:
    digests = {name: tree_digest(output / "manifests") for name, (output, _) in runs.items()}
    assert len(set(digests.values())) == 1, digests
    pointers = {(output / "CURRENT.json").read_bytes() for output, _ in runs.values()}
    assert len(pointers) == 1


def test_the_search_finds_the_same_bits(runs: dict[str, tuple[Path, list[dict[str, Any]]]]) -> None:
    results = {next(output.glob("stages/search-*/result*.json")).read_bytes() for output, _ in runs.values()}
    assert len(results) == 1


def test_annotations_are_the_same_and_come_from_many_units(
    runs: dict[str, tuple[Path, list[dict[str, Any]]]],
) -> None:
    names = [
        sorted(path.name for path in output.glob("stages/annotate-*/**/unit-*.parquet")) for output, _ in runs.values()
    ]
    assert names[0] == names[1] == names[2]
    assert len(names[0]) >= 40


def test_both_executors_of_the_cluster_worked(runs: dict[str, tuple[Path, list[dict[str, Any]]]]) -> None:
    annotate = runs["cluster"][1][0]
    assert len(annotate["tasks_by_worker"]) == 2
    assert min(annotate["tasks_by_worker"].values()) >= 10


def test_no_document_travels_through_the_driver(
    runs: dict[str, tuple[Path, list[dict[str, Any]]]], whole_run: WholeRun
) -> None:
    """What reached the driver is far below the text: bounded per task, whatever the documents hold."""
    text = sum(path.stat().st_size for path in (whole_run.config.parent / "pool").iterdir())
    for name in ("local[2]", "cluster"):
        _, printed = runs[name]
        for outcome in printed:
            tasks = sum(outcome["tasks_by_worker"].values())
            assert outcome["result_bytes"] <= 64 * 1024 + 4096 * tasks, outcome
        assert printed[0]["result_bytes"] < text / 2


def test_the_manifest_verifies_and_counts_the_bad_rows(runs: dict[str, tuple[Path, list[dict[str, Any]]]]) -> None:
    output, _ = runs["cluster"]
    done = subprocess.run(
        [sys.executable, "-m", "quadmix.cli", "verify", str(output)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads(next((output / "manifests").glob("*/manifest.json")).read_text())
    reasons = {reason: tally["docs"] for reason, tally in manifest["quarantine"].items()}
    assert reasons == {"DUP_ID_SAME": 1, "EMPTY_TEXT": 1}
