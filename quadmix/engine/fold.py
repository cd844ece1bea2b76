"""`reduce` as a `map` over fixed groups: floats that must merge do so along one tree, whatever the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from quadmix.engine.base import fold_groups

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class FoldGroup(Generic[T, R]):
    """Runs `task` over a group of items and folds the results left to right, one at a time, where it runs."""

    task: Callable[[T], R]
    merge: Callable[[R, R], R]

    def __call__(self, group: Sequence[T]) -> R:
        folded = self.task(group[0])
        for item in group[1:]:
            folded = self.merge(folded, self.task(item))
        return folded


def grouped(items: Sequence[T]) -> list[tuple[T, ...]]:
    """The items in the fixed groups of `fold_groups`; ValueError when there is nothing to fold."""
    if not items:
        raise ValueError("reduce: found no items, wanted at least one: nothing has no value to fold")
    return [tuple(items[index] for index in group) for group in fold_groups(len(items))]


def fold_in_order(partials: Iterator[tuple[int, R]], merge: Callable[[R, R], R]) -> R:
    """Fold (group index, partial) pairs in group order though they arrive in any order.

    A partial is merged as soon as all before it are, so few of them wait in memory.
    """
    waiting: dict[int, R] = {}
    following = 0
    folded: R | None = None
    for index, partial in partials:
        waiting[index] = partial
        while following in waiting:
            value = waiting.pop(following)
            folded = value if folded is None else merge(folded, value)
            following += 1
    if folded is None or waiting:
        raise RuntimeError(f"reduce: partial {following} never arrived")
    return folded
