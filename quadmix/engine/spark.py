"""The Spark engine: Spark schedules, retries and spreads; the tasks are the same objects that the local engine runs.

A pass is many small jobs in flight at once, each a DataFrame of item numbers with one partition an item, mapped by
`mapInArrow`. Results reach the driver job by job while later jobs run, so journals are written as work gets done and
no wave waits for its slowest item. Documents never travel: tasks return file names and small summaries.

The project's code goes to the executors as a zip of this very installation: they need Python and the libraries only.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import socket
import sys
import tempfile
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import pyarrow as pa

from quadmix.config import SparkEngineConfig
from quadmix.engine.base import MAX_PARTIALS, Shared, UsesGpu
from quadmix.engine.failures import Failure, lost_worker
from quadmix.engine.fold import FoldGroup, fold_in_order, grouped
from quadmix.engine.gpus import gpus_assigned
from quadmix.engine.spark_gpus import PATIENCE, WAITING, no_gpu_came, tasks_of_an_executor
from quadmix.engine.spark_setup import check_machine, code_archive, session_settings, start_environment, with_retries
from quadmix.errors import EnvironmentFault, ResourceError
from quadmix.progress import Progress

try:
    from pyspark import SparkConf, SparkContext, TaskContext
    from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
    from pyspark.sql import SparkSession
except ImportError as missing:
    raise EnvironmentFault(
        f"engine.kind: found 'spark', but {missing}; install it with: pip install '.[spark]'"
    ) from missing

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")

_SCHEMA = "position long, answer binary, worker string"
_JOBS_AT_ONCE = 8
_QUICK_SECONDS = 0.5  # jobs that end sooner are made larger: planning a job costs some 30 ms of driver time
_MEBI = 2**20


class SparkEngine:
    """Runs tasks on the executors of a Spark session.

    result_bytes: bytes of pickled results that reached the driver so far.
    workers_seen: items done by each executor (`host:working directory`).
    """

    name = "spark"

    def __init__(
        self,
        session: SparkSession,
        progress: Progress | None = None,
        *,
        owns_session: bool = False,
        gpus_per_trial: float | None = None,
    ) -> None:
        """gpus_per_trial: see `config.SparkEngineConfig`."""
        self.session = session
        self.gpus_per_trial = gpus_per_trial
        self.progress = progress if progress is not None else Progress.silent()
        self.parallelism = max(1, session.sparkContext.defaultParallelism)
        self.result_bytes = 0
        self.workers_seen: Counter[str] = Counter()
        self._owns_session = owns_session
        self._passes = count(1)
        self._directory = Path(tempfile.mkdtemp(prefix="quadmix-"))
        weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        self._ship_code()

    @classmethod
    def start(cls, config: SparkEngineConfig, progress: Progress) -> SparkEngine:
        """Start Spark as configured, or join the session that this process already has (and leave it running).

        Raises EnvironmentFault when Java, a library or the workers' Python is missing or of the wrong version.
        """
        running = SparkSession.getActiveSession()
        if running is not None:
            return cls(running, progress, gpus_per_trial=config.gpus_per_trial)
        check_machine(config)
        submitted = _submitted_settings()
        master = config.master or submitted.get("spark.master") or "local[*]"
        config = config.model_copy(update={"master": master})
        builder = SparkSession.builder.appName("quadmix").master(with_retries(master))
        for key, value in session_settings(config, submitted).items():
            builder = builder.config(key, value)
        try:
            with start_environment(config):
                session = builder.getOrCreate()
        except Exception as error:
            raise EnvironmentFault(f"engine.master: Spark did not start: {_first_line(error)}") from error
        return cls(session, progress, owns_session=True, gpus_per_trial=config.gpus_per_trial)

    def map(
        self, task: Callable[[T], R], items: Sequence[T], *, label: str, size: Callable[[T], int] | None = None
    ) -> Iterator[tuple[int, R]]:
        """See `base.Engine.map`. Work starts with the first `next`; leaving the iteration early cancels the rest."""
        yield from self._pass(task, items, label, size, least=1)

    def _pass(
        self, task: Callable[[T], R], items: Sequence[T], label: str, size: Callable[[T], int] | None, least: int
    ) -> Iterator[tuple[int, R]]:
        """Run the items in jobs of at least `least`, several jobs in flight."""
        weights = [size(item) for item in items] if size is not None else [0] * len(items)
        order = deque(sorted(range(len(items)), key=lambda index: (-weights[index], index)))
        profile = self._gpu_profile if isinstance(task, UsesGpu) and items else None
        tag = self._new_tag()
        running: dict[Future[list[_Answer]], list[int]] = {}
        quick = False
        job_size = 1

        def submit() -> None:
            """Fill the cluster as it is now: executors come and go while a pass runs."""
            nonlocal job_size
            slots = self._slots(profile is not None)
            smallest = max(least, -(-slots // 4))
            job_size = max(smallest, min(2 * job_size, 8 * slots)) if quick else smallest
            # two tasks a slot in flight, in two jobs at least: no core waits for a plan
            while order and len(running) < min(_JOBS_AT_ONCE, max(2, -(-2 * slots // smallest))):
                indices = [order.popleft() for _ in range(min(job_size, len(order)))]
                job = _Job(task, tuple(items[index] for index in indices))
                running[threads.submit(self._run, job, tag, label, indices, profile)] = indices

        threads = ThreadPoolExecutor(_JOBS_AT_ONCE, thread_name_prefix="quadmix-job")
        try:
            with self.progress.track(label, len(items)) as bar:
                submit()
                while running:
                    started = time.monotonic()  # paces the jobs' size, decides nothing that a result shows
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    quick = time.monotonic() - started < _QUICK_SECONDS
                    answers = [(running.pop(future), future) for future in done]
                    submit()  # before the results are handed out: the consumer may take its time
                    for indices, future in answers:
                        for answer in future.result():
                            index = indices[answer.position]
                            bar.advance()
                            yield index, self._accept(answer, label, index)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            self._cancel(tag, running)

    def reduce(self, task: Callable[[T], R], items: Sequence[T], merge: Callable[[R, R], R], *, label: str) -> R:
        """See `base.Engine.reduce`."""
        # nothing is journaled between partials, so a few larger jobs will do
        partials = self._pass(FoldGroup(task, merge), grouped(items), label, None, least=MAX_PARTIALS // 4)
        return fold_in_order(partials, merge)

    def share(self, value: V) -> Shared[V]:
        """See `base.Engine.share`: a broadcast, loaded once a Python worker; arrays must not be written to."""
        broadcast = self.session.sparkContext.broadcast(value)
        shared: Shared[V] = BroadcastShare(broadcast)
        weakref.finalize(shared, _forget, broadcast)
        return shared

    def require_gpus(self, label: str) -> None:
        """See `base.SchedulesGpus`: one task that asks for a GPU is run and thrown away."""
        if self.gpus_per_trial is None:
            return
        profile, context = self._gpu_profile, self.session.sparkContext
        seconds = int(context._jsc.sc().conf().getTimeAsSeconds(WAITING, PATIENCE))
        tag = self._new_tag()
        with ThreadPoolExecutor(1, thread_name_prefix="quadmix-job") as threads:
            probe = threads.submit(self._run, _Job(_Nothing(), (0,)), tag, label, [0], profile)
            try:
                if not wait([probe], timeout=seconds).done:
                    raise no_gpu_came(self.gpus_per_trial, self._settings, seconds, self._executors())
                probe.result()
            finally:
                self._cancel(tag, [probe])

    def close(self) -> None:
        """Stop the session if this engine started it. Safe to call twice."""
        if self._owns_session:
            self._owns_session = False
            self.session.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> SparkEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ship_code(self) -> None:
        archive = code_archive(self._directory)
        shipped = {Path(name).name for name in self.session.sparkContext.listFiles}
        if archive is None or archive.name in shipped:  # an engine that joined this session brought the same code
            return
        self.session.sparkContext.addPyFile(str(archive))
        # Spark puts its copy on this process's path too; here the installed files are to be imported
        sys.path[:] = [entry for entry in sys.path if Path(entry).name != archive.name]

    def _new_tag(self) -> str:
        """What the jobs of one pass are cancelled by."""
        return f"quadmix-{os.getpid()}-{id(self)}-{next(self._passes)}"

    def _cancel(self, tag: str, jobs: Iterable[Future[list[_Answer]]]) -> None:
        """End the jobs that are still running, and wait until their threads have."""
        waiting = set(jobs)
        while waiting := {job for job in waiting if not job.done()}:
            with suppress(Exception):  # a stopped session has nothing left to cancel
                self.session.sparkContext.cancelJobsWithTag(tag)
            wait(waiting, timeout=1.0)  # a job that was still being planned did not hear it: once more

    @cached_property
    def _settings(self) -> dict[str, str]:
        """The session's properties, those of spark-submit and of the configuration together."""
        return dict(self.session.sparkContext.getConf().getAll())

    @cached_property
    def _gpu_profile(self) -> ResourceProfile | None:
        """What a task that trains asks for; None when no GPUs are asked for. One a session: Spark keeps them all."""
        if self.gpus_per_trial is None:
            return None
        tasks_of_an_executor(self.gpus_per_trial, self._settings)  # raises where the properties rule it out
        return ResourceProfileBuilder().require(TaskResourceRequests().resource("gpu", self.gpus_per_trial)).build

    def _slots(self, gpu: bool) -> int:
        """Tasks that can run at once just now."""
        self.parallelism = max(1, self.session.sparkContext.defaultParallelism)
        if not gpu or self.gpus_per_trial is None:
            return self.parallelism
        on_gpus = self._executors() * tasks_of_an_executor(self.gpus_per_trial, self._settings)
        return max(1, min(self.parallelism, on_gpus))

    def _executors(self) -> int:
        """Executors that are registered, the driver apart."""
        return len(self.session.sparkContext._jsc.sc().statusTracker().getExecutorInfos()) - 1

    def _run(
        self, job: _Job[Any, Any], tag: str, label: str, indices: list[int], profile: ResourceProfile | None
    ) -> list[_Answer]:
        """One Spark job, in a thread of its own; its failure as an error of ours."""
        # the session's own tags (`addTag`) do not reach the jobs of `toArrow`: seen with Spark 4.3
        self.session.sparkContext.addJobTag(tag)
        number = len(job.items)
        try:
            table = self.session.range(0, number, 1, number).mapInArrow(job, _SCHEMA, profile=profile).toArrow()
        except Exception as error:
            raise _translated(error, label, indices) from error
        return [_Answer(row["position"], row["answer"], row["worker"]) for row in table.to_pylist()]

    def _accept(self, answer: _Answer, label: str, index: int) -> Any:
        self.result_bytes += len(answer.pickled)
        self.workers_seen[answer.worker] += 1
        result = pickle.loads(answer.pickled)
        if isinstance(result, Failure):
            raise result.error(label, index)
        return result


