"""Running again, as a new user would: what is done again, what is not, and whether the log says why."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.manifest.model import Manifest
from tests.e2e.command_line import Done, quadmix
from tests.e2e.scored_pool import write_scored_pool
from tests.e2e.whole_run import WholeRun
from tests.stages.inline_engine import InlineEngine

STAGES = ("annotate", "search", "select", "diversity")


def reused(done: Done) -> set[str]:
    """Stages that the log says were reused."""
    return set(re.findall(r"^(\w+): nothing changed", done.err, re.M))


def records(output: Path) -> dict[str, int]:
    """Every stage record and proxy piece with its time of writing: recomputing anything rewrites or adds some."""
    paths = [*output.glob("stages/*/record.json"), *output.glob("stages/*/pieces/*.json")]
    return {str(path.relative_to(output)): path.stat().st_mtime_ns for path in paths}


def chosen(output: Path) -> dict[str, int]:
    """Copies of every selected document."""
    manifest = Manifest.load(output)
    rows = pa.concat_tables([pq.read_table(manifest.part_path(part)) for part in manifest.files])
    return dict(zip(rows["doc_id"].to_pylist(), rows["copies"].to_pylist(), strict=True))


def test_the_same_command_again_computes_nothing_and_keeps_the_digest(
    whole_run: WholeRun, tmp_path: Path, inline: InlineEngine
) -> None:
    """Also: where it writes and on which engine is no part of what was decided, so the copy counts as done."""
    output = whole_run.copy(tmp_path / "elsewhere")
    before = records(output)
    done = quadmix("run", whole_run.config, "--set", f"output={output}")
    assert done.code == 0, done.err
    assert reused(done) == set(STAGES)
    assert inline.items == {}
    assert records(output) == before
    assert Manifest.load(output).digest == whole_run.manifest.digest
    assert (output / "report.html").read_bytes() == (whole_run.output / "report.html").read_bytes()


def test_another_rival_trains_no_proxy_of_the_swarm_again(
    whole_run: WholeRun, tmp_path: Path, inline: InlineEngine
) -> None:
    output = whole_run.copy(tmp_path / "out")
    changed = "search.confirm.rivals=[natural]"
    done = quadmix("run", whole_run.config, "--set", f"output={output}", "--set", changed)
    assert done.code == 0, done.err
    assert "search: config.search.confirm.rivals changed" in done.err
    assert "search: training proxies: 18 of 18 found in the journal" in done.err
    assert "search: training proxies" not in inline.items
    assert "search: confirming the proposal" not in inline.items  # natural was confirmed before
    assert "annotate" in reused(done)


def test_another_budget_reuses_the_annotations_and_trains_a_swarm_of_its_own(
    whole_run: WholeRun, tmp_path: Path, inline: InlineEngine
) -> None:
    """A trial's data are drawn under the budget, so another budget means other trials; the old ones are kept."""
    output = whole_run.copy(tmp_path / "out")
    where = f"output={output}"
    before = records(output)
    done = quadmix(
        "run", whole_run.config, "--set", where, "--set", "mixture.budget=90000",
        "--set", "search.confirm.rivals=[natural]",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert reused(done) == {"annotate", "proxy_pool"}
    assert "config.mixture.budget changed: 150000 -> 90000" in done.err
    assert not {"annotate", "search: tokenising the proxy pool"} & inline.items.keys()
    assert inline.items["search: training proxies"] == 18  # 8 trials, 4 baselines, 6 repeats
    assert Manifest.load(output).requested_tokens == 90_000
    assert before.items() <= records(output).items()
    inline.items.clear()
    back = quadmix("run", whole_run.config, "--set", where)
    assert reused(back) == set(STAGES)
    assert inline.items == {}
    assert Manifest.load(output).digest == whole_run.manifest.digest


def test_without_a_search_another_budget_only_selects_again(scored_run: Path, inline: InlineEngine) -> None:
    output = scored_run.parent / "out"
    first = quadmix("run", scored_run, "--json").json["digest"]
    inline.items.clear()
    done = quadmix("run", scored_run, "--set", "mixture.budget=5000")
    assert reused(done) == {"annotate"}
    assert "select: config.mixture.budget changed: 4000 -> 5000" in done.err
    assert all(label.startswith("select") for label in inline.items)
    assert Manifest.load(output).requested_tokens == 5000
    inline.items.clear()
    back = quadmix("run", scored_run)
    assert reused(back) == {"annotate", "select"}
    assert inline.items == {}
    assert Manifest.load(output).digest == first


@pytest.mark.parametrize(
    ("change", "kept"), [("seed=4", set()), ("select={mixture: uniform}", {"annotate"})], ids=["seed", "mixture"]
)
def test_another_seed_or_mixture_selects_other_documents(
    scored_run: Path, inline: InlineEngine, change: str, kept: set[str]
) -> None:
    quadmix("run", scored_run)
    first = chosen(scored_run.parent / "out")
    again = quadmix("run", scored_run, "--set", change)
    assert again.code == 0, again.err
    assert reused(again) == kept
    assert chosen(scored_run.parent / "out") != first


def test_engine_and_output_change_no_bytes(scored_run: Path, tmp_path: Path) -> None:
    """Here with real processes: one worker and two."""
    for name, workers in (("one", 1), ("two", 2)):
        where = f"output={tmp_path / name}"
        done = quadmix("run", scored_run, "--set", where, "--set", f"engine.workers={workers}")
        assert done.code == 0, done.err
    one, two = (
        {str(path.relative_to(base)): path.read_bytes() for path in sorted(base.rglob("*")) if path.is_file()}
        for base in (tmp_path / "one" / "manifests", tmp_path / "two" / "manifests")
    )
    assert one == two
    assert (tmp_path / "one" / "report.html").read_bytes() == (tmp_path / "two" / "report.html").read_bytes()


def test_more_shards_are_annotated_and_the_log_says_so(scored_run: Path, inline: InlineEngine, tmp_path: Path) -> None:
    quadmix("run", scored_run)
    first = inline.items.pop("annotate")
    write_scored_pool(tmp_path / "more", docs=60, shards=1, name="new")
    (tmp_path / "more" / "part-000.parquet").rename(tmp_path / "pool" / "part-999.parquet")
    done = quadmix("run", scored_run)
    assert done.code == 0, done.err
    assert not reused(done)
    assert "annotate: 660 documents" in done.err
    assert inline.items["annotate"] == 1 < first  # only the new shard was read


def test_a_damaged_annotation_is_noticed_and_made_again(scored_run: Path, inline: InlineEngine) -> None:
    first = quadmix("run", scored_run, "--json").json["digest"]
    broken = next(scored_run.parent.glob("out/stages/annotate-*/unit-*.parquet"))
    raw = bytearray(broken.read_bytes())
    raw[len(raw) // 2] ^= 1
    broken.write_bytes(raw)
    inline.items.clear()
    done = quadmix("run", scored_run)
    assert done.code == 0, done.err
    assert f"annotate: {broken.name} has sha256" in done.err
    assert inline.items["annotate"] == 1  # the other units still verify
    assert Manifest.load(scored_run.parent / "out").digest == first
