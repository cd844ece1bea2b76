"""Engines that tests share: one of each kind a process, since starting them is most of what they cost."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from quadmix.config import SparkEngineConfig
from quadmix.engine import make_engine
from quadmix.engine.local import LocalEngine
from quadmix.progress import Progress
from tests.e2e.command_line import quadmix
from tests.e2e.scored_pool import scored_config, write_scored_pool
from tests.e2e.small_pool import config, documents, write_config, write_shards
from tests.e2e.whole_run import WholeRun
from tests.stages.inline_engine import InlineEngine

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

    from quadmix.engine.spark import SparkEngine

ROOT = Path(__file__).resolve().parents[1]
# JVMs of tests live for seconds: the optimising compiler would take two thirds of their CPU time and give nothing back
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


# a shell that runs the tests in the background lets them ignore Ctrl-C, and so would every command that they start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast suites first: what starts clusters or searches whole pools comes last, in its order. Of two processes one
    begins with those at once: they are half of all work."""
    beside = hasattr(config, "workerinput")
    items.sort(key=lambda item: _drives_engines(item.path.parts) != beside)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """A file is one process's, since its tests share fixtures; so are all that drive engines, and all that look at
    the one whole run."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            if _drives_engines(file.split("/")):
                return "engines"
            return "whole run" if "whole_run" in (ROOT / file).read_text(encoding="utf-8") else file

    return ByFixtures(config, log)


def _drives_engines(parts: Sequence[str]) -> bool:
    return bool({"e2e", "engine"} & set(parts))


@pytest.fixture(scope="session")
def local_engine() -> Iterator[LocalEngine]:
    """The local engine with two workers."""
    with LocalEngine(2) as engine:
        yield engine


@pytest.fixture(scope="session")
def spark_engine() -> Iterator[SparkEngine]:
    """Spark on `local[2]`: the one session of this process. `make_engine` joins it wherever a test starts Spark."""
    engine: Any = make_engine(SparkEngineConfig(kind="spark", master="local[2]"), Progress.silent())
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A standalone cluster, `infra/standalone.py`: `.master` is its URL; a master and two workers of one core each.

    Its executors start without the project. Drive it from a process of its own: settings leak between sessions.
    """
    running = standalone_module().StandaloneCluster.start(tmp_path_factory.mktemp("cluster"), tied=True)
    yield running
    running.stop()


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> InlineEngine:
    """Commands of this process run their tasks in it: no worker has to start."""
    engine = InlineEngine()
    monkeypatch.setattr("quadmix.cli.make_engine", lambda config, progress: engine)
    return engine


@pytest.fixture
def scored_run(tmp_path: Path) -> Path:
    """The config of a run without a search over a pool with scores; its output is `out` beside it."""
    write_scored_pool(tmp_path / "pool")
    return write_config(tmp_path / "run.yaml", scored_config(tmp_path / "pool", tmp_path / "out"))


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """`quadmix run` on 900 real documents, one duplicate and one blank one among them; about 45 CPU seconds, once."""
    base = tmp_path_factory.mktemp("whole-run")
    docs = list(itertools.islice(documents(), 900))
    docs[400] = {**docs[10]}
    docs[401]["text"] = "   "
    write_shards(base / "pool", docs)
    output = base / "out"
    file = write_config(base / "run.yaml", config(base / "pool", output, engine={"kind": "local", "workers": 2}))
    return WholeRun(file, output, quadmix("run", file))


def standalone_module() -> ModuleType:
    """`infra/standalone.py`, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("standalone", ROOT / "infra" / "standalone.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
