"""Regressors from mixtures to proxy losses, which scikit-learn takes for its own: `fit(features, losses)`,
`predict(features)`, and what `clone` and `cross_val_score` ask for (quadmix.search.estimator).

Kinds: `lightgbm`, `gaussian_process`, `log_linear`, and `auto`, which stacks the three by cross-validation on the
training rows alone (quadmix.search.stacking). Each knows the uncertainty of its predictions, calibrated out of fold.

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
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import EnvironmentFault
from quadmix.one_thread import one_blas_thread
from quadmix.search.beside_counts import BesideCounts, split_columns
from quadmix.search.columns import COUNTED, by_rows, check_columns, share_mask, without_qualities
from quadmix.search.estimator import Estimator
from quadmix.search.gaussian_process import GaussianProcess
from quadmix.search.intervals import Calibration, JointCalibration
from quadmix.search.log_linear import LogLinearLaw
from quadmix.search.noise import NoisePrior
from quadmix.search.stacking import Model, Stack

Floats = NDArray[np.float64]


@dataclass
class LightGBMRegressor(Estimator):
    """Gradient-boosted trees. preset: `small` or `regmix`.

    Fitted, `model` is LightGBM's own text format, so a regressor pickles as plain text.
    """

    preset: str = "small"
    model: str | None = field(default=None, init=False)

    def fit(self, features: Floats, losses: Floats) -> LightGBMRegressor:
        lightgbm = _lightgbm()
        rounds, parameters = PRESETS[self.preset](len(losses))
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

    def predict_std(self, features: Floats) -> Floats:
        """(k, f) -> (k,) zeros: trees say nothing of their own uncertainty, so it is all left to the calibration."""
        return np.zeros(len(features))

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self.model is not None


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


PRESETS: Mapping[str, Callable[[int], tuple[int, dict[str, Any]]]] = {"small": _small, "regmix": _regmix}

MODELS: Mapping[str, Callable[[str, tuple[str, ...], NoisePrior | None], Model]] = {
    "gaussian_process": lambda preset, columns, noise: GaussianProcess(columns, noise=noise),
    "lightgbm": lambda preset, columns, noise: LightGBMRegressor(preset),
    "log_linear": lambda preset, columns, noise: LogLinearLaw(columns),
}
# what a kind is made of; `auto` leaves out the log-linear law where it would not see all that matters
REGRESSORS: Mapping[str, tuple[str, ...]] = {**{name: (name,) for name in MODELS}, "auto": tuple(MODELS)}


def make_regressor(
    kind: str = "lightgbm",
    preset: str = "small",
    columns: Sequence[str] = (),
    noise: NoisePrior | None = None,
    target: str = "",
) -> Stack:
    """An unfitted regressor. preset: LightGBM's; columns: names of the features, as FeatureSet.names gives them;
    noise: of the losses, where repeated seeds measured it: the Gaussian process' prior, and the floor of intervals.
    Where there are counted losses among the columns, it predicts what they leave over of the target's.

    Raises ValueError for a kind or preset that does not exist, and for a log-linear law without shares.
    """
    if kind not in REGRESSORS:
        raise ValueError(f"no regressor {kind!r}; wanted one of {', '.join(sorted(REGRESSORS))}")
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; wanted one of {', '.join(sorted(PRESETS))}")
    members = REGRESSORS[kind]
    own, counted = split_columns(columns)
    if kind == "log_linear" and not share_mask(own).any():
        raise ValueError(f"a log-linear law needs columns named `share:DOMAIN` and found {list(columns)[:6]}")
    if kind == "auto" and not (share_mask(own).any() and (counted or without_qualities(own))):
        # random trials differ mostly in shares, so a law of shares alone may err least on them and yet say nothing of
        # qualities, by which proposals are found; counted losses tell of those
        members = tuple(name for name in members if name != "log_linear")
    make = partial(_model, preset=preset, columns=own, noise=noise)
    candidates: dict[str, Callable[[], Model]] = {name: partial(make, name) for name in members}
    if counted:
        which = list(columns).index(f"{COUNTED}{target}")
        candidates = {name: partial(BesideCounts, one, len(own), which) for name, one in candidates.items()}
    return Stack(candidates, least=0.0 if noise is None else noise.least)


def _model(name: str, preset: str, columns: tuple[str, ...], noise: NoisePrior | None) -> Model:
    return MODELS[name](preset, columns, noise)


@dataclass(frozen=True)
class TargetModels:
    """One fitted regressor per target, over the same features."""

    targets: tuple[str, ...]
    models: tuple[Stack, ...]

    def predict(self, features: Floats) -> Floats:
        """(k, f) -> (k, n_targets), nats per token."""
        features = by_rows(features)
        with one_blas_thread():
            return np.stack([model.predict(features) for model in self.models], axis=1)

    def predict_std(self, features: Floats) -> Floats:
        """(k, f) -> (k, n_targets): standard deviation of a new proxy's loss about the prediction, noise included."""
        features = by_rows(features)
        with one_blas_thread():
            return np.stack([model.predict_std(features) for model in self.models], axis=1)

    def predict_interval(self, features: Floats, level: float = 0.9) -> tuple[Floats, Floats]:
        """(low, high), each (k, n_targets): each holds a new proxy's loss with probability `level`."""
        features = by_rows(features)
        with one_blas_thread():
            pairs = [model.predict_interval(features, level) for model in self.models]
        return np.stack([low for low, _ in pairs], axis=1), np.stack([high for _, high in pairs], axis=1)

    def joint_interval(self, features: Floats, weights: Floats, level: float = 0.9) -> tuple[Floats, Floats]:
        """(low, high), each (k,), of the weighted sum of the targets' losses; their errors are correlated."""
        half = JointCalibration.of(self.calibrations, weights).half_width(self.predict_std(features), level)
        mean = np.sum(self.predict(features) * weights, axis=1)
        return mean - half, mean + half

    def shares_of_models(self) -> dict[str, float]:
        """How much each kind of model counts, averaged over the targets."""
        names = sorted({name for model in self.models for name in model.weights})
        return {name: float(np.mean([m.weights.get(name, 0.0) for m in self.models])) for name in names}

    @property
    def calibrated(self) -> bool:
        """Whether the models know how sure they are."""
        return all(model.calibration is not None for model in self.models)

    @cached_property
    def calibrations(self) -> tuple[Calibration, ...]:
        """One a target; residuals of one row stand at the same position in all of them."""
        found = [model.calibration for model in self.models]
        if any(one is None for one in found):
            raise ValueError("these regressors were fitted without calibration and know no uncertainty")
        return tuple(one for one in found if one is not None)


