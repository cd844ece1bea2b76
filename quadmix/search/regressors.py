"""Regressors from mixtures to proxy losses, in scikit-learn's manner: `fit(features, losses)`, `predict(features)`.

LightGBM as in RegMix (arXiv 2407.01492) and QuaDMix (arXiv 2504.16511). Two presets: `regmix` (1,000 rounds at .01,
RegMix's trees) and `small` (600 rounds at .03), which costs a fiftieth and loses nothing from 400 trials on. LightGBM's
usual 20 rows a leaf cannot split a swarm of 40, so leaves shrink with the swarm; below 100 trials four leaves a tree
rank unseen mixtures better than eight (RegMix's own swarm, 40 to 64 training trials: mean Spearman .952 to .970
against .946 to .968).

There is no early stopping anywhere: RegMix stopped on the rows it scored. One thread, fixed seeds, row-wise
histograms: the same rows give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import EnvironmentFault

Floats = NDArray[np.float64]


class Regressor(Protocol):
    """features: (n, f) float64, NaN not allowed; losses: (n,) finite."""

    def fit(self, features: Floats, losses: Floats) -> Regressor: ...

    def predict(self, features: Floats) -> Floats:
        """(k, f) -> (k,)"""
        ...


@dataclass
class LightGBMRegressor:
    """Gradient-boosted trees. `model` is LightGBM's own text format, so a fitted regressor pickles as plain text."""

    preset: str = "small"
    model: str | None = None

    def fit(self, features: Floats, losses: Floats) -> LightGBMRegressor:
        lightgbm = _lightgbm()
        rounds, parameters = _PRESETS[self.preset](len(losses))
        parameters |= {
            "objective": "regression",
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "seed": 0,
            "verbosity": -1,
        }
        rows = lightgbm.Dataset(features, losses, params=parameters, free_raw_data=False)
        self.model = lightgbm.train(parameters, rows, num_boost_round=rounds).model_to_string()
        return self

    def predict(self, features: Floats) -> Floats:
        if self.model is None:
            raise ValueError("this regressor was asked to predict before it was fitted")
        booster = _lightgbm().Booster(model_str=self.model)
        return np.asarray(booster.predict(features, num_threads=1), dtype=np.float64)


def _small(rows: int) -> tuple[int, dict[str, Any]]:
    leaves = 4 if rows < 100 else 8
    return 600, {
        "learning_rate": 0.03,
        "num_leaves": leaves,
        "min_data_in_leaf": max(2, min(8, rows // 12)),
        "min_data_in_bin": 1,
    }


def _regmix(rows: int) -> tuple[int, dict[str, Any]]:
    return 1000, {"learning_rate": 0.01, "num_leaves": 31, "min_data_in_leaf": max(2, min(20, rows // 8))}


_PRESETS: Mapping[str, Callable[[int], tuple[int, dict[str, Any]]]] = {"small": _small, "regmix": _regmix}

REGRESSORS: Mapping[str, Callable[[str], Regressor]] = {"lightgbm": LightGBMRegressor}


def make_regressor(kind: str = "lightgbm", preset: str = "small") -> Regressor:
    """An unfitted regressor. Raises ValueError for a kind or preset that does not exist."""
    if kind not in REGRESSORS:
        raise ValueError(f"no regressor {kind!r}; wanted one of {', '.join(sorted(REGRESSORS))}")
    if preset not in _PRESETS:
        raise ValueError(f"no preset {preset!r}; wanted one of {', '.join(sorted(_PRESETS))}")
    return REGRESSORS[kind](preset)


@dataclass(frozen=True)
class TargetModels:
    """One fitted regressor per target, over the same features."""

    targets: tuple[str, ...]
    models: tuple[Regressor, ...]

    def predict(self, features: Floats) -> Floats:
        """(k, f) -> (k, n_targets), nats per token."""
        return np.stack([model.predict(features) for model in self.models], axis=1)


def fit_targets(
    targets: Sequence[str], features: Floats, losses: Floats, kind: str = "lightgbm", preset: str = "small"
) -> TargetModels:
    """Fit one model per target. features: (n, f); losses: (n, n_targets)."""
    models = tuple(make_regressor(kind, preset).fit(features, losses[:, column]) for column in range(len(targets)))
    return TargetModels(tuple(targets), models)


def _lightgbm() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        # OSError: the wheel is there, but the OpenMP runtime that it links is not
        raise EnvironmentFault(
            f"search.regressor.kind: lightgbm cannot be imported ({error}); install it with "
            "`pip install '.[search]'`, and libgomp with `apt-get install libgomp1` where that is what is missing"
        ) from error
    return lightgbm
