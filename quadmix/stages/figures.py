"""The report's pictures: each function turns plain numbers into one SVG string.

Text stays text (small files, searchable), nothing is random and no date is stored, so a report of the same run has the
same bytes. Names are data, never markup: no mathematics in dollar signs, no control characters, cut where they would
not fit (the tables hold them whole). Colours: Okabe and Ito's palette, safe for colour-blind readers.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")

GREY, BLUE, ORANGE, GREEN, RED, PURPLE = "#9a9a9a", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quadmix",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
WIDTH = 8.5  # inches: as wide as the page's text
_MANY = 20  # more domains than this are drawn smaller, and labelled less
_PANELS = 3  # targets side by side


def picture(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Run a drawing function in our style and give its figure as SVG."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        from matplotlib import rc_context

        buffer = io.StringIO()
        with rc_context(_STYLE), warnings.catch_warnings():
            # the browser has the glyphs that matplotlib's own font lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            draw(*args, **kwargs).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        return text[text.index("<svg") :]

    return drawn


@picture
def domain_shares(domains: Sequence[str], series: Mapping[str, Sequence[float]]) -> Figure:
    """Horizontal bars a domain: one per series (natural, proposed, realised), in tokens; the last one is labelled
    where there are too many domains to label all."""
    crowded = len(domains) > _MANY
    pitch = 0.3 if crowded else 0.2 * (len(series) + 0.8)  # inches a domain
    figure, axes = new(WIDTH, 0.9 + pitch * len(domains))
    height = 0.8 / len(series)
    rows = np.arange(len(domains))
    longest = max((max(values) for values in series.values()), default=1.0) or 1.0
    colours = (GREY, ORANGE, BLUE) if len(series) == 3 else (GREY, BLUE)
    for index, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=True)):
        place = rows - 0.4 + (index + 0.5) * height
        axes.barh(place, values, height * 0.92, color=colour, label=name)
        total = sum(values) or 1.0
        ends = np.max(list(series.values()), axis=0) if crowded else np.asarray(values)
        if crowded and index + 1 < len(series):
            continue
        for y, value, end in zip(rows if crowded else place, values, ends, strict=True):
            axes.text(
                end + 0.008 * longest, y, f"{short(value)} · {100 * value / total:.1f} %", va="center", fontsize=8
            )
    axes.set_yticks(rows, [label(name, 28) for name in domains], fontsize=8 if crowded else 10)
    axes.set_ylim(len(domains) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.17)
    count_axis(axes.xaxis)
    axes.set_xlabel("tokens")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return figure


@picture
def sampling_curves(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], float]]) -> Figure:
    """Small multiples: expected copies against quality rank, per domain (ranks, copies, effective cutoff)."""
    crowded = len(curves) > _MANY
    columns = min(6 if crowded else 4, max(len(curves), 1))
    rows = -(-len(curves) // columns)
    figure, grid = new(WIDTH, 0.5 + (1.15 if crowded else 1.65) * rows, rows, columns)
    top = max((float(values.max()) for _, values, _ in curves.values()), default=1.0)
    size = 7 if crowded else 9
    for number, (axes, (name, (ranks, values, cutoff))) in enumerate(zip(grid, curves.items(), strict=False)):
        axes.fill_between(ranks, values, color=BLUE, alpha=0.18, lw=0)
        axes.plot(ranks, values, color=BLUE, lw=1.5)
        if cutoff < 1.0:
            axes.axvline(cutoff, color=RED, lw=0.8, ls="--")
        axes.set_title(f"{label(name, 12 if crowded else 18)} · ω {cutoff:.2g}", fontsize=size)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, top * 1.08)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.grid(alpha=0.25)
        # the lowest panel of a column carries its numbers, also where the last row is not full
        axes.tick_params(
            labelsize=size - 1, labelbottom=number + columns >= len(curves), labelleft=number % columns == 0
        )
    for axes in grid[len(curves) :]:
        axes.set_axis_off()
    figure.supxlabel("quality rank in the domain (0 = best)", fontsize=9)
    figure.supylabel("expected copies", fontsize=9)
    return figure


@picture
def merge_weights(domains: Sequence[str], criteria: Sequence[str], weights: NDArray[np.float64]) -> Figure:
    """Heat map of alpha: (n_domains, n_criteria), rows summing to 1."""
    crowded = len(domains) > _MANY
    figure, axes = new(min(2.0 + 1.35 * len(criteria), WIDTH), 0.8 + (0.2 if crowded else 0.32) * len(domains))
    axes.imshow(weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for row in range(len(domains)):
        for column in range(len(criteria)):
            value = float(weights[row, column])
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black",
                fontsize=8 if crowded else 9,
            )  # fmt: skip
    steep = len(criteria) > 4
    axes.set_xticks(
        range(len(criteria)), [label(name, 20) for name in criteria], fontsize=9,
        rotation=30 if steep else 0, ha="left" if steep else "center",
    )  # fmt: skip
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(domains)), [label(name, 28) for name in domains], fontsize=8 if crowded else 10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


@picture
def predicted_against_measured(panels: Mapping[str, tuple[Sequence[float], Sequence[float], str]]) -> Figure:
    """One scatter a target: (measured, predicted out of fold, caption); the diagonal is a perfect prediction."""
    from matplotlib.ticker import MaxNLocator

    rows = -(-len(panels) // _PANELS)
    figure, grid = new(WIDTH, 0.3 + 3.1 * rows, rows, _PANELS)
    for axes, (name, (measured, predicted, caption)) in zip(grid, panels.items(), strict=False):
        axes.scatter(measured, predicted, s=16, color=BLUE, alpha=0.7, lw=0)
        both = [*measured, *predicted]
        low, high = min(both), max(both)
        pad = 0.05 * (high - low or 1.0)
        axes.plot([low - pad, high + pad], [low - pad, high + pad], color=GREY, lw=0.9, zorder=0)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
        axes.set_aspect("equal")
        axes.set_title(f"{label(name, 28)}\n{caption}", fontsize=9)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("measured, nats per token", fontsize=9)
    figure.supylabel("predicted, held out", fontsize=9)
    return figure


@picture
def confirmation(panels: Mapping[str, Sequence[tuple[str, float | None, float | None, Sequence[float]]]]) -> Figure:
    """Dots with intervals, one panel a target: (mixture, mean, half width, one value a seed); lower is better."""
    from matplotlib.ticker import MaxNLocator

    mixtures = max(len(rows) for rows in panels.values())
    high = -(-len(panels) // _PANELS)
    figure, grid = new(WIDTH, 0.4 + (0.6 + 0.3 * mixtures) * high, high, min(len(panels), _PANELS))
    for number, (axes, (name, rows)) in enumerate(zip(grid, panels.items(), strict=False)):
        for y, (_, mean, half, seeds) in enumerate(rows):
            colour = BLUE if y == 0 else "#6b6b6b"
            # single seeds below their interval, so that neither hides the other
            axes.plot(seeds, [y + 0.22] * len(seeds), "|", color=colour, ms=5, alpha=0.7)
            if mean is not None:
                axes.errorbar(mean, y, xerr=half, fmt="o", ms=5.5, color=colour, capsize=3, lw=1.4)
        axes.set_yticks(
            range(len(rows)), [label(row[0], 28) for row in rows] if number % _PANELS == 0 else [""] * len(rows)
        )
        axes.set_ylim(mixtures - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(label(name, 28), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("loss of fresh proxies, nats per token (lower is better)", fontsize=9)
    return figure


@picture
def pareto_front(targets: Sequence[str], points: Sequence[Sequence[float]], chosen: Sequence[float]) -> Figure:
    """Predicted losses of the front: the first target against each other one, at most six; a cross for the proposal."""
    from matplotlib.ticker import MaxNLocator

    losses = np.array(points)
    others = list(range(1, len(targets)))[:6]
    rows = -(-len(others) // _PANELS)
    figure, grid = new(WIDTH, 0.3 + 3.1 * rows, rows, _PANELS)
    for axes, other in zip(grid, others, strict=False):
        axes.scatter(losses[:, 0], losses[:, other], s=18, color=BLUE, alpha=0.8, lw=0)
        axes.plot(chosen[0], chosen[other], "x", color=ORANGE, ms=9, mew=2)
        axes.set_xlabel(label(targets[0], 28), fontsize=9)
        axes.set_ylabel(label(targets[other], 28), fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    for axes in grid[len(others) :]:
        axes.set_axis_off()
    return figure


@picture
def repeats(documents: Mapping[int, int]) -> Figure:
    """Documents by the number of their copies; ten bars at most, the last one for all larger numbers."""
    bars: dict[str, int] = {}
    for count in sorted(documents):
        name = str(count) if count < 10 else "10 or more"
        bars[name] = bars.get(name, 0) + documents[count]
    figure, axes = new(max(3.6, 0.65 * len(bars)), 2.3)
    axes.bar(list(bars), list(bars.values()), color=BLUE, width=0.6)
    for place, count in enumerate(bars.values()):
        axes.text(place, count, f"{count:,}", ha="center", va="bottom", fontsize=8)
    axes.set_xlabel("copies")
    axes.set_ylabel("documents")
    count_axis(axes.yaxis)
    return figure


def short(value: float) -> str:
    """1.23M for 1,234,567: three figures and a suffix."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= 0.9995 * size:  # what three figures would round to 1000 of the smaller unit
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def label(name: str, most: int) -> str:
    """A name that fits: what cannot be printed as a dot, the middle of a long one left out (names differ at ends)."""
    plain = "".join(letter if letter.isprintable() else "·" for letter in name)
    if len(plain) <= most:
        return plain
    tail = (most - 1) // 3
    return f"{plain[: most - 1 - tail]}…{plain[-tail:]}"


def count_axis(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure, and its axes: one, or a flat list for a grid."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, grid[0, 0] if rows == columns == 1 else list(grid.flat)
