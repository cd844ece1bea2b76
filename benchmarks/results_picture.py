"""The results page's picture: dots with intervals, one panel a target; one SVG string, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quadmix.stages.figures import BLUE, GREY

if TYPE_CHECKING:
    from benchmarks.results_page import Judged

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quadmix",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
_OURS = "quadmix"


def picture(rows: Sequence[Judged], keys: Sequence[str]) -> str:
    """rows: best first, from top to bottom; keys: a panel each, of `Judged.bits`. Ticks below a dot: single seeds."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 0.9 + 0.27 * len(rows)), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        grid = figure.subplots(1, len(keys), squeeze=False)[0]
        for number, (axes, key) in enumerate(zip(grid, keys, strict=True)):
            for y, row in enumerate(rows):
                colour = BLUE if row.name == _OURS else GREY
                seeds = [value for value in row.bits[key] if value is not None]
                axes.plot(seeds, [y + 0.25] * len(seeds), "|", color=colour, ms=4)
                level = row.level[key]
                if level.mean is not None:
                    axes.errorbar(level.mean, y, xerr=level.half_width, fmt="o", ms=5, color=colour, capsize=2, lw=1.2)
            axes.set_yticks(
                range(len(rows)), [row.name for row in rows] if number == 0 else [""] * len(rows), fontsize=9
            )
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(key, fontsize=10)
            axes.tick_params(labelsize=8)
            axes.grid(axis="x", alpha=0.3)
        figure.supxlabel("bits per byte of target models (lower is better)", fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
