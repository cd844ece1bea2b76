"""Columns of a file of losses that are none: what trackers log beside them, and what nothing can be fitted to.

A seed or a count of steps that is taken for a loss has its weight in the joint objective, and decides. So columns are
left out by name (`seed, step, lr, runtime`, ...) and by what they hold: one number in all runs, the runs' own numbers,
or whole numbers all above 1,000, which no loss and no accuracy has.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SMALLEST_COUNT = 1000.0
_COUNTED = "step token param parameter flop epoch iteration iter sample sequence document example gpu node"
_OTHERS = """
    seed random_seed data_seed lr learning_rate max_lr min_lr peak_lr weight_decay size model_size batch_size
    global_batch_size micro_batch_size time runtime run_time wall_time walltime duration elapsed seconds minutes hours
    gpu_hours timestamp date created created_at started started_at finished finished_at updated_at global_step max_steps
    warmup_steps tokens_seen train_tokens world_size version exit_code status rank budget
"""
_NAMES = {*_OTHERS.split(), *(form for one in _COUNTED.split() for form in (one, one + "s"))}
_PREFIX = re.compile(r"(n|num|number_of|total|max)_")


def is_bookkeeping(column: str) -> bool:
    """Whether a column is known by its name to be no loss: `n_tokens`, `Learning rate`, `_runtime` (W&B's)."""
    name = re.sub(r"[\s./-]+", "_", column.strip().lower()).strip("_")
    return name in _NAMES or _PREFIX.sub("", name, count=1) in _NAMES


def no_loss(values: Floats) -> str | None:
    """Why a column of numbers can be no loss, or None. values: (n,), NaN for a run without one."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    if is_constant(known):
        return f"{known[0]:g} in every run"
    whole = bool((known == np.round(known)).all())
    if whole and np.abs(known).min() > _SMALLEST_COUNT:
        return f"whole numbers above {_SMALLEST_COUNT:,.0f}, which are counts"
    ordered = np.sort(known)
    if known.size > 1 and any(np.array_equal(ordered, np.arange(start, known.size + start)) for start in (0, 1)):
        return "the numbers of the runs"
    return None


def is_constant(values: Floats) -> bool:
    """Whether (n,) finite numbers are one number but for rounding: then there is nothing to fit."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
