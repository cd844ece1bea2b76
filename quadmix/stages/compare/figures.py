"""The comparison's pictures: loss against what the selection cost, and all seeds of every entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quadmix.stages.compare.result import Comparison, Contestant
from quadmix.stages.figures import BLUE, GREEN, GREY, RED, WIDTH, count_axis, label, new, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"better": GREEN, "worse": RED, "tie": GREY, "failed": GREY, "–": BLUE}
_WORDS = {"better": "better than {}", "worse": "worse than {}", "tie": "not told apart from {}", "–": "{}"}


@picture
def loss_against_cost(found: Comparison) -> Figure:
    """One dot an entry with its interval: loss against selection FLOPs (in trainings of a target model), and against
    the tokens that models read for the selection. Colours say the verdict."""
    key = found.keys[0]
    shown = [one for one in found.ranked if one.level[key].mean is not None]
    figure, (by_cost, by_tokens) = new(WIDTH, 4.4, 1, 2)
    for axes, values, title in (
        (by_cost, [one.flops / found.model_flops for one in shown], "selection FLOPs / FLOPs of one target model"),
        (by_tokens, [float(one.scored_tokens) for one in shown], "tokens that models read for the selection"),
    ):
        for place, (one, value) in enumerate(zip(shown, values, strict=True)):
            _dot(axes, found, one, value, key, place)
        least = min((value for value in values if value > 0), default=1.0)
        axes.set_xscale("symlog", linthresh=least)
        axes.set_xlim(left=-0.15 * least)
        axes.set_xlabel(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    count_axis(by_tokens.xaxis)
    by_cost.set_ylabel(f"{key}, bits per byte (lower is better)", fontsize=9)
    handles, names = by_cost.get_legend_handles_labels()
    seen = dict(zip(names, handles, strict=True))
    figure.legend(seen.values(), seen.keys(), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def _dot(axes: object, found: Comparison, one: Contestant, value: float, key: str, place: int) -> None:
    verdict = one.verdict[key]
    mean, half = one.level[key].mean, one.level[key].half_width
    axes.errorbar(  # type: ignore[attr-defined]
        value, mean, yerr=half, fmt="o", ms=5.5, color=_COLOURS[verdict], capsize=3, lw=1.2,
        label=_WORDS.get(verdict, "{}").format(found.against),
    )  # fmt: skip
    axes.annotate(  # type: ignore[attr-defined]
        label(one.name, 20), (value, mean), xytext=(6, 5 if place % 2 else -10), textcoords="offset points", fontsize=7
    )


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
