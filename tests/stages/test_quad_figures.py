"""The pictures of a bandit's outcome: the same bytes for the same outcome, and every kind of outcome can be drawn."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.planted_arms import plant
from quadmix.selectors.quad import Bandit, BanditSettings
from quadmix.selectors.quad_baselines import cluster_uniform, top_clusters
from quadmix.selectors.quad_outcome import Outcome
from quadmix.stages import quad_figures


def drawn(share: float, scored: float, size: int = 12, pull: int = 8) -> Outcome:
    planted = plant("spread", 3, size)
    return planted.told(Bandit(planted.arms, planted.settings(share, scored, docs_per_pull=pull))).outcome()


def dots(svg: str) -> int:
    """Dots of all clusters: drawn one by one, or one used many times where all have one size."""
    groups = re.findall(r'<g id="dots">.*?\n   </g>', svg, re.S)
    return sum(len(re.findall("<use ", group)) or len(re.findall("<path ", group)) for group in groups)


def test_every_cluster_has_a_dot_and_those_with_most_tokens_their_names() -> None:
    outcome = drawn(0.1, 0.3)
    svg = quad_figures.clusters(outcome)
    assert dots(svg) == len(outcome.clusters)
    best = max(outcome.clusters, key=lambda cluster: cluster.granted + cluster.fill)
    assert f">{best.name}<" in svg
    assert ">kept<" in svg
    assert ">not kept<" in svg


def test_the_budget_picture_says_why_it_stopped_and_what_was_fill() -> None:
    met, limited = drawn(0.02, 0.6), drawn(0.3, 0.15)
    assert ">stopped: the token budget was met<" in quad_figures.budget(met)
    assert ">fill<" not in quad_figures.budget(met)
    svg = quad_figures.budget(limited)
    assert ">stopped: as many documents were scored as the limit allows<" in svg
    assert ">fill<" in svg
    assert f"{limited.scored:,} documents scored" in svg


def test_grants_whose_rounds_are_not_known_are_one_step_and_said_to_be() -> None:
    outcome = drawn(0.02, 0.6)
    assert "not by round" not in quad_figures.budget(outcome)
    best = max(outcome.clusters, key=lambda cluster: cluster.granted)
    for other in (
        replace(outcome, rounds=()),
        replace(outcome, clusters=tuple(replace(c, granted=0, fill=c.granted) if c is best else c
                                        for c in outcome.clusters)),
    ):  # fmt: skip
        svg = quad_figures.budget(other)
        assert ">all grants as one step, not by round" in svg
    assert f">{best.name}<" in quad_figures.budget(replace(outcome, rounds=()))


def test_clusters_that_were_never_scored_are_told_apart() -> None:
    planted = plant("smooth", 4, 40)
    outcome = planted.told(Bandit(planted.arms, BanditSettings(5000, max_scored=20))).outcome()
    svg = quad_figures.clusters(outcome)
    assert ">never scored: what its neighbours say<" in svg
    assert dots(svg) == 40


@pytest.mark.parametrize("draw", [quad_figures.clusters, quad_figures.budget])
def test_the_same_outcome_has_the_same_bytes(draw) -> None:  # type: ignore[no-untyped-def]
    assert draw(drawn(0.1, 0.3)) == draw(drawn(0.1, 0.3))


def test_baselines_and_names_like_markup_are_drawn() -> None:
    arms = plant("spread", 5, 6).arms
    for outcome in (cluster_uniform(arms, 1000), top_clusters(drawn(0.1, 0.3))):
        assert "NaN" not in quad_figures.clusters(outcome) + quad_figures.budget(outcome)
    outcome = drawn(0.1, 0.3)
    best = max(outcome.clusters, key=lambda cluster: cluster.granted + cluster.fill)
    renamed = replace(outcome, clusters=tuple(
        replace(c, name="<b>$x$") if c is best else c for c in outcome.clusters))  # fmt: skip
    svg = quad_figures.clusters(renamed)
    assert "&lt;b&gt;$x$" in svg
    assert "<b>" not in svg
