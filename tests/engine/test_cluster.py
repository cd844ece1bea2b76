"""The Spark engine on a real standalone cluster whose executors start without the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.engine.driving import drive
from tests.engine.test_engines_agree import literal_fold

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def seen(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one driver program saw; it runs where no project is."""
    directory = tmp_path_factory.mktemp("driver")
    result = drive("cluster_driver.py", cluster.master, str(directory), cwd=directory, timeout=900)
    return result | {"directory": str(directory)}


def test_map_gives_every_item_once(seen: dict[str, Any]) -> None:
    assert seen["map"] == [[item, item * item] for item in range(48)]


def test_both_executors_work(seen: dict[str, Any]) -> None:
    assert len(seen["workers"]) == 2
    assert sum(seen["workers"].values()) == 4 + 48 + 40
    assert min(seen["workers"].values()) >= 10


def test_reduce_follows_the_fixed_tree_to_the_bit(seen: dict[str, Any]) -> None:
    assert seen["wave"] == literal_fold(range(300)).hex()
    assert seen["spelled"] == "".join(f"{item}," for item in range(130))


def test_shared_values_reach_the_executors(seen: dict[str, Any]) -> None:
    assert seen["shared"] == [[item, pytest.approx(item / 99 + 2.5)] for item in range(12)]


def test_the_code_is_shipped(seen: dict[str, Any]) -> None:
    """Executors import the project from the engine's zip, and could not from anywhere else."""
    file, path = seen["origin"]
    assert ".zip/quadmix/schema.py" in file.replace(os.sep, "/")
    assert str(ROOT) not in path


def test_a_task_error_keeps_its_type_and_is_not_retried(seen: dict[str, Any]) -> None:
    assert seen["error"] == "shard 'b.parquet': found 3 bad rows, wanted at most 0"
    assert (Path(seen["directory"]) / "refuse" / "attempts").read_text() == "x"


def test_a_killed_worker_changes_nothing(seen: dict[str, Any]) -> None:
    assert seen["died"] == [[item, item * 10] for item in range(12)]
    for item in (0, 5, 11):
        assert (Path(seen["directory"]) / "die" / f"item-{item}").stat().st_size >= 2


def test_only_results_reach_the_driver(seen: dict[str, Any]) -> None:
    assert 40 * 1000 <= seen["bytes_of_40_kilobytes"] <= 40 * 1100
