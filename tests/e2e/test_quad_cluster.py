"""Quad by `spark-submit jobs/select.py` on a standalone cluster: the journal and manifest of one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quadmix.engine.local import LocalEngine
from tests.e2e.command_line import quadmix
from tests.e2e.small_pool import write_config
from tests.e2e.submitting import submit, tree_digest
from tests.stages.quad.quad_runs import quad_values, run_quad, some_documents, write_pool

pytestmark = [pytest.mark.spark, pytest.mark.long]


def test_a_cluster_gives_the_same_rounds_and_the_same_manifest(
    cluster: Any, local_engine: LocalEngine, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    pool = write_pool(tmp_path / "pool", some_documents(), 8)
    _, _, manifest = run_quad(quad_values(pool, tmp_path / "local"), local_engine)
    file = write_config(tmp_path / "quad.yaml", quad_values(pool, tmp_path / "cluster"))
    printed = submit("select", file, cluster.master, tmp_path)
    assert printed["digest"] == manifest.digest
    assert len(printed["tasks_by_worker"]) == 2
    assert tree_digest(tmp_path / "cluster" / "manifests") == tree_digest(tmp_path / "local" / "manifests")
    journals = [
        sorted(json.loads(line)["entry"]["key"] + line for line in path.read_text().splitlines())
        for name in ("local", "cluster")
        for path in (tmp_path / name / "stages").glob("quad-*/journal.jsonl")
    ]
    assert len(journals) == 2
    assert journals[0] == journals[1]
    assert quadmix("verify", tmp_path / "cluster").code == 0
