"""Quality against diversity: every selection a dot, the pool's random selections a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quadmix.stages.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, WIDTH, label, new, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE)
_MARKERS = "osD^vP"  # another round of colours takes the next one
_PANELS = 3


@dataclass(frozen=True)
class Dot:
    """One selection: (value, half width of its interval, 0 where it has none) along either axis."""

    name: str
    quality: tuple[float, float]
    diversity: tuple[float, float]


@dataclass(frozen=True)
class Band:
    """Random selections: low and high of their diversity; quality: their mean and half width, None where not known."""

    low: float
    high: float
    quality: tuple[float, float] | None


@picture
def quality_against_diversity(panels: Mapping[str, tuple[Sequence[Dot], Band]], quality: str) -> Figure:
    """One panel a measure of diversity (its title, larger is more diverse), at most three a row. quality: what the
    horizontal axis is. Every panel has the same selections in the same order."""
    from matplotlib.ticker import MaxNLocator

    rows = -(-len(panels) // _PANELS)
    named = len(next(iter(panels.values()))[0])
    figure, grid = new(WIDTH, 0.5 + 0.2 * (-(-named // 3)) + 2.9 * rows, rows, min(len(panels), _PANELS))
    axes_of = [grid] if len(panels) == 1 else grid
    for axes, (title, (dots, band)) in zip(axes_of, panels.items(), strict=False):
        axes.axhspan(band.low, band.high, color=GREY, alpha=0.3, lw=0, gid="band", label="random selections, 95 %")
        if band.quality is not None:
            middle, half = band.quality
            axes.errorbar(middle, (band.low + band.high) / 2, xerr=half or None, fmt="x", color=GREY, ms=6, lw=1.2)
        for place, dot in enumerate(dots):
            colour = _COLOURS[place % len(_COLOURS)]
            (x, across), (y, along) = dot.quality, dot.diversity
            axes.errorbar(x, y, along or None, across or None, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2)
            marker = _MARKERS[place // len(_COLOURS) % len(_MARKERS)]
            axes.plot(x, y, marker, color=colour, ms=5.5, label=label(dot.name, 30), gid="dot")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        axes.margins(0.12)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    for axes in axes_of[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(quality, fontsize=9)
    figure.supylabel("diversity", fontsize=9)
    handles, names = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return figure
