"""The comparison as one HTML file in the report's style: the verdict, pictures, all tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from quadmix.config import RunConfig
from quadmix.manifest.durable import write_atomically
from quadmix.manifest.model import portable_config
from quadmix.stages.compare import figures
from quadmix.stages.compare.result import Comparison, Contestant, in_words
from quadmix.stages.compare.tables import header, notes, rows
from quadmix.stages.diversity.facts import DiversityFacts
from quadmix.stages.diversity.sections import diversity_picture, diversity_section
from quadmix.stages.figures import short
from quadmix.stages.page import Page, Section, Table, render

PAGE_FILE = "compare.html"


def write_page(output: Path, found: Comparison, config: RunConfig) -> Path:
    """Write OUT/compare.html; returns its path. Raises EnvironmentFault where the report's packages are missing."""
    html = render(make_page(found, config))
    write_atomically(output / PAGE_FILE, html.encode("utf-8"))
    return output / PAGE_FILE


def make_page(found: Comparison, config: RunConfig) -> Page:
    """All of the page's content."""
    first = found.ranked[0]
    return Page(
        title=f"{len(found.entries)} selections of {short(found.budget)} tokens compared",
        lead=f"Pool: {found.pool_documents:,} documents, {found.pool_tokens:,} tokens.",
        winner_line=f"Lowest: {first.name}",
        verdict=in_words(found),
        tiles=[
            {"label": "entries", "value": str(len(found.entries))},
            {"label": "seeds", "value": str(found.seeds)},
            {"label": "weights of a target model", "value": short(found.model_parameters)},
            {"label": "tokens that each reads", "value": f"{found.train_tokens:,}"},
        ],
        sections=[
            Section("results", "Results", " ".join(notes(found)).replace("`", ""), "", _results(found)),
            Section(
                "cost",
                "Loss against cost",
                "Dots are means over seeds with intervals; a hollow one has parts whose FLOPs have no estimate and "
                "stands too far left. What is left of the first dot above 0 is not to scale.",
                figures.loss_against_cost(found),
                _costs(found),
            ),
            Section(
                "differences",
                f"Differences to {found.against}",
                "Ticks are single seeds. An interval that crosses the dashed line is a tie.",
                figures.differences(found),
            ),
            *_diversity(found),
            Section("shares", "What was selected", "Per cent of tokens by domain, first seed.", "", (_shares(found),)),
        ],
        provenance=json.dumps(portable_config(config.model_dump(mode="json")), indent=1, ensure_ascii=False),
    )


def _diversity(found: Comparison) -> list[Section]:
    if found.diversity is None:
        return []
    section = diversity_section(DiversityFacts.from_json(found.diversity))
    return [replace(section, figure=diversity_against_loss(found))]


def diversity_against_loss(found: Comparison) -> str:
    """SVG: every entry's loss against the diversity of its first selection, random selections as a band."""
    assert found.diversity is not None
    key = found.keys[0]
    losses = {
        one.name: (level.mean, level.half_width or 0.0)
        for one in found.entries
        if (level := one.level[key]).mean is not None
    }
    return diversity_picture(DiversityFacts.from_json(found.diversity), losses, f"{key}, bits per byte")


def _results(found: Comparison) -> tuple[Table, Table]:
    """The table in two, which fit the page: levels with costs, and differences."""
    cells, count = [header(found), *rows(found)], len(found.keys)
    levels = [(*row[: 1 + count], *row[1 + 2 * count :]) for row in cells]
    leads = [(row[0], *row[1 + count : 1 + 2 * count]) for row in cells]
    return Table(levels[0], tuple(levels[1:])), Table(leads[0], tuple(leads[1:]))


def _costs(found: Comparison) -> tuple[Table, ...]:
    lines = tuple(
        (
            one.name,
            part.what,
            "–" if part.documents is None else f"{part.documents:,}",
            f"{part.tokens:,}",
            _flops(part.flops),
        )
        for one in found.ranked
        for part in one.costs
    )
    return (Table(("entry", "work of models", "documents", "tokens", "FLOPs, estimated"), lines),) if lines else ()


def _flops(value: float | None) -> str:
    return "no estimate" if value is None else f"{value:.3g}"


def _shares(found: Comparison) -> Table:
    domains = sorted({name for one in found.entries for name in one.share})
    return Table(("entry", *domains), tuple(_share_row(one, domains) for one in found.ranked))


def _share_row(one: Contestant, domains: list[str]) -> tuple[str, ...]:
    return (one.name, *(f"{100 * one.share.get(name, 0.0):.1f}" for name in domains))
