"""What the Spark engine checks before it starts, ships, counts and advises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from quadmix.config import SparkEngineConfig
from quadmix.engine import make_engine
from quadmix.engine.spark_setup import check_machine, code_archive, session_settings, start_environment, with_retries
from quadmix.errors import EnvironmentFault
from quadmix.progress import Progress
from tests.conftest import ROOT
from tests.engine import engine_tasks as tasks
from tests.engine.test_local import wait_until_gone

LOCAL = SparkEngineConfig(kind="spark", master="local[2]")


@pytest.mark.parametrize(
    ("master", "wanted"),
    [
        ("local", "local[1,4]"),
        ("local[2]", "local[2,4]"),
        ("local[*]", "local[*,4]"),
        ("local[2,7]", "local[2,7]"),
        ("spark://h:7077", "spark://h:7077"),
        ("yarn", "yarn"),
    ],
)
def test_local_masters_get_retries(master: str, wanted: str) -> None:
    assert with_retries(master) == wanted


def test_the_users_properties_win() -> None:
    config = LOCAL.model_copy(update={"conf": {"spark.task.maxFailures": "9"}})
    settings = session_settings(config, submitted={"spark.ui.enabled": "true"})
    assert settings["spark.task.maxFailures"] == "9"
    assert "spark.ui.enabled" not in settings  # spark-submit said it: leave it
    assert settings["spark.driver.bindAddress"] == "127.0.0.1"
    cluster = session_settings(LOCAL.model_copy(update={"master": "spark://head:7077"}), submitted={})
    assert "spark.driver.bindAddress" not in cluster
    assert cluster["spark.ui.enabled"] == "false"


def test_missing_java_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"needs Java 17 or later, found none in JAVA_HOME .*apt-get install"):
        check_machine(LOCAL)


def test_old_java_is_told_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="needs Java 17 or later, found 8"):
        check_machine(LOCAL)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (None, "which is no program"),
        ("echo 3.4", "which is Python 3.4, wanted"),
        ("echo {version}; echo \"ModuleNotFoundError: No module named 'pyarrow'\" >&2; exit 1", "lacks a library"),
    ],
)
def test_the_workers_python_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, complaint: str
) -> None:
    python = tmp_path / "python"
    if script is not None:
        python.write_text("#!/bin/sh\n" + script.format(version=f"{sys.version_info[0]}.{sys.version_info[1]}"))
        python.chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(python))
    with pytest.raises(EnvironmentFault, match=f"PYSPARK_PYTHON: .*{complaint}"):
        check_machine(LOCAL)


def test_all_faults_of_a_machine_are_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PYSPARK_PYTHON", str(tmp_path / "none"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.0.1")
    with pytest.raises(EnvironmentFault) as raised:
        check_machine(LOCAL)
    text = str(raised.value)
    assert "Java 17" in text
    assert "pandas below 3, found 3.0.1" in text
    assert "PYSPARK_PYTHON" in text


def test_start_up_variables_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    with start_environment(LOCAL):
        assert os.environ["PYSPARK_PYTHON"] == sys.executable
    assert "PYSPARK_PYTHON" not in os.environ


def test_the_archive_is_this_code_and_its_name_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = code_archive(tmp_path / "a"), code_archive(tmp_path / "b")
    assert first is not None
    assert second is not None
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.read("quadmix/schema.py") == (ROOT / "quadmix" / "schema.py").read_bytes()
        assert "proxy_models/__init__.py" in archive.namelist()
        assert not [name for name in archive.namelist() if "__pycache__" in name or name.startswith("tests")]


def test_neither_engine_nor_package_loads_spark_by_itself() -> None:
    script = (
        "import sys, quadmix, quadmix.engine, quadmix.engine.local, quadmix.config_reader\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'pyspark', 'torch', 'lightgbm'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


INTERRUPTED = """
from quadmix.config import SparkEngineConfig
from quadmix.engine.spark import SparkEngine
from quadmix.progress import Progress
from tests.engine.engine_tasks import Where
engine = SparkEngine.start(SparkEngineConfig(kind="spark", master="local[1]"), Progress.silent())
for _, (item, pid) in engine.map(Where(0.3), range(400), label="where"):
    print(pid, flush=True)
"""


def descendants(pid: int) -> set[int]:
    """All processes below one, as Linux lists them."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child} | descendants(child)
    return found


@pytest.mark.spark
def test_ctrl_c_ends_the_jvm_and_its_workers(tmp_path: Path) -> None:
    script = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert script.stdout is not None
    worker = int(script.stdout.readline())
    below = descendants(script.pid)
    assert worker in below
    os.killpg(script.pid, signal.SIGINT)
    _, complaint = script.communicate(timeout=120)
    assert script.returncode != 0
    assert "KeyboardInterrupt" in complaint
    assert wait_until_gone(below, seconds=60.0) == set()


@pytest.mark.spark
def test_the_bytes_that_reach_the_driver_are_counted(spark_engine: Any) -> None:
    before = spark_engine.result_bytes
    list(spark_engine.map(tasks.Payload(2000), range(10), label="bytes"))
    assert 10 * 2000 <= spark_engine.result_bytes - before <= 10 * 2100


@pytest.mark.spark
def test_what_nobody_waits_for_is_cancelled(spark_engine: Any) -> None:
    """Leaving a pass early ends the tasks that run, however long they would take."""
    tracker = spark_engine.session.sparkContext._jsc.sc().statusTracker()
    passing = spark_engine.map(tasks.SleepUnless(0, 300.0), range(3), label="sleep")
    assert next(passing) == (0, 0)
    started = time.monotonic()
    passing.close()
    assert time.monotonic() - started < 200
    assert list(tracker.getActiveJobIds()) == []


@pytest.mark.spark
def test_partials_of_a_reduce_are_at_most_64(spark_engine: Any) -> None:
    before = spark_engine.result_bytes
    spark_engine.reduce(tasks.Wave(), range(5000), tasks.Add(), label="sum")
    assert spark_engine.result_bytes - before <= 64 * 40


@pytest.mark.spark
def test_a_second_engine_joins_the_running_session(spark_engine: Any) -> None:
    joined: Any = make_engine(LOCAL, Progress.silent())
    assert sorted(joined.map(tasks.Square(), range(3), label="square")) == [(0, 0), (1, 1), (2, 4)]
    joined.close()
    assert len(list(spark_engine.map(tasks.Square(), range(3), label="square"))) == 3


@pytest.mark.spark
def test_the_driver_imports_its_own_files(spark_engine: Any) -> None:
    assert spark_engine.name == "spark"
    assert not [entry for entry in sys.path if "quadmix-" in Path(entry).name and entry.endswith(".zip")]


@pytest.mark.spark
def test_memory_advice_grows_with_cores_units_and_models() -> None:
    from quadmix.engine.spark import advised_memory_overhead, memory_advice

    small = advised_memory_overhead(1, 128 * 2**20)
    assert small >= 2 * 128 * 2**20
    assert advised_memory_overhead(4, 128 * 2**20) > 3 * small
    assert advised_memory_overhead(1, 128 * 2**20, model_bytes=2**30) > small + 2**30
    assert memory_advice(2, 128 * 2**20).startswith("spark.executor.memoryOverhead=")
