"""What a run says while it works: a bar on a terminal, a line every few seconds elsewhere, nothing for machines.

Everything goes to standard error; standard output belongs to results. Nothing here decides anything: the clock is
read for display only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Mode = Literal["rich", "plain", "silent"]

_LINE_EVERY_SECONDS = 5.0


class Progress:
    """Counts of steps done with the time left, and sentences between them."""

    def __init__(self, mode: Mode, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.mode: Mode = mode
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._display: RichProgress | None = None
        self._open = 0
        self._only: Track | None = None

    @classmethod
    def silent(cls) -> Progress:
        """Says nothing (`--json`, library use)."""
        return cls("silent")

    @classmethod
    def for_terminal(cls, stream: TextIO | None = None) -> Progress:
        """Bars when `stream` (default: standard error) is a capable terminal, plain lines otherwise."""
        stream = stream if stream is not None else sys.stderr
        capable = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        return cls("rich" if capable else "plain", stream)

    def say(self, text: str) -> None:
        """One line of prose, above the bars where there are bars."""
        if self.mode == "silent":
            return
        if self._display is not None:
            self._display.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Track]:
        """Follow `total` steps under `label`; tracks may be nested."""
        track = Track(self, label, total, self._clock)
        if self.mode == "rich" and self._only is None:
            track.bar = self._show(label, total)
        try:
            yield track
            track.finish()
        finally:
            if track.bar is not None:
                self._hide(track.bar)

    @contextmanager
    def only(self, label: str, total: int) -> Iterator[Track]:
        """As `track`, with nothing shown of the tracks inside it: for many steps that are some passes each."""
        with self.track(label, total) as track:
            self._only = track
            try:
                yield track
            finally:
                self._only = None

    def _show(self, label: str, total: int) -> TaskID:
        if self._display is None:
            self._display = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=self._stream),
            )
            self._display.start()
        self._open += 1
        return self._display.add_task(label, total=total, note="")

    def _hide(self, bar: TaskID) -> None:
        assert self._display is not None
        self._open -= 1
        self._display.stop_task(bar)
        if self._open == 0:
            self._display.stop()
            self._display = None

    def update(self, track: Track, note: str) -> None:
        """Show where `track` stands (called by it)."""
        if self._only is not None and track is not self._only:
            return
        if self._display is not None and track.bar is not None:
            self._display.update(track.bar, completed=track.done, note=note)
        elif self.mode == "plain":
            print(track.line(note), file=self._stream, flush=True)


class Track:
    """One count of steps. `advance` is cheap: lines are written at most every few seconds."""

    def __init__(self, progress: Progress, label: str, total: int, clock: Callable[[], float]) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self.bar: TaskID | None = None
        self._progress = progress
        self._clock = clock
        self._started = clock()
        self._shown = self._started
        self._shown_done = -1

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more steps are done; `note` stands at the end of the line (a loss, a file name)."""
        self.done += n
        if self.bar is not None or self._clock() - self._shown >= _LINE_EVERY_SECONDS:
            self._shown, self._shown_done = self._clock(), self.done
            self._progress.update(self, note)

    def finish(self) -> None:
        """The last line, unless it was just written."""
        if self.bar is None and self._shown_done != self.done:
            self._progress.update(self, f"in {_duration(self._clock() - self._started)}")

    def seconds_left(self) -> float | None:
        """At the mean pace so far; None before the first step."""
        if not self.done:
            return None
        return (self._clock() - self._started) / self.done * max(self.total - self.done, 0)

    def line(self, note: str = "") -> str:
        """`annotate: 12/40 (30 %), 1 min 20 s left, note`."""
        share = f" ({100 * self.done // self.total} %)" if self.total else ""
        left = self.seconds_left()
        parts = [f"{self.label}: {self.done}/{self.total}{share}"]
        if left is not None and self.done < self.total:
            parts.append(f"{_duration(left)} left")
        return ", ".join([*parts, note] if note else parts)


def _duration(seconds: float) -> str:
    """`8 s`, `1 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
