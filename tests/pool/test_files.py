"""Catalogue A: every file ends used or refused by name, never skipped."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.config import PoolConfig
from quadmix.errors import ConfigError, InputError
from quadmix.pool import storage
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.parquet_footer import read_footer
from quadmix.pool.readers import read_unit
from quadmix.pool.refusals import FileRefused
from quadmix.schema import FileReason
from tests.pool.building import documents, lines, pool, read_all, reasons, write_jsonl, write_parquet


def refused(config: PoolConfig) -> dict[str, FileReason]:
    return {refusal.shard: refusal.reason for refusal in find_inputs(config).refused}


def refused_while_reading(config: PoolConfig) -> FileReason:
    with pytest.raises(FileRefused) as caught:
        read_all(config)
    return caught.value.refusal.reason


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(5))
    (tmp_path / "b.parquet").write_bytes(b"")
    (tmp_path / "c.jsonl").write_bytes(b"")
    assert refused(pool(tmp_path)) == {"b.parquet": FileReason.EMPTY_FILE, "c.jsonl": FileReason.EMPTY_FILE}


@pytest.mark.parametrize("kept", [0.5, -4, 0.99, 13])
def test_a_cut_parquet_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_parquet(tmp_path / "a.parquet", documents(50))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if 0 < kept < 1 else int(kept)])
    assert refused(pool(tmp_path)) == {"a.parquet": FileReason.TRUNCATED_PARQUET}


def test_text_named_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("just some words\n" * 20)
    assert refused(pool(tmp_path)) == {"a.parquet": FileReason.NOT_PARQUET}


def read_or_reason(config: PoolConfig, truth: list[dict[str, Any]]) -> FileReason | None:
    """Why the pool is refused; None when every row is as it was."""
    try:
        rows = read_all(config, ("score",))
    except FileRefused as error:
        return error.refusal.reason
    assert rows == truth
    return None


@pytest.mark.parametrize("codec", ["zstd", "snappy", "none"])
def test_no_flipped_bit_in_a_page_passes(tmp_path: Path, codec: str) -> None:
    """Random single-bit flips in the data pages: refused, or (headers may survive) not one row differs."""
    path = write_parquet(tmp_path / "a.parquet", documents(300), compression=codec, use_dictionary=False)
    config = pool(tmp_path)
    raw, truth = path.read_bytes(), read_all(config, ("score",))
    pages_end = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    dice = random.Random(codec)
    caught = silent_without_checks = 0
    for _ in range(40):
        flipped = bytearray(raw)
        flipped[dice.randrange(4, pages_end)] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        reason = read_or_reason(config, truth)
        caught += reason is not None
        assert reason in (None, FileReason.CHECKSUM_MISMATCH, FileReason.TRUNCATED_PARQUET)
        try:
            silent_without_checks += pq.read_table(path).num_rows == 300
        except (OSError, pa.ArrowException):
            continue
    assert caught >= 20  # the rest hit statistics in page headers
    if codec == "none":  # the control: without verification most of these flips go unnoticed
        assert silent_without_checks > 25


def test_files_without_page_checksums_are_read_with_a_warning(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(5), checksums=False)
    write_parquet(tmp_path / "b.parquet", documents(5, 5))
    inventory = find_inputs(pool(tmp_path))
    assert [warning.split(":")[0] for warning in inventory.warnings] == ["NO_CHECKSUM"]
    assert "1 Parquet file" in inventory.warnings[0]
    assert "a.parquet" in inventory.warnings[0]
    assert len(read_all(pool(tmp_path))) == 10


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_page_checksums_are_seen_whatever_the_page_format(tmp_path: Path, version: str, dictionary: bool) -> None:
    for checksums in (True, False):
        path = write_parquet(
            tmp_path / f"{checksums}.parquet", documents(50), checksums=checksums,
            data_page_version=version, use_dictionary=dictionary,
        )  # fmt: skip
        entry = storage.look(str(path))
        assert read_footer(str(path), path.name, entry.size, entry.mtime_ns).page_checksums is checksums


def test_unexpected_names_are_refused_and_markers_are_not(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(5))
    for name in ("b.parquet.tmp", "noext", "_c.parquet", ".d.parquet", "e.csv"):
        (tmp_path / name).write_bytes(b"PAR1")
    for name in ("_SUCCESS", ".a.parquet.crc", "_committed_12"):
        (tmp_path / name).write_bytes(b"")
    assert refused(pool(tmp_path)) == dict.fromkeys(
        ("b.parquet.tmp", "noext", "_c.parquet", ".d.parquet", "e.csv"), FileReason.UNEXPECTED_EXTENSION
    )


def test_a_nested_directory_is_refused_unless_recursive(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(5))
    write_parquet(tmp_path / "sub" / "deep" / "b.parquet", documents(5, 5))
    assert refused(pool(tmp_path)) == {"sub": FileReason.NESTED_DIR}
    inventory = find_inputs(pool(tmp_path, recursive=True))
    assert [file.shard for file in inventory.files] == ["a.parquet", "sub/deep/b.parquet"]
    assert not inventory.refused


@pytest.mark.parametrize(
    "name", ["[1]", "{a,b}", "*", "with space", "%20", "emoji 🙂", "a:b", "what?", "#hash", "s3:", "back\\slash"]
)
def test_names_mean_themselves(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    write_parquet(folder / f"{name}.parquet", documents(3))
    write_jsonl(folder / f"{name}.jsonl.zst", documents(3, 3))
    (tmp_path / "1").mkdir()
    write_parquet(tmp_path / "1" / "x.parquet", documents(3))  # what `[1]` would match as a pattern
    assert len(read_all(pool(folder))) == 6


def test_an_input_listed_twice_is_a_config_error(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", documents(5))
    for twice in ((path, path), (path, tmp_path), (tmp_path, tmp_path / ".")):
        with pytest.raises(ConfigError, match="DUPLICATE_INPUT"):
            find_inputs(pool(*twice))


def test_a_link_to_a_listed_file_is_a_duplicate(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", documents(5))
    os.symlink(path, tmp_path / "b.parquet")
    assert refused(pool(tmp_path)) == {"b.parquet": FileReason.SYMLINK}
    with pytest.raises(ConfigError, match="DUPLICATE_INPUT"):
        find_inputs(pool(tmp_path, follow_symlinks=True))


def test_links_are_refused_unless_followed_and_circles_end(tmp_path: Path) -> None:
    write_parquet(tmp_path / "elsewhere" / "b.parquet", documents(5))
    write_parquet(tmp_path / "in" / "a.parquet", documents(5, 5))
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "link")
    os.symlink(tmp_path / "in", tmp_path / "elsewhere" / "back")
    assert refused(pool(tmp_path / "in", recursive=True)) == {"link": FileReason.SYMLINK}
    inventory = find_inputs(pool(tmp_path / "in", recursive=True, follow_symlinks=True))
    assert [file.shard for file in inventory.files] == ["a.parquet", "link/b.parquet"]


def test_no_input_is_a_config_error_that_lists_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        find_inputs(pool(tmp_path / "empty", tmp_path / "missing", tmp_path / "gone.parquet"))
    assert len(caught.value.problems) == 3
    assert all("NO_INPUT" in problem for problem in caught.value.problems)


def test_a_missing_success_marker_matters_when_asked_for(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", documents(5))
    assert find_inputs(pool(tmp_path)).files
    with pytest.raises(ConfigError, match="INCOMPLETE_UPSTREAM"):
        find_inputs(pool(tmp_path, require_success_marker=True))
    (tmp_path / "_SUCCESS").touch()
    assert find_inputs(pool(tmp_path, require_success_marker=True)).files


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("change", ["grow", "same size", "vanish"])
def test_a_file_that_changes_after_listing_is_refused(tmp_path: Path, name: str, change: str) -> None:
    write = write_parquet if name.endswith("parquet") else write_jsonl
    path = write(tmp_path / name, documents(20))
    config = pool(tmp_path)
    units = plan_units(find_inputs(config).files, config.unit_bytes)
    if change == "vanish":
        path.unlink()
    elif change == "grow":
        write(path, documents(30))
    else:
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(FileRefused) as caught:
        list(read_unit(units[0], config))
    assert caught.value.refusal.reason == FileReason.CHANGED_DURING_RUN


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(20))
    config = pool(tmp_path)
    (unit,) = plan_units(find_inputs(config).files, config.unit_bytes)
    batches = read_unit(unit, config)
    next(batches)
    write_jsonl(path, documents(21))
    with pytest.raises(FileRefused, match="CHANGED_DURING_RUN"):
        list(batches)


def test_an_unreadable_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission is simulated, since the tests may run as root, who reads everything."""
    path = write_parquet(tmp_path / "a.parquet", documents(5))

    def denied(_: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage, "open_input", denied)
    (refusal,) = find_inputs(pool(tmp_path)).refused
    assert (refusal.reason, refusal.path) == (FileReason.PERMISSION, str(path))


