"""What is learned from trials: models that screen, models that judge, and how well they rank what they never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from quadmix.config import RegressorConfig
from quadmix.search.cross_validation import cross_validate
from quadmix.search.features import FeatureSet, Mixtures, QualitySample
from quadmix.search.noise import prior_of
from quadmix.search.objective import Objective
from quadmix.search.proposals import params_of_all
from quadmix.search.regressors import fit_screening, fit_targets
from quadmix.search.result import CrossValidation, MixtureByName, Noise, ThetaByName
from quadmix.search.screening import SearchModels
from quadmix.search.warm_start import Earlier, Judged, judge

Floats = NDArray[np.float64]

# documents on which candidates' mean qualities are computed: 0.2 standard deviations / sqrt(20,000) is far below a
# trial's own noise, and a finalist then costs about 5 ms
QUALITY_DOCS = 20_000


@dataclass(frozen=True)
class Trained:
    """Finished trials: the mixtures that came out of their thetas, and losses (n, n_targets)."""

    mixtures: Sequence[MixtureByName]
    thetas: Sequence[ThetaByName]
    losses: Floats

    def matrix(self, columns: FeatureSet) -> Floats:
        """(n, n_features)"""
        mixtures = Mixtures.of_names(self.mixtures, columns.domains, columns.criteria, columns.counted)
        if columns.kind != "theta":
            return columns.matrix(mixtures, None)
        return columns.matrix(mixtures, params_of_all(self.thetas, columns.domains, columns.criteria))


@dataclass(frozen=True)
class Believed:
    """Trials of earlier searches that help, losses (n, n_targets) on the scale of this one's."""

    mixtures: Sequence[MixtureByName]
    losses: Floats

    def matrix(self, columns: FeatureSet) -> Floats:
        """(n, n_features); columns of realised mixtures."""
        return columns.matrix(
            Mixtures.of_names(self.mixtures, columns.domains, columns.criteria, columns.counted), None
        )


def believe(
    earlier: Sequence[Earlier], trained: Trained, columns: FeatureSet, targets: Sequence[str], seed: int
) -> tuple[Believed | None, list[Judged]]:
    """The earlier trials that predict these ones better, shifted; None where none do. One verdict a search.

    Judged by Gaussian processes, whatever the regressor is: the question is about the trials.
    """
    fit = partial(fit_targets, targets, kind="gaussian_process", columns=columns.names, calibrate=False)
    features = trained.matrix(columns)
    verdicts: list[Judged] = []
    mixtures: list[MixtureByName] = []
    losses: list[Floats] = []
    for one in earlier:
        known = Believed(one.mixtures, one.losses).matrix(columns)
        verdict = judge(features, trained.losses, known, one.losses, fit, seed)
        verdicts.append(verdict)
        if verdict.helps:
            mixtures += one.mixtures
            losses.append(one.losses + verdict.shift)
    return (Believed(mixtures, np.concatenate(losses)) if losses else None), verdicts


def feature_sets(
    kind: str, domains: tuple[str, ...], criteria: tuple[str, ...], counted: tuple[str, ...] = ()
) -> tuple[FeatureSet, FeatureSet]:
    """What the full models see, and what screens. kind: realised | theta; counted: targets of the counting proxy."""
    cheap = "screening" if kind == "realised" else "theta"
    return FeatureSet(kind, domains, criteria, counted), FeatureSet(cheap, domains, criteria)


def learn(
    chosen: RegressorConfig,
    objective: Objective,
    sets: tuple[FeatureSet, FeatureSet],
    trained: Trained,
    quality: QualitySample,
    seed: int,
    noise: Noise | None = None,
    earlier: Believed | None = None,
) -> tuple[SearchModels, CrossValidation]:
    """Models fitted on all trials, and held-out scores. sets: of `feature_sets`; noise: as repeated seeds gave it.

    The scores are those of models that saw these trials alone: a word about earlier ones is `Judged`'s.
    """
    full, cheap = sets
    targets, losses, features = objective.targets, trained.losses, trained.matrix(full)
    priors = [prior_of(noise, target) for target in targets]
    validation = cross_validate(
        targets, objective, features, losses,
        folds=chosen.folds, seed=seed, kind=chosen.kind, preset=chosen.preset, columns=full.names, noise=priors,
    )  # fmt: skip
    screened = trained.matrix(cheap)
    if earlier is not None:
        losses = np.concatenate([losses, earlier.losses])
        features, screened = (np.concatenate([a, earlier.matrix(b)]) for a, b in ((features, full), (screened, cheap)))
    fitted = fit_targets(targets, features, losses, chosen.kind, chosen.preset, full.names, noise=priors)
    screening = fit_screening(
        targets, screened, losses, chosen.kind, chosen.preset, cheap.names, fitted, priors
    )  # fmt: skip
    return SearchModels(screening, fitted, cheap, full, objective, quality), validation
