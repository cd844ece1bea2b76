"""The task of a swarm: small enough to travel, the same result wherever it runs."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from proxy_models import swarm
from proxy_models.data import EvalSet, TokenPool, write_segment
from proxy_models.swarm import TrainGroup, Trial, pick_device
from proxy_models.train import train_proxy
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import EnvironmentFault
from quadmix.hashing import doc_hash

CONFIG = ProxyConfig(preset="custom", d_model=16, layers=1, heads=2, d_ff=32, seq_len=16, batch=4)


@dataclass(frozen=True)
class EveryNth:
    def __call__(self, payload: int, pool: TokenPool) -> np.ndarray:
        return (np.arange(pool.n_docs) % payload == 0).astype(np.int64)


@pytest.fixture
def group(tmp_path: Path) -> TrainGroup:
    generator = np.random.Generator(np.random.PCG64(0))
    arrays = [generator.integers(0, 50, 40) for _ in range(60)]
    write_segment(str(tmp_path / "pool"), arrays, doc_hash(str(i) for i in range(60)), 50)
    EvalSet(generator.integers(0, 50, 200).astype(np.uint16), 500).save(str(tmp_path / "target"))
    return TrainGroup(CONFIG, 50, (str(tmp_path / "pool"),), (("prose", str(tmp_path / "target")),), EveryNth())


def test_a_trial_is_the_training_of_its_packed_documents(group: TrainGroup) -> None:
    outcomes = group((Trial(4, 2, 11, 12), Trial(5, 3, 11, 12)))
    assert [outcome.index for outcome in outcomes] == [4, 5]
    pool = TokenPool(group.segments)
    stream = pool.pack(np.arange(0, 60, 3), np.ones(20, dtype=int), 12)
    targets = {"prose": EvalSet.load(group.eval_sets[0][1])}
    assert outcomes[1].result == train_proxy(CONFIG, 50, stream, init_seed=11, order_seed=12, eval_sets=targets)
    assert outcomes[0].result.losses != outcomes[1].result.losses


def test_the_task_travels_and_a_group_does_not_change_its_trials(group: TrainGroup) -> None:
    travelled = pickle.loads(pickle.dumps(group))
    trials = (Trial(0, 2, 1, 1), Trial(1, 3, 1, 1))
    together = travelled(trials)
    alone = [group((trial,))[0] for trial in trials]
    assert [o.result for o in together] == [o.result for o in alone]
    assert len(pickle.dumps(together)) < 4096


def test_gpus_are_taken_in_turn_when_there_are_any(monkeypatch: pytest.MonkeyPatch, group: TrainGroup) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(3) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(index) for index in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    used = []
    monkeypatch.setattr(swarm, "train_proxy", lambda *_, device, **__: used.append(device))
    group((Trial(7, 2, 1, 1),))
    assert used == ["cuda:1"]


def test_a_gpu_that_the_scheduler_gave_is_the_one_that_is_used(
    monkeypatch: pytest.MonkeyPatch, group: TrainGroup
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [pick_device(index, ("2",)) for index in range(3)] == ["cuda:2"] * 3
    assert [pick_device(index, ("3", "1")) for index in range(3)] == ["cuda:3", "cuda:1", "cuda:3"]
    used = []
    monkeypatch.setattr(swarm, "train_proxy", lambda *_, device, **__: used.append(device))
    replace(group, gpus=("3",))((Trial(7, 2, 1, 1), Trial(8, 2, 1, 1)))
    assert used == ["cuda:3", "cuda:3"]


@pytest.mark.parametrize(("seen", "address"), [(0, "0"), (2, "2"), (8, "GPU-5a6f")])
def test_a_gpu_that_torch_does_not_see_is_an_error_and_not_the_cpu(
    monkeypatch: pytest.MonkeyPatch, seen: int, address: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    with pytest.raises(EnvironmentFault, match=rf"GPU address '{address}', wanted one of the {seen} CUDA devices"):
        pick_device(0, (address,))
