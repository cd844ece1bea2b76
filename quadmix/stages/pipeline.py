"""The stages in order, each brought up to date and no further than asked: what `run` and every job do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quadmix.config import RunConfig
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.search.result import SearchResult
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.diversity.facts import DiversityFacts, NothingToMeasure
from quadmix.stages.label import require_label_file
from quadmix.stages.records import run_lock

STAGES = ("annotate", "search", "select", "diversity", "report")


@dataclass
class Pipeline:
    """One run under the lock of its output. `stage` is where it stands, for the last line of an error."""

    config: RunConfig
    engine: Engine
    progress: Progress
    until: str = STAGES[-1]
    stage: str = STAGES[0]
    annotated: Annotated | None = None
    search: SearchResult | None = None
    manifest: Manifest | None = None
    diversity: DiversityFacts | None = None
    undiverse: NothingToMeasure | None = None  # why the report has no diversity
    report: Path | None = None

    def run(self) -> None:
        """Bring every stage up to and including `until` up to date; finished work that still fits is reused."""
        with run_lock(Path(self.config.output)):
            for stage in STAGES[: STAGES.index(self.until) + 1]:
                self.stage = stage
                getattr(self, f"_{stage}")()

    def _annotate(self) -> None:
        require_label_file(self.config)
        self.annotated = annotate(self.config, self.engine, self.progress)

    def _search(self) -> None:
        if self.config.search is None or not self.wants_search:
            self.progress.say("search: not needed, the config names the mixture to select")
            return
        from quadmix.stages.search import search

        assert self.annotated is not None
        self.search = search(self.config, self.engine, self.progress, self.annotated)

    @property
    def wants_search(self) -> bool:
        """Whether the mixture to publish comes from the search, or the search itself was asked for."""
        return self.until == "search" or self.config.select.mixture in ("winner", "proposal")

    def _select(self) -> None:
        from quadmix.stages.select import select

        assert self.annotated is not None
        self.manifest = select(self.config, self.engine, self.progress, self.annotated, self.search)

    def _diversity(self) -> None:
        asked = self.config.diversity
        if asked is None:
            if self.until == "diversity":
                raise ConfigError("diversity: null in the config, so nothing is measured; take the line out")
            self.progress.say("diversity: not measured, as the config says")
            return
        from quadmix.stages.diversity.stage import diversity

        assert self.annotated is not None
        assert self.manifest is not None
        try:
            self.diversity = diversity(self.config, asked, self.engine, self.progress, self.annotated, self.manifest)
        except NothingToMeasure as nothing:
            if self.until == "diversity":
                raise
            self.progress.say(str(nothing))
            self.undiverse = nothing

    def _report(self) -> None:
        from quadmix.stages.report import write_report

        assert self.annotated is not None
        assert self.manifest is not None
        self.report = write_report(
            self.config, self.progress, self.annotated, self.search, self.manifest, self.diversity or self.undiverse
        )
