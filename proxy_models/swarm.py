"""The task that trains one group of trials, for an engine to run wherever it likes.

A trial is a name for its data (`payload`, which `documents` turns into copies) and three seeds. Only small things
travel: the pool and the held-out sets are files that every process maps for itself, and losses come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from proxy_models.completions import HeldOut, load_held_out
from proxy_models.data import TokenPool
from proxy_models.train import TrainResult, train_proxy
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import EnvironmentFault


@dataclass(frozen=True)
class Trial:
    """One proxy to train. `payload` says which mixture; seeds that are equal across trials pair their noise."""

    index: int
    payload: Any
    init_seed: int
    order_seed: int


@dataclass(frozen=True)
class TrialOutcome:
    """What one trial gave. cpu_seconds is for progress and plans only: nothing that decides may read it."""

    index: int
    result: TrainResult
    cpu_seconds: float


@dataclass(frozen=True)
class TrainGroup:
    """Trains the trials of one group, one after the other: `engine.map(TrainGroup(...), groups, label=...)`.

    segments: the pool's token files (data.write_segment); eval_sets: (name, file of a held-out set's `save`).
    documents: a picklable callable; documents(payload, pool) gives every pool document's copies, (n_docs,) integers.
    gpus: see `pick_device`.
    """

    config: ProxyConfig
    vocab_size: int
    segments: tuple[str, ...]
    eval_sets: tuple[tuple[str, str], ...]
    documents: Callable[[Any, TokenPool], NDArray[np.integer[Any]]]
    gpus: tuple[str, ...] = ()

    def __call__(self, group: tuple[Trial, ...]) -> tuple[TrialOutcome, ...]:
        """Losses of every trial of the group, in its order; a trial that diverged comes back as failed."""
        pool = _open_pool(self.segments)
        eval_sets = {name: _open_eval_set(path) for name, path in self.eval_sets}
        outcomes = []
        for trial in group:
            started = time.process_time()
            copies = np.asarray(self.documents(trial.payload, pool))
            chosen = np.flatnonzero(copies)
            result = train_proxy(
                self.config,
                self.vocab_size,
                pool.pack(chosen, copies[chosen], trial.order_seed),
                init_seed=trial.init_seed,
                order_seed=trial.order_seed,
                eval_sets=eval_sets,
                device=pick_device(trial.index, self.gpus),
            )
            outcomes.append(TrialOutcome(trial.index, result, time.process_time() - started))
        return tuple(outcomes)


def pick_device(index: int, gpus: tuple[str, ...] = ()) -> str:
    """Where a trial trains: on a GPU that a scheduler gave; else on any there are, dealt round; else on the CPU.

    gpus: addresses that the scheduler gave to this task, CUDA's numbers as text. Raises EnvironmentFault when this
    process cannot use them: the CPU instead would hide a mistake and take a hundred times as long.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        return f"cuda:{index % count}" if count else "cpu"
    address = gpus[index % len(gpus)]
    if not address.isdigit() or int(address) >= count:
        raise EnvironmentFault(
            f"trial {index}: found the GPU address {address!r}, wanted one of the {count} CUDA devices that torch "
            f"{torch.__version__} sees here, by number. Check that this machine's torch is a build with CUDA, that "
            "CUDA_VISIBLE_DEVICES does not renumber the devices, and that the discovery script prints their indices"
        )
    return f"cuda:{address}"


@lru_cache(maxsize=2)
def _open_pool(segments: tuple[str, ...]) -> TokenPool:
    return TokenPool(segments)


@lru_cache(maxsize=64)
def _open_eval_set(path: str) -> HeldOut:
    return load_held_out(path)
