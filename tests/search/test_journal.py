"""The journal keeps what was finished and nothing else, whatever the kill left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.search.journal import Journal

ENTRIES = [("a", {"loss": 1.25, "name": "é"}), ("b", {"loss": None}), ("c", {"loss": 0.1 + 0.2})]


def _written(path: Path) -> bytes:
    journal = Journal(path)
    for key, value in ENTRIES:
        journal.append(key, value)
    return path.read_bytes()


def test_entries_come_back_to_the_bit(tmp_path: Path) -> None:
    _written(tmp_path / "j.jsonl")
    assert Journal(tmp_path / "j.jsonl").entries == dict(ENTRIES)


def test_a_cut_at_any_byte_keeps_exactly_the_whole_lines_and_appending_goes_on(tmp_path: Path) -> None:
    raw = _written(tmp_path / "j.jsonl")
    for cut in range(len(raw) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(raw[:cut])
        journal = Journal(path)
        assert list(journal.entries) == ["a", "b", "c"][: raw[:cut].count(b"\n")]
        journal.append("z", {"loss": 2.0})
        again = Journal(path)
        assert again.entries == journal.entries
        assert again.damaged == 0


@settings(max_examples=150, deadline=None)
@given(position=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_never_changes_an_entry(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    raw = bytearray(_written(folder / "j.jsonl"))
    raw[position % len(raw)] ^= 1 << bit
    (folder / "f.jsonl").write_bytes(raw)
    for key, value in Journal(folder / "f.jsonl").entries.items():
        assert dict(ENTRIES)[key] == value


def test_not_a_number_is_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Journal(tmp_path / "j.jsonl").append("a", {"loss": float("nan")})
