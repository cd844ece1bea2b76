"""Both engines keep one contract: what a result shows never depends on where it was computed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadmix.engine.base import fold_groups
from quadmix.errors import ConfigError, InputError, ResourceError
from tests.engine import engine_tasks as tasks


@pytest.fixture(params=["local", pytest.param("spark", marks=pytest.mark.spark)])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_engine")


def literal_fold(items: range) -> float:
    """The contract of `reduce` as a loop: groups left to right, then the partials left to right."""
    task = tasks.Wave()
    partials = []
    for group in fold_groups(len(items)):
        partial = task(items[group[0]])
        for index in group[1:]:
            partial = partial + task(items[index])
        partials.append(partial)
    total = partials[0]
    for partial in partials[1:]:
        total = total + partial
    return total


@pytest.mark.parametrize("n_items", [0, 1, 2, 41])
def test_map_gives_every_item_once(engine: Any, n_items: int) -> None:
    results = list(engine.map(tasks.Square(), range(n_items), label="square"))
    assert sorted(results) == [(item, item * item) for item in range(n_items)]


@pytest.mark.parametrize("n_items", [1, 2, 63, 64, 65, 300])
def test_reduce_follows_the_fixed_tree_to_the_bit(engine: Any, n_items: int) -> None:
    folded = engine.reduce(tasks.Wave(), range(n_items), tasks.Add(), label="sum")
    assert folded.hex() == literal_fold(range(n_items)).hex()


def test_the_tree_is_visible_in_floats() -> None:
    """Control: another order of addition gives other bits, so the test above can fail."""
    straight = 0.0
    for item in range(300):
        straight += tasks.Wave()(item)
    assert straight.hex() != literal_fold(range(300)).hex()


def test_reduce_keeps_item_order(engine: Any) -> None:
    spelled = engine.reduce(tasks.Spell(), range(130), tasks.Join(), label="spell")
    assert spelled == "".join(f"{item}," for item in range(130))


def test_reduce_of_nothing_is_refused(engine: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        engine.reduce(tasks.Spell(), [], tasks.Join(), label="spell")


def test_shared_values_are_read_by_tasks_and_here(engine: Any) -> None:
    values = np.linspace(0.0, 1.0, 1000)
    shared = engine.share({"values": values, "offset": 2.5})
    results = dict(engine.map(tasks.UsesShared(shared), range(20), label="shared"))
    assert results == {item: float(values[item]) + 2.5 for item in range(20)}
    np.testing.assert_array_equal(shared.get()["values"], values)


def test_a_shared_value_is_loaded_once_a_process(engine: Any) -> None:
    shared = engine.share({"values": np.zeros(10)})
    seen = {result for _, result in engine.map(tasks.SharedIdentity(shared), range(24), label="shared")}
    assert len(seen) == len({process for process, _ in seen})


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("input", InputError, "found 3 bad rows"),
        ("config", ConfigError, "a.b: found 1, wanted 2\nc: missing"),
        ("bug", ZeroDivisionError, "a bug of the task"),
        ("stubborn", RuntimeError, "StubbornError: 1 and 2"),
    ],
)
def test_a_task_error_keeps_its_type_and_is_not_retried(
    engine: Any, tmp_path: Path, kind: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        list(engine.map(tasks.Refuse(kind, str(tmp_path)), range(8), label="refuse"))
    assert str(raised.value) == message or message in str(raised.value)
    assert any("engine_tasks.py" in note and "item 3 of 'refuse'" in note for note in raised.value.__notes__)
    assert (tmp_path / "attempts").read_text() == "x"
    if isinstance(raised.value, ConfigError):
        assert raised.value.problems == ["a.b: found 1, wanted 2", "c: missing"]


def test_the_engine_works_on_after_an_error(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        list(engine.map(tasks.Refuse("input", str(tmp_path)), range(8), label="refuse"))
    assert len(list(engine.map(tasks.Square(), range(6), label="square"))) == 6


def test_a_killed_worker_changes_nothing(engine: Any, tmp_path: Path) -> None:
    chosen = frozenset({0, 5, 11})
    results = list(engine.map(tasks.DieFirst(str(tmp_path), chosen), range(12), label="die"))
    assert sorted(results) == [(item, item * 10) for item in range(12)]
    for item in chosen:  # control: the deaths happened
        assert (tmp_path / f"item-{item}").stat().st_size >= 2


def test_an_item_that_kills_every_worker_ends_the_pass(engine: Any, tmp_path: Path) -> None:
    task = tasks.DieFirst(str(tmp_path), frozenset({0}), deaths=99)
    with pytest.raises(ResourceError, match="item 0 lost its worker 4 times") as raised:
        list(engine.map(task, range(3), label="die"))
    assert "resumes" in str(raised.value)
    assert (tmp_path / "item-0").stat().st_size == 4


def test_results_arrive_while_later_items_wait(engine: Any, tmp_path: Path) -> None:
    log = tmp_path / "started"
    passing = engine.map(tasks.Log(str(log), 0.1), range(40), label="log")
    next(passing)
    assert len(log.read_text().split()) < 30
    assert len(list(passing)) == 39


def test_leaving_early_ends_the_pass(engine: Any, tmp_path: Path) -> None:
    log = tmp_path / "started"
    passing = engine.map(tasks.Log(str(log), 0.05), range(100), label="log")
    next(passing)
    passing.close()
    started = len(log.read_text().split())
    assert len(list(engine.map(tasks.Square(), range(6), label="square"))) == 6
    assert len(log.read_text().split()) <= started + 2
    assert started < 80


def test_an_answer_that_cannot_be_sent_is_an_error(engine: Any) -> None:
    with pytest.raises(Exception, match="pickle"):
        list(engine.map(tasks.Unpicklable(), range(2), label="lambda"))


def test_workers_compute_on_one_thread(engine: Any) -> None:
    results = [result for _, result in engine.map(tasks.Threads(), range(4), label="threads")]
    assert results == [{"omp": "1", "arrow": "1"}] * 4


def test_item_order_in_the_sequence_does_not_reach_results(engine: Any) -> None:
    items = list(range(30))
    random.Random(3).shuffle(items)
    results = engine.map(tasks.Square(), items, label="square", size=abs)
    assert sorted(results) == [(index, item * item) for index, item in enumerate(items)]