def fit_targets(
    targets: Sequence[str],
    features: Floats,
    losses: Floats,
    kind: str = "lightgbm",
    preset: str = "small",
    columns: Sequence[str] | None = None,
    *,
    calibrate: bool = True,
    noise: Sequence[NoisePrior | None] | None = None,
) -> TargetModels:
    """Fit one model per target. features: (n, f); losses: (n, n_targets); columns: (f,) names of the features; noise:
    (n_targets,) of the losses.

    Without names no column counts as a share. Without `calibrate` the models know no uncertainty, and a kind other
    than `auto` is fitted once instead of six times.
    """
    names = [f"column:{index}" for index in range(features.shape[1])] if columns is None else columns
    check_columns(features, names)
    features = by_rows(features)
    with one_blas_thread():
        models = tuple(
            make_regressor(kind, preset, names, noise[column] if noise else None, target).fit(
                features, by_rows(losses[:, column]), calibrate=calibrate
            )
            for column, target in enumerate(targets)
        )
    return TargetModels(tuple(targets), models)


def fit_screening(
    targets: Sequence[str],
    features: Floats,
    losses: Floats,
    kind: str,
    preset: str,
    columns: Sequence[str],
    full: TargetModels,
    noise: Sequence[NoisePrior | None] | None = None,
) -> TargetModels:
    """What predicts a hundred thousand candidates: a single kind of model, without uncertainty.

    Of `auto` that is the kind which the full models lean on most, never an average: trees cost 17 microseconds a
    candidate and target, the Gaussian process of a swarm of 56 a tenth of that. full: fitted on the same rows.
    """  # fmt: skip
    if kind == "auto":
        share = full.shares_of_models()
        kind = min(share, key=lambda name: (-share[name], name))
    return fit_targets(targets, features, losses, kind, preset, columns, calibrate=False, noise=noise)


def require_regressor(kind: str) -> None:
    """Raises EnvironmentFault where a library that the kind needs cannot be imported."""
    if "lightgbm" in REGRESSORS[kind]:
        _lightgbm()


def _lightgbm() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        # OSError: the wheel is there, but the OpenMP runtime that it links is not
        raise EnvironmentFault(
            f"search.regressor.kind: lightgbm cannot be imported ({error}); install it with "
            "`pip install '.[search]'`, and libgomp with `apt-get install libgomp1` where that is what is missing; "
            "the kind gaussian_process does without"
        ) from error
    return lightgbm
