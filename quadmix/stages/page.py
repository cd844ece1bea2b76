"""What the template of reports is filled with, and the filling."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec

from quadmix.errors import EnvironmentFault


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


def render(page: Page) -> str:
    """The page as HTML. Raises EnvironmentFault where a package for reports is missing."""
    require_report()
    from jinja2 import Environment, StrictUndefined

    template = resources.files("quadmix.stages").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(vars(page))


def require_report() -> None:
    """Raises EnvironmentFault where a package for reports is missing."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise EnvironmentFault(f"the report needs {' and '.join(missing)}: pip install '.[report]', then run again")
