"""A driver program for the standalone cluster: runs one of everything, prints what came out as one JSON object.

    python cluster_driver.py MASTER DIRECTORY

A process of its own, as Spark's settings leak between the sessions of one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pyspark import cloudpickle

from quadmix.config import SparkEngineConfig
from quadmix.engine import make_engine
from quadmix.errors import InputError
from quadmix.progress import Progress
from tests.engine import engine_tasks as tasks

CONF = {"spark.executor.memory": "512m", "spark.executor.cores": "1", "spark.driver.memory": "512m"}


def main(master: str, directory: Path) -> dict[str, Any]:
    # the executors have the project by the engine's zip; the tests' tasks travel by value
    cloudpickle.register_pickle_by_value(tasks)
    engine: Any = make_engine(SparkEngineConfig(kind="spark", master=master, conf=CONF), Progress.silent())
    out: dict[str, Any] = {}
    try:
        list(engine.map(tasks.Where(0.5), range(4), label="wake"))  # both executors are up after this
        out["map"] = sorted(engine.map(tasks.Square(), range(48), label="square"))
        list(engine.map(tasks.Where(0.1), range(40), label="where"))
        out["workers"] = dict(engine.workers_seen)
        out["wave"] = engine.reduce(tasks.Wave(), range(300), tasks.Add(), label="sum").hex()
        out["spelled"] = engine.reduce(tasks.Spell(), range(130), tasks.Join(), label="spell")
        values = np.linspace(0.0, 1.0, 100)
        shared = engine.share({"values": values, "offset": 2.5})
        out["shared"] = sorted(engine.map(tasks.UsesShared(shared), range(12), label="shared"))
        ((_, out["origin"]),) = engine.map(tasks.Origin(), range(1), label="origin")
        (directory / "refuse").mkdir()
        try:
            list(engine.map(tasks.Refuse("input", str(directory / "refuse")), range(8), label="refuse"))
        except InputError as error:
            out["error"] = str(error)
        (directory / "die").mkdir()
        task = tasks.DieFirst(str(directory / "die"), frozenset({0, 5, 11}))
        out["died"] = sorted(engine.map(task, range(12), label="die"))
        before = engine.result_bytes
        list(engine.map(tasks.Payload(1000), range(40), label="bytes"))
        out["bytes_of_40_kilobytes"] = engine.result_bytes - before
    finally:
        engine.close()
    return out


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
