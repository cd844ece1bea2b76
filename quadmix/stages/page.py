"""What the report's template is filled with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """One heading of the report."""

    id: str
    title: str
    text: str = ""
    figure: str = ""
    tables: tuple[Table, ...] = ()
    empty: str = ""


@dataclass(frozen=True)
class Page:
    """What the template needs."""

    title: str
    lead: str
    winner_line: str
    verdict: str
    tiles: list[dict[str, str]]
    sections: list[Section]
    provenance: str = field(default="")
