"""The search stage on a small real pool: a killed search ends with the same bits, a change redoes what it affects."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import zstandard

from quadmix.config import RunConfig
from quadmix.engine.base import Engine
from quadmix.engine.fold import FoldGroup, fold_in_order, grouped
from quadmix.engine.spark import SparkEngine
from quadmix.errors import BudgetError, ConfigError
from quadmix.progress import Progress
from quadmix.search.result import JOINT, SearchResult
from quadmix.search.trial_columns import ColumnChoice
from quadmix.search.trial_files import read_swarm, swarm_files
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.records import current, stage_directory
from quadmix.stages.search import search
from quadmix.stages.swarm import TrainJobs
from quadmix.stages.warm_starting import Source, earlier_trials

EXAMPLES = Path(__file__).parents[2] / "examples"
TRIALS = 8
CRITERION = "heuristic_quality"


class SerialEngine:
    """Items one after the other in this process; `backwards` gives results in another order."""

    name = "serial"
    parallelism = 1

    def __init__(self, backwards: bool = False) -> None:
        self.backwards = backwards
        self.trained: list[str] = []

    def map(
        self, task: Callable[[Any], Any], items: Sequence[Any], *, label: str, size: object = None
    ) -> Iterator[tuple[int, Any]]:
        order = range(len(items))
        for index in reversed(order) if self.backwards else order:
            self.trained += [job.name for job in items[index]] if isinstance(task, TrainJobs) else []
            yield index, task(items[index])

    def reduce(
        self, task: Callable[[Any], Any], items: Sequence[Any], merge: Callable[[Any, Any], Any], *, label: str
    ) -> Any:
        return fold_in_order(self.map(FoldGroup(task, merge), grouped(items), label=label), merge)

    def share(self, value: Any) -> Any:
        return _Here(value)

    def close(self) -> None: ...


class _Here:
    def __init__(self, value: Any) -> None:
        self.value = value

    def get(self) -> Any:
        return self.value


def config_for(
    folder: Path,
    output: str,
    constraints: dict[str, Any] | None = None,
    more_targets: Sequence[dict[str, Any]] = (),
    **search_section: Any,
) -> RunConfig:
    """A pool of 900 documents in three domains, and proxies that cost a fraction of a second."""
    settings = {
        "trials": TRIALS,
        "tokens_per_trial": 20_000,
        "eval_tokens": 3_000,
        "candidates": 6_000,
        "finalists": 60,
        "proxy": {"preset": "custom", "d_model": 16, "layers": 1, "heads": 2, "d_ff": 32, "seq_len": 64, "batch": 32},
        "confirm": {"seeds": 3, "rivals": ["topk"]},
        "noise": {"mixtures": 2, "seeds": 0},
        **search_section,
    }
    howto = {"name": "howto", "path": str(EXAMPLES / "targets" / "howto.jsonl.zst"), "max_docs": 60}
    return RunConfig.model_validate({
        "output": str(folder / output),
        "seed": 3,
        "pool": {"inputs": [str(folder / "pool")], "columns": {"domain": "domain"}, "unit_bytes": "200KB"},
        "targets": [howto, *more_targets],
        "tokenizer": {"path": str(EXAMPLES / "tokenizer" / "tokenizer.json")},
        "annotate": {"scorers": [{"kind": "heuristics", "outputs": [CRITERION]}]},
        "mixture": {"criteria": [CRITERION], "budget": 60_000, "constraints": constraints or {}},
        "search": settings,
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool, and `base`: an output in which it is annotated."""
    found = tmp_path_factory.mktemp("search")
    (found / "pool").mkdir()
    kept: dict[str, list[str]] = {"encyclopedia": [], "howto": [], "math": []}
    raw = (EXAMPLES / "pool" / "shard-00000.jsonl.zst").read_bytes()
    reader = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)), encoding="utf-8")
    for line in reader:
        row = json.loads(line)
        if row["domain"] in kept and len(row["text"]) < 3000 and len(kept[row["domain"]]) < 300:
            kept[row["domain"]].append(line)
    lines = [line for name in sorted(kept) for line in kept[name]]
    for part in range(3):
        (found / "pool" / f"part-{part}.jsonl").write_text("".join(lines[part::3]), encoding="utf-8")
    annotate(config_for(found, "base"), SerialEngine(), Progress.silent())
    return found


