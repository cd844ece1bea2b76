"""One number out of the losses on several targets: what is validated, screened, proposed and confirmed.

`mean`: the weighted mean of the losses. `worst`: the largest excess over a reference, max over targets of
loss - reference, where the reference is the natural mixture's proxy on the same target, trained under the same seed:
the excess loss of DoReMi (arXiv 2305.10429). Below 0, every target has become better than under the natural mixture.
Losses of different targets do not compare by themselves, and a target's unigram entropy says how repetitive its text
is, not what a mixture can do about it: under it the worst target would mostly be the same one. Weights play no part
in a maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rule = Literal["mean", "worst"]


@dataclass(frozen=True)
class Objective:
    """weights: by target, summing to 1; their order is the columns'. reference: nats per token by target, which the
    rule `worst` needs (see `against`)."""

    weights: Mapping[str, float]
    rule: Rule = "mean"
    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def against(self, reference: Mapping[str, float]) -> Objective:
        """The same rule over another reference: losses of the natural mixture's proxy by target."""
        return replace(self, reference={target: reference[target] for target in self.targets})

    def joint(self, losses: Floats) -> Floats:
        """(k, n_targets) losses to (k,); lower is better, nats."""
        if self.rule == "mean":
            # not a product: its additions would depend on the threads that it gets
            return np.asarray(np.sum(losses * np.array(list(self.weights.values())), axis=1))
        if not self.reference:
            raise ValueError("the worst case was asked for without the losses that it is measured against")
        return np.asarray((losses - np.array([self.reference[target] for target in self.targets])).max(axis=1))

    def of(self, losses: Mapping[str, float]) -> float:
        """The joint objective of one proxy."""
        return float(self.joint(np.array([[losses[target] for target in self.targets]]))[0])
