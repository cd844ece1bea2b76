"""The report's pictures: each function turns plain numbers into one SVG string.

Text stays text (small files, searchable), nothing is random and no date is stored, so a report of the same run has the
same bytes. Colours: Okabe and Ito's palette, safe for colour-blind readers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY, BLUE, ORANGE, GREEN, RED, PURPLE = "#9a9a9a", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quadmix",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def domain_shares(domains: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Horizontal bars a domain: one per series (natural, proposed, realised), in tokens."""
    figure, axes = _new(7.6, 0.9 + 0.21 * len(domains) * (len(series) + 0.8))
    height = 0.8 / len(series)
    rows = np.arange(len(domains))
    longest = max((max(values) for values in series.values()), default=1.0) or 1.0
    for index, ((name, values), colour) in enumerate(zip(series.items(), (GREY, ORANGE, BLUE), strict=False)):
        place = rows - 0.4 + (index + 0.5) * height
        axes.barh(place, values, height * 0.92, color=colour, label=name)
        total = sum(values) or 1.0
        for y, value in zip(place, values, strict=True):
            axes.text(
                value + 0.008 * longest, y, f"{short(value)} · {100 * value / total:.1f} %", va="center", fontsize=8
            )
    axes.set_yticks(rows, domains)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.22)
    _count_axis(axes.xaxis)
    axes.set_xlabel("tokens")
    axes.legend(frameon=False, loc="lower right")
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)


def sampling_curves(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], float]]) -> str:
    """Small multiples: expected copies against quality rank, per domain (ranks, copies, effective cutoff)."""
    columns = min(4, max(len(curves), 1))
    rows = -(-len(curves) // columns)
    figure, grid = _new(7.6, 0.5 + 1.75 * rows, rows, columns)
    top = max((float(values.max()) for _, values, _ in curves.values()), default=1.0)
    for axes, (name, (ranks, values, cutoff)) in zip(grid, curves.items(), strict=False):
        axes.fill_between(ranks, values, color=BLUE, alpha=0.18, lw=0)
        axes.plot(ranks, values, color=BLUE, lw=1.5)
        if cutoff < 1.0:
            axes.axvline(cutoff, color=RED, lw=0.8, ls="--")
        axes.set_title(f"{name} · ω {cutoff:.3g}", fontsize=9)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, top * 1.08)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    for axes in grid[len(curves) :]:
        axes.set_axis_off()
    figure.supxlabel("quality rank in the domain (0 = best)", fontsize=9)
    figure.supylabel("expected copies", fontsize=9)
    return _svg(figure)


def merge_weights(domains: Sequence[str], criteria: Sequence[str], weights: NDArray[np.float64]) -> str:
    """Heat map of alpha: (n_domains, n_criteria), rows summing to 1."""
    figure, axes = _new(1.9 + 1.35 * len(criteria), 1.1 + 0.34 * len(domains))
    axes.imshow(weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for row in range(len(domains)):
        for column in range(len(criteria)):
            value = float(weights[row, column])
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.55 else "black")
    axes.set_xticks(range(len(criteria)), criteria, rotation=20, ha="right")
    axes.set_yticks(range(len(domains)), domains)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return _svg(figure)


def predicted_against_measured(panels: Mapping[str, tuple[Sequence[float], Sequence[float], str]]) -> str:
    """One scatter a target: (measured, predicted out of fold, caption); the diagonal is a perfect prediction."""
    figure, grid = _new(2.65 * len(panels), 2.8, 1, len(panels))
    for axes, (name, (measured, predicted, caption)) in zip(grid, panels.items(), strict=True):
        axes.scatter(measured, predicted, s=14, color=BLUE, alpha=0.75, lw=0)
        both = [*measured, *predicted]
        low, high = min(both), max(both)
        pad = 0.05 * (high - low or 1.0)
        axes.plot([low - pad, high + pad], [low - pad, high + pad], color=GREY, lw=0.9, zorder=0)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
        axes.set_aspect("equal")
        axes.set_title(f"{name}\n{caption}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("measured, nats/token", fontsize=8)
    grid[0].set_ylabel("predicted, held out", fontsize=8)
    return _svg(figure)


def confirmation(panels: Mapping[str, Sequence[tuple[str, float | None, float | None, Sequence[float]]]]) -> str:
    """Dots with intervals, one panel a target: (mixture, mean, half width, one value a seed); lower is better."""
    n = max(len(rows) for rows in panels.values())
    figure, grid = _new(7.6, 0.9 + 0.33 * n, 1, len(panels))
    for number, (axes, (name, rows)) in enumerate(zip(grid, panels.items(), strict=True)):
        for y, (_, mean, half, seeds) in enumerate(rows):
            colour = BLUE if y == 0 else GREY
            axes.plot(seeds, [y] * len(seeds), ".", color=colour, ms=4, alpha=0.55)
            if mean is None:
                continue
            axes.errorbar(mean, y, xerr=half, fmt="o", ms=5.5, color=colour if y else BLUE, capsize=3, lw=1.4)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows] if number == 0 else [""] * len(rows))
        axes.invert_yaxis()
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel("loss of fresh proxies, nats per token (lower is better)", fontsize=9)
    return _svg(figure)


def repeats(documents: Mapping[int, int]) -> str:
    """Documents by the number of their copies."""
    counts = sorted(documents)
    figure, axes = _new(3.6, 2.3)
    axes.bar([str(count) for count in counts], [documents[count] for count in counts], color=BLUE, width=0.6)
    for place, count in enumerate(counts):
        axes.text(place, documents[count], f"{documents[count]:,}", ha="center", va="bottom", fontsize=8)
    axes.set_xlabel("copies")
    axes.set_ylabel("documents")
    _count_axis(axes.yaxis)
    return _svg(figure)


def short(value: float) -> str:
    """1.2M for 1,234,567: three figures and a suffix."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _count_axis(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure in our style, and its axes: one, or a flat list for a grid."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
    return figure, grid[0, 0] if rows == columns == 1 else list(grid.flat)


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
