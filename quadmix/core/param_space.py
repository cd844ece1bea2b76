"""Algorithm 1: how a mixture theta is drawn, and the unit cube in which drawn mixtures are averaged.

A point of the cube holds, in this order: a_n (n_criteria), b_{n,m} (n_domains x n_criteria), then for lambda, omega,
eta, epsilon one value a domain. Merge weights are alpha_{n,m} proportional to a_n * b_{n,m}, summing to 1 over n.
Preset `paper`: lambda, omega, eta, epsilon uniform on their ranges (0..1000, 0..0.1, 0..1, 0..0.001). Preset `log`:
lambda (1..1000) and omega (0.001..1) log-uniform, since a linear lambda saturates the sigmoid in most draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DEFAULT_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "paper": {"steepness": (0.0, 1000.0), "cutoff": (0.0, 0.1), "exponent": (0.0, 1.0), "floor": (0.0, 1e-3)},
    "log": {"steepness": (1.0, 1000.0), "cutoff": (1e-3, 1.0), "exponent": (0.0, 1.0), "floor": (0.0, 1e-3)},
}


@dataclass(frozen=True)
class ParamSpace:
    """Sizes and ranges of theta. A range None is the preset's own."""

    n_domains: int
    n_criteria: int
    preset: Literal["log", "paper"] = "log"
    steepness: tuple[float, float] | None = None
    cutoff: tuple[float, float] | None = None
    exponent: tuple[float, float] | None = None
    floor: tuple[float, float] | None = None

    @property
    def dim(self) -> int:
        """Length of a cube point: n_criteria + (n_criteria + 4) * n_domains."""
        return self.n_criteria + (self.n_criteria + 4) * self.n_domains

    def range(self, name: str) -> tuple[float, float]:
        """The range in force of steepness, cutoff, exponent or floor."""
        chosen: tuple[float, float] | None = getattr(self, name)
        return DEFAULT_RANGES[self.preset][name] if chosen is None else chosen


@dataclass(frozen=True)
class Params:
    """A batch of k mixtures. merge_weights (k, n_domains, n_criteria), rows summing to 1; the others (k, n_domains).

    cube (k, dim): the draws they came from, None for a mixture that was given.
    """

    merge_weights: Floats
    steepness: Floats
    cutoff: Floats
    exponent: Floats
    floor: Floats
    cube: Floats | None = None

    def __len__(self) -> int:
        return int(self.steepness.shape[0])

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> Params:
        cube = None if self.cube is None else self.cube[rows]
        return Params(
            self.merge_weights[rows],
            self.steepness[rows],
            self.cutoff[rows],
            self.exponent[rows],
            self.floor[rows],
            cube,
        )

    def one(self, index: int) -> Params:
        """The mixture at `index`, as a batch of one."""
        return self[slice(index, index + 1)]

    def with_cutoff(self, cutoff: Floats) -> Params:
        """The same mixtures with other thresholds."""
        return replace(self, cutoff=cutoff)


def draw_cube(space: ParamSpace, n: int, seed: int) -> Floats:
    """(n, dim) points of the open unit cube; the first rows of a longer draw are those of a shorter one.

    Philox is a fixed algorithm whose raw stream numpy keeps; nothing else of numpy's generators is used.
    """
    raw = np.random.Philox(key=np.uint64(seed)).random_raw(n * space.dim)
    return (((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53).reshape(n, space.dim)


def params_from_cube(space: ParamSpace, cube: Floats) -> Params:
    """The mixtures at cube points (k, dim)."""
    n, m = space.n_criteria, space.n_domains
    common = cube[:, :n]
    per_domain = cube[:, n : n + n * m].reshape(-1, m, n)
    raw = (common / common.sum(axis=1, keepdims=True))[:, None, :] * per_domain
    merge_weights = raw / raw.sum(axis=2, keepdims=True)
    rest = cube[:, n + n * m :].reshape(-1, 4, m)
    log = space.preset == "log"
    return Params(
        merge_weights,
        _spread(rest[:, 0], space.range("steepness"), log=log),
        _spread(rest[:, 1], space.range("cutoff"), log=log),
        _spread(rest[:, 2], space.range("exponent"), log=False),
        _spread(rest[:, 3], space.range("floor"), log=False),
        cube,
    )


def sample_params(space: ParamSpace, n: int, seed: int) -> Params:
    """n draws of Algorithm 1."""
    return params_from_cube(space, draw_cube(space, n, seed))


def _spread(unit: Floats, bounds: tuple[float, float], *, log: bool) -> Floats:
    low, high = bounds
    if log and low > 0:
        return low * (high / low) ** unit
    return low + (high - low) * unit
