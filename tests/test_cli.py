"""The command line's promises: exit codes, last lines, JSON on standard output, and what a failure leaves behind."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.manifest.model import Manifest
from tests.e2e.command_line import finish, quadmix, start
from tests.e2e.scored_pool import scored_config, write_scored_pool
from tests.e2e.small_pool import ROOT, write_config
from tests.e2e.whole_run import WholeRun, tree
from tests.stages.inline_engine import InlineEngine


def published(output: Path) -> dict[str, bytes]:
    """What readers of a run see: the pointer and every published file, by relative path."""
    files = [output / "CURRENT.json", *(output / "manifests").rglob("*")]
    return {str(path.relative_to(output)): path.read_bytes() for path in files if path.is_file()}


def spoil(pool: Path, rows: list[int]) -> None:
    """Blank the texts of some rows of the first shard."""
    file = pool / "part-000.parquet"
    table = pq.read_table(file)
    texts = [" " if number in rows else text for number, text in enumerate(table["text"].to_pylist())]
    place = table.schema.get_field_index("text")
    pq.write_table(table.set_column(place, "text", pa.array(texts)), file, write_page_checksum=True)


# --------------------------------------------------------------------------------------------------- done


def test_a_run_ends_with_0_and_json_is_all_of_standard_output(inline: InlineEngine, scored_run: Path) -> None:
    done = quadmix("run", scored_run, "--json")
    assert done.code == 0
    assert done.err == ""
    manifest = Manifest.load(scored_run.parent / "out")
    assert done.json["digest"] == manifest.digest
    assert done.json["realised_tokens"] == manifest.realised_tokens
    assert Path(done.json["report"]).is_file()


@pytest.mark.parametrize("command", ["annotate", "select", "report"])
def test_every_stage_prints_one_json_object(inline: InlineEngine, scored_run: Path, command: str) -> None:
    done = quadmix(command, scored_run, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["stage"] == command


def test_words_for_people_keep_to_standard_error_but_for_the_outcome(inline: InlineEngine, scored_run: Path) -> None:
    done = quadmix("run", scored_run)
    assert done.code == 0
    assert "annotate: 600 documents" in done.err
    assert done.out.splitlines()[0].split() == ["output", str(scored_run.parent / "out")]


def test_a_whole_run_with_a_search_ends_with_0(whole_run: WholeRun) -> None:
    assert whole_run.done.code == 0, whole_run.done.err
    assert whole_run.manifest.digest in whole_run.done.out


# --------------------------------------------------------------------------------------------------- 2: config


def test_all_problems_of_a_config_are_told_at_once_before_anything_starts(tmp_path: Path) -> None:
    write_scored_pool(tmp_path / "pool", docs=6, shards=1)
    values = scored_config(tmp_path / "pool", tmp_path / "out", sed=1)
    values["mixture"] |= {"budget": -5, "criteria": ["scor"]}
    values["select"] = {"mixture": "best"}
    file = write_config(tmp_path / "run.yaml", values)
    heavy = "{'torch', 'pyspark', 'lightgbm'} & set(sys.modules)"
    check = f"import atexit, sys\natexit.register(lambda: print(*sorted({heavy})))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = finish(start("run", file, before=check))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.code == 2
    for said in ("sed: ", "did you mean 'seed'", "mixture.budget", "select.mixture"):
        assert said in done.err
    assert "Traceback" not in done.err
    assert done.last_line == "nothing was started; correct the config and run the same command again"
    assert done.out.strip() == ""  # none of the heavy ones was loaded
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0
    assert not (tmp_path / "out").exists()


def test_a_spark_config_with_a_mistake_starts_no_jvm(scored_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quadmix.cli.make_engine", lambda *_: pytest.fail("an engine was started"))
    assert quadmix("run", scored_run, "--engine", "spark", "--set", "mixture.budget=0").code == 2


@pytest.mark.parametrize("command", ["verify", "explain", "diff", "export"])
def test_no_manifest_is_a_config_error(tmp_path: Path, command: str) -> None:
    more = {"explain": ["x"], "diff": [tmp_path], "export": ["--to", "x", "--out", tmp_path / "x"]}.get(command, [])
    done = quadmix(command, tmp_path, *more)
    assert done.code == 2
    assert "no manifest at" in done.err
    assert done.last_line == "nothing was changed"


def test_a_budget_out_of_reach_is_refused_with_numbers(inline: InlineEngine, scored_run: Path) -> None:
    done = quadmix("run", scored_run, "--set", "mixture.budget=10M")
    assert done.code == 2
    assert "10,000,000" in done.err
    assert done.last_line.endswith("correct that, then run the same command again to resume at stage 'select'")
    assert not (scored_run.parent / "out" / "CURRENT.json").exists()


# --------------------------------------------------------------------------------------------------- 3: input


def test_more_bad_rows_than_allowed_end_with_3_and_their_counts(inline: InlineEngine, scored_run: Path) -> None:
    spoil(scored_run.parent / "pool", [3, 5, 8])
    done = quadmix("run", scored_run)
    assert done.code == 3
    assert "EMPTY_TEXT" in done.err
    assert "resume at stage 'annotate'" in done.last_line
    assert "nothing new was published" in done.last_line
    assert quadmix("run", scored_run, "--set", "pool.max_quarantine_fraction=0.01").code == 0


def test_a_pool_of_nothing_but_bad_rows_ends_with_3(inline: InlineEngine, tmp_path: Path) -> None:
    write_scored_pool(tmp_path / "pool", docs=5, shards=1)
    spoil(tmp_path / "pool", list(range(5)))
    values = scored_config(tmp_path / "pool", tmp_path / "out")
    values["pool"]["max_quarantine_fraction"] = 1.0
    done = quadmix("run", write_config(tmp_path / "run.yaml", values))
    assert done.code == 3
    assert not (tmp_path / "out" / "CURRENT.json").exists()


# --------------------------------------------------------------------------------------------------- 4: locked


def test_a_locked_output_ends_with_4_and_says_who_has_it(scored_run: Path) -> None:
    output = scored_run.parent / "out"
    hold = "import sys\nfrom pathlib import Path\nfrom quadmix.stages.records import run_lock\n"
    hold += f"with run_lock(Path({str(output)!r})):\n print('held', flush=True)\n sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = tree(output)
        done = quadmix("run", scored_run)
        assert done.code == 4
        assert f"pid {holder.pid}" in done.err
        assert done.last_line == "nothing was started; wait for the other run, or give another output"
        assert tree(output) == before
    finally:
        holder.communicate()


# --------------------------------------------------------------------------------------------------- 5: resources


def test_a_full_disk_ends_with_5_and_leaves_what_was_published(inline: InlineEngine, scored_run: Path) -> None:
    """A limit on file size stands for the disk: writes fail in the middle of a file, as they do on a full one."""
    output = scored_run.parent / "out"
    assert quadmix("run", scored_run).code == 0
    before = published(output)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    done = finish(start("run", scored_run, "--set", "mixture.budget=9000", before=limit))
    assert done.code == 5, done.err
    assert "Traceback" not in done.err
    assert "what was published before is untouched; run the same command again to resume at stage" in done.last_line
    assert published(output) == before
    resumed = quadmix("run", scored_run, "--set", "mixture.budget=9000", "--json")
    fresh = quadmix("run", scored_run, "--set", "mixture.budget=9000", "--set", f"output={output}-2", "--json")
    assert resumed.json["digest"] == fresh.json["digest"]


def test_an_output_that_cannot_be_made_ends_with_5(inline: InlineEngine, scored_run: Path) -> None:
    done = quadmix("run", scored_run, "--set", "output=/proc/quadmix-out")
    assert done.code == 5, done.err
    assert "cannot lock the output" in done.err


def test_too_little_memory_ends_with_5(scored_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(InlineEngine):
        def map(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
            raise MemoryError

    monkeypatch.setattr("quadmix.cli.make_engine", lambda *_: Small())
    done = quadmix("run", scored_run)
    assert done.code == 5
    assert "pool.unit_bytes" in done.err


# --------------------------------------------------------------------------------------------------- 130: Ctrl-C


def test_ctrl_c_during_a_stage_ends_with_130_and_the_same_command_resumes_to_the_same_bytes(
    inline: InlineEngine, tmp_path: Path
) -> None:
    write_scored_pool(tmp_path / "pool", docs=1600, shards=160)
    config = write_config(tmp_path / "run.yaml", scored_config(tmp_path / "pool", tmp_path / "out"))
    process = start("run", config)
    give_up = time.monotonic() + 60
    while not (finished := list(tmp_path.glob("out/stages/annotate-*/pieces/*.json"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert done.last_line.endswith("run the same command again to resume at stage 'annotate'")
    assert not (tmp_path / "out" / "CURRENT.json").exists()
    made = {path: path.stat().st_mtime_ns for path in finished}
    resumed = quadmix("run", config, "--json")
    assert {path: path.stat().st_mtime_ns for path in made} == made  # finished units were not done again
    assert resumed.code == 0
    assert quadmix("run", config, "--set", f"output={tmp_path / 'fresh'}").code == 0
    assert published(tmp_path / "out") == published(tmp_path / "fresh")


# --------------------------------------------------------------------------------------------------- manifests


def test_verify_agrees_with_what_was_published(whole_run: WholeRun) -> None:
    done = quadmix("verify", whole_run.output)
    assert done.code == 0, done.out
    assert "every number agrees" in done.out
    told = quadmix("verify", whole_run.output, "--json")
    assert told.err == ""
    assert told.json["ok"] is True
    assert told.json["documents"] == 898


def tamper(output: Path, row: int) -> Manifest:
    """Give a document of the published manifest one copy more, then repair every checksum and the pointer."""
    manifest = Manifest.load(output)
    part = manifest.part_path(manifest.files[0])
    table = pq.read_table(part)
    place = table.schema.get_field_index("copies")
    copies = [count + (number == row) for number, count in enumerate(table["copies"].to_pylist())]
    column = pa.array(copies, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), column), part, write_page_checksum=True)
    raw = part.read_bytes()
    entry = replace(manifest.files[0], bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    forged = replace(manifest, files=(entry, *manifest.files[1:]))
    (manifest.folder / "manifest.json").write_bytes(forged.json_bytes())
    folder = manifest.folder.rename(manifest.folder.with_name(forged.digest[:16]))
    pointer = {"manifest": f"manifests/{folder.name}/manifest.json", "digest": forged.digest}
    (output / "CURRENT.json").write_text(json.dumps(pointer))
    return Manifest.load(output)


def test_verify_ends_with_3_and_names_the_changed_row(whole_run: WholeRun, tmp_path: Path) -> None:
    output = whole_run.copy(tmp_path / "out")
    forged = tamper(output, 7)
    part = forged.part_path(forged.files[0])
    done = quadmix("verify", output)
    assert done.code == 3
    assert f"{part.name} row 7" in done.out
    assert pq.read_table(part)["doc_id"][7].as_py() in done.out
    told = quadmix("verify", output, "--json").json
    assert told["ok"] is False
    assert {"row": 7, "column": "copies"}.items() <= next(f for f in told["findings"] if f["row"] == 7).items()


def test_explain_tells_of_documents_in_and_out(whole_run: WholeRun) -> None:
    manifest = whole_run.manifest
    inside = pq.read_table(manifest.part_path(manifest.files[0]))["doc_id"][0].as_py()
    done = quadmix("explain", whole_run.output, inside)
    assert done.code == 0
    assert inside in done.out
    assert quadmix("explain", whole_run.output, inside, "--json").json["doc_id"] == inside
    unknown = quadmix("explain", whole_run.output, "no-such-document")
    assert unknown.code == 2, unknown
    assert unknown.last_line == "nothing was changed"


def test_diff_and_export(inline: InlineEngine, scored_run: Path) -> None:
    output, other = scored_run.parent / "out", scored_run.parent / "other"
    assert quadmix("run", scored_run).code == 0
    assert quadmix("run", scored_run, "--set", "mixture.budget=5000", "--set", f"output={other}").code == 0
    assert quadmix("diff", output, other).code == 0
    told = quadmix("diff", output, other, "--json")
    assert told.err == ""
    assert isinstance(told.json, dict)
    wrong = quadmix("export", output, "--to", "nonsense", "--out", scored_run.parent / "x")
    assert wrong.code == 2
    listed = wrong.err
    assert "jsonl" in listed or "megatron" in listed, listed


def test_the_json_outcome_of_plan_is_one_object(scored_run: Path) -> None:
    told = quadmix("plan", scored_run, "--json")
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out)["problems"] == []
