"""A comparison as tables: lines for a terminal and Markdown, from one set of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quadmix.search.result import Interval
from quadmix.stages.compare.result import BETTER, FAILED, TIE, WORSE, Comparison, Contestant, in_words
from quadmix.stages.figures import short


def header(found: Comparison) -> list[str]:
    """Names of the columns."""
    levels = [f"{key}, bits/byte" for key in found.keys]
    leads = [f"{key} − {found.against}" for key in found.keys]
    return ["entry", *levels, *leads, "verdict", "documents", "repeats", "tokens scored", "cost"]


def rows(found: Comparison) -> list[list[str]]:
    """Cells of every entry, the lowest first."""
    return [_cells(found, one) for one in found.ranked]


def _cells(found: Comparison, one: Contestant) -> list[str]:
    leads = [_lead(one.lead.get(key)) for key in found.keys]
    return [
        one.name,
        *(level(one.level[key]) for key in found.keys),
        *leads,
        one.verdict[found.keys[0]],
        f"{one.documents:,.0f}",
        f"{one.repeats:.2f}",
        short(one.scored_tokens),
        cost(found, one),
    ]


def level(one: Interval) -> str:
    """`1.234 ± .012`."""
    if one.mean is None:
        return FAILED
    return f"{one.mean:.3f}" + ("" if one.half_width is None else f" ± {one.half_width:.3f}")


def _lead(one: Interval | None) -> str:
    if one is None:
        return "–"
    if one.mean is None or one.half_width is None:
        return FAILED
    return f"{one.mean:+.3f} ± {one.half_width:.3f}"


def cost(found: Comparison, one: Contestant) -> str:
    """Of the selection, in trainings of one target model; a `+` where some of it has no estimate."""
    unknown = "+" if any(part.flops is None for part in one.costs) else ""
    return f"{one.flops / found.model_flops:.2f}{unknown}"


def notes(found: Comparison) -> list[str]:
    """What is to be known beside the numbers, a sentence each."""
    lines = [
        f"Bits per byte of target models ({short(found.model_parameters)} weights) that read {found.train_tokens:,} "
        f"tokens of a selection of {found.budget:,}; lower is better. {found.seeds} seeds, each with fresh draws, "
        "initialisation and order, shared by all entries; ± is half of a "
        f"{found.confidence:.0%} Student's t interval, of differences paired by seed. `{TIE}`: the interval holds 0. "
        "Intervals are not widened for the number of entries.",
        "Measured on the halves of the targets that no search and no scorer saw: "
        + ", ".join(f"{name} ({target.eval_tokens:,} tokens)" for name, target in found.targets.items())
        + ". Every selection is of the same pool "
        f"({found.pool_documents:,} documents, {found.pool_tokens:,} tokens).",
        "Tokens scored: that models read for a selection, in training and in scoring (learned scorers of its criteria, "
        f"search, Quad). Cost: estimated FLOPs of that, in trainings of one target model ({found.model_flops:.2g} "
        "FLOPs); `+`: a part has no estimate.",
    ]
    lines += [f"{one.name}: {one.note}." for one in found.entries if one.note]
    lines += [f"{one.name}: {error}." for one in found.entries for error in one.errors]
    read = [tokens for one in found.entries for tokens in one.read_tokens]
    least, most = min(read), max(read)
    if least < _EQUAL * most:
        lines.append(f"Target models read unequal numbers of tokens ({least:,} to {most:,}): mind that in differences.")
    return lines


_EQUAL = 0.99


def terminal(found: Comparison) -> Iterator[str]:
    """The table with columns in line, the sentence, the notes."""
    table = [header(found), *rows(found)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()
    yield ""
    yield in_words(found)
    yield from (note.replace("`", "") for note in notes(found))


def markdown(found: Comparison) -> Iterator[str]:
    """The sentence, the table and the notes for a document; differences that leave 0 out are bold."""
    yield in_words(found)
    yield ""
    names = header(found)
    yield f"| {' | '.join(names)} |"
    yield f"|---|{'---:|' * (len(names) - 1)}"
    for one, cells in zip(found.ranked, rows(found), strict=True):
        yield f"| {' | '.join(_marked(found, one, cells))} |"
    yield ""
    for note in notes(found):
        yield f"- {note}"


def _marked(found: Comparison, one: Contestant, cells: Sequence[str]) -> list[str]:
    marked = [f"`{cells[0]}`", *cells[1:]]
    first = 1 + len(found.keys)
    for place, key in enumerate(found.keys):
        if one.verdict[key] in (BETTER, WORSE):
            marked[first + place] = f"**{marked[first + place]}**"
    return marked
