"""Tasks of the engine tests, at module level so that workers can import (or unpickle) them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadmix.engine.base import Shared
from quadmix.errors import ConfigError, InputError


@dataclass(frozen=True)
class Square:
    def __call__(self, item: int) -> int:
        return item * item


@dataclass(frozen=True)
class Where:
    """Which process served the item; slow enough that every worker gets some."""

    seconds: float = 0.05

    def __call__(self, item: int) -> tuple[int, int]:
        time.sleep(self.seconds)
        return item, os.getpid()


@dataclass(frozen=True)
class SleepUnless:
    """One item at once, the others after a while."""

    quick: int
    seconds: float

    def __call__(self, item: int) -> int:
        if item != self.quick:
            time.sleep(self.seconds)
        return item


@dataclass(frozen=True)
class DieFirst:
    """Ends its process without a word on the first `deaths` attempts of the chosen items."""

    directory: str
    chosen: frozenset[int]
    deaths: int = 1

    def __call__(self, item: int) -> int:
        attempt = Path(self.directory) / f"item-{item}"
        with attempt.open("a", encoding="ascii") as handle:
            handle.write("x")
        if item in self.chosen and attempt.stat().st_size <= self.deaths:
            os._exit(137)
        return item * 10


@dataclass(frozen=True)
class Refuse:
    """Raises on item 3; leaves a mark for every attempt."""

    kind: str
    directory: str

    def __call__(self, item: int) -> int:
        if item != 3:
            return item
        with (Path(self.directory) / "attempts").open("a", encoding="ascii") as handle:
            handle.write("x")
        if self.kind == "input":
            raise InputError("shard 'b.parquet': found 3 bad rows, wanted at most 0")
        if self.kind == "config":
            raise ConfigError(["a.b: found 1, wanted 2", "c: missing"])
        if self.kind == "stubborn":
            raise StubbornError(1, 2)
        raise ZeroDivisionError("a bug of the task")


class StubbornError(Exception):
    """Pickles and does not come back."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


@dataclass(frozen=True)
class Wave:
    """A float that makes the order of addition visible."""

    def __call__(self, item: int) -> float:
        return 0.1 * 1.7 ** (item % 97) * (-1) ** item


@dataclass(frozen=True)
class Add:
    def __call__(self, left: float, right: float) -> float:
        return left + right


@dataclass(frozen=True)
class Join:
    def __call__(self, left: str, right: str) -> str:
        return left + right


@dataclass(frozen=True)
class Spell:
    def __call__(self, item: int) -> str:
        return f"{item},"


@dataclass(frozen=True)
class UsesShared:
    table: Shared[Any]

    def __call__(self, item: int) -> float:
        return float(self.table.get()["values"][item]) + self.table.get()["offset"]


@dataclass(frozen=True)
class SharedIdentity:
    """(pid, id of the loaded value): one id a process means one load a process."""

    table: Shared[Any]

    def __call__(self, item: int) -> tuple[int, int]:
        time.sleep(0.01)
        return os.getpid(), id(self.table.get())


@dataclass(frozen=True)
class Threads:
    def __call__(self, item: int) -> dict[str, str]:
        import pyarrow as pa

        return {"omp": os.environ.get("OMP_NUM_THREADS", ""), "arrow": str(pa.cpu_count())}


@dataclass(frozen=True)
class Payload:
    """A result of `n_bytes` bytes."""

    n_bytes: int

    def __call__(self, item: int) -> bytes:
        return os.urandom(self.n_bytes)


@dataclass(frozen=True)
class Unpicklable:
    def __call__(self, item: int) -> Any:
        return lambda: item


@dataclass(frozen=True)
class Log:
    """Appends the item to a file, then works a while: who started, in which order."""

    path: str
    seconds: float

    def __call__(self, item: int) -> int:
        with open(self.path, "a", encoding="ascii") as handle:
            handle.write(f"{item}\n")
        time.sleep(self.seconds)
        return item


@dataclass(frozen=True)
class Origin:
    """Where the project's code came from, and the worker's module path."""

    def __call__(self, item: int) -> tuple[str, list[str]]:
        import sys

        import quadmix.schema

        return str(quadmix.schema.__file__), list(sys.path)
