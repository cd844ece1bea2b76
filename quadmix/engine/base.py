"""What a stage may ask of an engine: map units to small results, fold summaries near the data, share a value.

Tasks, items and results are pickled. A task is a frozen dataclass with `__call__(item)`, defined at module level,
so that the same object runs in this process, in a worker process and on a Spark executor. Tasks write big things
to files and return their names; results stay small (about 1 KiB an item besides summaries).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

MAX_PARTIALS = 64


class Shared(Protocol[V_co]):
    """A value that every worker reads: loaded at most once a process."""

    def get(self) -> V_co: ...


class Engine(Protocol):
    """Runs pure functions over items; the local and the Spark engine differ in nothing that a result can show."""

    name: str
    parallelism: int

    def map(
        self, task: Callable[[T], R], items: Sequence[T], *, label: str, size: Callable[[T], int] | None = None
    ) -> Iterator[tuple[int, R]]:
        """Yield (index of the item, result) as results arrive: each item exactly once, the largest `size` first.

        A lost worker's items are run again (at most 4 attempts); an exception of the task itself is not retried: the
        first one is raised here, with its type kept and the worker's traceback as a note.
        """
        ...

    def reduce(self, task: Callable[[T], R], items: Sequence[T], merge: Callable[[R, R], R], *, label: str) -> R:
        """Fold task(item) over a fixed tree: `fold_groups(len(items))` contiguous groups, each folded left to right
        where it is computed, then the at most 64 partials folded in order here. The same tree on every engine.
        """
        ...

    def share(self, value: V) -> Shared[V]:
        """Make a value readable by tasks (put the returned handle into the task's fields)."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class UsesGpu(Protocol):
    """A task that trains on a GPU where there is one (`gpus.assigned_gpus` says which was given to it)."""

    uses_gpu: bool


@runtime_checkable
class SchedulesGpus(Protocol):
    """An engine that gives GPUs to the tasks that use them."""

    def require_gpus(self, label: str) -> None:
        """Raise EnvironmentFault unless a task that asks for a GPU, where GPUs are asked for, has just been given one.

        Called before work starts: a cluster may leave a request that it cannot meet waiting for ever.
        """
        ...


@runtime_checkable
class CountsResults(Protocol):
    """An engine whose work crosses machines, and that can show how little of it reached the driver."""

    result_bytes: int
    workers_seen: Mapping[str, int]


def fold_groups(n_items: int) -> list[range]:
    """The fixed partition of 0..n_items-1 into at most 64 contiguous groups of nearly equal length."""
    groups = min(MAX_PARTIALS, n_items)
    bounds = [n_items * group // groups for group in range(groups + 1)] if groups else [0]
    return [range(bounds[group], bounds[group + 1]) for group in range(groups)]
