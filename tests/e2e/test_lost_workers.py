"""A swarm on a standalone cluster whose executors, machines and driver are killed ends with the undisturbed bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from quadmix.config_reader import check_config
from quadmix.engine.local import LocalEngine
from quadmix.progress import Progress
from quadmix.stages.pipeline import Pipeline
from tests.conftest import standalone_module
from tests.e2e.small_pool import ROOT, config, documents, write_config, write_shards
from tests.engine.test_spark import descendants

pytestmark = [pytest.mark.spark, pytest.mark.long]  # several drivers, one after the other

PATIENCE = 1200  # seconds, on a machine with much else to do
PROXIES = 8 + 3 + 6 + 3 * 3  # thetas, baselines of one score, repeats for the noise, three mixtures by three seeds
CONF = {"spark.executor.memory": "512m", "spark.executor.cores": "1", "spark.driver.memory": "512m"}
SPECULATION = {"spark.speculation": "true", "spark.speculation.task.duration.threshold": "6s"}


def values(folder: Path, output: str, **engine: Any) -> dict[str, Any]:
    found = config(folder / "pool", folder / output, **({"engine": {"kind": "spark", **engine}} if engine else {}))
    found["annotate"] = {"scorers": [{"kind": "heuristics"}]}
    found["mixture"] = {"criteria": ["heuristic_quality"], "budget": 60_000}
    found["search"] |= {"tokens_per_trial": 6_000, "confirm": {"seeds": 3, "rivals": ["natural", "topk"]}}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, local_engine: LocalEngine) -> Path:
    """A pool of 300 documents, and `local`: its search on the local engine, undisturbed."""
    found = tmp_path_factory.mktemp("lost")
    write_shards(found / "pool", list(islice(documents(), 300)), 4)
    Pipeline(check_config(values(found, "local")), local_engine, Progress.silent(), "search").run()
    return found


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two workers that Spark takes for two machines; its last test kills one."""
    running = standalone_module().StandaloneCluster.start(tmp_path_factory.mktemp("machines"), apart=True, tied=True)
    yield running
    running.stop()


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """The drivers that a test starts; those that it leaves running are ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


class Driver:
    """A driver program whose output starts with the local run's annotations and nothing of its search."""

    def __init__(self, folder: Path, output: str, master: str, **conf: str) -> None:
        self.output, self.log = folder / output, folder / f"{output}.log"
        shutil.copytree(folder / "local", self.output)
        for stage in ("search", "swarm"):
            for path in (self.output / "stages").glob(f"{stage}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        engine = {"master": master, "conf": {**CONF, **conf}}
        self.config = write_config(folder / f"{output}.yaml", values(folder, output, **engine))

    def start(self, started: list[subprocess.Popen[str]], *straggler: str) -> subprocess.Popen[str]:
        script = str(ROOT / "tests" / "e2e" / "swarm_driver.py")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, script, str(self.config), str(self.log), *straggler],
            cwd=self.output.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    def journal(self) -> list[str]:
        """Keys of the journal's whole lines, in order."""
        lines = [path.read_bytes() for path in self.output.glob("stages/swarm-*/journal.jsonl")]
        return [json.loads(line)["entry"]["key"] for line in b"".join(lines).splitlines(True) if line.endswith(b"\n")]

    def wait_for(self, lines: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.journal()) < lines:
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def attempts(self) -> list[str]:
        return self.log.read_text().split()

    def check(self, folder: Path) -> None:
        """The undisturbed result, and a journal that holds every proxy once."""
        (mine,), (other,) = ([*path.glob("stages/search-*/result.json")] for path in (self.output, folder / "local"))
        assert mine.read_bytes() == other.read_bytes()
        keys = self.journal()
        assert len(keys) == len(set(keys)) == PROXIES
        assert len(set(self.attempts())) == PROXIES


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def executors(cluster: Any) -> list[int]:
    """Pids of the executors' JVMs."""
    below = {pid for daemon in cluster.pids for pid in descendants(daemon)}
    return sorted(pid for pid in below if b"CoarseGrainedExecutorBackend" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_a_straggler_is_overtaken_and_journaled_once(
    folder: Path, machines: Any, started: list[subprocess.Popen[str]]
) -> None:
    driver = Driver(folder, "straggler", machines.master, **SPECULATION)
    done = ended(driver.start(started, "trial-00003"))
    driver.check(folder)
    # the trial that got stuck, and its repeat under another seed and name, which does not
    attempts = {name: driver.attempts().count(name) for name in driver.attempts() if name.startswith("trial-00003")}
    assert len(attempts) == 2
    assert max(attempts.values()) >= 2
    assert len(done["handed_out"]) == PROXIES


def test_a_killed_driver_goes_on_from_its_journal(
    folder: Path, machines: Any, started: list[subprocess.Popen[str]]
) -> None:
    driver = Driver(folder, "driver", machines.master)
    first = driver.start(started)
    driver.wait_for(5, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    journaled = len(driver.journal())
    assert 5 <= journaled < 11
    done = ended(driver.start(started))
    driver.check(folder)
    assert len(done["handed_out"]) == PROXIES - journaled


def test_killed_executors_and_a_lost_machine_change_nothing(
    folder: Path, machines: Any, started: list[subprocess.Popen[str]]
) -> None:
    driver = Driver(folder, "lost", machines.master)
    before = len([*machines.directory.glob("work-*/app-*/*")])
    process = driver.start(started)
    driver.wait_for(2, process)
    both = executors(machines)
    assert len(both) == 2
    os.kill(both[0], signal.SIGKILL)
    driver.wait_for(8, process)
    os.killpg(machines.pids[-1], signal.SIGKILL)  # the second worker, with its executor: a machine
    done = ended(process)
    driver.check(folder)
    launched = len([*machines.directory.glob("work-*/app-*/*")]) - before
    assert launched >= 3  # two at first, one at least in the place of a killed one
    assert len(done["handed_out"]) == PROXIES
