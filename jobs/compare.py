"""Selections side by side, judged by target models: `spark-submit jobs/compare.py --config run.yaml`."""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts this directory first, where select.py would hide the standard library's module of that name;
# the project's root in its place also lets a clone run without being installed
sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.submit import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("compare"))