def test_all_refused_files_are_named_at_once(tmp_path: Path) -> None:
    write_parquet(tmp_path / "good.parquet", documents(5))
    (tmp_path / "bad1.parquet").write_bytes(b"")
    (tmp_path / "bad2.parquet").write_bytes(b"nonsense")
    inventory = find_inputs(pool(tmp_path))
    with pytest.raises(InputError) as caught:
        inventory.accepted(skip_bad_files=False)
    assert caught.value.exit_code == 3
    for word in ("bad1.parquet", "EMPTY_FILE 1", "bad2.parquet", "NOT_PARQUET 1", "skip_bad_files"):
        assert word in str(caught.value)
    assert [file.shard for file in inventory.accepted(skip_bad_files=True)] == ["good.parquet"]


@pytest.mark.parametrize(("suffix", "kind"), [("gz", "GZIP"), ("zst", "ZSTD")])
@pytest.mark.parametrize("cut", [0.5, -1, -6])
def test_a_cut_stream_is_refused(tmp_path: Path, suffix: str, kind: str, cut: float) -> None:
    path = write_jsonl(tmp_path / f"a.jsonl.{suffix}", documents(9000))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * cut) if cut > 0 else int(cut)])
    assert refused_while_reading(pool(tmp_path)) == FileReason(f"TRUNCATED_{kind}")


