"""The local engine: its processes, what they inherit, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from quadmix.engine.base import MAX_PARTIALS, fold_groups
from quadmix.engine.local import LocalEngine, usable_cores
from quadmix.engine.shared_file import SharedFile, _read, share_value
from tests.conftest import ROOT
from tests.engine import engine_tasks as tasks

SCRIPT = """
from quadmix.engine.local import LocalEngine
from tests.engine.engine_tasks import Where
{guard}
    engine = LocalEngine(2)
    for _, (item, pid) in engine.map(Where(0.1), range(200), label="where"):
        print(pid, flush=True)
"""


def start_script(path: Path, guard: str = "if __name__ == '__main__':") -> subprocess.Popen[str]:
    path.write_text(SCRIPT.format(guard=guard))
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_until_gone(pids: set[int], seconds: float = 10.0) -> set[int]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.mark.parametrize("ending", ["ctrl-c", "killed"])
def test_workers_end_with_their_parent(tmp_path: Path, ending: str) -> None:
    script = start_script(tmp_path / "script.py")
    assert script.stdout is not None
    workers = {int(script.stdout.readline()) for _ in range(8)}
    assert len(workers) == 2
    if ending == "ctrl-c":
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does it: everyone in the group gets it
    else:
        script.kill()
    _, complaint = script.communicate(timeout=30)
    assert wait_until_gone(workers) == set()
    if ending == "ctrl-c":
        assert complaint.count("KeyboardInterrupt") == 1, "workers must not print traces of their own"


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = start_script(tmp_path / "script.py", guard="if True:")
    _, complaint = script.communicate(timeout=120)
    assert script.returncode != 0
    assert "needs `if __name__ == '__main__':`" in complaint


def test_the_largest_items_start_first(tmp_path: Path) -> None:
    log = tmp_path / "started"
    sizes = [3, 9, 1, 9, 7]
    with LocalEngine(1) as engine:
        list(engine.map(tasks.Log(str(log), 0.0), range(5), label="log", size=sizes.__getitem__))
    assert log.read_text().split() == ["1", "3", "4", "0", "2"]


def test_workers_serve_pass_after_pass() -> None:
    with LocalEngine(2) as engine:
        first = {pid for _, (_, pid) in engine.map(tasks.Where(), range(12), label="first")}
        second = {pid for _, (_, pid) in engine.map(tasks.Where(), range(12), label="second")}
    assert first == second
    assert wait_until_gone(first) == set()


def test_a_pass_inside_a_pass_is_refused(local_engine: LocalEngine) -> None:
    outer = local_engine.map(tasks.Square(), range(4), label="outer")
    next(outer)
    with pytest.raises(RuntimeError, match="'inner' was started inside 'outer'"):
        next(local_engine.map(tasks.Square(), range(4), label="inner"))
    assert len(list(outer)) == 3


def test_a_task_that_cannot_be_sent_is_refused_before_work(local_engine: LocalEngine) -> None:
    with pytest.raises(TypeError, match="top of a module"):
        list(local_engine.map(lambda item: item, range(3), label="lambda"))


def test_settings_for_workers_do_not_stay_here(local_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with LocalEngine(1) as engine:
        ((_, threads),) = engine.map(tasks.Threads(), range(1), label="threads")
    assert threads["omp"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_shared_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    value = {"a": np.arange(1001, dtype=np.float64), "b": np.arange(7, dtype=np.uint8), "c": "text"}
    shared = share_value(value, tmp_path / "shared")
    loaded = _read(str(tmp_path / "shared"))  # what a worker does
    np.testing.assert_array_equal(loaded["a"], value["a"])
    np.testing.assert_array_equal(loaded["b"], value["b"])
    assert loaded["c"] == "text"
    assert not loaded["a"].flags.owndata
    assert not loaded["a"].flags.writeable
    assert loaded["a"].ctypes.data % 64 == 0
    assert shared.get() is value
    del shared
    assert not (tmp_path / "shared").exists()


def test_a_value_stays_shared_while_a_handle_lives(local_engine: LocalEngine) -> None:
    shared: SharedFile[dict[str, object]] = local_engine.share({"values": np.ones(3), "offset": 0})  # type: ignore[assignment]
    for _ in range(2):
        assert dict(local_engine.map(tasks.UsesShared(shared), range(3), label="shared")) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert Path(shared.path).exists()


@pytest.mark.parametrize("n_items", [0, 1, 63, 64, 65, 1000, 12345])
def test_fold_groups_partition_the_items(n_items: int) -> None:
    groups = fold_groups(n_items)
    assert [index for group in groups for index in group] == list(range(n_items))
    assert len(groups) <= MAX_PARTIALS
    assert all(groups)
    assert max(map(len, groups), default=0) - min(map(len, groups), default=0) <= 1


def test_at_least_one_core_is_usable() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
