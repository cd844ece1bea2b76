"""Samples of copies: the smallest draws, however the selection is cut, with documents as often as they have copies."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.hashing import doc_hash, uniform
from quadmix.stages.diversity.sampling import SampleRandom, Samples, SampleSelection, merge_samples
from quadmix.stages.rows import RowReader

IDS = [f"doc-{number:04d}" for number in range(700)]
COPIES = [1 + number % 3 for number in range(700)]
TASK = SampleSelection(size=90, samples=3, seed=5)


def written(folder: Path, rows: np.ndarray, name: str = "part") -> str:  # type: ignore[type-arg]
    table = pa.table({"doc_id": np.array(IDS)[rows].tolist(), "copies": pa.array(np.array(COPIES)[rows], pa.int32())})
    path = folder / f"{name}.parquet"
    pq.write_table(table, path, write_page_checksum=True)
    return str(path)


def same(first: Samples, second: Samples) -> bool:
    pairs = zip(first.drawn, second.drawn, strict=True)
    return first.copies == second.copies and all(
        np.array_equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True)
    )


def test_a_sample_is_the_copies_of_the_smallest_draws(tmp_path: Path) -> None:
    found = TASK(written(tmp_path, np.arange(700)))
    assert found.copies == (sum(COPIES),) * 3
    for index, sample in enumerate(found.hashes(90)):
        draws = [
            (float(uniform(doc_hash([doc_id]), 5, f"diversity/sample/{index}/{copy}")[0]), int(doc_hash([doc_id])[0]))
            for doc_id, copies in zip(IDS, COPIES, strict=True)
            for copy in range(copies)
        ]
        assert sample.tolist() == [document for _, document in sorted(draws)[:90]]
    assert not np.array_equal(found.hashes(90)[0], found.hashes(90)[1])
    assert [len(one) for one in found.hashes(7)] == [7, 7, 7]


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_in_any_order_merge_to_the_sample_of_the_whole(tmp_path: Path, parts: int) -> None:
    whole = TASK(written(tmp_path, np.arange(700)))
    rng = np.random.default_rng(parts)
    shuffled = rng.permutation(700)
    owner = rng.integers(0, parts, 700)
    found = [TASK(written(tmp_path, shuffled[owner == part], f"part-{part}")) for part in range(parts)]
    assert same(reduce(merge_samples, found), whole)
    assert same(reduce(merge_samples, found[::-1], Samples.empty(90, 3)), whole)


def test_a_document_comes_as_often_as_it_has_copies(tmp_path: Path) -> None:
    task = SampleSelection(size=400, samples=40, seed=1)
    drawn = np.concatenate(task(written(tmp_path, np.arange(700))).hashes(400))
    times = [int((drawn == document).sum()) for document in doc_hash(IDS)]
    by_copies = [np.mean([t for t, copies in zip(times, COPIES, strict=True) if copies == n]) for n in (1, 2, 3)]
    assert by_copies[1] / by_copies[0] == pytest.approx(2.0, rel=0.05)
    assert by_copies[2] / by_copies[0] == pytest.approx(3.0, rel=0.05)


def annotations(folder: Path) -> str:
    table = pa.table(
        {
            "doc_hash": doc_hash(IDS),
            "n_tokens": pa.array([10] * 700, pa.int64()),
            "domain": pa.array(["a"] * 700).dictionary_encode(),
            "status": ["ok"] * 690 + ["EMPTY_TEXT"] * 10,
        }
    )
    path = folder / "annotations.parquet"
    pq.write_table(table, path, write_page_checksum=True)
    return str(path)


@pytest.mark.parametrize("fraction", [0.1, 1.0, 2.25])
def test_random_selections_have_the_budget_and_differ(tmp_path: Path, fraction: float) -> None:
    found = SampleRandom(RowReader(("a",), ()), fraction, 2_000, 20, 3, "random")([annotations(tmp_path)])
    rest = fraction % 1.0
    sd = np.sqrt(690 * rest * (1 - rest))
    assert abs(np.mean(found.copies) - 690 * fraction) <= 4 * sd / np.sqrt(20)
    assert (len(set(found.copies)) > 1) == (rest > 0)
    bad = set(doc_hash(IDS[690:]).tolist())
    for copies, sample in zip(found.copies, found.hashes(2_000), strict=True):
        assert len(sample) == copies
        assert not bad & set(sample.tolist())
        counts = np.unique(sample, return_counts=True)[1]
        assert counts.max() <= np.ceil(fraction)