def run(
    folder: Path, output: str, engine: Engine | None = None, to: TextIO | None = None, **search_section: Any
) -> SearchResult:
    """One whole search in `output`, whose annotations are copied from `base` unless they are there."""
    if not (folder / output).exists():
        shutil.copytree(folder / "base", folder / output)
    config = config_for(folder, output, **search_section)
    engine = engine or SerialEngine()
    annotated: Annotated = annotate(config, engine, Progress.silent())
    return search(config, engine, Progress.silent() if to is None else Progress("plain", to), annotated)


@pytest.fixture(scope="module")
def finished(folder: Path) -> SearchResult:
    return run(folder, "whole")


def result_bytes(folder: Path, output: str) -> bytes:
    (path,) = (folder / output / "stages").glob("search-*/result.json")
    return path.read_bytes()


def test_a_finished_search_says_everything_by_name(finished: SearchResult) -> None:
    assert SearchResult.from_json(finished.to_json()) == finished
    names = [trial.name for trial in finished.trials]
    assert names[TRIALS:] == ["natural", "uniform", f"topk_{CRITERION}"]
    domains = {"encyclopedia", "howto", "math"}
    for trial in finished.trials:
        assert trial.mixture is not None
        assert trial.joint == pytest.approx((trial.losses or {})["howto"])
        assert abs(trial.mixture.tokens - 20_000) < 400  # a document with all of its copies, or none
        assert set(trial.mixture.share) == domains
        assert sum(trial.mixture.share.values()) == pytest.approx(1.0)
        assert (trial.predicted or {}).keys() == {"howto", JOINT}
        assert (trial.mixture.counted or {}).keys() == {"howto"}
    by_name = {trial.name: trial for trial in finished.trials}
    natural, top = by_name["natural"].mixture, by_name[f"topk_{CRITERION}"].mixture
    assert natural is not None
    assert top is not None
    assert all(repeats == 1.0 for repeats in top.repeats.values())
    mean = {m: sum(x.share[d] * x.quality[d][CRITERION] for d in domains) for m, x in (("n", natural), ("t", top))}
    assert mean["t"] > mean["n"] + 0.1
    assert set(finished.proposal.theta.cutoff) == domains
    for one in finished.proposals:
        assert all(low < one.predicted[name] < high for name, (low, high) in one.interval.items())
        assert one.interval.keys() == {"howto", JOINT}
    assert finished.tally.drawn == finished.tally.screened + finished.tally.infeasible == 6_000
    assert [m.name for m in finished.confirmation.mixtures] == ["quadmix", f"topk_{CRITERION}"]
    assert finished.winner is not None
    losses = {m.name: m.losses[JOINT] for m in finished.confirmation.mixtures}
    assert all(len(set(column)) == 3 for column in losses.values())  # seeds are fresh


def test_confirmation_and_search_halves_never_share_text(folder: Path, finished: SearchResult) -> None:
    from quadmix.stages.targets import load_targets

    (target,) = load_targets(config_for(folder, "whole"))
    assert not set(target.search.texts) & set(target.confirm.texts)
    swarm = next((folder / "whole" / "stages").glob("swarm-*"))
    assert (swarm / "eval-search-howto.bin").read_bytes() != (swarm / "eval-confirm-howto.bin").read_bytes()


