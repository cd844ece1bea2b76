"""What a whole run on the small pool left, and how to look at it without changing it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from quadmix.manifest.model import Manifest
from quadmix.search.result import SearchResult
from tests.e2e.command_line import Done


@dataclass(frozen=True)
class WholeRun:
    """Read only: tests that run on in it take a `copy`."""

    config: Path
    output: Path
    done: Done

    @property
    def manifest(self) -> Manifest:
        return Manifest.load(self.output)

    @property
    def search(self) -> SearchResult:
        return SearchResult.from_json(next(self.output.glob("stages/search-*/result.json")).read_bytes())

    @property
    def html(self) -> str:
        return (self.output / "report.html").read_text(encoding="utf-8")

    def copy(self, output: Path) -> Path:
        """Everything it left, as another output: where a run writes is no part of any stage's identity."""
        shutil.copytree(self.output, output)
        return output


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change (directories too)."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}
