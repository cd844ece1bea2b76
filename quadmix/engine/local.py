"""The local engine: a pool of spawned processes on this machine, each with one item at a time. No JVM.

Every worker has its own pipe, so a death is pinned on the item that the worker held (the standard library's pool
breaks as a whole): that item runs again on a fresh worker, the others never notice.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from quadmix.engine import worker as worker_process
from quadmix.engine.base import Shared
from quadmix.engine.environment import environment
from quadmix.engine.failures import MAX_ATTEMPTS, Failure, lost_worker
from quadmix.engine.fold import FoldGroup, fold_in_order, grouped
from quadmix.engine.shared_file import share_value
from quadmix.progress import Progress

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")

_PATIENCE_SECONDS = 2.0  # between asking a worker to end and killing it


class LocalEngine:
    """Runs tasks in `workers` processes (one per usable core by default). One pass at a time."""

    name = "local"

    def __init__(self, workers: int | None = None, progress: Progress | None = None) -> None:
        self.parallelism = workers if workers is not None else usable_cores()
        self.progress = progress if progress is not None else Progress.silent()
        self._idle: list[_Worker] = []
        self._running: str | None = None
        self._directory: Path | None = None
        self._shares = 0

    def map(
        self, task: Callable[[T], R], items: Sequence[T], *, label: str, size: Callable[[T], int] | None = None
    ) -> Iterator[tuple[int, R]]:
        """See `base.Engine.map`. Work starts with the first `next`; leaving the iteration early ends the rest."""
        task_message = worker_process.TASK + _dump(task, f"{label}: the task")
        weights = [size(item) for item in items] if size is not None else [0] * len(items)
        order = deque(sorted(range(len(items)), key=lambda index: (-weights[index], index)))
        attempts = [0] * len(items)
        busy: dict[Connection, tuple[_Worker, int]] = {}

        def hand_out(idle: _Worker) -> None:
            index = order.popleft()
            attempts[index] += 1
            busy[idle.connection] = (idle, index)
            idle.send(task_message, _dump(items[index], f"{label}: item {index}"))

        with self._one_pass(label), self.progress.track(label, len(items)) as bar:
            try:
                while order or busy:
                    while order and len(busy) < self.parallelism:
                        hand_out(self._idle.pop() if self._idle else _Worker())
                    for ready in wait(list(busy)):
                        assert isinstance(ready, Connection)
                        worker, index = busy.pop(ready)
                        answer = worker.receive()
                        if answer is None:
                            how = worker.last_words()
                            if attempts[index] >= MAX_ATTEMPTS:
                                raise lost_worker(label, index, how, "run with fewer workers or smaller units")
                            self.progress.say(f"{label}: a worker was lost ({how}); item {index} runs again")
                            order.appendleft(index)
                            continue
                        result = pickle.loads(answer)
                        if isinstance(result, Failure):
                            self._idle.append(worker)
                            raise result.error(label, index)
                        if order:
                            hand_out(worker)
                        else:
                            self._idle.append(worker)
                        bar.advance()
                        yield index, result
            finally:
                for worker, _ in busy.values():
                    worker.end()

    def reduce(self, task: Callable[[T], R], items: Sequence[T], merge: Callable[[R, R], R], *, label: str) -> R:
        """See `base.Engine.reduce`."""
        return fold_in_order(self.map(FoldGroup(task, merge), grouped(items), label=label), merge)

    def share(self, value: V) -> Shared[V]:
        """See `base.Engine.share`: a memory-mapped file, arrays read-only in the workers."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="quadmix-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        self._shares += 1
        return share_value(value, self._directory / f"shared-{self._shares}")

    def close(self) -> None:
        """End the workers and remove the shared values. Safe to call twice."""
        while self._idle:
            self._idle.pop().end()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _one_pass(self, label: str) -> Iterator[None]:
        if self._running is not None:
            raise RuntimeError(f"local engine: '{label}' was started inside '{self._running}'; finish one pass first")
        self._running = label
        try:
            yield
        finally:
            self._running = None


class _Worker:
    """A spawned process and this end of its pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=worker_process.serve, args=(theirs,), daemon=True)
        self._task: bytes | None = None
        self._answered = False
        with _start_conditions():
            self.process.start()
        theirs.close()  # the worker now holds the only other end: its death reads as end of file here

    def send(self, task_message: bytes, item: bytes) -> None:
        """Give one item; the task goes along when it is not the worker's last one. A dead worker shows in `receive`."""
        with suppress(BrokenPipeError, ConnectionResetError):
            if self._task is not task_message:
                self.connection.send_bytes(task_message)
                self._task = task_message
            self.connection.send_bytes(worker_process.ITEM + item)

    def receive(self) -> bytes | None:
        """The answer's bytes; None when the worker died before or while giving it."""
        try:
            answer = self.connection.recv_bytes()
        except (EOFError, OSError):
            return None
        self._answered = True
        return answer

    def last_words(self) -> str:
        """How a worker that stopped answering ended; it is dead and closed afterwards."""
        self.process.join(_PATIENCE_SECONDS)
        code = self.process.exitcode
        never_served = not self._answered
        self.end()
        if code is None:
            return "it closed its connection"
        if code < 0:
            return f"killed by signal {signal.Signals(-code).name}"
        hint = "; a script that uses the engine needs `if __name__ == '__main__':`" if never_served else ""
        return f"it ended with exit code {code}{hint if code == 1 else ''}"

    def end(self) -> None:
        """Stop the process, whatever it is doing, and close the pipe."""
        self.connection.close()
        self.process.terminate()
        self.process.join(_PATIENCE_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


@contextmanager
def _start_conditions() -> Iterator[None]:
    """What a worker inherits at birth: one-thread settings, and Ctrl-C held back until it can ignore it."""
    resource_tracker.ensure_running()  # otherwise started inside, where it would lift the block
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with environment(worker_process.ENVIRONMENT):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by the container's quota (cgroup v2) where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, math.ceil(int(quota) / int(period))))  # "max" is no number: no quota
    return cores


def _dump(value: Any, what: str) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:
        raise TypeError(
            f"{what} cannot be sent to a worker process ({error}); wanted: a frozen dataclass of plain values, "
            "defined at the top of a module that workers can import"
        ) from error
