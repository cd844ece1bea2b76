"""What `plan` says of quotas that a counted pool cannot give, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quadmix.stages.annotate import SUMMARY_FILE
from quadmix.stages.plan_quotas import quota_problems
from quadmix.stages.records import stage_directory
from tests.selectors.contract_pools import annotate, config_of, documents

Problems = Callable[..., list[str]]
THRESHOLD = {"selector": "threshold", "mixture": "free", "criterion": "clean"}


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Problems:
    root = tmp_path_factory.mktemp("plan")
    annotated = annotate(root / "pool", documents("plain"))
    folder: Path = stage_directory(root, "annotate", annotated.record.fingerprint)
    folder.mkdir(parents=True)
    annotated.summary.save(str(folder / SUMMARY_FILE))

    def of(share: float, max_copies: int = 4, **chosen: Any) -> list[str]:
        budget = int(share * annotated.summary.total_tokens)
        return quota_problems(config_of(root, chosen, budget, max_copies), annotated.record)

    return of


def test_weights_are_held_against_what_domains_hold(problems: Problems) -> None:
    weights = {"web": 1.0, "code": 1.0, "books": 1.0}
    assert problems(0.1, 1, mixture="weights", weights=weights) == []
    (short,) = problems(1.0, 1, mixture="weights", weights={"web": 1.0})
    assert "(tokens asked of tokens held: web " in short
    assert problems(1.0, 4, mixture="weights", weights={"web": 1.0}) == []
    # a selector takes each document once, whatever a mixture might repeat
    (short,) = problems(1.0, 4, mixture="weights", weights={"web": 1.0}, selector="random")
    assert "more than 1 copies" in short
    (unknown,) = problems(0.1, 1, mixture="weights", weights={"webb": 1.0})
    assert unknown.startswith("select.weights: found webb, but the pool has no documents of that name")


def test_uniform_quotas_of_selectors_are_what_domains_hold(problems: Problems) -> None:
    (short,) = problems(0.9, mixture="uniform", selector="random")
    assert short.startswith("select: domain 'books' has a quota of")
    assert problems(0.9, mixture="uniform") == []


@pytest.mark.parametrize("bound", [{"least_score": 0.7}, {"least_quantile": 0.8}])
def test_a_threshold_that_lets_too_little_pass_is_told(problems: Problems, bound: dict[str, float]) -> None:
    assert problems(0.15, **THRESHOLD, threshold=bound) == []
    (short,) = problems(0.5, **THRESHOLD, threshold=bound)
    assert short.startswith("select.threshold: at most ")