def _submitted_settings() -> dict[str, str]:
    """What spark-submit was given; empty in a process that it did not start."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return {}
    SparkContext._ensure_initialized()  # connects to spark-submit's JVM, whose properties SparkConf then holds
    return dict(SparkConf().getAll())


@dataclass(frozen=True)
class _Answer:
    position: int
    pickled: bytes
    worker: str


@dataclass(frozen=True)
class _Job(Generic[T, R]):
    """What an executor's Python worker runs: the item at each position it is given."""

    task: Callable[[T], R]
    items: tuple[T, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pa.set_cpu_count(1)
        worker = f"{socket.gethostname()}:{os.getcwd()}"
        context = TaskContext.get()
        gpu = context.resources().get("gpu") if context is not None else None
        for batch in batches:
            for position in batch.column(0).to_pylist():
                with gpus_assigned(tuple(gpu.addresses) if gpu is not None else ()):
                    answer = _answer(self.task, self.items[position])
                yield pa.RecordBatch.from_pydict(
                    {
                        "position": pa.array([position], pa.int64()),
                        "answer": pa.array([answer], pa.binary()),
                        "worker": pa.array([worker], pa.string()),
                    }
                )
        pa.default_memory_pool().release_unused()


@dataclass(frozen=True)
class _Nothing:
    """The task that only has to start."""

    def __call__(self, item: int) -> None:
        return None


def _answer(task: Callable[[T], R], item: T) -> bytes:
    """The pickled result. An exception of the task is a result too: Spark would run it three times more."""
    try:
        return pickle.dumps(task(item), protocol=5)
    except Exception as error:
        return pickle.dumps(Failure.of(error), protocol=5)


class BroadcastShare(Generic[V]):
    """A broadcast value behind the engine's contract."""

    def __init__(self, broadcast: Any) -> None:
        self._broadcast = broadcast

    def get(self) -> V:
        """The value; must not be changed."""
        value: V = self._broadcast.value
        return value


def _forget(broadcast: Any) -> None:
    with suppress(Exception):  # the session may be gone before the handle
        broadcast.destroy()


# ---------------------------------------------------------------------------------------------- failures of Spark


def _translated(error: Exception, label: str, indices: list[int]) -> Exception:
    """Spark's failure as one of ours, its long Java trace left to the chain of causes."""
    text = str(error)
    if isinstance(error, pickle.PicklingError) or "Could not serialize" in text or "cannot pickle" in text:
        return TypeError(
            f"{label}: the task or an item cannot be sent to an executor ({_first_line(error)}); wanted: a frozen "
            "dataclass of plain values, defined at the top of a module that executors can import"
        )
    if "PYTHON_VERSION_MISMATCH" in text or "different version" in text:
        return EnvironmentFault(
            f"{label}: the executors run another Python than this driver "
            f"({sys.version_info.major}.{sys.version_info.minor}); set PYSPARK_PYTHON to the same version there"
        )
    missing = re.search(r"(ModuleNotFoundError|ImportError): (.+)", text)
    if missing:
        return EnvironmentFault(
            f"{label}: the executors' Python lacks a library ({missing[2].strip()}); install quadmix's requirements "
            "there or point PYSPARK_PYTHON at an environment that has them"
        )
    if "Cannot run program" in text:
        program = re.search(r'Cannot run program "([^"]+)"', text)
        found = f" {program[1]!r}" if program else ""
        return EnvironmentFault(f"{label}: the executors have no program{found}; set PYSPARK_PYTHON to their Python")
    if "No space left on device" in text:
        return ResourceError(
            f"{label}: a disk of Spark is full (spark.local.dir); free space or set another, then rerun"
        )
    if any(sign in text for sign in _LOST):
        place = re.search(r"Task (\d+) in stage", text)
        index = indices[int(place[1])] if place and int(place[1]) < len(indices) else None
        advice = "raise spark.executor.memoryOverhead (`plan` prints it) or use fewer cores an executor"
        return lost_worker(label, index, "Python worker or executor gone", advice)
    return RuntimeError(f"{label}: the Spark job failed: {_first_line(error)}")


_LOST = (
    "exited unexpectedly",
    "crashed",
    "ExecutorLostFailure",
    "Worker died",
    "EOFException",
    "Connection reset",
    "OutOfMemoryError",
)


def _first_line(error: Exception) -> str:
    """The sentence that matters: the innermost `Caused by`, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (causes or lines or [type(error).__name__])[0 if not causes else -1][:300]


# ---------------------------------------------------------------------------------------------- memory advice


def advised_memory_overhead(executor_cores: int, unit_bytes: int, model_bytes: int = 0) -> int:
    """Bytes of `spark.executor.memoryOverhead` that the Python workers of one executor need.

    Python lives outside the JVM's heap, one worker a core: the interpreter with its libraries, a unit's bytes twice
    (decoded input and what is made of it), the models it holds; a quarter more for what allocators keep.
    """
    per_core = _INTERPRETER_BYTES + 2 * unit_bytes + model_bytes
    needed = executor_cores * per_core * 5 // 4
    return -(-needed // (64 * _MEBI)) * 64 * _MEBI


_INTERPRETER_BYTES = 200 * _MEBI  # pyarrow, numpy, scikit-learn and a tokenizer loaded


def memory_advice(executor_cores: int, unit_bytes: int, model_bytes: int = 0) -> str:
    """The advice as the line to put into a submission."""
    overhead = advised_memory_overhead(executor_cores, unit_bytes, model_bytes) // _MEBI
    return f"spark.executor.memoryOverhead={overhead}m for {executor_cores} cores an executor"
