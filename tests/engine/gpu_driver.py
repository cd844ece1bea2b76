"""A driver program for a standalone cluster that offers GPUs: prints what its tasks were given, as one JSON object.

    python gpu_driver.py MASTER DIRECTORY GPUS_OF_AN_EXECUTOR

Its tasks travel by value: the executors have nothing but the engine's zip.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from quadmix.config import SparkEngineConfig
from quadmix.engine.gpus import assigned_gpus
from quadmix.engine.spark import SparkEngine
from quadmix.engine.spark_gpus import GPUS_OF_AN_EXECUTOR, WAITING
from quadmix.errors import EnvironmentFault
from quadmix.progress import Progress

Told = tuple[list[str], float, float]


@dataclass(frozen=True)
class Plain:
    """What it was given, and when it started and ended. meet: how many must have started before it ends."""

    directory: str
    meet: int

    def __call__(self, item: int) -> Told:
        started = time.monotonic()
        Path(self.directory, f"{type(self).__name__}-{self.meet}-{item}").touch()
        while len(list(Path(self.directory).glob(f"{type(self).__name__}-{self.meet}-*"))) < self.meet:
            if time.monotonic() - started > 180:
                break
            time.sleep(0.02)
        time.sleep(0.3)
        return list(assigned_gpus()), started, time.monotonic()


class Training(Plain):
    """The same, by a task that uses a GPU."""

    uses_gpu: ClassVar[bool] = True


def main(master: str, directory: Path, gpus: str) -> dict[str, Any]:
    conf = {"spark.executor.memory": "512m", "spark.executor.cores": "4", "spark.driver.memory": "512m"}
    conf |= {GPUS_OF_AN_EXECUTOR: gpus, **({WAITING: "6s"} if gpus == "3" else {})}
    config = SparkEngineConfig(kind="spark", master=master, conf=conf, gpus_per_trial=0.6)
    with SparkEngine.start(config, Progress.silent()) as alone:
        try:
            alone.require_gpus("search")
        except EnvironmentFault as error:
            return {"error": str(error)}
        out: dict[str, Any] = {"alone": sorted(alone.map(Training(str(directory), 2), range(6), label="alone"))}
        shared = SparkEngine(alone.session, gpus_per_trial=0.5)
        out["shared"] = sorted(shared.map(Training(str(directory), 4), range(4), label="shared"))
        out["plain"] = sorted(alone.map(Plain(str(directory), 4), range(4), label="plain"))
    return out


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
