"""A driver program of its own on the tests' cluster: settings of Spark leak between sessions of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


def drive(script: str, *arguments: str, cwd: Path, timeout: float, **environment: str) -> dict[str, Any]:
    """What `tests/engine/SCRIPT` printed as JSON in its last line. It runs in `cwd`, where no project is."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "engine" / script), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
