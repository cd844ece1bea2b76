"""Which domains of an earlier pool are this pool's, and what an earlier trial is as a mixture of this pool."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from quadmix.search.domain_match import match_domains
from quadmix.search.result import MixtureByName

FACTS: dict[str, Any] = {
    "labels": "by column",
    "normalise": "rank_sample",
    "domains": {
        "code": {"tokens": 1000, "quality": {"neat": 0.4, "rare": 0.5}},
        "law": {"tokens": 4000, "quality": {"neat": 0.6, "rare": 0.5}},
    },
}


def mixture(**share: float) -> MixtureByName:
    quality = {name: {"neat": 0.1, "rare": 0.2} for name in share}
    return MixtureByName(500.0, share, dict.fromkeys(share, 2.0), quality, {"math": 4.0})


def changed(**domains: Any) -> dict[str, Any]:
    facts = copy.deepcopy(FACTS)
    for name, value in domains.items():
        if value is None:
            del facts["domains"][name]
        else:
            facts["domains"].setdefault(name, {"tokens": 9, "quality": {"neat": 0.3, "rare": None}}).update(value)
    return facts


def test_the_same_pool_takes_every_trial_as_it_is() -> None:
    match = match_domains(FACTS, FACTS)
    one = mixture(code=0.25, law=0.75)
    assert (match.differences, match.refused) == ((), ())
    assert match.holds(one)
    assert match.translated(one) == one


def test_shares_do_not_hang_on_the_order_of_a_set() -> None:
    names = [f"domain-{n}" for n in range(12)]
    facts = {**FACTS, "domains": dict.fromkeys(names, FACTS["domains"]["code"])}
    one = mixture(**{name: (n + 1) / 78 for n, name in enumerate(names)})
    assert match_domains(facts, facts).translated(one) == one  # bit by bit
    match = match_domains(facts, {**facts, "domains": {**facts["domains"], "new": FACTS["domains"]["law"]}})
    assert match.same == tuple(sorted(names))
    found = match.translated(one)
    assert found.tokens == 500.0 * math.fsum(one.share.values())


def test_a_trial_had_nothing_of_a_domain_that_is_new() -> None:
    match = match_domains(FACTS, changed(math={}))
    assert match.differences == ("domain 'math' is new",)
    one = mixture(code=0.25, law=0.75)
    assert match.holds(one)
    assert match.translated(one) == MixtureByName(
        500.0,
        {"code": 0.25, "law": 0.75, "math": 0.0},
        {"code": 2.0, "law": 2.0, "math": 1.0},
        {"code": {"neat": 0.1, "rare": 0.2}, "law": {"neat": 0.1, "rare": 0.2}, "math": {"neat": 0.3, "rare": 0.5}},
        {"math": 4.0},
    )


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (changed(law=None), "domain 'law' is gone"),
        (changed(law={"tokens": 16_001}), "domain 'law' had 4,000 tokens, has 16,001"),
        (changed(law={"quality": {"neat": 0.71, "rare": 0.5}}), "domain 'law': mean neat was 0.60, is 0.71"),
    ],
)
def test_trials_with_text_of_a_domain_that_differs_are_of_no_use(now: dict[str, Any], said: str) -> None:
    match = match_domains(FACTS, now)
    assert match.differences == (said,)
    assert not match.holds(mixture(code=0.25, law=0.75))
    assert not match.holds(mixture(code=0.98, law=0.02))
    almost = mixture(code=0.995, law=0.005)
    assert match.holds(almost)
    found = match.translated(almost)
    assert found.tokens == pytest.approx(0.995 * 500.0)
    assert found.share == {"code": pytest.approx(1.0)} | ({"law": 0.0} if "law" in now["domains"] else {})


def test_what_is_within_the_bounds_is_the_same_domain() -> None:
    now = changed(law={"tokens": 16_000, "quality": {"neat": 0.69, "rare": None}}, code={"tokens": 251})
    assert match_domains(FACTS, now).differences == ()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("labels", "by clusters", "labelled with domains in another way"),
        ("normalise", "minmax", "mixture.normalise was rank_sample, is minmax"),
    ],
)
def test_other_labels_or_scales_are_refused(key: str, value: str, said: str) -> None:
    (refused,) = match_domains(FACTS, FACTS | {key: value}).refused
    assert said in refused


def test_other_criteria_are_refused() -> None:
    now = changed(code={"quality": {"neat": 0.4}}, law={"quality": {"neat": 0.6}})
    assert match_domains(FACTS, now).refused == ("criteria were neat, rare, are neat",)
