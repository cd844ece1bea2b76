"""What a fit of ODiS leaves behind: the components of the scores, what belongs to each, and how alike their top sets
are.

`Outcome` goes to JSON and back without loss. The plan, the manifest, the report and `explain` read nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, with_config

from quadmix.core.components import Projection
from quadmix.selectors.outcome_json import outcome_from_json

_STRICT = ConfigDict(extra="forbid")
COLLINEAR = 0.95  # beyond it two dimensions say the same thing twice


def component_name(index: int) -> str:
    """PC1 for the first. Names sort as their numbers do: a fit keeps at most nine."""
    return f"PC{index + 1}"


@with_config(_STRICT)
@dataclass(frozen=True)
class Dimension:
    """One score column. quality: whether it decides signs; mean, deviation: over all documents."""

    name: str
    group: str | None
    quality: bool
    mean: float
    deviation: float


@with_config(_STRICT)
@dataclass(frozen=True)
class ComponentOutcome:
    """One component that is kept. loadings: its correlation with each dimension; weights: of each dimension's distance
    from its mean in the whitened component. share: its weight in the budget; asked: tokens by that share. documents,
    tokens: what belongs to it. top: tokens of its own top set of `asked` tokens, which knows nothing of the other
    components; shared: how many of these lie in each component's top set."""

    name: str
    loadings: tuple[float, ...]
    weights: tuple[float, ...]
    share: float
    asked: int
    documents: int
    tokens: int
    top: int
    shared: tuple[int, ...]


@with_config(_STRICT)
@dataclass(frozen=True)
class Outcome:
    """documents, tokens: of the pool. correlation: (D, D); eigenvalues: (D,). floor: quantile of the first component
    below which no document is admitted through another one, None: there is none; below_floor: documents and tokens
    that belong to the first component for that reason, counted there."""

    budget: int
    documents: int
    tokens: int
    dimensions: tuple[Dimension, ...]
    correlation: tuple[tuple[float, ...], ...]
    eigenvalues: tuple[float, ...]
    explained_variance: float
    most_components: int
    components: tuple[ComponentOutcome, ...]
    floor: float | None
    below_floor: tuple[int, int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    @property
    def explained(self) -> tuple[float, ...]:
        """(D,) share of the variance of each component, kept or not."""
        return tuple(value / len(self.eigenvalues) for value in self.eigenvalues)

    @property
    def projection(self) -> Projection:
        return Projection(
            np.array([dimension.mean for dimension in self.dimensions]),
            np.array([component.weights for component in self.components]),
        )

    @property
    def collinear(self) -> tuple[tuple[str, str, float], ...]:
        """Pairs of dimensions that correlate beyond .95 either way."""
        return tuple(
            (self.names[i], self.names[j], row[j])
            for i, row in enumerate(self.correlation)
            for j in range(i + 1, len(row))
            if abs(row[j]) > COLLINEAR
        )

    def overlap(self, one: int, other: int) -> tuple[float, float]:
        """Tokens in both independent top sets as a share of those in either, and what it would be if the two sets were
        drawn independently."""
        first, second = self.components[one], self.components[other]
        both = first.shared[other]
        either = first.top + second.top - both
        a, b = first.top / self.tokens, second.top / self.tokens
        return (both / either if either else 0.0), (a * b / (a + b - a * b) if a + b else 0.0)

    def messages(self, quotas: Sequence[int]) -> list[str]:
        """What a user should know. quotas: (K,) tokens that each component gives in the end."""
        lines = [
            f"{first} and {second} correlate at {value:.3f}: they say much the same; take one of them out"
            for first, second, value in self.collinear
        ]
        for component, quota in zip(self.components, quotas, strict=True):
            if quota < component.asked and quota == component.tokens:
                lines.append(
                    f"{component.name} has {component.tokens:,} tokens, fewer than its {component.asked:,}; the rest "
                    "comes from the other components by their shares"
                )
        return lines

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> Outcome:
        """Raises VerificationError where `value` is not what `to_json` gives."""
        return outcome_from_json(_OUTCOME, value, "ODiS")


_OUTCOME = TypeAdapter(Outcome)
