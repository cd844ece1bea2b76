"""How sure a prediction is: 90 % intervals of a new proxy's losses, target by target and of the joint objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quadmix.search.objective import Objective
from quadmix.search.regressors import TargetModels
from quadmix.search.result import JOINT

Floats = NDArray[np.float64]

LEVEL = 0.9


def intervals(models: TargetModels, features: Floats, objective: Objective) -> tuple[Floats, Floats]:
    """(low, high), each (k, n_targets + 1), the joint objective last. models: calibrated.

    The mean's interval is calibrated itself; the worst case lies between those of the targets' ends, or closer.
    """
    low, high = models.predict_interval(features, LEVEL)
    if objective.rule == "mean":
        ends = models.joint_interval(features, np.array(list(objective.weights.values())), LEVEL)
    else:
        ends = objective.joint(low), objective.joint(high)
    return np.column_stack([low, ends[0]]), np.column_stack([high, ends[1]])


def intervals_by_name(models: TargetModels, features: Floats, objective: Objective) -> list[dict[str, list[float]]]:
    """A row each: [low, high] by target and JOINT."""
    low, high = intervals(models, features, objective)
    names = (*models.targets, JOINT)
    return [
        {name: [float(below), float(above)] for name, below, above in zip(names, *ends, strict=True)}
        for ends in zip(low, high, strict=True)
    ]
