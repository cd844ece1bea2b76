"""ODiS's pictures for the report: explained variance, and the loadings as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quadmix.selectors.odis_outcome import Outcome
from quadmix.stages.figures import BLUE, GREY, RED, WIDTH, label, new, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@picture
def explained(outcome: Outcome) -> Figure:
    """One bar a component, filled where it is kept; the line is the sum so far, the dashed one what was asked for."""
    share = 100 * np.array(outcome.explained)
    kept = len(outcome.components)
    at = np.arange(1, share.size + 1)
    figure, axes = new(WIDTH, 2.6)
    axes.bar(at, share, 0.7, color=[BLUE if place <= kept else GREY for place in at], gid="bars")
    axes.plot(at, np.cumsum(share), color=RED, lw=1.2, marker="o", ms=3, label="sum so far")
    axes.axhline(100 * outcome.explained_variance, color=GREY, lw=0.9, ls="--", zorder=0, label="asked for")
    for place, value in zip(at, share, strict=True):
        axes.text(place, value + 1.5, f"{value:.1f}", ha="center", fontsize=8)
    axes.set_xticks(at, [f"PC{place}" for place in at])
    axes.set_ylim(0, 108)
    axes.set_ylabel("% of the variance")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return figure


@picture
def loadings(outcome: Outcome) -> Figure:
    """Dimensions by group against components: red is negative, blue positive, the number in every cell."""
    groups = [dimension.group or "" for dimension in outcome.dimensions]
    names = list(dict.fromkeys(groups))
    order = sorted(range(len(groups)), key=lambda d: names.index(groups[d]))
    values = np.array([one.loadings for one in outcome.components])[:, order].T
    figure, axes = new(min(3.6 + 0.9 * values.shape[1], WIDTH), 0.8 + 0.32 * len(order))
    axes.imshow(values, cmap="RdBu", vmin=-1.0, vmax=1.0, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        text = f"{value:+.2f}".replace("-", "−")
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(order)), [_named(outcome, d) for d in order], fontsize=9)
    axes.set_xticks(range(values.shape[1]), [one.name for one in outcome.components])
    axes.xaxis.tick_top()
    for row in range(1, len(order)):
        if groups[order[row]] != groups[order[row - 1]]:
            axes.axhline(row - 0.5, color="black", lw=1.2)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _named(outcome: Outcome, place: int) -> str:
    dimension = outcome.dimensions[place]
    name = label(dimension.name, 26)
    return f"{label(dimension.group, 24)} · {name}" if dimension.group else name
