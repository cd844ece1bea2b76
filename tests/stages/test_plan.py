"""`quadmix plan`: its numbers against those of the real run, its refusals, and that it touches nothing."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from quadmix.config_reader import check_config, read_config
from quadmix.stages import plan, plan_probe
from quadmix.stages.plan import make_estimate
from quadmix.stages.records import current
from tests.e2e.command_line import quadmix
from tests.e2e.scored_pool import scored_config, write_scored_pool
from tests.e2e.small_pool import ROOT, config, documents, write_config
from tests.e2e.whole_run import WholeRun, tree

POOL_DOCUMENTS, POOL_TOKENS = 16_068, 10_730_669  # what `quadmix annotate configs/quickstart.yaml` counts


@pytest.fixture
def scored(tmp_path: Path) -> dict[str, Any]:
    write_scored_pool(tmp_path / "pool")
    return scored_config(tmp_path / "pool", tmp_path / "out")


def test_tokens_of_compressed_jsonl_are_estimated_within_a_tenth(tmp_path: Path) -> None:
    values = config(ROOT / "examples" / "pool", tmp_path / "out", select={"mixture": "natural"})
    values["pool"]["unit_bytes"] = "4MiB"
    estimate = make_estimate(check_config(values))
    assert not estimate.exact
    assert estimate.tokens == pytest.approx(POOL_TOKENS, rel=0.1)
    assert estimate.documents == pytest.approx(POOL_DOCUMENTS, rel=0.1)


def test_tokens_of_parquet_are_estimated_within_a_tenth(scored: dict[str, Any]) -> None:
    checked = check_config(scored)
    before = make_estimate(checked)
    quadmix("annotate", write_config(Path(scored["output"]).parent / "run.yaml", scored))
    after = make_estimate(checked)
    assert (before.exact, after.exact) == (False, True)
    assert after.documents == 600
    assert before.documents == pytest.approx(after.documents, rel=0.1)
    assert before.tokens == pytest.approx(after.tokens, rel=0.1)


def test_units_documents_and_proxies_are_those_of_the_real_run(whole_run: WholeRun) -> None:
    checked = read_config(whole_run.config, [])
    estimate = make_estimate(checked)
    record = current(whole_run.output, "annotate")
    assert record is not None
    units = {Path(entry.path).name for entry in record.files if Path(entry.path).name.startswith("unit-")}
    assert estimate.units == len(units)
    assert (estimate.documents, estimate.tokens) == (898, record.summary["ok_tokens"])
    search = whole_run.search
    trained = len(search.trials) + len(search.confirmation.mixtures) * search.confirmation.seeds
    assert search.noise is not None
    trained += search.noise.mixtures * (search.noise.seeds - 1)
    assert estimate.proxies == trained
    assert estimate.proxy_tokens == trained * search.tokens_per_trial
    assert estimate.problems == ()


def test_it_writes_nothing_before_a_run_and_after_one(whole_run: WholeRun, scored: dict[str, Any]) -> None:
    base = Path(scored["output"]).parent
    file = write_config(base / "run.yaml", scored)
    before = tree(base)
    assert quadmix("plan", file).code == 0
    assert tree(base) == before
    before = tree(whole_run.output.parent)
    done = quadmix("plan", whole_run.config)
    assert done.code == 0
    assert tree(whole_run.output.parent) == before
    assert "898 documents" in done.out
    assert done.out.splitlines()[-1] == "feasible: yes"


def test_a_budget_out_of_reach_is_told_with_numbers_and_2(scored: dict[str, Any], tmp_path: Path) -> None:
    file = write_config(tmp_path / "run.yaml", scored)
    done = quadmix("plan", file, "--set", "mixture.budget=1M")
    told = quadmix("plan", file, "--set", "mixture.budget=1M", "--json")
    assert (done.code, told.code) == (2, 2)
    reachable, tokens = told.json["reachable"], told.json["tokens"]
    assert reachable == 4 * tokens < 1_000_000
    for number in (1_000_000, tokens, reachable):
        assert f"{number:,}" in done.out
    assert done.out.splitlines()[-1] == "feasible: no"
    assert not (tmp_path / "out").exists()


def test_the_budget_is_refused_by_the_run_where_the_plan_refuses_it(scored: dict[str, Any], tmp_path: Path) -> None:
    """Exactly at the border: the plan after an annotation knows the pool to the token."""
    file = write_config(tmp_path / "run.yaml", scored)
    quadmix("annotate", file)
    reachable = quadmix("plan", file, "--json").json["reachable"]
    for budget, code in ((reachable, 0), (reachable + 1, 2)):
        assert quadmix("plan", file, "--set", f"mixture.budget={budget}").code == code
        assert quadmix("run", file, "--set", f"mixture.budget={budget}").code == code


def test_constraints_that_the_counted_pool_cannot_keep_are_told_by_the_plan(whole_run: WholeRun) -> None:
    names = sorted(whole_run.manifest.domains)

    def problems(constraints: str) -> tuple[str, ...]:
        return make_estimate(read_config(whole_run.config, [f"mixture.constraints={constraints}"])).problems

    assert problems(f"{{max_share: {{{names[0]}: 0.9}}}}") == ()
    (short,) = problems("{max_repeats: 0.001}")
    assert "short" in short
    assert "max_repeats." in short
    (unknown,) = problems(f"{{min_share: {{{names[0]}x: 0.1}}}}")
    assert f"nearest is {names[0]!r}" in unknown


def test_a_bad_file_is_a_problem_of_the_plan(scored: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pool" / "part-003.parquet").write_bytes(b"")
    done = quadmix("plan", write_config(tmp_path / "run.yaml", scored))
    assert done.code == 2
    assert "part-003.parquet" in done.out
    assert "EMPTY_FILE" in done.out


def test_a_whole_plan_with_a_search_takes_seconds(whole_run: WholeRun) -> None:
    started = time.process_time()
    make_estimate(read_config(whole_run.config, ["search.trials=512", "search.tokens_per_trial=300K"]))
    assert time.process_time() - started < 5


def test_a_large_proxy_is_probed_in_seconds(whole_run: WholeRun) -> None:
    large = ["search.proxy.preset=regmix_1m", "search.proxy.d_model=256"]
    started = time.process_time()
    found = make_estimate(read_config(whole_run.config, large))
    assert time.process_time() - started < 60  # twelve steps of 512 rows of 2,048 tokens would be hours
    assert found.seconds["search"] > 1


def test_more_work_is_estimated_as_more_time(whole_run: WholeRun) -> None:
    def estimated(trials: int, finalists: int) -> float:
        changed = [f"search.trials={trials}", f"search.finalists={finalists}", "search.candidates=10000"]
        changed += ["engine.kind=local", "engine.workers=1"]
        return make_estimate(read_config(whole_run.config, changed)).seconds["search"]

    assert 10 < estimated(800, 10) / estimated(8, 10) < 60  # 30 and 822 proxies
    assert estimated(8, 10_000) > estimated(8, 10) + 10.0


def test_the_pool_that_the_estimates_are_held_to_is_the_shipped_one() -> None:
    assert sum(1 for _ in itertools.islice(documents(), POOL_DOCUMENTS + 1)) == POOL_DOCUMENTS


def test_bfloat16_is_advised_where_it_was_measured_to_be_faster(
    whole_run: WholeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from proxy_models.swarm import pick_device

    seconds = {"float32": 3e-4, "bfloat16": 2e-4}
    cpuinfo = tmp_path / "cpuinfo"
    for flags, wanted in (("flags: avx2 avx512_bf16", True), ("Features: fp bf16", True), ("flags: avx2", False)):
        cpuinfo.write_text(flags)
        assert plan_probe.has_bfloat16(str(cpuinfo)) is (wanted and pick_device(0) == "cpu")
    assert not plan_probe.has_bfloat16(str(tmp_path / "none"))
    for module in (plan, plan_probe):
        monkeypatch.setattr(module, "step_seconds", lambda _, proxy: seconds[proxy.precision])
    said = "search.proxy.precision: bfloat16 trains such proxies 1.5 times as fast on this processor"

    def advised(*changes: str) -> bool:
        return said in make_estimate(read_config(whole_run.config, list(changes))).advice

    monkeypatch.setattr(plan_probe, "has_bfloat16", lambda: True)
    assert advised()
    assert not advised("search.proxy.precision=bfloat16")
    monkeypatch.setattr(plan_probe, "has_bfloat16", lambda: False)
    assert not advised()
    monkeypatch.setattr(plan_probe, "has_bfloat16", lambda: True)
    seconds["bfloat16"] = 2.9e-4
    assert not advised()
