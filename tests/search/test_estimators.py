"""Every kind of regressor is an estimator to scikit-learn: cloned, scored, searched and piped by its own functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.search.beside_counts import BesideCounts
from quadmix.search.estimator import Estimator
from quadmix.search.gaussian_process import GaussianProcess
from quadmix.search.log_linear import LogLinearLaw
from quadmix.search.noise import NoisePrior
from quadmix.search.regressors import REGRESSORS, LightGBMRegressor, make_regressor

pytest.importorskip("sklearn")
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

COLUMNS = ("share:a", "share:b", "share:c")
ROWS = 48
KINDS: dict[str, Callable[[], Estimator]] = {
    **{f"stack of {kind}": lambda kind=kind: make_regressor(kind, columns=COLUMNS) for kind in REGRESSORS},  # type: ignore[misc]
    "stack beside counts": lambda: make_regressor("gaussian_process", columns=(*COLUMNS[:2], "counted:t"), target="t"),
    "trees": LightGBMRegressor,
    "RegMix's trees": lambda: LightGBMRegressor("regmix"),
    "process": lambda: GaussianProcess(COLUMNS),
    "law": lambda: LogLinearLaw(COLUMNS),
    "beside counts": lambda: BesideCounts(lambda: GaussianProcess(COLUMNS[:2]), 2, 2),
}


def swarm() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(4)
    shares = rng.dirichlet(np.ones(3), ROWS)
    return shares, 2.0 + np.exp(-shares @ [1.0, 2.0, 0.2]) + rng.normal(0, 0.01, ROWS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clone_is_unfitted_has_the_same_parameters_and_fits_to_the_same_bits(kind: str) -> None:
    shares, losses = swarm()
    made = KINDS[kind]()
    fresh = clone(made)
    assert fresh is not made
    assert list(fresh.get_params()) == list(made.get_params())
    first = made.fit(shares, losses).predict(shares)  # type: ignore[attr-defined]
    again = clone(made)  # of a fitted one
    with pytest.raises(NotFittedError):
        check_is_fitted(again)
    with pytest.raises(ValueError, match="before it was fitted"):
        again.predict(shares)
    check_is_fitted(made)
    for one in (fresh, again):
        assert np.array_equal(one.fit(shares, losses).predict(shares), first)
    assert is_regressor(made)


@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_cross_validates_and_scores_every_kind(kind: str) -> None:
    shares, losses = swarm()
    scores = cross_val_score(KINDS[kind](), shares, losses, cv=3)
    assert scores.shape == (3,)
    assert (scores > 0.6).all()
    rank = cross_val_score(KINDS[kind](), shares, losses, cv=3, scoring="neg_mean_absolute_error")
    assert (rank < 0).all()
    held_out = cross_val_predict(KINDS[kind](), shares, losses, cv=3)
    assert np.corrcoef(held_out, losses)[0, 1] > 0.8


def test_parameters_are_searched_and_pipelines_take_a_regressor() -> None:
    shares, losses = swarm()
    found = GridSearchCV(LightGBMRegressor(), {"preset": ["small", "regmix"]}, cv=3).fit(shares, losses)
    assert found.best_params_["preset"] in ("small", "regmix")
    piped = make_pipeline(FunctionTransformer(), GaussianProcess(COLUMNS))
    piped.set_params(gaussianprocess__noise=NoisePrior(0.01, 10)).fit(shares, losses)
    assert piped.score(shares, losses) > 0.9


def test_parameters_are_kept_as_given_and_unknown_ones_refused() -> None:
    made = GaussianProcess(COLUMNS)
    assert made.get_params() == {"columns": COLUMNS, "noise": None}
    assert made.set_params(columns=COLUMNS[:2]) is made
    assert made.columns == COLUMNS[:2]
    with pytest.raises(ValueError, match="GaussianProcess has no parameter 'fitted'; wanted one of columns, noise"):
        made.set_params(fitted=None)


def test_the_score_is_r2_as_scikit_learn_computes_it() -> None:
    from sklearn.metrics import r2_score

    shares, losses = swarm()
    model = LogLinearLaw(COLUMNS).fit(shares[:30], losses[:30])
    weights = np.arange(1.0, 19.0)
    assert model.score(shares[30:], losses[30:]) == pytest.approx(r2_score(losses[30:], model.predict(shares[30:])))
    assert model.score(shares[30:], losses[30:], weights) == pytest.approx(
        r2_score(losses[30:], model.predict(shares[30:]), sample_weight=weights)
    )
    assert model.score(shares[:2], np.full(2, 9.0)) == r2_score(np.full(2, 9.0), model.predict(shares[:2]))
