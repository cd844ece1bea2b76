"""What the spark-submit entry points share: their options, handed on to the command line of `quadmix`.

Exit codes are those of `quadmix`; in client mode spark-submit returns them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from quadmix.cli import main as quadmix_main


def main(stage: str, arguments: Sequence[str] | None = None) -> int:
    """Run one stage on Spark.

    arguments: `--config PATH`, `--set a.b=value` (repeatable), `--master URL` (if spark-submit got none), `--json`.
    """
    parser = argparse.ArgumentParser(prog=f"jobs/{stage}.py", description=f"the stage '{stage}' of quadmix, on Spark")
    parser.add_argument("--config", required=True, help="run configuration, YAML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="override one value")
    parser.add_argument("--master", help="Spark master, when spark-submit was given none")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, no progress")
    options = parser.parse_args(arguments)
    overrides = [*options.set, *([f"engine.master={options.master}"] if options.master else [])]
    settings = [part for override in overrides for part in ("--set", override)]
    return quadmix_main([stage, options.config, "--engine", "spark", *settings, *(["--json"] if options.json else [])])
