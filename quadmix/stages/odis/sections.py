"""What the report says of ODiS: how much each component explains and of what it is made, its tokens, how little the top
sets share, and documents from both ends."""

from __future__ import annotations

from collections.abc import Sequence

from quadmix.manifest.model import Manifest
from quadmix.selectors.base import JOIN
from quadmix.selectors.odis_outcome import Outcome
from quadmix.stages import odis_figures
from quadmix.stages.odis.examples import ComponentEnds, Example
from quadmix.stages.page import Section, Table


def odis_sections(outcome: Outcome, ends: Sequence[ComponentEnds], manifest: Manifest) -> list[Section]:
    """ends: one a component, or none where the examples are gone."""
    sections = [_variance(outcome), _loadings(outcome), _strata(outcome, manifest)]
    if len(outcome.components) > 1:
        sections.append(_overlap(outcome))
    return sections + ([_examples(outcome, ends)] if any(one.high for one in ends) else [])


def _variance(outcome: Outcome) -> Section:
    kept = len(outcome.components)
    held = 100 * sum(outcome.explained[:kept])
    wanted = f"{100 * outcome.explained_variance:.3g} %"
    text = (
        f"{kept} of {len(outcome.dimensions)} components of the correlation matrix are kept: the first that explain "
        f"{wanted} of the variance of {outcome.documents:,} documents' scores, but at most {outcome.most_components}. "
        f"They explain {held:.1f} %."
    )
    return Section("variance", "ODiS: explained variance", text, odis_figures.explained(outcome))


def _loadings(outcome: Outcome) -> Section:
    quality = [one.name for one in outcome.dimensions if one.quality]
    decided = "all dimensions" if len(quality) == len(outcome.dimensions) else ", ".join(quality)
    text = f"Correlation of each component with each dimension. Signs are such that the sum over {decided} is positive."
    rows = tuple((first, second, _signed(value)) for first, second, value in outcome.collinear)
    tables = (Table(("dimensions that say much the same", "and", "correlation"), rows),) if rows else ()
    return Section("loadings", "ODiS: of what components are made", text, odis_figures.loadings(outcome), tables)


def _strata(outcome: Outcome, manifest: Manifest) -> Section:
    taken, quota = (dict.fromkeys((one.name for one in outcome.components), 0) for _ in range(2))
    for name, stratum in manifest.plan["strata"].items():
        component = name.rpartition(JOIN)[2]
        taken[component] += stratum["taken"]
        quota[component] += stratum["quota"]
    rows = tuple(
        (
            one.name, f"{100 * one.share:.1f} %", f"{one.asked:,}", f"{quota[one.name]:,}", f"{taken[one.name]:,}",
            f"{100 * taken[one.name] / manifest.realised_tokens:.1f} %", f"{one.documents:,}", f"{one.tokens:,}",
        )
        for one in outcome.components
    )  # fmt: skip
    header = ("component", "share", "asked", "quota", "selected tokens", "of all", "its documents", "its tokens")
    text = "A document belongs to the component in which its token-weighted quantile is highest."
    if outcome.floor:
        text += (
            f" {outcome.below_floor[0]:,} documents ({outcome.below_floor[1]:,} tokens) have it in a later component"
            f" but lie below {outcome.floor:g} in PC1: they count as documents of PC1, where they come last."
        )
    return Section("components", "ODiS: what each component gives", text, "", (Table(header, rows),))


def _overlap(outcome: Outcome) -> Section:
    names = [one.name for one in outcome.components]
    size = len(names)
    rates = [one.top / outcome.tokens for one in outcome.components]
    rows = []
    for i in range(size):
        cells = [f"{100 * outcome.overlap(i, j)[0]:.2f} % ({100 * outcome.overlap(i, j)[1]:.2f} %)" for j in range(i)]
        rows.append((names[i], f"{100 * rates[i]:.3g} %", *cells, *("–" for _ in range(size - i))))
    text = (
        "If every component had chosen on its own: tokens that two top sets share, of the tokens in either. In brackets"
        " what two independent choices of these sizes would share: low overlap at a low selection rate alone says "
        "nothing. What is published shares nothing, since every document belongs to one component."
    )
    header = ("component", "of the pool's tokens", *names)
    return Section("overlap", "ODiS: overlap of the top sets", text, "", (Table(header, tuple(rows)),))


def _examples(outcome: Outcome, ends: Sequence[ComponentEnds]) -> Section:
    tables = tuple(
        Table((f"{one.name}, the {side} end", "", "begins"), tuple(_row(example) for example in examples))
        for one, both in zip(outcome.components, ends, strict=True)
        for side, examples in (("high", both.high), ("low", both.low))
    )
    text = "The outermost documents of each component; the number is in deviations from the mean."
    return Section("ends", "ODiS: documents at both ends", text, "", tables)


def _row(example: Example) -> tuple[str, ...]:
    # ends of lines are the browser's: cells are wide, and the text is cut to what one line of the page holds
    text = example.text if len(example.text) <= _SHOWN else example.text[: _SHOWN - 1] + "…"
    return example.doc_id, _signed(example.value, 2), text


_SHOWN = 90


def _signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
