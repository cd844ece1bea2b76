"""Duplicates against a literal loop; leaks; ingest of huge streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.hashing import content_hash, doc_hash
from quadmix.pool.duplicates import LOSER_REASONS, find_losers, id_checks, n_buckets, sorted_ids
from quadmix.pool.leakage import TargetIndex
from quadmix.schema import RowReason
from tests.pool.building import documents, lines, pool, read_all, write_jsonl, write_parquet

Row = tuple[int, int, int]  # document hash, second hash of the id, content hash
FEW = st.integers(0, 3)
ROWS = st.lists(st.lists(st.tuples(FEW, FEW, FEW), max_size=12), min_size=1, max_size=4)
SPREAD = 2**62  # so that the few hashes fall into different buckets


def literal_losers(units: list[list[Row]]) -> list[tuple[int, int, str]]:
    """Of all rows of one document hash the smallest (content, unit, position) stays."""
    groups: dict[int, list[tuple[int, int, int, int]]] = {}
    for unit, rows in enumerate(units):
        for position, (hashed, check, content) in enumerate(rows):
            groups.setdefault(hashed, []).append((content, unit, position, check))
    losers = []
    for members in groups.values():
        best = min(members)
        for content, unit, position, check in members:
            if (content, unit, position, check) == best:
                continue
            reason = RowReason.DUP_ID_SAME if content == best[0] else RowReason.DUP_ID_CONFLICT
            if check != best[3]:
                reason = RowReason.HASH_COLLISION
            losers.append((unit, position, str(reason)))
    return sorted(losers)


@given(ROWS, st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_buckets_find_what_a_loop_finds(units: list[list[Row]], buckets: int) -> None:
    tables = []
    for rows in units:
        columns = np.array(rows, dtype=np.uint64).reshape(-1, 3)
        tables.append(sorted_ids(columns[:, 0] * np.uint64(SPREAD), columns[:, 1], columns[:, 2], np.arange(len(rows))))
    found = [find_losers(tables, bucket, buckets) for bucket in range(buckets)]
    got = [
        (int(unit), int(position), str(LOSER_REASONS[reason]))
        for losers in found
        for unit, position, reason, _, _ in losers.table.T
    ]
    assert sorted(got) == literal_losers(units)
    for losers in found:
        assert losers.units() == sorted({int(unit) for unit in losers.table[0]})
        parts = [losers.of_unit(unit) for unit in range(len(units))]
        assert np.array_equal(np.concatenate(parts, axis=1), losers.table[1:])


def test_hashes_at_both_ends_of_the_range_are_compared() -> None:
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    same = np.zeros(2, dtype=np.uint64)
    tables = [sorted_ids(ends, same, same, np.arange(2)) for _ in range(2)]
    found = [find_losers(tables, bucket, 3).table for bucket in range(3)]
    assert [table.shape[1] for table in found] == [1, 0, 1]


def test_buckets_grow_with_the_pool() -> None:
    assert [n_buckets(rows) for rows in (0, 1, 4_000_000, 4_000_001)] == [1, 1, 1, 2]


def test_the_two_id_hashes_are_independent() -> None:
    ids = [str(number) for number in range(1000)]
    assert len(set(id_checks(ids).tolist())) == 1000
    assert not np.isin(id_checks(ids), doc_hash(ids)).any()


def test_content_hashes_ignore_white_space_and_nothing_else() -> None:
    first, second, third, fourth = content_hash(["a b\n c", " a  b c\t", "a b C", "a b c\u00e9"])
    assert first == second
    assert len({first, third, fourth}) == 3


def test_leaks_name_the_set_that_holds_the_text() -> None:
    first, second = content_hash(["one", "two"]), content_hash(["three", "two"])
    index = TargetIndex.of([("a", first, doc_hash(["1", "2"])), ("b", second, doc_hash(["3", "4"]))])
    assert index.leaks(content_hash(["o n e", "three", "four", "two"])).tolist() == [0, 1, -1, 0]
    assert index.shares_id(doc_hash(["4", "5"])).tolist() == [True, False]
    assert TargetIndex.of([]).leaks(first).tolist() == [-1, -1]


def test_a_prepared_copy_reads_like_the_original(tmp_path: Path) -> None:
    from dataclasses import asdict

    import pyarrow as pa

    from quadmix.pool.ingest import Prepared, PrepareFile, must_prepare
    from quadmix.pool.inventory import find_inputs, plan_units
    from quadmix.pool.parquet_footer import read_footer
    from quadmix.pool.prepared import prepared_input
    from quadmix.pool.readers import read_unit

    raw = lines(documents(3000)) + b"{broken\n" + lines(documents(3000, 3000))
    write_jsonl(tmp_path / "in" / "a.jsonl.gz", raw)
    write_parquet(tmp_path / "in" / "b.parquet", documents(10, 9000))
    config = pool(tmp_path / "in", unit_bytes=20_000)
    truth = read_all(config, ("score",))
    huge, small = find_inputs(config).files
    assert must_prepare(huge, config.unit_bytes)
    assert not must_prepare(small, config.unit_bytes)
    names = []
    for _ in range(2):  # the same bytes each time
        prepared = PrepareFile(str(tmp_path), config, ("score",))(huge)
        assert isinstance(prepared, Prepared)
        names.append(asdict(prepared))
    assert names[0] == names[1]
    assert prepared.rows == 6001
    copy = prepared_input(huge, tmp_path / prepared.name)
    assert copy.shard == "a.jsonl.gz"
    units = plan_units([copy, small], config.unit_bytes)
    assert len(units) > 10
    read = [batch for unit in units for batch in read_unit(unit, config, ("score",))]
    assert pa.Table.from_batches(read).to_pylist() == truth
    footer = read_footer(copy.path, copy.shard, copy.size, copy.mtime_ns)
    assert footer.page_checksums
    assert max(group.bytes for group in footer.row_groups) <= 30_000
