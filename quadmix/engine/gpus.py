"""The GPUs that a scheduler gave to the task that runs here: set by the engine around the task, read by the task.

Only Spark gives any. A Python process runs one task at a time, so one variable of the process is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_assigned: ContextVar[tuple[str, ...]] = ContextVar("assigned_gpus", default=())


def assigned_gpus() -> tuple[str, ...]:
    """Addresses as the scheduler names them (CUDA's numbers, as text); empty when it gave none."""
    return _assigned.get()


@contextmanager
def gpus_assigned(addresses: tuple[str, ...]) -> Iterator[None]:
    """Inside, `assigned_gpus` gives `addresses`."""
    token = _assigned.set(addresses)
    try:
        yield
    finally:
        _assigned.reset(token)