def test_a_swarm_of_spark_tasks_has_the_same_bits(
    folder: Path, finished: SearchResult, spark_engine: SparkEngine
) -> None:
    """The first trials and all that follows from them; the others were trained here."""
    shutil.copytree(folder / "whole", folder / "spark", ignore=shutil.ignore_patterns("search-*", "pieces"))
    (journal,) = (folder / "spark" / "stages").glob("swarm-*/journal.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[3:]))
    run(folder, "spark", spark_engine)
    assert result_bytes(folder, "spark") == result_bytes(folder, "whole")
    assert sorted(journal.read_text().splitlines()) == sorted("".join(lines).splitlines())


def test_a_search_killed_in_the_middle_of_a_write_ends_with_the_same_bits(folder: Path, finished: SearchResult) -> None:
    shutil.copytree(folder / "base", folder / "killed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    child = subprocess.run(
        [sys.executable, __file__, str(folder), "5"], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    (journal,) = (folder / "killed" / "stages").glob("swarm-*/journal.jsonl")
    assert journal.read_bytes().count(b"\n") == 5
    assert not journal.read_bytes().endswith(b"\n")
    engine = SerialEngine(backwards=True)
    run(folder, "killed", engine)
    assert result_bytes(folder, "killed") == result_bytes(folder, "whole")
    assert not {f"trial-{index:05d}" for index in range(5)} & set(engine.trained)
    assert "trial-00006" in engine.trained


def test_a_rerun_trains_nothing_and_a_longer_swarm_only_what_is_new(folder: Path, finished: SearchResult) -> None:
    engine = SerialEngine()
    assert run(folder, "whole", engine) == finished
    assert engine.trained == []
    longer = run(folder, "whole", engine, trials=TRIALS + 1, confirm={"seeds": 3, "rivals": ["topk"]})
    # top-k's three confirmation proxies are known; the new proposal's are not, unless it is the old one
    unknown = [] if longer.proposals[0].theta == finished.proposals[0].theta else ["quadmix"] * 3
    assert engine.trained == [f"trial-{TRIALS:05d}", *unknown]
    assert [t.losses for t in longer.trials[:TRIALS]] == [t.losses for t in finished.trials[:TRIALS]]


def test_trials_that_are_trained_again_tell_the_noise_and_change_no_other_trial(
    folder: Path, finished: SearchResult
) -> None:
    engine, said = SerialEngine(), io.StringIO()
    shutil.copytree(folder / "whole", folder / "noisy")
    found = run(folder, "noisy", engine, noise={"mixtures": 4, "seeds": 1}, to=said)
    assert engine.trained[:4] == [f"{name}-again-0" for name in ("natural", *(f"trial-{i:05d}" for i in range(3)))]
    assert finished.noise is None
    assert found.noise is not None
    assert (found.noise.mixtures, found.noise.seeds, found.noise.freedom) == (4, 2, 3)
    assert all(0 < found.noise.low[name] < found.noise.paired[name] for name in (JOINT, "howto"))
    assert found.noise.paired[JOINT] == pytest.approx(found.noise.paired["howto"])  # the only target
    assert [trial.losses for trial in found.trials] == [trial.losses for trial in finished.trials]
    assert found.more.trials == 16
    assert found.more.low <= found.more.high  # a rare gain may lift the mean above both
    assert found.more.low <= found.more.mean < 0.5
    assert "nats of noise between mixtures of one seed" in said.getvalue()
    assert "rank the trained ones with Spearman howto" in said.getvalue()
    assert "16 more trials would be worth" in said.getvalue()


def test_raw_thetas_as_features_stand_beside_counts(folder: Path, finished: SearchResult) -> None:
    """The paper's own features, over proxies that are trained already."""
    shutil.copytree(folder / "whole", folder / "raw")
    engine = SerialEngine()
    found = run(folder, "raw", engine, regressor={"kind": "gaussian_process", "features": "theta"})
    assert [name for name in engine.trained if name != "quadmix"] == []
    assert found.features[-1] == "counted:howto"
    assert found.counting is not None
    assert found.counting.draws == 3
    assert found.counting.spearman == finished.counting.spearman if finished.counting else False


@pytest.mark.long
def test_a_second_round_goes_where_losses_promise_most_and_resumes_to_the_same_bits(folder: Path) -> None:
    two = {"trials": 24, "rounds": 2, "confirm": {"seeds": 3, "rivals": []}}
    said = io.StringIO()
    found = run(folder, "rounds", to=said, **two)
    thetas = [trial for trial in found.trials if trial.kind == "theta"]
    assert [trial.name for trial in thetas] == [f"trial-{index:05d}" for index in range(24)]
    first, second = ([trial.joint or 9.0 for trial in part] for part in (thetas[:12], thetas[12:]))
    assert np.mean(second) < np.mean(first)
    assert "search: round 2: 12 mixtures by expected improvement after 12 trials" in said.getvalue()
    one = run(folder, "one-round", trials=24, confirm=two["confirm"])
    assert [trial.losses for trial in one.trials[:12]] == [trial.losses for trial in thetas[:12]]
    assert all(mine.theta != drawn.theta for mine, drawn in zip(thetas[12:], one.trials[12:24], strict=True))
    # killed in the middle of the second round: a journal that is cut there
    swarm = next((folder / "rounds" / "stages").glob("swarm-*"))
    output = folder / "rounds-cut"
    shutil.copytree(folder / "base", output)
    shutil.copytree(swarm, output / "stages" / swarm.name)
    lines = (swarm / "journal.jsonl").read_text().splitlines(keepends=True)
    (output / "stages" / swarm.name / "journal.jsonl").write_text("".join(lines[:19]))
    shutil.rmtree(output / "stages" / swarm.name / "pieces")
    assert run(folder, output.name, **two).to_json() == found.to_json()


def test_constraints_bind_the_proposal_and_train_no_theta_again(folder: Path, finished: SearchResult) -> None:
    natural = finished.trials[TRIALS].mixture
    assert natural is not None
    bounds = {"max_share": {"encyclopedia": 0.1}, "min_share": {"math": 0.2}, "kl": 0.05}
    engine, said = SerialEngine(), io.StringIO()
    found = run(folder, "constrained", engine, constraints=bounds, confirm={"seeds": 3, "rivals": ["natural"]}, to=said)
    again = run(folder, "constrained", engine, constraints={}, confirm={"seeds": 3, "rivals": ["natural"]})
    assert [trial.losses for trial in again.trials] == [trial.losses for trial in found.trials]
    assert [trial.losses for trial in found.trials] == [trial.losses for trial in finished.trials]
    assert sum(name.startswith("trial-") for name in engine.trained) == TRIALS  # once, whatever the constraints
    share = found.proposal.mixture.share
    assert share["encyclopedia"] <= 0.1 + 1e-9
    assert share["math"] >= 0.2 - 1e-9
    facts = {fact.name: fact for fact in found.constraints}
    assert facts.keys() == {"max_share.encyclopedia", "min_share.math"}
    assert facts["max_share.encyclopedia"].binding == (abs(share["encyclopedia"] - 0.1) < 1e-6)
    assert all((fact.price is not None) == fact.binding for fact in found.constraints)
    assert any(fact.binding for fact in found.constraints)
    assert finished.kl is None
    assert found.kl is not None
    natural_share = [natural.share[name] for name in found.domains]  # about: the proxy's own draw of it
    own = [share[name] for name in found.domains]
    divergence = sum(p * np.log(p / q) for p, q in zip(own, natural_share, strict=True) if p > 0)
    assert found.kl.divergence == pytest.approx(divergence, rel=0.5)
    assert found.kl.penalty == pytest.approx(0.05 * found.kl.divergence)
    assert "one percentage point looser" in said.getvalue()
    rival = found.confirmation.mixtures[1]
    assert rival.violates[0].startswith("max_share.encyclopedia is 0.1, it has 0.")
    assert found.confirmation.mixtures[0].violates == []
    assert found.confirmation.winner == "quadmix"
    assert "not eligible, since constraints are broken: natural (max_share.encyclopedia" in found.confirmation.verdict


def test_what_select_publishes_of_a_constrained_search_has_the_predicted_shares(folder: Path) -> None:
    from quadmix.stages.select import select

    bounds = {"max_share": {"encyclopedia": 0.1}, "min_share": {"math": 0.2}, "kl": 0.05}
    engine = SerialEngine()
    confirm = {"seeds": 3, "rivals": ["natural"]}
    found = run(folder, "constrained", engine, constraints=bounds, confirm=confirm)
    config = config_for(folder, "constrained", constraints=bounds, confirm=confirm)
    manifest = select(config, engine, Progress.silent(), annotate(config, engine, Progress.silent()), found)
    longest = 3000 // 2  # characters of a document, and a token has at least two
    for name, share in manifest.domains.items():
        predicted = found.proposal.mixture.share[name] * 60_000
        assert abs(share.realised - predicted) <= max(0.005 * predicted, longest)
        assert share.requested == pytest.approx(predicted, abs=1.0)
    tight = config_for(folder, "constrained", constraints={"max_share": {"math": 0.01}}, confirm=confirm)
    tight = tight.model_copy(update={"select": tight.select.model_copy(update={"mixture": "proposal"})})
    with pytest.raises(BudgetError, match=r"max_share\.math is 0\.01"):
        select(tight, engine, Progress.silent(), annotate(tight, engine, Progress.silent()), found)


def test_constraints_that_cannot_be_kept_are_refused_before_any_proxy(folder: Path) -> None:
    engine = SerialEngine()
    for bounds, told in (
        ({"max_share": {"maths": 0.1}}, "nearest is 'math'"),
        ({"max_share": {"math": 0.2, "howto": 0.1}, "fixed_share": {"encyclopedia": 0.1}}, "short"),
    ):
        with pytest.raises(ConfigError, match=told):
            run(folder, "refused", engine, constraints=bounds)
    assert engine.trained == []
    assert not list((folder / "refused" / "stages").glob("proxy_pool-*"))


def test_two_targets_the_worst_case_and_pairs(folder: Path) -> None:
    rows = [
        {"id": f"p{n}", "ask": f"How do I fix number {n // 2}?", "answer": f" You turn it {n} times and wait a while."}
        for n in range(80)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = {"name": "answers", "path": str(folder / "pairs.jsonl"), "prompt": "ask", "completion": "answer"}
    worst = {"objective_rule": "worst", "pareto_points": 7, "confirm": {"seeds": 3, "rivals": ["natural"]}}
    found = run(folder, "worst", more_targets=[pair], **worst)
    assert SearchResult.from_json(found.to_json()) == found
    natural = found.trials[TRIALS]
    assert natural.joint == 0.0
    for trial in found.trials:
        losses = trial.losses or {}
        assert trial.joint == pytest.approx(max(losses[t] - (natural.losses or {})[t] for t in ("howto", "answers")))
    proposal, reference = found.confirmation.mixtures
    for seed in range(3):
        excess = [(proposal.losses[t][seed] or 0) - (reference.losses[t][seed] or 0) for t in ("howto", "answers")]
        assert proposal.losses[JOINT][seed] == pytest.approx(max(excess))
    assert reference.losses[JOINT] == [0.0] * 3
    assert 1 <= len(found.pareto) <= 7
    predicted = [(point.predicted["howto"], point.predicted["answers"]) for point in found.pareto]
    assert predicted == sorted(predicted)
    assert [b for _, b in predicted] == sorted((b for _, b in predicted), reverse=True)
    for point in found.pareto:
        assert sum(point.share.values()) == pytest.approx(1.0)


def test_the_trials_are_left_as_files_that_from_trials_reads(folder: Path) -> None:
    finished = run(folder, "files", counting=None, confirm={"seeds": 3, "rivals": []})
    assert all(trial.mixture is not None and trial.mixture.counted is None for trial in finished.trials)
    assert not list((folder / "files" / "stages").glob("counting*"))
    pointer = json.loads((folder / "files" / "stages" / "search.json").read_text())
    stage = folder / "files" / "stages" / pointer["directory"]
    swarm = read_swarm(*swarm_files(stage, None), ColumnChoice())
    assert swarm.ids == tuple(trial.name for trial in finished.trials)
    assert (swarm.domains, swarm.targets) == (tuple(finished.domains), ("howto",))
    assert swarm.losses[:, 0].tolist() == [(trial.losses or {})["howto"] for trial in finished.trials]
    shares = [[(trial.mixture.share if trial.mixture else {})[d] for d in swarm.domains] for trial in finished.trials]
    assert swarm.shares == pytest.approx(np.array(shares), abs=1e-12)


def test_what_the_config_lacks_is_said_at_once(folder: Path) -> None:
    config = config_for(folder, "whole", objective={"nosuch": 1.0}).model_copy(update={"tokenizer": None})
    with pytest.raises(ConfigError) as refused:
        search(config, SerialEngine(), Progress.silent(), None)  # type: ignore[arg-type]
    assert len(refused.value.problems) == 2
    assert "nosuch" in str(refused.value)


def _run_and_die(folder: Path, lines: int) -> None:
    """In a child process: after `lines` lines of the journal, die by SIGKILL half way through the next."""
    from quadmix.search.journal import Journal

    append = Journal.append

    def dying(self: Journal, key: str, value: Any) -> None:
        if len(self.entries) < lines:
            append(self, key, value)
            return
        with open(self.path, "ab") as handle:
            handle.write(b'{"entry":{"key":"' + key.encode()[:9])
        os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = dying  # type: ignore[method-assign]
    run(folder, "killed")


if __name__ == "__main__":
    _run_and_die(Path(sys.argv[1]), int(sys.argv[2]))


def test_trials_of_a_pool_before_a_domain_came_or_went(folder: Path, finished: SearchResult, tmp_path: Path) -> None:
    record = current(folder / "whole", "search")
    assert record is not None
    found = stage_directory(folder / "whole", "search", record.fingerprint)
    facts = json.loads((found / "domains.json").read_bytes())
    first, *others = facts["domains"]
    source = Source("before", found, record)
    used = [trial for trial in source.result.trials if trial.losses]
    # the pool has one domain more than the earlier one had
    wider = {**facts, "domains": {**facts["domains"], "new": facts["domains"][first]}}
    said = io.StringIO()
    (earlier,) = earlier_trials([source], json.dumps(wider).encode(), ["howto"], Progress("plain", said))
    assert len(earlier.mixtures) == len(used)
    assert all(mixture.share["new"] == 0.0 for mixture in earlier.mixtures)
    assert "domain 'new' is new" in said.getvalue()
    # and one less: trials with its text say nothing
    narrower = {**facts, "domains": {name: facts["domains"][name] for name in others}}
    usable = [trial for trial in used if trial.mixture and trial.mixture.share[first] <= 0.01]
    if usable:
        (earlier,) = earlier_trials([source], json.dumps(narrower).encode(), ["howto"], Progress.silent())
        assert [round(sum(mixture.share.values()), 9) for mixture in earlier.mixtures] == [1.0] * len(usable)
    else:
        with pytest.raises(ConfigError, match="is gone"):
            earlier_trials([source], json.dumps(narrower).encode(), ["howto"], Progress.silent())


def test_an_earlier_search_warms_a_later_one_and_another_one_is_refused(folder: Path, finished: SearchResult) -> None:
    warm = {"trials": 12, "warm_start": [str(folder / "whole")]}
    said = io.StringIO()
    found = run(folder, "warm", to=said, **warm)
    assert f"trials of {folder / 'whole'} are " in said.getvalue()
    alone = run(folder, "cold", trials=12)
    assert [trial.losses for trial in found.trials] == [trial.losses for trial in alone.trials]
    assert found.cross_validation == alone.cross_validation  # held-out scores know nothing of earlier trials
    again = SerialEngine()
    assert run(folder, "warm", again, **warm).to_json() == found.to_json()
    assert again.trained == []
    with pytest.raises(ConfigError, match=r"another search\.tokens_per_trial"):
        run(folder, "other", tokens_per_trial=19_000, trials=12, warm_start=warm["warm_start"])
    with pytest.raises(ConfigError, match="holds no finished search"):
        run(folder, "other", trials=12, warm_start=[str(folder / "base")])
    with pytest.raises(ConfigError, match="own output"):
        run(folder, "warm", trials=12, warm_start=[str(folder / "warm")])
