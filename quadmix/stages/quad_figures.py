"""Quad's pictures for the report: the clusters with what is known of their benefit, and the budget filling up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quadmix.selectors.quad_outcome import ClusterOutcome, Outcome
from quadmix.stages.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, WIDTH, count_axis, label, new, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 8  # clusters that are named in the picture
_SHADES = (BLUE, ORANGE, GREEN, RED, PURPLE)  # clusters with the most granted tokens; the rest is one grey band
_DECADE = 20  # sizes further apart than this need a logarithmic axis; nearer ones would have no labels on it
_MARKED = 400  # more dots than this are drawn without intervals, which would cover one another


@picture
def clusters(outcome: Outcome) -> Figure:
    """One dot a cluster: tokens against shrunk mean benefit, its area the pulls, a bar of one standard error either
    side; filled where kept. The dashed line is the threshold."""
    figure, axes = new(WIDTH, 3.8)
    known = [cluster for cluster in outcome.clusters if cluster.mean is not None and cluster.tokens]
    groups = {
        "kept": (BLUE, [c for c in known if c.kept]),
        "not kept": (GREY, [c for c in known if not c.kept and c.scored]),
        "never scored: what its neighbours say": (ORANGE, [c for c in known if not c.scored]),
    }
    for name, (colour, members) in groups.items():
        if not members:
            continue
        tokens, mean = _columns(members)
        if len(known) <= _MARKED:
            error = np.array([cluster.error or 0.0 for cluster in members])
            axes.errorbar(tokens, mean, yerr=error, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
        area = 14.0 + 6.0 * np.array([cluster.pulls for cluster in members])
        face = colour if name == "kept" else "none"
        axes.scatter(
            tokens, mean, s=area, facecolors=face, edgecolors=colour, alpha=0.8, lw=1.0, label=name, gid="dots"
        )
    for cluster in sorted(known, key=_chosen_tokens, reverse=True)[:_NAMED]:
        if _chosen_tokens(cluster):
            axes.annotate(
                label(cluster.name, 18), (cluster.tokens, cluster.mean), xytext=(5, 4), textcoords="offset points",
                fontsize=7,
            )  # fmt: skip
    if outcome.threshold is not None:
        axes.axhline(outcome.threshold, color=RED, lw=0.9, ls="--", zorder=0, label="threshold")
    sizes = [cluster.tokens for cluster in known]
    if known and max(sizes) > _DECADE * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    count_axis(axes.xaxis)
    axes.set_xlabel("tokens of the cluster")
    axes.set_ylabel("mean benefit, shrunk")
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


@picture
def budget(outcome: Outcome) -> Figure:
    """Tokens granted by the end of each round, the clusters with the most of them apart, the fill as the last step;
    the title says why it stopped. Where the rounds do not lead to the grants (they are not known, or clusters give
    what domain quotas let them), the grants are one step."""
    granted = {cluster.name: cluster.granted for cluster in outcome.clusters}
    named = [name for name in sorted(granted, key=lambda name: -granted[name])[: len(_SHADES)] if granted[name]]
    figure, axes = new(WIDTH, 3.4)
    known = all(_by_round(outcome, {name})[-1] == tokens for name, tokens in granted.items())
    steps = _by_round if known else _at_once
    at = np.arange(steps(outcome, set()).size)
    level = np.zeros(at.size)
    bands = [(name, colour, steps(outcome, {name})) for name, colour in zip(named, _SHADES, strict=False)]
    rest = set(granted) - set(named)
    bands.append((f"{sum(granted[name] > 0 for name in rest):,} others", GREY, steps(outcome, rest)))
    for name, colour, tokens in bands:
        if not tokens.any():
            continue
        axes.fill_between(at, level, level + tokens, step="pre", color=colour, alpha=0.75, lw=0, label=label(name, 18))
        level = level + tokens
    if outcome.fill_tokens:
        last = float(level[-1]) if level.size else 0.0
        axes.bar(
            at[-1] + 0.03 * at.size, outcome.fill_tokens, 0.04 * at.size, bottom=last, facecolor="none",
            edgecolor=GREY, hatch="///", lw=0.8, label="fill",
        )  # fmt: skip
    axes.axhline(outcome.budget, color=RED, lw=0.9, ls="--", zorder=0)
    axes.set_xlim(0, at[-1] + 0.06 * at.size)
    axes.set_ylim(0, outcome.budget * 1.05)
    scored = f"{outcome.scored:,} documents scored, {100 * outcome.scored_fraction:.1f} %"
    axes.set_xlabel(f"rounds ({scored})" if known else f"all grants as one step, not by round ({scored})")
    if not known:
        axes.set_xticks([])
    axes.set_ylabel("tokens granted")
    count_axis(axes.yaxis)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(f"stopped: {outcome.stop.words.split(':', 1)[0]}", fontsize=9, loc="left")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    return figure


def _by_round(outcome: Outcome, names: set[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(rounds + 1,) tokens granted to these clusters up to the end of each round, 0 before the first."""
    each = [sum(tokens for name, tokens in one.granted.items() if name in names) for one in outcome.rounds]
    return np.cumsum([0.0, *map(float, each)])


def _at_once(outcome: Outcome, names: set[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(2,) 0, then the tokens granted to these clusters in the end."""
    return np.array([0.0, float(sum(cluster.granted for cluster in outcome.clusters if cluster.name in names))])


def _columns(members: list[ClusterOutcome]) -> tuple[list[int], list[float]]:
    return [cluster.tokens for cluster in members], [cluster.mean or 0.0 for cluster in members]


def _chosen_tokens(cluster: ClusterOutcome) -> int:
    return cluster.granted + cluster.fill
