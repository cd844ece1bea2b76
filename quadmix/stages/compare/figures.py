"""The comparison's pictures: loss against what the selection cost, and all seeds of every entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quadmix.stages.compare.result import Comparison, Contestant
from quadmix.stages.figures import BLUE, GREEN, GREY, RED, WIDTH, count_axis, label, new, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"better": GREEN, "worse": RED, "tie": GREY, "failed": GREY, "–": BLUE}
_WORDS = {
    "better": "better than {}", "worse": "worse than {}", "tie": "not told apart from {}", "failed": "not compared",
    "–": "{}",
}  # fmt: skip


_FLOPS_AXIS = "selection FLOPs / FLOPs of training one target model"


@picture
def loss_against_cost(found: Comparison) -> Figure:
    """One dot an entry with its interval: loss against selection FLOPs (in trainings of a target model), and against
    the tokens that models read for the selection. Colours say the verdict; a hollow dot costs more than is known."""
    key = found.keys[0]
    shown = [one for one in found.ranked if one.level[key].mean is not None]
    figure, panels = new(WIDTH, 4.4, 1, 2)
    sides = (
        ([one.flops / found.model_flops for one in shown], _FLOPS_AXIS),
        ([float(one.scored_tokens) for one in shown], "tokens that models read for the selection"),
    )
    for axes, (values, title) in zip(panels, sides, strict=True):
        for one, value, place in zip(shown, values, _spread(shown, values, key), strict=True):
            verdict, level = one.verdict[key], one.level[key]
            colour, words = _COLOURS[verdict], _WORDS[verdict].format(label(found.against, 24))
            axes.errorbar(
                value,
                level.mean,
                yerr=level.half_width,
                fmt="o",
                ms=5.5,
                color=colour,
                capsize=3,
                lw=1.2,
                label=words,
                mfc="white" if title == _FLOPS_AXIS and any(part.flops is None for part in one.costs) else colour,
            )
            axes.annotate(
                label(one.name, 20), (value, place), xytext=(7, 0), textcoords="offset points", fontsize=7,
                color=colour, va="center",
            )  # fmt: skip
        above = [value for value in values if value > 0]
        if above:
            axes.set_xscale("symlog", linthresh=min(above))
            axes.set_xlim(-0.2 * min(above), 12.0 * max(above))  # names stand to the right
            axes.xaxis.set_minor_formatter("")
        count_axis(axes.xaxis)
        axes.set_xlabel(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel(f"{label(key, 24)}, bits per byte (lower is better)", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    seen = dict(zip(names, handles, strict=True))
    figure.legend(seen.values(), seen.keys(), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def _spread(shown: Sequence[Contestant], values: Sequence[float], key: str) -> list[float]:
    """Where names stand: beside their dots, moved up where they would meet. shown: lowest first; values: where the dots
    are on the axis below."""
    ends = [(one.level[key].mean or 0.0, one.level[key].half_width or 0.0) for one in shown]
    gap = 0.032 * (max(mean + half for mean, half in ends) - min(mean - half for mean, half in ends))
    across = _across(values)
    places: list[float] = []
    for (mean, _), x in zip(ends, across, strict=True):
        near = sorted(place for place, other in zip(places, across, strict=False) if abs(x - other) < _NAME_WIDTH)
        here = mean
        for place in near:  # the first gap that is wide enough, from the dot upwards
            if abs(place - here) < gap:
                here = place + gap
        places.append(here)
    return places


def _across(values: Sequence[float]) -> list[float]:
    """Where values are on the axis, about, as parts of its width."""
    above = [value for value in values if value > 0]
    if not above:
        return [0.0 for _ in values]
    decades = 2.1 + math.log10(max(above) / min(above))
    return [(1.0 + math.log10(value / min(above))) / decades if value > 0 else 0.0 for value in values]


_NAME_WIDTH = 0.3  # of an axis


@picture
def differences(found: Comparison) -> Figure:
    """Dots with intervals, one panel a target: every entry minus the one it is compared with; ticks are seeds."""
    from matplotlib.ticker import MaxNLocator

    rivals = [one for one in found.ranked if one.name != found.against]
    keys = found.keys[:4]
    figure, grid = new(WIDTH, 1.1 + 0.3 * len(rivals), 1, len(keys))
    reference = next(one for one in found.entries if one.name == found.against)
    for number, (axes, key) in enumerate(zip(grid if len(keys) > 1 else [grid], keys, strict=True)):
        for y, one in enumerate(rivals):
            colour, lead = _COLOURS[one.verdict[key]], one.lead[key]
            pairs = zip(one.bits[key], reference.bits[key], strict=True)
            seeds = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
            axes.plot(seeds, [y + 0.22] * len(seeds), "|", color=colour, ms=5, alpha=0.7)
            if lead.mean is not None:
                axes.errorbar(lead.mean, y, xerr=lead.half_width, fmt="o", ms=5, color=colour, capsize=3, lw=1.3)
        axes.axvline(0.0, color=BLUE, lw=0.9, ls="--", zorder=0)
        axes.set_yticks(range(len(rivals)), [label(one.name, 24) if number == 0 else "" for one in rivals], fontsize=9)
        axes.set_ylim(len(rivals) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(label(key, 24), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel(f"bits per byte minus {label(found.against, 24)}'s, paired by seed", fontsize=9)
    return figure
