"""GPUs on Spark: what is refused at once, and what tasks are given on a standalone cluster that claims to have two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quadmix.config_reader import check_config
from quadmix.engine.gpus import assigned_gpus, gpus_assigned
from quadmix.engine.spark_gpus import GPUS_OF_AN_EXECUTOR, sharing, tasks_of_an_executor
from quadmix.errors import ConfigError, EnvironmentFault
from tests.conftest import standalone_module
from tests.e2e.scored_pool import scored_config
from tests.engine.driving import drive


@pytest.mark.parametrize(("asked", "wanted"), [(1.0, 1), (0.6, 1), (0.5, 2), (0.3, 3), (0.25, 4), (0.2, 5), (0.1, 10)])
def test_a_part_of_a_gpu_is_shared_by_as_many_as_fit(asked: float, wanted: int) -> None:
    assert sharing(asked) == wanted
    assert tasks_of_an_executor(asked, {"spark.master": "yarn", GPUS_OF_AN_EXECUTOR: "2"}) == 2 * wanted


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"spark.master": "yarn"},
            r"started without GPUs .*found none.*--conf spark\.executor\.resource\.gpu\.amount=1",
        ),
        ({"spark.master": "yarn", GPUS_OF_AN_EXECUTOR: "0"}, "found '0', wanted at least 1"),
        ({"spark.master": "local[4,4]", GPUS_OF_AN_EXECUTOR: "1"}, "schedules no GPUs on the master 'local"),
    ],
)
def test_what_can_never_be_given_is_refused(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(EnvironmentFault, match=rf"engine\.gpus_per_trial: found 0\.25, .*{complaint}"):
        tasks_of_an_executor(0.25, settings)


def test_the_configuration_is_checked_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    conf = {"spark.task.resource.gpu.amount": "1"}
    engine = {"kind": "spark", "master": "local[2]", "gpus_per_trial": 0.5, "conf": conf}
    with pytest.raises(ConfigError) as refused:
        check_config(scored_config(tmp_path / "pool", tmp_path / "out", engine=engine))
    assert "engine.gpus_per_trial: found 0.5 beside master 'local[2]'" in str(refused.value)
    assert "engine.conf.spark.task.resource.gpu.amount: found it beside engine.gpus_per_trial" in str(refused.value)
    engine |= {"master": "spark://head:7077", "gpus_per_trial": 1.5, "conf": {}}
    with pytest.raises(ConfigError, match=r"engine.*gpus_per_trial.*1\.5"):
        check_config(scored_config(tmp_path / "pool", tmp_path / "out", engine=engine))


def test_what_was_assigned_is_known_inside_only() -> None:
    with gpus_assigned(("3",)):
        assert assigned_gpus() == ("3",)
    assert assigned_gpus() == ()


@pytest.fixture(scope="module")
def two_gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of one worker with four cores that offers the GPUs 0 and 1."""
    folder = tmp_path_factory.mktemp("gpus")
    running = standalone_module().StandaloneCluster.start(folder, workers=1, cores=4, gpus=2, tied=True)
    yield running
    running.stop()


def most_at_once(tasks: list[Any]) -> int:
    return max(sum(start <= moment < end for _, (_, start, end) in tasks) for _, (_, moment, _) in tasks)


@pytest.mark.spark
@pytest.mark.long
def test_tasks_that_train_get_addresses_and_no_more_run_than_fit(two_gpus: Any, tmp_path: Path) -> None:
    found = drive(
        "gpu_driver.py", two_gpus.master, str(tmp_path), "2", cwd=tmp_path, timeout=1200, PYSPARK_PYTHON=sys.executable
    )
    # 0.6 of a device: one each, though four cores are free
    assert {tuple(given) for _, (given, *_) in found["alone"]} == {("0",), ("1",)}
    assert most_at_once(found["alone"]) == 2
    # half of a device: two on each
    assert sorted(given[0] for _, (given, *_) in found["shared"]) == ["0", "0", "1", "1"]
    assert most_at_once(found["shared"]) == 4
    # what needs no GPU is given none and has all cores
    assert [given for _, (given, *_) in found["plain"]] == [[]] * 4
    assert most_at_once(found["plain"]) == 4


@pytest.mark.spark
@pytest.mark.long
def test_a_request_that_no_machine_can_meet_ends_with_words(two_gpus: Any, tmp_path: Path) -> None:
    said = drive(
        "gpu_driver.py", two_gpus.master, str(tmp_path), "3", cwd=tmp_path, timeout=1200, PYSPARK_PYTHON=sys.executable
    )["error"]
    assert "no task was given a GPU in 6 s (0 executors registered; each was to have 3 GPUs)" in said
    assert "Lower spark.executor.resource.gpu.amount" in said