@pytest.mark.parametrize(("suffix", "kind"), [("gz", "GZIP"), ("zst", "ZSTD")])
def test_plain_text_under_a_compressed_name_is_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(lines(documents(50)))
    assert refused(pool(tmp_path)) == {f"a.jsonl.{suffix}": FileReason(f"BAD_{kind}")}


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_damage_inside_a_stream_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_jsonl(tmp_path / f"a.jsonl.{suffix}", documents(9000))
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 16  # in the stream's own checksum or length
    path.write_bytes(raw)
    assert str(refused_while_reading(pool(tmp_path))).startswith("BAD_")


def test_several_gzip_members_and_zstd_frames_are_one_stream(tmp_path: Path) -> None:
    halves = lines(documents(100)), lines(documents(100, 100))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(halves[0]) + gzip.compress(halves[1]))
    first = write_jsonl(tmp_path / "b.jsonl.zst", documents(100, 200)).read_bytes()
    second = write_jsonl(tmp_path / "c.jsonl.zst", documents(100, 300)).read_bytes()
    (tmp_path / "b.jsonl.zst").write_bytes(first + second)
    (tmp_path / "c.jsonl.zst").unlink()
    rows = read_all(pool(tmp_path))
    assert reasons(rows) == {"ok": 400}
    assert [row["doc_id"] for row in rows] == [f"doc-{number:05d}" for number in range(400)]


def test_shards_of_one_name_in_two_inputs_stay_apart(tmp_path: Path) -> None:
    for number, folder in enumerate(("x/part", "y/part", "z")):
        write_parquet(tmp_path / folder / "0.parquet", documents(3, 3 * number))
    inputs = [tmp_path / "x" / "part", tmp_path / "y" / "part", tmp_path / "z" / "0.parquet"]
    shards = [file.shard for file in find_inputs(pool(*inputs)).files]
    assert shards == sorted(shards)
    assert set(shards) == {"x/part/0.parquet", "y/part/0.parquet", "z/0.parquet"}


def test_a_uri_is_read_like_a_path(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", documents(5))
    write_jsonl(tmp_path / "in" / "b.jsonl.gz", documents(5, 5))
    by_path = read_all(pool(tmp_path / "in"))
    by_uri = read_all(PoolConfig(inputs=((tmp_path / "in").as_uri(),), columns=pool(tmp_path).columns))
    assert by_uri == by_path


def test_a_password_in_a_uri_is_not_shown() -> None:
    assert storage.shown("s3://user:secret@bucket/key") == "s3://***@bucket/key"
    assert storage.shown("/local/a@b") == "/local/a@b"
