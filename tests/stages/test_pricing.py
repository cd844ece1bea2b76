"""Prices of constraints and of the divergence penalty, against a planted loss whose prices are known."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import ParamSpace
from quadmix.search.features import FeatureSet
from quadmix.search.objective import Objective
from quadmix.search.result import ConstraintFact
from quadmix.search.screening import ScreenChunk, Screened, SearchModels, chunks, finalists
from quadmix.stages.constraining import Constraints, ScreenAgain
from tests.stages.inline_engine import Here, InlineEngine

DOMAINS, CRITERIA = ("a", "b", "c", "d"), ("x",)
TOKENS = np.array([400_000, 300_000, 200_000, 100_000])
FEATURES = FeatureSet("screening", DOMAINS, CRITERIA)
WORTH = np.array([-1.0, 0.5, 0.0, 0.0])  # nats for a whole budget of each domain
CANDIDATES, TOP, SEED = 10_000, 10, 3


@dataclass(frozen=True)
class Linear:
    """Losses linear in the shares."""

    targets: tuple[str, ...] = ("t",)

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = [FEATURES.names.index(f"share:{name}") for name in DOMAINS]
        return np.asarray(4.0 + (features[:, columns] @ WORTH)[:, None])


class Searched:
    """The candidates of a search under constraints, and what it says of them."""

    def __init__(self, asked: dict[str, Any]) -> None:
        mixture = MixtureConfig.model_validate({"criteria": CRITERIA, "budget": 200_000, "constraints": asked})
        space = ParamSpace(len(DOMAINS), len(CRITERIA))
        self.constraints = Constraints.of(mixture, space, DOMAINS, TOKENS, SEED)
        linear = cast(Any, Linear())
        objective = Objective({"t": 1.0})
        self.models = Here(SearchModels(linear, linear, FEATURES, FEATURES, objective, cast(Any, None)))
        task = ScreenChunk(space, mixture, TOKENS, SEED, TOP, self.models, self.constraints.active)
        self.screened: list[Screened] = [task(item) for item in chunks(CANDIDATES)]

    def asked_of(self, which: str, *shares: float) -> Any:
        """`facts` or `kl_fact` of a proposal with these shares."""
        share = dict(zip(DOMAINS, shares, strict=True))
        proposal = SimpleNamespace(mixture=SimpleNamespace(share=share))
        method = getattr(self.constraints, which)
        return method(ScreenAgain(InlineEngine(), self.models, SEED, CANDIDATES, TOP), proposal, self.screened)

    def best(self) -> tuple[list[tuple[int, int]], float]:
        """The best candidates, and their mean predicted loss without the penalty."""
        chosen = finalists(self.screened, TOP)
        plain = {
            (part.chunk, row): float(joint - penalty)
            for part in self.screened
            for row, joint, penalty in zip(part.rows.tolist(), part.joint, part.penalty, strict=True)
        }
        return chosen, float(np.mean([plain[place] for place in chosen]))


def test_a_price_is_what_one_percentage_point_of_a_linear_loss_is_worth() -> None:
    facts, how = Searched({"max_share": {"a": 0.2}, "min_share": {"b": 0.3}}).asked_of("facts", 0.2, 0.3, 0.3, 0.2)
    prices = {fact.name: fact.price for fact in facts}
    assert prices == {"max_share.a": pytest.approx(0.01, rel=0.02), "min_share.b": pytest.approx(0.005, rel=0.02)}
    assert "1 percentage point" in how


def test_what_does_not_bind_has_no_price() -> None:
    (fact,), _ = Searched({"max_share": {"a": 0.9}}).asked_of("facts", 0.7, 0.1, 0.1, 0.1)
    assert fact == ConstraintFact("max_share.a", "a", 0.9, 180_000.0, 0.7, False, None)


def test_the_penalty_moves_the_best_candidates_and_its_price_is_the_loss_that_they_give_up() -> None:
    free, held = Searched({"kl": 0.0}), Searched({"kl": 0.5})
    (free_chosen, free_loss), (held_chosen, held_loss) = free.best(), held.best()
    assert set(held_chosen) != set(free_chosen)
    assert held_loss > free_loss + 0.05
    natural, share = TOKENS / TOKENS.sum(), np.array([0.55, 0.15, 0.2, 0.1])
    divergence = float(np.sum(share * np.log(share / natural)))
    fact = held.asked_of("kl_fact", *share)
    assert (fact.weight, fact.divergence) == (0.5, pytest.approx(divergence))
    assert fact.penalty == pytest.approx(0.5 * divergence)
    assert fact.price == pytest.approx(held_loss - free_loss)
    assert free.asked_of("kl_fact", *share) is None
