"""How well a regressor ranks mixtures it has not seen: k-fold over trials, beside a permuted-label control.

Every trial is predicted once, by models that never saw it. The scores are computed over all held-out predictions
together, per target and for the joint objective. The control repeats the whole procedure with the losses dealt out to
the wrong trials: what a regressor of these features (of `auto`, the kind that it leaned on) scores when there is
nothing to learn. Whatever a regressor chooses
or calibrates by cross-validation of its own, it does anew on the training rows of each fold.

The coverage says how many held-out losses lay in their 90 % intervals: the proof of the uncertainty, on rows that
had no part in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quadmix.search.folds import folds as deal
from quadmix.search.folds import shuffled
from quadmix.search.joint_intervals import intervals
from quadmix.search.noise import NoisePrior
from quadmix.search.objective import Objective
from quadmix.search.regressors import fit_targets
from quadmix.search.result import JOINT, CrossValidation, Scores

Floats = NDArray[np.float64]

PERMUTATIONS = 3


def cross_validate(
    targets: Sequence[str],
    objective: Objective,
    features: Floats,
    losses: Floats,
    *,
    folds: int,
    seed: int,
    kind: str = "lightgbm",
    preset: str = "small",
    columns: Sequence[str] | None = None,
    noise: Sequence[NoisePrior | None] | None = None,
) -> CrossValidation:
    """features: (n, f) with named columns; losses: (n, n_targets) finite, in the order of the objective's targets."""
    rows = len(losses)
    folds = min(folds, rows)
    fold = deal(rows, folds, seed, "folds")

    predicted, inside = np.empty_like(losses), np.empty((rows, len(targets) + 1), dtype=bool)
    leaned: Counter[str] = Counter()
    for index in range(folds):
        out = fold == index
        models = fit_targets(targets, features[~out], losses[~out], kind, preset, columns, noise=noise)
        predicted[out] = models.predict(features[out])
        leaned.update(models.shares_of_models())
        low, high = intervals(models, features[out], objective)
        measured = np.column_stack([losses[out], objective.joint(losses[out])])
        inside[out] = (low <= measured) & (measured <= high)

    # choosing among kinds anew for every control would cost more than everything else and teach nothing
    plain = min(leaned, key=lambda name: (-leaned[name], name))

    def control(dealt: Floats) -> Floats:
        guessed = np.empty_like(dealt)
        for index in range(folds):
            out = fold == index
            models = fit_targets(targets, features[~out], dealt[~out], plain, preset, columns, calibrate=False)
            guessed[out] = models.predict(features[out])
        return guessed

    controls = []
    for repeat in range(PERMUTATIONS):
        dealt = losses[shuffled(rows, seed, f"permuted/{repeat}")]
        controls.append(_all_scores(targets, objective, dealt, control(dealt)))
    names = [*targets, JOINT]
    return CrossValidation(
        folds=folds,
        rows=rows,
        scores=_all_scores(targets, objective, losses, predicted),
        permuted={name: _mean_scores([control[name] for control in controls]) for name in names},
        permutations=PERMUTATIONS,
        coverage={name: float(share) for name, share in zip(names, inside.mean(axis=0), strict=True)},
        out_of_fold={name: [float(v) for v in column] for name, column in _columns(targets, objective, predicted)},
    )


def scores(measured: Floats, predicted: Floats) -> Scores:
    """Spearman's rank correlation (0 when either side is constant), mean absolute error (nats) and R2. (n,) each."""
    error = measured - predicted
    spread = float(np.sum((measured - measured.mean()) ** 2))
    return Scores(
        spearman=_spearman(measured, predicted),
        mae=float(np.mean(np.abs(error))),
        r2=1.0 - float(np.sum(error**2)) / spread if spread > 0 else 0.0,
    )


def _spearman(a: Floats, b: Floats) -> float:
    ranks = [_mid_ranks(values) for values in (a, b)]
    left, right = (rank - rank.mean() for rank in ranks)
    scale = float(np.sqrt(np.sum(left**2) * np.sum(right**2)))
    return float(np.sum(left * right)) / scale if scale > 0 else 0.0


def _mid_ranks(values: Floats) -> Floats:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[group], dtype=np.float64)


def _columns(targets: Sequence[str], objective: Objective, values: Floats) -> list[tuple[str, Floats]]:
    return [*((name, values[:, column]) for column, name in enumerate(targets)), (JOINT, objective.joint(values))]


def _all_scores(targets: Sequence[str], objective: Objective, measured: Floats, predicted: Floats) -> dict[str, Scores]:
    pairs = zip(_columns(targets, objective, measured), _columns(targets, objective, predicted), strict=True)
    return {name: scores(truth, guess) for (name, truth), (_, guess) in pairs}


def _mean_scores(parts: Sequence[Scores]) -> Scores:
    return Scores(
        spearman=float(np.mean([part.spearman for part in parts])),
        mae=float(np.mean([part.mae for part in parts])),
        r2=float(np.mean([part.r2 for part in parts])),
    )
