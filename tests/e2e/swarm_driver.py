"""A driver program for a cluster on which things die: annotates and searches, and prints which proxies it handed out.

    python swarm_driver.py CONFIG LOG [NAME]

Every proxy leaves a line in LOG when it starts and takes a while; the first attempt at the proxy NAME never ends.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quadmix.config_reader import check_config
from quadmix.engine import make_engine
from quadmix.progress import Progress
from quadmix.stages import search_inputs
from quadmix.stages.pipeline import Pipeline
from quadmix.stages.swarm import Outcome, ProxyJob, TrainJobs


@dataclass(frozen=True)
class WatchedJobs(TrainJobs):
    """Trains what TrainJobs trains, slowly. It travels by value, since it belongs to the main program."""

    log: str = ""
    straggler: str = ""

    def _train(self, job: ProxyJob) -> Outcome:
        with open(self.log, "a", encoding="ascii") as handle:
            handle.write(f"{job.name}-{job.seed}\n")
        if job.name == self.straggler and Path(self.log).read_text().split().count(f"{job.name}-{job.seed}") == 1:
            time.sleep(600)
        time.sleep(0.5)
        return super()._train(job)


def main(config_file: str, log: str, straggler: str = "") -> dict[str, Any]:
    config = check_config(yaml.safe_load(Path(config_file).read_text(encoding="utf-8")))
    search_inputs.TrainJobs = functools.partial(WatchedJobs, log=log, straggler=straggler)  # type: ignore[misc,assignment]
    engine: Any = make_engine(config.engine, Progress.silent())
    handed_out: list[str] = []
    plain_map = engine.map

    def recording_map(task: Any, items: Any, **options: Any) -> Iterator[tuple[int, Any]]:
        if isinstance(task, TrainJobs):
            handed_out.extend(job.name for group in items for job in group)
        yield from plain_map(task, items, **options)

    engine.map = recording_map
    try:
        Pipeline(config, engine, Progress.silent(), "search").run()
        return {"handed_out": handed_out}
    finally:
        engine.close()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
