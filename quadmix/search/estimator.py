"""What scikit-learn asks of an estimator beside `fit` and `predict`, without importing it before it asks.

A regressor is a dataclass: the fields of its constructor are its parameters, stored as they were given; what `fit`
learns are fields with `init=False`. So `sklearn.base.clone` makes an unfitted copy, and scikit-learn's cross-validation
and grid searches take the regressors as they are. Its own base classes would have to be imported with this package, and
scikit-learn is an optional dependency.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class _Predicts(Protocol):
    def predict(self, features: Floats, /) -> Floats: ...


class Estimator:
    """Base of dataclasses that are regressors in scikit-learn's sense."""

    _estimator_type = "regressor"  # scikit-learn before 1.6

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments as they were given. deep: also those of an argument that is an estimator itself,
        as `argument__parameter`."""
        found = {name: getattr(self, name) for name in self._parameters()}
        if deep:
            for name, value in list(found.items()):
                if hasattr(value, "get_params") and not isinstance(value, type):
                    found |= {f"{name}__{inner}": one for inner, one in value.get_params().items()}
        return found

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor, `argument__parameter` for those of an estimator among them; what was
        fitted stays until the next `fit`. Raises ValueError for a name that is no argument."""
        names = self._parameters()
        for name, value in params.items():
            own, _, inner = name.partition("__")
            if own not in names:
                raise ValueError(f"{type(self).__name__} has no parameter {own!r}; wanted one of {', '.join(names)}")
            if inner:
                getattr(self, own).set_params(**{inner: value})
            else:
                setattr(self, own, value)
        return self

    def score(self: _Predicts, features: Floats, losses: Floats, sample_weight: Floats | None = None) -> float:
        """R² of the predictions of (k, f) features against (k,) losses, 1 at best; `sample_weight`: (k,). Of losses
        that do not differ it is 1 where the predictions are exact and else 0."""
        weights = np.ones(len(losses)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        missed = float(np.sum(weights * (losses - self.predict(features)) ** 2))
        spread = float(np.sum(weights * (losses - np.average(losses, weights=weights)) ** 2))
        if spread == 0.0:
            return 1.0 if missed == 0.0 else 0.0
        return 1.0 - missed / spread

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return self.is_fitted

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        raise NotImplementedError

    @classmethod
    def _parameters(cls) -> list[str]:
        return [one.name for one in fields(cls) if one.init]  # type: ignore[arg-type]
