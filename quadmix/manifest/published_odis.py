"""What a manifest says of the components of scores, and everything of it computed again, for `verify` and `explain`.

Written from algorithms.md, section 4, sharing nothing with the code that selects. Means, deviations and correlations
are computed from the scores; that the published components are eigenvectors is checked by multiplying, not by solving
again. The whitened components themselves follow the one sequence of operations that the manifest's form prescribes,
since their last bits order documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from quadmix.manifest.recompute import (
    SPLIT_BITS,
    Floats,
    Ints,
    crowded,
    order_keys,
    shares_within_room,
    token_quantiles,
    whole_shares,
)

TOLERANCE = 1e-7  # of correlations and of eigenvectors: scores were rounded to 40 bits below their column's largest
_UNIT = 2.0**30


class Dimension(BaseModel):
    """One score column as published."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    name: str
    group: str | None
    quality: bool
    mean: float
    deviation: float = Field(gt=0)


class Component(BaseModel):
    """One component as published."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    name: str
    loadings: list[float]
    weights: list[float]
    share: float = Field(ge=0, le=1)
    asked: int = Field(ge=0)
    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    top: int = Field(ge=0)
    shared: list[int]


class Fit(BaseModel):
    """The fit of ODiS as published."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    budget: int = Field(ge=1)
    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)
    dimensions: list[Dimension] = Field(min_length=2)
    correlation: list[list[float]]
    eigenvalues: list[float]
    explained_variance: float = Field(gt=0, le=1)
    most_components: int = Field(ge=1)
    components: list[Component] = Field(min_length=1, max_length=9)
    floor: float | None = Field(ge=0, le=1)
    below_floor: list[int] = Field(min_length=2, max_length=2)

    @model_validator(mode="after")
    def _shapes(self) -> Fit:
        size, kept = len(self.dimensions), len(self.components)
        rows = [self.eigenvalues, *self.correlation]
        rows += [row for one in self.components for row in (one.loadings, one.weights)]
        if len(self.correlation) != size or any(len(row) != size for row in rows):
            raise ValueError(f"the matrices do not fit {size} dimensions")
        if kept > size or any(len(one.shared) != kept for one in self.components):
            raise ValueError(f"the overlaps do not fit {kept} components")
        if [one.name for one in self.components] != [f"PC{index + 1}" for index in range(kept)]:
            raise ValueError("components are not PC1, PC2, ... in order")
        return self

    def values(self, scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(n, K) whitened components of D columns of (n,) scores: (x_d - mean_d) * weight_d added in the order of the
        dimensions in float64, rounded to float32 at the end."""
        apart = np.stack([column.astype(np.float64) for column in scores], axis=1)
        apart -= [dimension.mean for dimension in self.dimensions]
        terms = [apart * np.array(component.weights) for component in self.components]
        return np.stack([np.add.accumulate(term, axis=1)[:, -1] for term in terms], axis=1).astype(np.float32)

    def quotas(self, budget: int, room: Sequence[int]) -> list[int]:
        """(K,) tokens by the shares; who has not as many gives all it has, and the others share what is missing."""
        return shares_within_room([component.share for component in self.components], room, budget)

    def problems(self, sums: ScoreSums, census: Census) -> Iterator[tuple[str, Any, Any]]:
        """(field, published, computed) of everything that does not follow from the scores."""
        yield from self._moment_problems(sums)
        yield from self._component_problems()
        wanted: dict[str, tuple[Any, Any]] = {
            "documents": (self.documents, sums.n),
            "tokens": (self.tokens, census.pool_tokens),
            "below_floor": (self.below_floor, census.moved.tolist()),
        }
        shares = [component.share for component in self.components]
        for k, (component, asked) in enumerate(zip(self.components, whole_shares(shares, self.budget), strict=True)):
            wanted[f"components.{k}.asked"] = component.asked, asked
            wanted[f"components.{k}.documents"] = component.documents, int(census.documents[k])
            wanted[f"components.{k}.tokens"] = component.tokens, int(census.tokens[k])
            wanted[f"components.{k}.top"] = component.top, int(census.shared[k, k])
            wanted[f"components.{k}.shared"] = component.shared, census.shared[k].tolist()
        for name, (found, own) in wanted.items():
            if found != own:
                yield name, found, own

    def _moment_problems(self, sums: ScoreSums) -> Iterator[tuple[str, Any, Any]]:
        mean, deviation, correlation = sums.moments()
        for d, dimension in enumerate(self.dimensions):
            if abs(dimension.mean - mean[d]) > TOLERANCE * (abs(mean[d]) + deviation[d]):
                yield f"dimensions.{d}.mean", dimension.mean, float(mean[d])
            if abs(dimension.deviation - deviation[d]) > TOLERANCE * deviation[d]:
                yield f"dimensions.{d}.deviation", dimension.deviation, float(deviation[d])
        off = np.abs(np.array(self.correlation) - correlation) > TOLERANCE
        for i, j in np.argwhere(off).tolist():
            yield f"correlation.{i}.{j}", self.correlation[i][j], float(correlation[i, j])

    def _component_problems(self) -> Iterator[tuple[str, Any, Any]]:
        matrix, size = np.array(self.correlation), len(self.dimensions)
        own = np.linalg.eigvalsh(matrix)[::-1]
        for d, value in enumerate(self.eigenvalues):
            if abs(value - own[d]) > TOLERANCE * size:
                yield f"eigenvalues.{d}", value, float(own[d])
        cumulative = np.cumsum(own) / size
        enough = int(np.flatnonzero(cumulative >= self.explained_variance - TOLERANCE)[0]) + 1
        kept = min(enough, self.most_components, int((own > 1e-9 * size).sum()))
        if len(self.components) != kept:
            yield "components", len(self.components), kept
            return
        quality = np.array([dimension.quality for dimension in self.dimensions])
        deviation = np.array([dimension.deviation for dimension in self.dimensions])
        vectors = []
        for k, component in enumerate(self.components):
            vector = np.array(component.loadings) / math.sqrt(own[k])
            vectors.append(vector)
            off = float(np.abs(matrix @ vector - own[k] * vector).max())
            if off > TOLERANCE * size:
                yield f"components.{k}.loadings", f"off an eigenvector by {off:.3g}", f"at most {TOLERANCE * size:.1g}"
            if quality.any() and float(vector[quality].sum()) < -TOLERANCE:
                yield f"components.{k}.loadings", "quality dimensions that sum to less than 0", "more than 0"
            weights = vector / math.sqrt(own[k]) / deviation
            for d in np.flatnonzero(np.abs(weights - component.weights) > TOLERANCE * np.abs(weights).max()).tolist():
                yield f"components.{k}.weights.{d}", component.weights[d], float(weights[d])
        off = float(np.abs(np.array(vectors) @ np.array(vectors).T - np.eye(kept)).max())
        if off > TOLERANCE * size:
            yield "components.loadings", f"off orthogonal by {off:.3g}", f"at most {TOLERANCE * size:.1g}"


class ScoreSums:
    """Sums of scores and of their products, around the published means so that nothing cancels."""

    def __init__(self, fit: Fit) -> None:
        self.centre = np.array([dimension.mean for dimension in fit.dimensions])
        size = len(fit.dimensions)
        self.n, self.first, self.second = 0, np.zeros(size), np.zeros((size, size))

    def add(self, scores: Sequence[NDArray[np.float32]]) -> None:
        apart = np.stack([column.astype(np.float64) for column in scores], axis=1) - self.centre
        self.n += len(apart)
        self.first += apart.sum(axis=0)
        self.second += apart.T @ apart

    def moments(self) -> tuple[Floats, Floats, Floats]:
        """(D,) means, (D,) deviations, (D, D) correlations."""
        shift = self.first / self.n
        covariance = self.second / self.n - np.outer(shift, shift)
        deviation = np.sqrt(np.diag(covariance))
        return self.centre + shift, deviation, covariance / np.outer(deviation, deviation)


class QuantileCounts:
    """Histograms of the components, from which their token-weighted quantiles follow: first coarse, then exact where a
    coarse bin is crowded."""

    def __init__(self, kept: int) -> None:
        size = 1 << (32 - SPLIT_BITS)
        self.docs, self.tokens = np.zeros((kept, size), dtype=np.int64), np.zeros((kept, size), dtype=np.int64)
        self.single: list[dict[int, int]] = [{} for _ in range(kept)]
        self.split = np.zeros((kept, size), dtype=bool)

    def add_coarse(self, values: NDArray[np.float32], tokens: Ints) -> None:
        for k in range(values.shape[1]):
            bins = order_keys(values[:, k]) >> SPLIT_BITS
            np.add.at(self.docs[k], bins, 1)
            np.add.at(self.tokens[k], bins, tokens)

    def find_crowded(self) -> None:
        for k in range(len(self.docs)):
            self.split[k] = crowded(self.docs[k], self.tokens[k])

    def add_single(self, values: NDArray[np.float32], tokens: Ints) -> None:
        for k, held in enumerate(self.single):
            keys = order_keys(values[:, k])
            inside = self.split[k, keys >> SPLIT_BITS]
            for key, count in zip(keys[inside].tolist(), tokens[inside].tolist(), strict=True):
                held[key] = held.get(key, 0) + count

    def quantiles(self) -> list[Quantiles]:
        found = []
        for k, held in enumerate(self.single):
            used = np.flatnonzero(self.docs[k])
            single = np.array(sorted(held), dtype=np.int64)
            counts = np.array([held[key] for key in single.tolist()], dtype=np.int64)
            keys, share = token_quantiles(used, self.docs[k, used], self.tokens[k, used], single, counts)
            found.append(Quantiles(keys, np.rint(share * _UNIT).astype(np.int64)))
        return found


@dataclass(frozen=True)
class Quantiles:
    """One component's map: class starts as order keys, ascending, and the quantile of each class in units of 2**-30."""

    keys: Ints
    units: Ints

    def of(self, values: NDArray[np.float32]) -> Ints:
        at = np.searchsorted(self.keys, order_keys(values), side="right") - 1
        return self.units[np.maximum(at, 0)]


@dataclass
class Census:
    """documents, tokens: (K,); moved: (2,) documents and tokens that the floor moves to the first component; shared:
    (K, K) tokens of two top sets."""

    documents: Ints
    tokens: Ints
    moved: Ints
    shared: Ints

    @staticmethod
    def empty(kept: int) -> Census:
        return Census(*(np.zeros(shape, dtype=np.int64) for shape in ((kept,), (kept,), (2,), (kept, kept))))

    @property
    def pool_tokens(self) -> int:
        return int(self.tokens.sum())

    def add(self, component: Ints, quantiles: Ints, tokens: Ints, tops: Sequence[int]) -> None:
        """component: (n,); quantiles: (n, K) in units of 2**-30; tops: (K,) `top_quantile`."""
        np.add.at(self.documents, component, 1)
        np.add.at(self.tokens, component, tokens)
        moved = quantiles[np.arange(len(component)), component] < quantiles.max(axis=1)
        self.moved += [int(moved.sum()), int(tokens[moved].sum())]
        inside = quantiles >= np.array(tops)
        for row in range(inside.shape[1]):
            for column in range(inside.shape[1]):
                self.shared[row, column] += int(tokens[inside[:, row] & inside[:, column]].sum())


def top_quantile(asked: int, pool_tokens: int) -> int:
    """Quantile, in units of 2**-30, above which a component's own top set of `asked` tokens lies."""
    return round((1.0 - min(asked / pool_tokens, 1.0)) * _UNIT)


def best_component(quantiles: Ints, floor: float | None) -> Ints:
    """(n,) the first component of highest quantile in (n, K); the first of all where its quantile is below the
    floor."""
    best = np.zeros(len(quantiles), dtype=np.int64)
    for k in range(1, quantiles.shape[1]):
        best[quantiles[:, k] > quantiles[np.arange(len(best)), best]] = k
    return np.where(quantiles[:, 0] < round((floor or 0.0) * _UNIT), 0, best)
