"""A command's cost as a whole process tree: wall time, CPU seconds, peak memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
_EVERY = 0.05  # seconds between two looks


@dataclass(frozen=True)
class Measured:
    """wall, cpu: seconds, of the whole process tree; peak: MiB, the sum of its resident sets; said: its stdout."""

    wall: float
    cpu: float
    peak: float
    said: str


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command in the project's folder to its end. CPU seconds are those of the process and all it waited for, or
    what was last seen of each process of its tree where that is more (a JVM outlives its parent). Pages that processes
    share count once for each, so the peak is never below the truth. SystemExit where the command fails.
    """
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, cwd=ROOT)
    seen: dict[int, float] = {}
    peak = 0
    while True:
        peak = max(peak, look(child.pid, seen))
        done, status, usage = os.wait4(child.pid, os.WNOHANG)
        if done:
            break
        time.sleep(_EVERY)
    wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.stdout is not None
    said = child.stdout.read().decode()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {child.returncode}")
    return Measured(wall, max(usage.ru_utime + usage.ru_stime, sum(seen.values())), peak / 2**20, said)


def look(pid: int, seen: dict[int, float]) -> int:
    """Bytes resident in a process's tree now; notes the CPU seconds of each of its processes."""
    resident = 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            with process.oneshot():
                times = process.cpu_times()
                resident += process.memory_info().rss
            seen[process.pid] = max(seen.get(process.pid, 0.0), times.user + times.system)
        except psutil.NoSuchProcess:
            continue
    return resident


def start_workers(engine: Any) -> None:
    """Workers that have imported what they need: what follows is the work alone."""
    engine.reduce(_abs, [1, 2], max, label="start-up")


def _abs(number: int) -> int:
    return abs(number)


def cpu_of_tree() -> float:
    """CPU seconds so far of this process and of its children that live."""
    seen: dict[int, float] = {}
    look(os.getpid(), seen)
    return sum(seen.values())
