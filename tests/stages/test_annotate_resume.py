"""What an interrupted or repeated annotate does again, and why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quadmix.stages import records
from tests.pool.building import documents, write_jsonl, write_parquet
from tests.stages.annotate_pools import SCORE, counts, rows_of, run, run_config
from tests.stages.inline_engine import InlineEngine

SMALL = {"unit_bytes": 1000}  # one shard a unit, and none so large that it is prepared first


def shards(tmp_path: Path, numbers: range) -> None:
    for number in numbers:
        write_jsonl(tmp_path / "in" / f"{number:02d}.jsonl", documents(10, 10 * number))


def done_units(config: object, tmp_path: Path) -> int:
    engine = InlineEngine()
    run(config, engine)  # type: ignore[arg-type]
    return engine.items.get("annotate", 0)


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    shards(tmp_path, range(4))
    config = run_config(tmp_path, pool=SMALL)
    first = run(config)
    engine = InlineEngine()
    second = run(config, engine)
    assert engine.items == {}
    assert (second.record, second.files, second.units) == (first.record, first.files, first.units)
    assert second.summary.domains == first.summary.domains


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_run_repeats_only_what_was_not_finished(tmp_path: Path, after: int) -> None:
    shards(tmp_path, range(4))
    config = run_config(tmp_path, pool=SMALL)
    with pytest.raises(KeyboardInterrupt):
        run(config, InlineEngine(fail_in="annotate", fail_after=after))
    assert done_units(config, tmp_path) == 4 - after
    whole = run(config.model_copy(update={"output": str(tmp_path / "other")}))
    assert rows_of(run(config)).equals(rows_of(whole))
    assert run(config).record == whole.record


def test_appended_shards_are_the_only_ones_read(tmp_path: Path) -> None:
    shards(tmp_path, range(4))
    config = run_config(tmp_path, pool=SMALL)
    assert done_units(config, tmp_path) == 4
    shards(tmp_path, range(4, 6))
    assert done_units(config, tmp_path) == 2
    fresh = run(config.model_copy(update={"output": str(tmp_path / "other")}))
    assert run(config).record == fresh.record
    write_jsonl(tmp_path / "in" / "00a.jsonl", documents(5, 900))  # sorts in between: indices move, work does not
    assert done_units(config, tmp_path) == 1
    fresh = run(config.model_copy(update={"output": str(tmp_path / "third")}))
    assert run(config).record == fresh.record
    assert [os.path.basename(path)[:10] for path in run(config).files] == [f"unit-{index:05d}" for index in range(7)]


def test_an_appended_duplicate_changes_the_old_unit_without_reading_it(tmp_path: Path) -> None:
    shards(tmp_path, range(3))
    config = run_config(tmp_path, pool=SMALL)
    run(config)
    write_jsonl(tmp_path / "in" / "99.jsonl", [{**row, "text": f"Another: {row['text']}"} for row in documents(10)])
    assert done_units(config, tmp_path) == 1
    done = run(config)
    assert counts(done) == {"DUP_ID_CONFLICT": 10}
    (tmp_path / "in" / "99.jsonl").unlink()
    assert counts(run(config)) == {}


def test_a_threshold_can_be_moved_without_reading_again(tmp_path: Path) -> None:
    shards(tmp_path, range(3))
    run(run_config(tmp_path, pool=SMALL))
    assert done_units(run_config(tmp_path, pool={**SMALL, "max_quarantine_fraction": 0.5}), tmp_path) == 0


@pytest.mark.parametrize("damage", ["flip", "delete"])
@pytest.mark.parametrize("stem", ["unit", "ids", "summary"])
def test_a_damaged_piece_is_done_again(tmp_path: Path, damage: str, stem: str) -> None:
    shards(tmp_path, range(3))
    config = run_config(tmp_path, pool=SMALL)
    first = run(config)
    (first.directory / "record.json").unlink()
    victim = sorted(first.directory.glob(f"{stem}-00001-*"))[0]
    raw = bytearray(victim.read_bytes())
    victim.unlink()
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
        victim.write_bytes(raw)
    assert done_units(config, tmp_path) == 1
    assert run(config).record == first.record


def test_a_damaged_annotation_of_a_finished_stage_is_noticed(tmp_path: Path) -> None:
    shards(tmp_path, range(3))
    config = run_config(tmp_path, pool=SMALL)
    first = run(config)
    path = Path(first.files[1])
    raw = bytearray(path.read_bytes())
    raw[40] ^= 4
    path.write_bytes(raw)
    found = records.peek(tmp_path / "out", "annotate", first.record.parts)
    assert found.record is None
    assert path.name in found.why
    assert done_units(config, tmp_path) == 1
    assert rows_of(run(config)).equals(rows_of(first)) or run(config).record == first.record


def test_what_was_done_to_the_rows_decides_what_is_done_again(tmp_path: Path) -> None:
    shards(tmp_path, range(3))
    assert done_units(run_config(tmp_path, pool=SMALL), tmp_path) == 3
    other = {**SCORE, "lower_is_better": ["score"]}
    assert done_units(run_config(tmp_path, pool=SMALL, annotate={"scorers": [other]}), tmp_path) == 3
    assert done_units(run_config(tmp_path, pool={**SMALL, "max_doc_bytes": 1000}), tmp_path) == 3
    write_jsonl(tmp_path / "in" / "01.jsonl", documents(10, 500))
    assert done_units(run_config(tmp_path, pool=SMALL), tmp_path) == 1
    assert done_units(run_config(tmp_path, pool=SMALL), tmp_path) == 0


def test_the_reason_for_a_rerun_names_the_shard(tmp_path: Path) -> None:
    shards(tmp_path, range(3))
    first = run(run_config(tmp_path, pool=SMALL))
    shards(tmp_path, range(3, 4))
    from quadmix.pool.inventory import find_inputs
    from quadmix.stages.annotate_identity import stage_parts

    config = run_config(tmp_path, pool=SMALL)
    parts = stage_parts(config, find_inputs(config.pool).files, None, ())
    assert set(parts) == set(first.record.parts)
    assert "inputs.03.jsonl changed" in records.peek(tmp_path / "out", "annotate", parts).why


def test_leftovers_of_a_killed_attempt_are_swept_away(tmp_path: Path) -> None:
    shards(tmp_path, range(2))
    config = run_config(tmp_path, pool=SMALL)
    with pytest.raises(KeyboardInterrupt):
        run(config, InlineEngine(fail_in="annotate", fail_after=1))
    (directory,) = (tmp_path / "out" / "stages").glob("annotate-*")
    (directory / "unit-00001-xyz.tmp").write_bytes(b"half")
    done = run(config)
    assert not list(directory.glob("*.tmp"))
    assert all((done.directory / entry.path).exists() for entry in done.record.files)


def test_parquet_units_resume_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", documents(100), group=10)
    config = run_config(tmp_path, pool={"unit_bytes": 1200})
    total = done_units(config, tmp_path)
    assert total > 4
    with pytest.raises(KeyboardInterrupt):
        run(config.model_copy(update={"output": str(tmp_path / "b")}), InlineEngine(fail_in="annotate", fail_after=3))
    assert done_units(config.model_copy(update={"output": str(tmp_path / "b")}), tmp_path) == total - 3
