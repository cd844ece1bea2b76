"""Progress: bars for people, lines for logs, silence for machines."""

from __future__ import annotations

import io

import pytest

from quadmix.progress import Progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_every_few_seconds_with_the_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress("plain", out, clock).track("annotate", 40) as track:
        for _ in range(40):
            clock.seconds += 2.0
            track.advance(note="unit")
    lines = out.getvalue().splitlines()
    assert lines[0] == "annotate: 3/40 (7 %), 1 min 14 s left, unit"
    assert lines[-1] == "annotate: 40/40 (100 %), in 1 min 20 s"
    assert len(lines) == 14


def test_the_last_line_is_not_said_twice() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress("plain", out, clock).track("x", 1) as track:
        clock.seconds = 10.0
        track.advance()
    assert out.getvalue().splitlines() == ["x: 1/1 (100 %)"]


def test_a_failed_track_claims_nothing() -> None:
    out = io.StringIO()

    def fail() -> None:
        with Progress("plain", out, Clock()).track("x", 5) as track:
            track.advance()
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert out.getvalue() == ""


def test_silent_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress.silent()
    progress.say("hello")
    with progress.track("x", 2) as track:
        track.advance(2)
    assert capsys.readouterr() == ("", "")


def test_sentences_and_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress.for_terminal()
    assert progress.mode == "plain"
    progress.say("12 files")
    with progress.track("x", 1) as track:
        track.advance()
    assert capsys.readouterr() == ("", "12 files\nx: 1/1 (100 %), in 0 s\n")


def test_nothing_to_do_is_no_division() -> None:
    out = io.StringIO()
    with Progress("plain", out, Clock()).track("x", 0):
        pass
    assert out.getvalue() == "x: 0/0, in 0 s\n"


def test_a_terminal_gets_bars_with_literal_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = Progress.for_terminal(out)
    assert progress.mode == "rich"
    with progress.track("outer [bold]", 2) as outer, progress.track("inner", 3) as inner:
        inner.advance(3, note="loss 3.2")
        progress.say("[red] is text")
        outer.advance()
    text = out.getvalue()
    assert "outer [bold]" in text
    assert "3/3" in text
    assert "loss 3.2" in text
    assert "[red] is text" in text


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert Progress.for_terminal(Terminal()).mode == "plain"


def test_of_many_steps_that_are_passes_each_only_the_steps_are_shown() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("plain", out, clock)
    with progress.only("trials", 2) as trials:
        for _ in range(2):
            with progress.track("a pass", 3) as track:
                clock.seconds += 6.0
                track.advance(3)
            trials.advance()
    with progress.track("afterwards", 1) as track:
        track.advance()
    said = out.getvalue().splitlines()
    assert said == ["trials: 1/2 (50 %), 6 s left", "trials: 2/2 (100 %)", "afterwards: 1/1 (100 %), in 0 s"]
