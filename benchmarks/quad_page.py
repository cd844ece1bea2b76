"""The contest's tables (markdown that reads as plain text) and, in words, who wins, loses or cannot be told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.quad_pool import JUNK
from quadmix.search.confirmation import interval, paired
from quadmix.search.result import Interval

OURS = "quad"
CONFIDENCE = 0.95
PLUS = "+"  # at the end of the name of a contestant at equal cost
LOSSES = ("reference", "unseen", "pool")
NAMES = {
    "quad": "Quad, EK-FAC",
    "quad_identity": "Quad, identity",
    "random": "random documents",
    "cluster_uniform": "cluster-uniform",
    "top_clusters": "top-k clusters",
    "top_documents": "top-k documents, EK-FAC",
    "top_documents_identity": "top-k documents, identity",
}

Result = dict[str, Any]
Value = Callable[[Result], float]


def page(results: Sequence[Result]) -> str:
    """Everything that is printed, from one result a seed."""
    equal = [name for name in results[0]["contestants"] if not name.endswith(PLUS)]
    larger = [OURS, *(name for name in results[0]["contestants"] if name.endswith(PLUS))]
    return "\n\n".join(
        [
            _pools(results),
            "Equal tokens; differences are to Quad by EK-FAC, paired by seed, below 0 is better than it. Junk is of "
            "the selected tokens; TFLOP: what selecting took.",
            _table(["", "scored", "junk", "to Quad", *JUNK, "clusters", "TFLOP"], [_taken(results, n) for n in equal]),
            _table(_loss_header(), [_losses(results, n) for n in equal]),
            "Equal cost, selection counted: the difference is read as more tokens by who selects for less.",
            _table(["", "tokens", "junk", *_loss_header()[1:]], [_larger(results, n) for n in larger]),
            "Chance that a clean document's benefit is above that of one of a kind (.5: blind), and that a clean "
            "document of the reference's own domain is above another clean one.",
            _table(["", *JUNK, "domain"], [_ranked(results, kind) for kind in results[0]["ranked"]]),
            "\n".join(_verdicts(results, [name for name in (*equal, *larger) if name != OURS])),
        ]
    )


def verdict(difference: Interval) -> str:
    """Of a rival against Quad, where less is better."""
    if difference.mean is None or difference.half_width is None or abs(difference.mean) <= difference.half_width:
        return "not told apart"
    return "loses" if difference.mean > 0 else "wins"


def loss(name: str, what: str) -> Value:
    """What is one of LOSSES."""
    return lambda result: float(result["contestants"][name]["losses"][what])


def junk(name: str, kind: str | None = None) -> Value:
    """Share of the selected tokens, of one kind or in all."""
    return lambda result: float(
        sum(value for one, value in result["contestants"][name]["junk"].items() if kind in (None, one))
    )


def difference(results: Sequence[Result], value: Callable[[str], Value], name: str) -> Interval:
    """A rival's less Quad's."""
    theirs, ours = ([value(one)(result) for result in results] for one in (name, OURS))
    return paired(theirs, ours, CONFIDENCE)


def _pools(results: Sequence[Result]) -> str:
    pools = [result["pool"] for result in results]
    shares = {kind: np.mean([pool["shares"][kind] for pool in pools]) for kind in pools[0]["shares"]}
    fill = np.mean([result["fill"]["ekfac"] for result in results])
    return (
        f"{len(results)} seed(s); {np.mean([p['documents'] for p in pools]):,.0f} documents, "
        f"{np.mean([p['tokens'] for p in pools]):,.0f} tokens in {np.mean([p['clusters'] for p in pools]):.0f} "
        f"clusters; tokens {', '.join(f'{kind} {value:.1%}' for kind, value in shares.items())}; budget "
        f"{np.mean([p['budget'] for p in pools]):,.0f} tokens, of which {fill:.0%} was fill in Quad's; "
        f"{np.mean([result['cpu_seconds'] for result in results]):.0f} CPU s a seed"
    )


def _taken(results: Sequence[Result], name: str) -> list[str]:
    facts = [result["contestants"][name] for result in results]
    return [
        _label(name),
        f"{np.mean([one['scored'] for one in facts]):.1%}",
        _percent([junk(name)(result) for result in results]),
        "" if name == OURS else _points(difference(results, junk, name)),
        *(_percent([junk(name, kind)(result) for result in results]) for kind in JUNK),
        f"{np.mean([one['clusters'] for one in facts]):.0f} of {np.mean([r['pool']['clusters'] for r in results]):.0f}",
        f"{np.mean([one['selection_flops'] for one in facts]) / 1e12:.2f}",
    ]


def _loss_header() -> list[str]:
    return ["", "reference, nats", "to Quad", "out of domain", "to Quad", "pool", "to Quad"]


def _losses(results: Sequence[Result], name: str) -> list[str]:
    cells = [_label(name)]
    for what in LOSSES:
        cells.append(f"{np.mean([loss(name, what)(result) for result in results]):.3f}")
        cells.append("" if name == OURS else _signed(difference(results, lambda n, w=what: loss(n, w), name)))
    return cells


def _larger(results: Sequence[Result], name: str) -> list[str]:
    tokens = np.mean([result["contestants"][name]["tokens"] for result in results])
    row = _losses(results, name)
    return [row[0], f"{tokens:,.0f}", _percent([junk(name)(result) for result in results]), *row[1:]]


def _ranked(results: Sequence[Result], kind: str) -> list[str]:
    found = [result["ranked"][kind] for result in results]
    return [kind, *(_plain([one[name] for one in found if name in one]) for name in (*JUNK, "domain"))]


def _verdicts(results: Sequence[Result], rivals: Sequence[str]) -> list[str]:
    lines = []
    for name in rivals:
        found = {
            "junk": difference(results, junk, name),
            **{what: difference(results, lambda n, w=what: loss(n, w), name) for what in LOSSES},
        }
        said = "; ".join(f"{what}: {verdict(one)}" for what, one in found.items())
        lines.append(f"- {_label(name)} against {NAMES[OURS]}: {said}.")
    return lines


def _label(name: str) -> str:
    return NAMES[name.removesuffix(PLUS)] + (", more tokens" if name.endswith(PLUS) else "")


def _percent(values: Sequence[float]) -> str:
    found = interval(values, CONFIDENCE)
    width = "" if found.half_width is None else f" ± {100 * found.half_width:.1f}"
    return f"{100 * (found.mean or 0.0):.1f}{width} %"


def _plain(values: Sequence[float]) -> str:
    found = interval(values, CONFIDENCE)
    if found.mean is None:
        return ""
    return f"{found.mean:.2f}" + ("" if found.half_width is None else f" ± {found.half_width:.2f}")


def _signed(found: Interval) -> str:
    return f"{found.mean or 0.0:+.3f}" + ("" if found.half_width is None else f" ± {found.half_width:.3f}")


def _points(found: Interval) -> str:
    width = "" if found.half_width is None else f" ± {100 * found.half_width:.1f}"
    return f"{100 * (found.mean or 0.0):+.1f}{width}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * max(width, 3) for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
