"""Units depend on the input and `unit_bytes` alone; appending leaves full units as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.pool.batches import split_by_bytes
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.units import InputFile, Unit
from tests.pool.building import documents, pool, read_all, write_jsonl, write_parquet


def stream(number: int, size: int) -> InputFile:
    """A JSONL file that need not exist: planning looks at its size only."""
    return InputFile(f"/x/{number:04d}", f"{number:04d}", size, 0, "", "jsonl", "")


def shards(unit: Unit) -> list[str]:
    return [piece.file.shard for piece in unit.pieces]


@given(st.lists(st.integers(0, 300), max_size=30), st.lists(st.integers(0, 300), max_size=5), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_appending_changes_at_most_the_last_bundle(sizes: list[int], more: list[int], unit_bytes: int) -> None:
    files = [stream(number, size) for number, size in enumerate(sizes + more)]
    before, after = plan_units(files[: len(sizes)], unit_bytes), plan_units(files, unit_bytes)
    assert after[: max(len(before) - 1, 0)] == before[:-1]
    if before:
        assert shards(after[len(before) - 1])[: len(before[-1].pieces)] == shards(before[-1])
    assert [shard for unit in after for shard in shards(unit)] == [file.shard for file in files]
    for unit in after:
        assert unit.bytes <= unit_bytes or len(unit.pieces) == 1
        assert unit.bytes == sum(piece.file.size for piece in unit.pieces)


def test_order_and_location_of_files_do_not_matter() -> None:
    files = [stream(number, 40) for number in range(9)]
    assert plan_units(files[::-1], 100) == plan_units(files, 100)


@pytest.mark.parametrize("unit_bytes", [1, 2000, 10**9])
def test_row_groups_cover_every_row_once(tmp_path: Path, unit_bytes: int) -> None:
    for number in range(3):
        write_parquet(tmp_path / f"{number}.parquet", documents(100, 100 * number), group=17)
    write_jsonl(tmp_path / "9.jsonl", documents(10, 300))
    config = pool(tmp_path, unit_bytes=unit_bytes)
    rows = read_all(config)
    assert [row["doc_id"] for row in rows] == [f"doc-{number:05d}" for number in range(310)]
    assert [row["row"] for row in rows] == [*range(100), *range(100), *range(100), *range(10)]
    units = plan_units(find_inputs(config).files, unit_bytes)
    assert [unit.index for unit in units] == list(range(len(units)))
    assert len(units) == {1: 19, 10**9: 1}.get(unit_bytes, len(units))


def test_a_large_parquet_file_shares_no_unit(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(10))
    write_parquet(tmp_path / "b.parquet", documents(500, 10), group=100)
    write_parquet(tmp_path / "c.parquet", documents(10, 600))
    units = plan_units(find_inputs(pool(tmp_path)).files, 12_000)
    names = [set(shards(unit)) for unit in units]
    assert names[0] == {"a.parquet"}
    assert names[-1] == {"c.parquet"}
    assert all(name == {"b.parquet"} for name in names[1:-1])
    assert len(names) > 3


def test_rows_do_not_depend_on_the_format(tmp_path: Path) -> None:
    rows = documents(50)
    write_parquet(tmp_path / "1" / "a.parquet", rows, group=7)
    for number, suffix in enumerate(("jsonl", "jsonl.gz", "jsonl.zst", "ndjson"), start=2):
        write_jsonl(tmp_path / str(number) / f"a.{suffix}", rows)
    found = [
        [{**row, "shard": ""} for row in read_all(pool(tmp_path / str(number)), ("score",))] for number in range(1, 6)
    ]
    assert all(other == found[0] for other in found[1:])


def test_batches_are_cut_by_bytes(tmp_path: Path) -> None:
    import pyarrow as pa

    batch = pa.record_batch({"text": pa.array(["x" * 1000] * 99 + ["y" * 50_000])})
    parts = list(split_by_bytes(batch, 10_000))
    assert pa.Table.from_batches(parts).equals(pa.Table.from_batches([batch]))
    assert all(part.nbytes <= 10_000 or part.num_rows == 1 for part in parts)
