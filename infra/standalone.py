"""A Spark cluster on this machine, out of the pyspark wheel: a master and workers on 127.0.0.1.

    python infra/standalone.py start --directory /tmp/cluster --workers 2     # prints spark://127.0.0.1:PORT
    python infra/standalone.py stop --directory /tmp/cluster

Each worker gives one executor. For trying a cluster run and for the tests, not for production: no authentication,
all bound to 127.0.0.1. The daemons start in `--directory` without PYTHONPATH, so that executors see what a real
cluster's would: no project.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_PATIENCE_SECONDS = 180.0


@dataclass
class StandaloneCluster:
    """A running cluster: where it lives, its master's URL and the pids of its daemons."""

    directory: Path
    master: str = ""
    pids: list[int] = field(default_factory=list)
    _tied: bool = False
    _children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)

    @classmethod
    def start(
        cls,
        directory: Path,
        workers: int = 2,
        cores: int = 1,
        memory: str = "640m",
        *,
        gpus: int = 0,
        apart: bool = False,
        tied: bool = False,
    ) -> StandaloneCluster:
        """Start a master and `workers` workers; returns once all of them are registered.

        memory: of a worker, in Spark's notation; an executor needs about 500 MB of it.
        gpus: that each worker offers, as the addresses 0, 1, ...; whether the machine has them is not looked at.
        apart: each worker has an address of its own (127.0.0.1, 127.0.0.2, ...), so that Spark takes them for machines,
            as speculation needs; Linux only.
        tied: the cluster ends when this process does, even when it is killed (Linux).
        Raises RuntimeError, with the log's name, when a daemon does not come up.
        """
        directory.mkdir(parents=True, exist_ok=True)
        cluster = cls(directory, _tied=tied)
        try:
            cluster._daemon("master", "org.apache.spark.deploy.master.Master", "--port", "0")
            cluster.master = cluster._said("master", r"Starting Spark master at (spark://\S+)")
            offered = _offered_gpus(directory, gpus) if gpus else {}
            for number in range(workers):
                work = str(directory / f"work-{number}")
                options = ["--cores", str(cores), "--memory", memory, "--work-dir", work, cluster.master]
                options += ["--host", f"127.0.0.{number + 1}"] if apart else []
                cluster._daemon(f"worker-{number}", "org.apache.spark.deploy.worker.Worker", *options, more=offered)
            for number in range(workers):
                cluster._said(f"worker-{number}", r"(Successfully registered) with master")
        except BaseException:
            cluster.stop()
            raise
        (directory / "cluster.json").write_text(json.dumps({"master": cluster.master, "pids": cluster.pids}))
        return cluster

    @classmethod
    def found(cls, directory: Path) -> StandaloneCluster:
        """The cluster that `start` left in `directory`."""
        saved = json.loads((directory / "cluster.json").read_text())
        return cls(directory, saved["master"], saved["pids"])

    def stop(self) -> None:
        """End the daemons, and their executors with them, by pid; never a process that is not ours."""
        ours = [pid for pid in self.pids if pid in self._children or _is_spark_daemon(pid)]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in ours:
                with suppress(ProcessLookupError):
                    os.killpg(pid, number)  # each daemon leads its own group, with its executors in it
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and any(self._group_lives(pid) for pid in ours):
                time.sleep(0.05)
        self.pids.clear()
        self._children.clear()
        (self.directory / "cluster.json").unlink(missing_ok=True)

    def _group_lives(self, pid: int) -> bool:
        if pid in self._children:
            self._children[pid].poll()  # reap it, or it stays a member of its group
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _daemon(self, name: str, main_class: str, *options: str, more: Mapping[str, str] | None = None) -> None:
        home = spark_home()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYSPARK"))}
        environment |= {"SPARK_HOME": str(home), "SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_IP": "127.0.0.1"}
        environment |= more or {}
        command = [str(home / "bin" / "spark-class"), main_class, "--host", "127.0.0.1", "--webui-port", "0", *options]
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if self._tied else None,
            )
        self.pids.append(process.pid)
        self._children[process.pid] = process

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _said(self, name: str, pattern: str) -> str:
        """Wait until the daemon's log matches; the first group."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            match = re.search(pattern, self._log(name).read_text(errors="replace"))
            if match:
                return match[1]
            if any(child.poll() is not None for child in self._children.values()):
                break
            time.sleep(0.1)
        raise RuntimeError(f"the {name} of the standalone cluster did not come up; its log: {self._log(name)}")


def _offered_gpus(directory: Path, gpus: int) -> dict[str, str]:
    """The environment in which a worker offers GPUs: Spark asks a program for their addresses."""
    script = directory / "gpus.sh"
    script.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': [str(n) for n in range(gpus)]})}'\n")
    script.chmod(0o755)
    resource = "-Dspark.worker.resource.gpu"
    return {"SPARK_WORKER_OPTS": f"{resource}.amount={gpus} {resource}.discoveryScript={script}"}


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent ends (prctl's PR_SET_PDEATHSIG, which survives exec)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def spark_home() -> Path:
    """The Spark that the pyspark wheel carries."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise RuntimeError("pyspark is not installed; pip install '.[spark]'")
    return Path(spec.origin).parent


def _is_spark_daemon(pid: int) -> bool:
    """Whether a pid from a file is still one of Spark's daemons (it may have been given to another program since)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"org.apache.spark.deploy." in command


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["start", "stop"])
    parser.add_argument("--directory", type=Path, required=True, help="logs, executors' working directories, pids")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=1, help="of each worker")
    parser.add_argument("--memory", default="640m", help="of each worker")
    parser.add_argument("--gpus", type=int, default=0, help="that each worker offers, whether they are there or not")
    options = parser.parse_args()
    directory = options.directory.resolve()
    if options.command == "stop":
        StandaloneCluster.found(directory).stop()
        return 0
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        print("found no Java, wanted 17 or later: apt-get install default-jre-headless", file=sys.stderr)
        return 2
    cluster = StandaloneCluster.start(directory, options.workers, options.cores, options.memory, gpus=options.gpus)
    print(cluster.master)
    return 0


if __name__ == "__main__":
    sys.exit(main())
