"""`spark-submit` as a user types it, and what a published tree holds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.small_pool import ROOT


def tree_digest(folder: Path) -> str:
    """sha256 over the names and bytes of everything below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command to its end; the JSON object that it printed last."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    outcome: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{\n") :])
    return outcome


def submit(stage: str, config_file: Path, master: str, folder: Path) -> dict[str, Any]:
    """`spark-submit jobs/STAGE.py --config …`, with the spark-submit of the pyspark wheel."""
    spark_submit = Path(sys.executable).parent / "spark-submit"
    options = ["--master", master, "--conf", "spark.executor.memory=512m", "--conf", "spark.executor.cores=1"]
    script = str(ROOT / "jobs" / f"{stage}.py")
    return run([str(spark_submit), *options, script, "--config", str(config_file), "--json"], folder)
