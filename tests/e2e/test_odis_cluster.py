"""ODiS by `spark-submit jobs/select.py` on a standalone cluster: the fit and manifest of one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quadmix.engine.local import LocalEngine
from tests.e2e.command_line import quadmix
from tests.e2e.small_pool import write_config
from tests.e2e.submitting import submit, tree_digest
from tests.stages.odis.odis_runs import odis_values
from tests.stages.quad.quad_runs import run_quad, some_documents, write_pool

pytestmark = [pytest.mark.spark, pytest.mark.long]


@pytest.mark.parametrize("mixture", ["free", "natural"])
def test_a_cluster_gives_the_same_fit_and_the_same_manifest(
    mixture: str, cluster: Any, local_engine: LocalEngine, tmp_path: Path
) -> None:
    pool = write_pool(tmp_path / "pool", some_documents(), 8)
    _, _, manifest = run_quad(odis_values(pool, tmp_path / "local", mixture), local_engine)
    file = write_config(tmp_path / "odis.yaml", odis_values(pool, tmp_path / "cluster", mixture))
    printed = submit("select", file, cluster.master, tmp_path)
    assert printed["digest"] == manifest.digest
    assert len(printed["tasks_by_worker"]) == 2
    assert tree_digest(tmp_path / "cluster" / "manifests") == tree_digest(tmp_path / "local" / "manifests")
    fits = [tree_digest(next((tmp_path / name / "stages").glob("odis-*"))) for name in ("local", "cluster")]
    assert fits[0] == fits[1]
    assert quadmix("verify", tmp_path / "cluster").code == 0
