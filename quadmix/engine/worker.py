"""The worker process of the local engine: takes a task, then items, and answers each with a result or a failure.

One thread for everything: the engine's parallelism is its processes, and losses must not depend on a thread count.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from typing import Any

import pyarrow as pa

from quadmix.engine.failures import Failure

# set in the parent around the start of a worker: numerical libraries read them when they are first imported
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # number GPUs as nvidia-smi does, and so the scripts that find them for Spark
    "MALLOC_ARENA_MAX": "2",  # glibc otherwise keeps freed memory in up to eight arenas a core
}

TASK = b"T"
ITEM = b"I"


def serve(connection: Connection) -> None:
    """Answer until the parent closes the connection. Messages: TASK + pickle, ITEM + pickle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)

    task: Callable[[Any], Any] | Failure = Failure(None, "no task was sent", "")
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            return
        if message[:1] == TASK:
            task = _load_task(message[1:])
        else:
            connection.send_bytes(_answer(task, message[1:]))
            pa.default_memory_pool().release_unused()


def _load_task(pickled: bytes) -> Callable[[Any], Any] | Failure:
    try:
        loaded: Callable[[Any], Any] = pickle.loads(pickled)
    except Exception as error:
        return Failure.of(error)
    return loaded


def _answer(task: Callable[[Any], Any] | Failure, pickled: bytes) -> bytes:
    try:
        item = pickle.loads(pickled)
        answer = task if isinstance(task, Failure) else task(item)
        return pickle.dumps(answer, protocol=5)
    except Exception as error:
        return pickle.dumps(Failure.of(error), protocol=5)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers: they watch it."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
