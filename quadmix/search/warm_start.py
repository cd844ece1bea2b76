"""What trials of an earlier search tell a later one: their losses shifted onto its scale, and only where that helps.

Two searches measure one mixture differently: another version of the pool, other draws, another initialisation. Most of
that is one constant a target. It is what the later trials lie, on average, above what a model of the earlier ones
predicts for them: as exact as the model's error over the square root of their number, where the few mixtures that both
searches trained (natural, uniform, top-k) would leave a proxy's whole noise over the square root of three or four.

Whether the rest is alike cannot be told by looking at domains. So it is tested on the later trials alone: held out in
turn, they must be predicted better with the earlier ones than without. Earlier trials that mislead are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quadmix.search.folds import folds
from quadmix.search.result import MixtureByName

Floats = NDArray[np.float64]

FOLDS = 5


@dataclass(frozen=True)
class Earlier:
    """n finished trials of another search. name: of the search, for the log; losses: (n, n_targets)."""

    name: str
    mixtures: Sequence[MixtureByName]
    losses: Floats


class Predictor(Protocol):
    def predict(self, features: Floats) -> Floats:
        """(k, f) -> (k, n_targets)"""
        ...


Fit = Callable[[Floats, Floats], Predictor]  # features (n, f), losses (n, n_targets)


@dataclass(frozen=True)
class Judged:
    """What became of one search's trials. shift: (n_targets,) nats that were added to their losses; alone, together:
    root mean square error of the later trials' held-out losses without and with them."""

    shift: Floats
    alone: float
    together: float

    @property
    def helps(self) -> bool:
        return self.together < self.alone


def judge(features: Floats, losses: Floats, earlier: Floats, earlier_losses: Floats, fit: Fit, seed: int) -> Judged:
    """Whether earlier trials help to predict later ones; each fold learns the shift from its training rows."""
    rows = len(losses)
    fold = folds(rows, FOLDS, seed, "warm-start")
    above = losses - fit(earlier, earlier_losses).predict(features)
    alone, together = np.empty_like(losses), np.empty_like(losses)
    for index in range(min(FOLDS, rows)):
        out = fold == index
        alone[out] = fit(features[~out], losses[~out]).predict(features[out])
        shifted = earlier_losses + above[~out].mean(axis=0)
        both = fit(np.concatenate([features[~out], earlier]), np.concatenate([losses[~out], shifted]))
        together[out] = both.predict(features[out])
    errors = [float(np.sqrt(np.mean((guess - losses) ** 2))) for guess in (alone, together)]
    return Judged(above.mean(axis=0), *errors)
