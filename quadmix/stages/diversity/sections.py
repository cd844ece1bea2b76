"""What the report says of diversity: all measures beside the pool's random selections, and quality against them."""

from __future__ import annotations

from collections.abc import Mapping

from quadmix.stages.diversity.facts import (
    QUALITY,
    Diversity,
    DiversityFacts,
    Found,
    Measure,
    NothingToMeasure,
    number,
)
from quadmix.stages.diversity_figures import Band, Dot, quality_against_diversity
from quadmix.stages.page import Section, Table

_TITLE = "Diversity of what was selected"
# measures of the picture, the first three that were taken
_DRAWN = ("vendi_1", "novelsum", "effective_clusters", "effective_domains")
_BAND = "random selections, 95 %"
_BESIDE = 3
Qualities = Mapping[str, tuple[float, float]]  # by selection: value and half width


def diversity_section(facts: DiversityFacts | NothingToMeasure) -> Section:
    """The report's section; of what could not be measured, why."""
    if isinstance(facts, NothingToMeasure):
        return Section("diversity", _TITLE, empty=str(facts))
    text = (
        f"Of {facts.repeats} samples of {facts.sample_docs:,} copies each, with the 95 % interval of the mean, beside "
        f"one such sample of each of {facts.repeats} random selections of {facts.budget:,} tokens from the pool. Sizes "
        f"are equal, since every one of these numbers depends on them. Embeddings: {facts.embedder}. Quality is of "
        f"{facts.quality}; at random it is 0.5 (the cross). Where nothing varies (± 0), every sample is the whole "
        "selection. docs/diversity.md says what each number means and when it misleads."
    )
    return Section("diversity", _TITLE, text, diversity_picture(facts), (_table(facts),))


def diversity_picture(
    facts: DiversityFacts, qualities: Qualities | None = None, quality: str = "mean quality quantile"
) -> str:
    """SVG: every selection's quality against its diversity. qualities: by name, as the axis `quality` says (losses of a
    target, say; the band then has no mark); the facts' own quality where None."""
    marked = None
    if qualities is None:
        qualities = {one.name: _mean(one.found[QUALITY]) for one in facts.selections}
        marked = _mean(facts.random.found[QUALITY])
    drawn = [measure for name in _DRAWN for measure in facts.measures() if measure.name == name][:3]
    panels = {
        measure.title: (
            [
                Dot(one.name, qualities[one.name], _mean(one.found[measure.name]))
                for one in facts.selections
                if one.name in qualities
            ],
            _band(facts.random, measure, marked),
        )
        for measure in drawn
    }
    return quality_against_diversity(panels, quality)


def _band(random: Diversity, measure: Measure, quality: tuple[float, float] | None) -> Band:
    found = random.found[measure.name]
    return Band(found.low, found.high, quality)


def _mean(found: Found) -> tuple[float, float]:
    return found.mean, found.half_width


def _table(facts: DiversityFacts) -> Table:
    """A row a measure; a row a selection where there are more selections than fit beside each other."""
    header = ("", *(one.name for one in facts.selections), _BAND, *_verdict_header(facts))
    rows = [_row(facts, measure) for measure in facts.measures()]
    if len(facts.selections) <= _BESIDE:
        return Table(header, tuple(rows))
    turned = list(zip(header, *rows, strict=True))
    return Table(turned[0], tuple(turned[1:]))


def _verdict_header(facts: DiversityFacts) -> tuple[str, ...]:
    return ("than random",) if len(facts.selections) == 1 else ()


def _row(facts: DiversityFacts, measure: Measure) -> tuple[str, ...]:
    band = facts.random.found[measure.name]
    cells = [
        f"{number(found.mean, measure)} ± {number(found.half_width, measure)}"
        for found in (one.found[measure.name] for one in facts.selections)
    ]
    verdict = (_verdict(facts.selections[0].found[measure.name], band, measure),) if len(facts.selections) == 1 else ()
    low, high = number(band.low, measure), number(band.high, measure)
    return measure.title, *cells, f"{low} to {high}", *verdict


def _verdict(found: Found, band: Found, measure: Measure) -> str:
    """In words where the whole interval lies outside of the band."""
    if found.low <= band.high and found.high >= band.low:
        return "not told apart"
    above = found.low > band.high
    if measure.more is None:
        return "higher" if above else "lower"
    return "more diverse" if above == measure.more else "less diverse"
