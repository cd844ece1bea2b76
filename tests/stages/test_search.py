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
from typing import Any

import numpy as np
import pytest
import zstandard

from quadmix.config import RunConfig
from quadmix.engine.fold import FoldGroup, fold_in_order, grouped
from quadmix.errors import ConfigError
from quadmix.progress import Progress
from quadmix.search.result import JOINT, SearchResult
from quadmix.search.trial_files import ColumnChoice, read_swarm, swarm_files
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.search import search
from quadmix.stages.swarm import TrainJobs

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


def config_for(folder: Path, output: str, **search_section: Any) -> RunConfig:
    """A pool of 900 documents in three domains, and proxies that cost a fraction of a second."""
    settings = {
        "trials": TRIALS,
        "tokens_per_trial": 20_000,
        "eval_tokens": 3_000,
        "candidates": 6_000,
        "finalists": 60,
        "proxy": {"preset": "custom", "d_model": 16, "layers": 1, "heads": 2, "d_ff": 32, "seq_len": 64, "batch": 32},
        "confirm": {"seeds": 3, "rivals": ["topk"]},
        **search_section,
    }
    return RunConfig.model_validate({
        "output": str(folder / output),
        "seed": 3,
        "pool": {"inputs": [str(folder / "pool")], "columns": {"domain": "domain"}, "unit_bytes": "200KB"},
        "targets": [{"name": "howto", "path": str(EXAMPLES / "targets" / "howto.jsonl.zst"), "max_docs": 60}],
        "tokenizer": {"path": str(EXAMPLES / "tokenizer" / "tokenizer.json")},
        "annotate": {"scorers": [{"kind": "heuristics", "outputs": [CRITERION]}]},
        "mixture": {"criteria": [CRITERION], "budget": 60_000},
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


def run(folder: Path, output: str, engine: SerialEngine | None = None, **search_section: Any) -> SearchResult:
    """One whole search in `output`, whose annotations are copied from `base` unless they are there."""
    if not (folder / output).exists():
        shutil.copytree(folder / "base", folder / output)
    config = config_for(folder, output, **search_section)
    engine = engine or SerialEngine()
    annotated: Annotated = annotate(config, engine, Progress.silent())
    return search(config, engine, Progress.silent(), annotated)


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
        assert abs(trial.mixture.tokens - 20_000) < 200
        assert set(trial.mixture.share) == domains
        assert sum(trial.mixture.share.values()) == pytest.approx(1.0)
        assert (trial.predicted or {}).keys() == {"howto", JOINT}
    by_name = {trial.name: trial for trial in finished.trials}
    natural, top = by_name["natural"].mixture, by_name[f"topk_{CRITERION}"].mixture
    assert natural is not None
    assert top is not None
    assert all(repeats == 1.0 for repeats in top.repeats.values())
    mean = {m: sum(x.share[d] * x.quality[d][CRITERION] for d in domains) for m, x in (("n", natural), ("t", top))}
    assert mean["t"] > mean["n"] + 0.1
    assert set(finished.proposal.theta.cutoff) == domains
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
    # top-k's three confirmation proxies are known, the new proposal's are not
    assert engine.trained == [f"trial-{TRIALS:05d}", "quadmix", "quadmix", "quadmix"]
    assert [t.losses for t in longer.trials[:TRIALS]] == [t.losses for t in finished.trials[:TRIALS]]


def test_the_trials_are_left_as_files_that_from_trials_reads(folder: Path) -> None:
    finished = run(folder, "files", confirm={"seeds": 3, "rivals": []})
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
