"""An engine that runs tasks here, one after the other: what the stages compute must not depend on where they run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce as fold
from typing import Any, Generic, TypeVar

from quadmix.engine.base import fold_groups

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True)
class Here(Generic[V]):
    value: V

    def get(self) -> V:
        return self.value


@dataclass
class InlineEngine:
    """Counts the items of every pass. `fail_after`: stop with KeyboardInterrupt after so many items of `fail_in`."""

    name: str = "inline"
    parallelism: int = 1
    items: dict[str, int] = field(default_factory=dict)
    fail_in: str = ""
    fail_after: int = 0

    def map(
        self, task: Callable[[T], R], items: Sequence[T], *, label: str, size: Callable[[T], int] | None = None
    ) -> Iterator[tuple[int, R]]:
        order = list(range(len(items)))
        if size is not None:
            order.sort(key=lambda index: -size(items[index]))
        sent = pickle.dumps(task)
        for done, index in enumerate(order):
            if label == self.fail_in and done == self.fail_after:
                raise KeyboardInterrupt
            self.items[label] = self.items.get(label, 0) + 1
            yield index, pickle.loads(pickle.dumps(pickle.loads(sent)(items[index])))

    def reduce(self, task: Callable[[T], R], items: Sequence[T], merge: Callable[[R, R], R], *, label: str) -> R:
        partials = [fold(merge, [task(items[index]) for index in group]) for group in fold_groups(len(items))]
        return fold(merge, partials)

    def share(self, value: V) -> Any:
        return Here(value)

    def close(self) -> None:
        """Nothing is held."""
