"""Bring your own trainer: trials are manifests that verify, losses come back by name, the next round learns."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.config_reader import read_config
from quadmix.errors import BudgetError, InputError
from quadmix.manifest.model import Manifest
from quadmix.search.proposals import theta_by_name
from quadmix.search.trial_columns import ColumnChoice
from quadmix.search.trial_files import read_swarm
from quadmix.search.trials import draw_theta, param_space
from quadmix.stages.asked_trials import AskedTrial, AskedTrials, new_losses
from tests.e2e.command_line import Done, quadmix
from tests.e2e.scored_pool import DOMAINS, scored_config, write_scored_pool
from tests.e2e.small_pool import ROOT, write_config
from tests.stages.inline_engine import InlineEngine

BUDGET = 4000
N = 10


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> InlineEngine:
    engine = InlineEngine()
    for module in ("quadmix.cli", "quadmix.search_commands"):
        monkeypatch.setattr(f"{module}.make_engine", lambda config, progress: engine)
    return engine


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool, its config, and `trials`: ten trials asked for losses `math` and `code`."""
    base = tmp_path_factory.mktemp("ask")
    write_scored_pool(base / "pool")
    values = scored_config(base / "pool", base / "out", mixture={"criteria": ["score"], "budget": BUDGET})
    regressor = {"kind": "gaussian_process", "folds": 3}
    values["search"] = {"regressor": regressor, "candidates": 600, "finalists": 30, "trials": 8}
    values["tokenizer"] = {"path": str(ROOT / "examples" / "tokenizer" / "tokenizer.json")}
    target = ROOT / "examples" / "targets" / "howto.jsonl.zst"
    values["targets"] = [{"name": "howto", "path": str(target), "max_docs": 20}]
    write_config(base / "run.yaml", values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quadmix.search_commands.make_engine", lambda config, progress: InlineEngine())
        done = ask(base / "run.yaml", base / "trials")
    assert done.code == 0, done.err
    return base


def ask(config: Path, out: Path, n: int = N, *more: str) -> Done:
    return quadmix("search", "ask", config, "--n", n, "--out", out, "--targets", "math,code", *more)


def tell(config: Path, out: Path, losses: Path | None = None, *more: str) -> Done:
    return quadmix("search", "tell", config, losses or out / "losses.csv", "--from", out, *more)


def trials(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "trials.json").read_text())["trials"]
    return found


def fill(out: Path, only: int | None = None) -> None:
    """A made-up trainer: less law is better for math, better documents are better for both."""
    by_name = {trial["name"]: trial["mixture"] for trial in trials(out)}
    with open(out / "losses.csv", newline="") as handle:
        header, *rows = list(csv.reader(handle))
    assert header == ["trial", "math", "code"]
    for row in rows[:only]:
        mixture = by_name[row[0]]
        quality = sum(mixture["share"][d] * mixture["quality"][d]["score"] for d in DOMAINS)
        row[1:] = [repr(3 + mixture["share"]["law"] - quality), repr(2 - quality)]
    with open(out / "losses.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])


def copy(asked: Path, folder: Path) -> Path:
    shutil.copytree(asked / "trials", folder / "trials")
    return folder / "trials"


def test_trials_are_the_swarm_s_own_thetas_selected_exactly(asked: Path) -> None:
    """Thetas: the draws of the built-in swarm. Documents: those that `select` publishes for the same theta."""
    config: RunConfig = read_config(asked / "run.yaml")
    found = trials(asked / "trials")
    assert [trial["name"] for trial in found] == [f"trial-{index:05d}" for index in range(N)]
    pool = pa.concat_tables([pq.read_table(path) for path in sorted((asked / "pool").glob("*.parquet"))])
    domain, counted = np.array(pool["domain"].to_pylist()), pool["n_tokens"].to_numpy()
    tokens = np.array([counted[domain == name].sum() for name in DOMAINS])
    space = param_space(config.mixture.space, len(DOMAINS), 1)
    longest = int(counted.max())
    for index, trial in enumerate(found):
        drawn = draw_theta(space, index, config.seed, tokens, config.mixture)
        theta = theta_by_name(drawn.params, DOMAINS, ("score",))
        assert trial["theta"]["cutoff"] == theta.cutoff
        manifest = Manifest.load(asked / "trials" / trial["manifest"])
        assert manifest.requested_tokens == BUDGET
        assert abs(manifest.realised_tokens - BUDGET) <= longest / 2
        assert manifest.plan["provenance"] == f"trial-{index:05d} of a search with one's own trainer"
    # one of them by `select` itself
    (asked / "theta.json").write_text(json.dumps({"theta": found[3]["theta"], "provenance": "by hand"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quadmix.cli.make_engine", lambda config, progress: InlineEngine())
        sets = ("select.mixture=theta", f"select.theta_file={asked / 'theta.json'}", f"output={asked / 'by-select'}")
        done = quadmix("select", asked / "run.yaml", *(word for one in sets for word in ("--set", one)))
    assert done.code == 0, done.err
    assert chosen(asked / "by-select") == chosen(asked / "trials" / found[3]["manifest"])


def chosen(where: Path) -> dict[str, int]:
    manifest = Manifest.load(where)
    rows = pa.concat_tables([pq.read_table(manifest.part_path(part)) for part in manifest.files])
    return dict(zip(rows["doc_id"].to_pylist(), rows["copies"].to_pylist(), strict=True))


def test_every_trial_verifies_and_its_mixture_is_what_its_rows_hold(asked: Path) -> None:
    for trial in trials(asked / "trials")[:3]:
        folder = asked / "trials" / trial["manifest"]
        done = quadmix("verify", folder)
        assert done.code == 0, done.out
        manifest = Manifest.load(folder)
        rows = pa.concat_tables([pq.read_table(manifest.part_path(part)) for part in manifest.files]).to_pylist()
        pool = pa.concat_tables([pq.read_table(path) for path in sorted((asked / "pool").glob("*.parquet"))])
        place = {doc: index for index, doc in enumerate(pool["id"].to_pylist())}
        score = pool["score"].to_numpy()
        order = np.argsort(score, kind="stable")
        tokens = pool["n_tokens"].to_numpy()
        rank = np.empty(len(score))  # token-weighted mid-ranks; equal scores share one
        for value in np.unique(score):
            same = score == value
            rank[same] = (tokens[score < value].sum() + tokens[same].sum() / 2) / tokens.sum()
        assert order.size
        for name in DOMAINS:
            mine = [row for row in rows if row["domain"] == name]
            total = sum(row["copies"] * row["n_tokens"] for row in mine)
            assert trial["mixture"]["share"][name] == pytest.approx(total / manifest.realised_tokens)
            if mine:
                once = sum(row["n_tokens"] for row in mine)
                assert trial["mixture"]["repeats"][name] == pytest.approx(total / once)
                quality = sum(row["copies"] * row["n_tokens"] * rank[place[row["doc_id"]]] for row in mine) / total
                assert trial["mixture"]["quality"][name]["score"] == pytest.approx(quality, abs=1e-6)


def test_asking_again_adds_nothing_and_repairs_what_is_damaged(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")} | {out / "trials.csv": b""}
    table = (out / "trials.csv").read_bytes()
    manifest = Manifest.load(out / trials(out)[2]["manifest"])
    part = manifest.part_path(manifest.files[0])
    part.write_bytes(b"damaged")
    done = ask(asked / "run.yaml", out, N, "--json")
    assert done.code == 0, done.err
    assert (done.json["new"], done.json["waiting"]) == (0, N)
    assert part.read_bytes() == before[part]
    assert (out / "trials.csv").read_bytes() == table


def test_an_interrupted_ask_ends_with_the_same_trials(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = InlineEngine(fail_in="select: writing the manifest", fail_after=0)
    monkeypatch.setattr("quadmix.search_commands.make_engine", lambda config, progress: stopping)
    assert ask(asked / "run.yaml", tmp_path / "trials").code == 130
    monkeypatch.setattr("quadmix.search_commands.make_engine", lambda config, progress: InlineEngine())
    assert ask(asked / "run.yaml", tmp_path / "trials").code == 0
    assert (tmp_path / "trials" / "trials.json").read_bytes() == (asked / "trials" / "trials.json").read_bytes()


def test_losses_come_back_and_the_next_round_is_by_acquisition(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    fill(out)
    kept = (out / "losses.csv").read_bytes()
    refused = ask(asked / "run.yaml", out)
    assert refused.code == 2
    assert "10 trial(s) that were not told; tell them first" in refused.err
    assert (out / "losses.csv").read_bytes() == kept
    done = tell(asked / "run.yaml", out)
    assert done.code == 0, done.err
    for said in (
        "10 new losses",
        "held out, joint: Spearman",
        "no fresh proxies confirmed it",
        "select.theta_file=",
    ):
        assert said in done.err
    assert "16 more trials would be worth" in done.err
    result = json.loads((out / "result.json").read_text())
    assert result["confirmed"] is False
    assert result["more"]["low"] <= result["more"]["mean"] <= result["more"]["high"]
    assert [one["origin"] for one in result["proposals"]] == ["average", "argmin", "best_observed"]
    again = tell(asked / "run.yaml", out)
    assert again.code == 0
    assert "0 new losses" in again.err
    assert json.loads((out / "result.json").read_text()) == result
    more = ask(asked / "run.yaml", out, 4, "--json")
    assert more.code == 0, more.err
    assert (more.json["new"], more.json["origin"], more.json["told"]) == (4, "acquisition", N)
    found = trials(out)
    assert [(trial["round"], trial["origin"]) for trial in found[N:]] == [(2, "acquisition")] * 4
    assert len({json.dumps(trial["theta"]) for trial in found}) == N + 4
    with open(out / "losses.csv", newline="") as handle:
        assert [row[0] for row in csv.reader(handle)] == ["trial", *(trial["name"] for trial in found[N:])]
    assert quadmix("verify", out / found[-1]["manifest"]).code == 0
    # the files are a swarm that --from-trials reads
    shutil.copy(out / "trials.csv", tmp_path / "trials.csv")
    (tmp_path / "losses.csv").write_bytes(kept)
    with open(tmp_path / "losses.csv", "a") as handle:
        handle.writelines(f"{trial['name']},,\n" for trial in found[N:])
    swarm = read_swarm(tmp_path / "trials.csv", tmp_path / "losses.csv", ColumnChoice())
    assert (swarm.domains, swarm.targets, len(swarm.ids), len(swarm.failed)) == (DOMAINS, ("math", "code"), N, 4)


def test_the_proposal_is_published_as_what_it_is(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    fill(out)
    assert tell(asked / "run.yaml", out).code == 0
    sets = ("select.mixture=theta", f"select.theta_file={out / 'proposal.json'}", f"output={tmp_path / 'out'}")
    done = quadmix("select", asked / "run.yaml", *(word for one in sets for word in ("--set", one)))
    assert done.code == 0, done.err
    assert "select: the proposal (average) of 10 trials of one's own trainer; no fresh proxies confirmed it" in done.err
    manifest = Manifest.load(tmp_path / "out")
    assert "no fresh proxies confirmed it" in manifest.plan["provenance"]
    assert quadmix("verify", tmp_path / "out").code == 0
    share = {name: found.realised / manifest.realised_tokens for name, found in manifest.domains.items()}
    expected = json.loads((out / "proposal.json").read_text())["mixture"]["share"]
    assert share == pytest.approx(expected, abs=0.02)
    missing = quadmix("select", asked / "run.yaml", "--set", sets[0], "--set", "select.theta_file=nowhere.json")
    assert missing.code == 2
    assert "nowhere.json" in missing.err


def test_wrong_losses_are_said_at_once_and_none_is_told(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    losses = tmp_path / "l.csv"
    lines = [
        "trial,math,code",
        "trial-00000,3,2",
        "trial-00000,3,2",
        "trial-00099,1,1",
        "trial-00001,3,",
        "trial-00002,x,1",
    ]
    losses.write_text("\n".join(lines) + "\n")
    done = tell(asked / "run.yaml", out, losses)
    assert done.code == 3
    for said in (
        "line 3, column 'trial': trial 'trial-00000' is there already", "'trial-00099' was never asked",
        "line 5, column 'code': found no loss beside others", "line 6, column 'math': found 'x', wanted a number",
    ):  # fmt: skip
        assert said in done.err
    assert "loss/" not in (out / "journal.jsonl").read_text()
    losses.write_text("trial,math\ntrial-00000,3\n")
    assert tell(asked / "run.yaml", out, losses).code == 2


def test_failed_trials_and_empty_rows(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    """nan failed, empty waits; a failed one may be told again, a finished one not with another loss."""
    out = copy(asked, tmp_path)
    losses = tmp_path / "l.csv"
    losses.write_text("trial,math,code\ntrial-00000,nan,nan\ntrial-00001,3,2\ntrial-00002,,\n")
    done = tell(asked / "run.yaml", out, losses, "--json")
    assert done.code == 0, done.err
    assert (done.json["told"], done.json["failed"], done.json["proposals"]) == (2, ["trial-00000"], [])
    assert "trial-00002" in done.json["waiting"]
    assert not (out / "proposal.json").exists()
    losses.write_text("trial,math,code\ntrial-00000,4,3\ntrial-00001,3,2.5\n")
    done = tell(asked / "run.yaml", out, losses)
    assert done.code == 3
    assert "'trial-00001' was told before" in done.err
    losses.write_text("trial,math,code\ntrial-00000,4,3\n")
    assert tell(asked / "run.yaml", out, losses, "--json").json["failed"] == []


def test_a_loss_that_never_changes_is_refused_before_it_is_told(
    asked: Path, tmp_path: Path, here: InlineEngine
) -> None:
    out = copy(asked, tmp_path)
    losses = tmp_path / "l.csv"
    losses.write_text("trial,math,code\n" + "".join(f"trial-{k:05d},{3 + k / 7},2.5\n" for k in range(N)))
    done = tell(asked / "run.yaml", out, losses)
    assert done.code == 3
    assert "the same in all 10 finished trials: code (2.5)" in done.err
    fill(out)
    assert tell(asked / "run.yaml", out).code == 0  # nothing of the refused file was kept


def test_a_damaged_journal_is_refused(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    """Its names may belong to other thetas; a line that was torn by a kill is simply cut off."""
    out = copy(asked, tmp_path)
    journal = out / "journal.jsonl"
    raw = journal.read_bytes()
    journal.write_bytes(raw + b'{"entry":{"key":"ask/')
    assert ask(asked / "run.yaml", out).code == 0
    assert journal.read_bytes() == raw
    journal.write_bytes(raw.replace(b'"origin":"prior"', b'"origin":"prios"', 1))
    done = ask(asked / "run.yaml", out)
    assert done.code == 3
    assert "1 line(s) are damaged" in done.err


def test_a_smaller_trial_has_a_pool_that_is_as_tight(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    done = ask(asked / "run.yaml", tmp_path / "small", 3, "--tokens", "2K")
    assert done.code == 0, done.err
    whole, small = trials(asked / "trials"), trials(tmp_path / "small")
    for index in range(3):
        manifest = Manifest.load(tmp_path / "small" / small[index]["manifest"])
        assert manifest.requested_tokens == 2000
        assert quadmix("verify", manifest.folder).code == 0
        # half of the documents for half of the tokens: repeats stay, to the noise of 300 documents
        full, part = (
            1 / sum(trial["mixture"]["share"][name] / trial["mixture"]["repeats"][name] for name in DOMAINS)
            for trial in (whole[index], small[index])
        )
        assert part == pytest.approx(full, abs=0.15)
        assert whole[index]["theta"] == small[index]["theta"]
        assert (
            manifest.domains["law"].available
            != Manifest.load(asked / "trials" / whole[0]["manifest"]).domains["law"].available
        )


def test_a_directory_belongs_to_one_study(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    other = ask(asked / "run.yaml", out, N, "--set", "seed=4")
    assert other.code == 2
    assert "were asked with seed 3, found 4" in other.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    assert "holds files of something else" in ask(asked / "run.yaml", tmp_path / "mine").err
    bare = scored_config(asked / "pool", asked / "out")
    nothing = quadmix("search", "ask", write_config(tmp_path / "bare.yaml", bare), "--n", 3, "--out", tmp_path / "new")
    assert nothing.code == 2
    assert "--targets a,b" in nothing.err
    assert not (tmp_path / "new").exists()
    assert quadmix("search", "tell", asked / "run.yaml", "x.csv", "--from", tmp_path).code == 2
    assert ask(asked / "run.yaml", tmp_path / "big", N, "--tokens", "5K").code == 2


SETTINGS = {"regressor": {"kind": "gaussian_process", "folds": 3}, "candidates": 600, "finalists": 30}


def own_config(asked: Path, folder: Path, search: dict[str, Any] | None = None, **mixture: Any) -> Path:
    """A config for ask and tell alone: no targets, no tokenizer, no search unless one is given."""
    held = {"criteria": ["score"], "budget": BUDGET, **mixture}
    values = scored_config(asked / "pool", asked / "out", mixture=held)
    del values["select"]
    return write_config(folder / "own.yaml", values | ({} if search is None else {"search": search}))


def constrained(**constraints: Any) -> tuple[str, ...]:
    words = (f"mixture.constraints.{name}={json.dumps(value)}" for name, value in constraints.items())
    return tuple(word for one in words for word in ("--set", one))


def test_ask_refuses_constraints_before_any_trial_is_made(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = tmp_path / "trials"
    unknown = ask(asked / "run.yaml", out, N, *constrained(min_share={"lawe": 0.1}))
    assert unknown.code == 2
    assert (
        "mixture.constraints.min_share.lawe: no domain of the pool has this name; the nearest is 'law'" in unknown.err
    )
    infeasible = ask(asked / "run.yaml", out, N, *constrained(max_share=dict.fromkeys(DOMAINS, 0.2)))
    assert infeasible.code == 2
    assert "all domains together give at most 2,400 tokens, mixture.budget is 4,000" in infeasible.err
    assert "resume at stage 'ask'" in infeasible.err  # the annotations are there
    assert not out.exists()


def test_constraints_and_objective_change_between_ask_and_tell(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    """They decide what is proposed: trained trials stay, and asking again makes none of their manifests anew."""
    out = copy(asked, tmp_path)
    made = {path: path.read_bytes() for path in (out / "manifests").rglob("*") if path.is_file()}
    changed = (*constrained(max_share={"law": 0.2}, kl=0.05), "--set", "search.objective={math: 3, code: 1}")
    again = ask(asked / "run.yaml", out, N, *changed, "--json")
    assert again.code == 0, again.err
    assert again.json["new"] == 0
    assert {path: path.read_bytes() for path in (out / "manifests").rglob("*") if path.is_file()} == made
    fill(out)
    done = tell(asked / "run.yaml", out, None, *changed)
    assert done.code == 0, done.err
    result = json.loads((out / "result.json").read_text())
    assert result["objective"] == {"math": 0.75, "code": 0.25}
    assert all(one["mixture"]["share"]["law"] <= 0.2 + 1e-6 for one in result["proposals"])
    other = tell(asked / "run.yaml", out, None, "--set", "mixture.max_copies=3")
    assert other.code == 2
    assert "were asked with mixture.max_copies 4, found 3; give another directory" in other.err


def test_a_directory_of_an_earlier_version_names_its_constraints_and_is_still_read(
    asked: Path, tmp_path: Path, here: InlineEngine
) -> None:
    out = copy(asked, tmp_path)
    study = json.loads((out / "ask.json").read_text())
    mixture = json.loads(study["identity"]["mixture"]) | {"constraints": {"min_share": {"lawe": 0.1}}}
    study["identity"]["mixture"] = json.dumps(mixture)
    (out / "ask.json").write_text(json.dumps(study))
    fill(out)
    done = tell(asked / "run.yaml", out)
    assert done.code == 0, done.err


def test_tell_keeps_no_loss_where_it_refuses_the_config(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    fill(out)
    for wrong, said in (
        (constrained(min_share={"lawe": 0.1}), "the nearest is 'law'"),
        (constrained(max_share=dict.fromkeys(DOMAINS, 0.2)), "all domains together give at most"),
        (("--set", "search.objective={maths: 1}"), "wanted one of the losses math, code"),
    ):
        done = tell(asked / "run.yaml", out, None, *wrong)
        assert done.code == 2
        assert said in done.err
        assert "nothing was started" in done.err
        assert "loss/" not in (out / "journal.jsonl").read_text()
    done = tell(asked / "run.yaml", out)
    assert done.code == 0, done.err
    assert "10 new losses" in done.err


def test_weights_go_by_the_names_of_targets_and_nothing_unused_is_demanded(
    asked: Path, tmp_path: Path, here: InlineEngine
) -> None:
    """The pool has its token counts, losses are measured elsewhere, and `select.mixture` is left at `winner`."""
    weighted = own_config(asked, tmp_path, {**SETTINGS, "objective": {"math": 3, "code": 1}})
    out = tmp_path / "trials"
    done = ask(weighted, out)
    assert done.code == 0, done.err
    fill(out)
    assert tell(weighted, out).code == 0
    assert json.loads((out / "result.json").read_text())["objective"] == {"math": 0.75, "code": 0.25}
    wrong = ask(weighted, tmp_path / "new", N, "--set", "search.objective={maths: 1}")
    assert wrong.code == 2
    assert "search.objective.maths: found 'maths', wanted one of the losses math, code" in wrong.err
    # the proposal is published from the same config
    sets = ("select.mixture=theta", f"select.theta_file={out / 'proposal.json'}", f"output={tmp_path / 'out'}")
    published = quadmix("select", weighted, *(word for one in sets for word in ("--set", one)))
    assert published.code == 0, published.err
    # proxies of one's own need both still
    searched = quadmix("search", weighted)
    assert searched.code == 2
    for said in ("targets: missing", "tokenizer: missing", "search.objective.math: found 'math'"):
        assert said in searched.err


def test_no_search_section_is_needed(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    done = ask(own_config(asked, tmp_path), tmp_path / "trials", 2)
    assert done.code == 0, done.err


def test_ranks_under_which_shares_are_not_known_are_refused(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    done = ask(own_config(asked, tmp_path, rank="paper"), tmp_path / "trials", 2)
    assert done.code == 2
    assert "mixture.rank: found 'paper' beside a search" in done.err


def result_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_binding_constraints_have_prices_and_targets_a_front(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    """Law costs losses of `math`: a floor on it binds, and loosening it helps."""
    out = copy(asked, tmp_path)
    fill(out)
    done = tell(asked / "run.yaml", out, None, *constrained(min_share={"law": 0.5}, max_share={"news": 0.9}))
    assert done.code == 0, done.err
    assert "tell: min_share.law 0.5 binds" in done.err
    result = result_of(out)
    law, news = (
        next(one for one in result["constraints"] if one["name"] == name)
        for name in ("min_share.law", "max_share.news")
    )
    assert (law["binding"], news["binding"], news["price"]) == (True, False, None)
    assert law["price"] > 0
    assert law["tokens"] == BUDGET / 2
    assert "600 candidates screened again" in result["prices"]
    front = [one["predicted"] for one in result["pareto"]]
    assert front
    assert all(
        not (a["math"] <= b["math"] and a["code"] <= b["code"]) for a in front for b in front if a is not b
    )  # no point beats another one
    assert all(point["share"]["law"] >= 0.5 - 1e-6 for point in result["pareto"])
    assert result["tally"]["drawn"] == 600
    # what is told holds for what `select` builds
    chosen_law = result["proposals"][0]["mixture"]["share"]["law"]
    sets = ("select.mixture=theta", f"select.theta_file={out / 'proposal.json'}", f"output={tmp_path / 'out'}")
    published = quadmix("select", asked / "run.yaml", *(word for one in sets for word in ("--set", one)))
    assert published.code == 0, published.err
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.domains["law"].realised / manifest.realised_tokens == pytest.approx(chosen_law, abs=0.01)


def test_repeated_seeds_tell_the_noise(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    fill(out)
    assert tell(asked / "run.yaml", out).code == 0
    assert result_of(out)["noise"] is None
    told = {key: value for key, value in AskedTrials(out).told.items() if value is not None}
    off = dict(zip(sorted(told)[:4], (0.02, -0.01, 0.03, 0.0), strict=True))
    again = tmp_path / "again.csv"
    lines = ["trial,seed,math,code"]
    for name, nats in off.items():
        lines.append(f"{name},1,{told[name]['math']!r},{told[name]['code']!r}")  # told before, now with its seed
        lines.append(f"{name},2,{told[name]['math'] + nats!r},{told[name]['code']!r}")
    again.write_text("\n".join(lines) + "\n")
    done = tell(asked / "run.yaml", out, again)
    assert done.code == 0, done.err
    assert "8 new losses" in done.err
    assert "nats of noise between mixtures of one seed" in done.err
    trial = sorted(off)[0]
    found = AskedTrials(out)
    assert set(found.runs[trial]) == {"1", "2"}
    mean = found.told[trial]
    assert mean is not None
    assert mean["math"] == pytest.approx(told[trial]["math"] + 0.01)
    noise = result_of(out)["noise"]
    assert (noise["mixtures"], noise["seeds"], noise["freedom"]) == (4, 2, 3)
    # residuals of four differences between two seeds: sd of the differences / sqrt(2)
    assert noise["paired"]["math"] == pytest.approx(np.std(list(off.values()), ddof=1) / np.sqrt(2))
    assert noise["paired"]["code"] == pytest.approx(0.0, abs=1e-12)
    # nothing new, and a run's loss does not change either
    assert "0 new losses" in tell(asked / "run.yaml", out, again).err
    again.write_text(f"trial,seed,math,code\n{trial},2,9,9\n")
    refused = tell(asked / "run.yaml", out, again)
    assert refused.code == 3
    assert f"trial {trial!r} was told before under seed '2'" in refused.err
    # the next round sees the means
    more = ask(asked / "run.yaml", out, 2, "--json")
    assert more.code == 0, more.err
    assert next(row for row in trials(out) if row["name"] == trial)["losses"] == mean


def test_another_loss_without_a_seed_is_refused_with_the_way_to_give_it(
    asked: Path, tmp_path: Path, here: InlineEngine
) -> None:
    out = copy(asked, tmp_path)
    losses = tmp_path / "l.csv"
    losses.write_text("trial,math,code\ntrial-00000,3,2\ntrial-00000,3.1,2\n")
    twice = tell(asked / "run.yaml", out, losses)
    assert twice.code == 3
    assert "is there already, in line 2; give each run of a trial a seed of its own, in a column 'seed'" in twice.err
    losses.write_text("trial,math,code\ntrial-00000,3,2\n")
    assert tell(asked / "run.yaml", out, losses).code == 0
    losses.write_text("trial,math,code\ntrial-00000,3.1,2\n")
    other = tell(asked / "run.yaml", out, losses)
    assert other.code == 3
    assert "give each run of a trial a seed of its own, in a column 'seed'" in other.err
    taken = quadmix("search", "ask", asked / "run.yaml", "--n", 2, "--out", tmp_path / "x", "--targets", "seed,math")
    assert taken.code == 2
    assert "the names seed are taken" in taken.err


@pytest.mark.parametrize("before", [None, "nan", "2.5"])
def test_a_run_with_and_without_its_seed_is_one_run_in_any_order(tmp_path: Path, before: str | None) -> None:
    rows = ["t,,3.5", "t,1,3.5", "t,2,3.7"]
    ends = []
    for number, order in enumerate(itertools.permutations(rows)):
        (tmp_path / str(number)).mkdir()
        trials = AskedTrials(tmp_path / str(number))
        trials.ask([AskedTrial("t", 1, "natural", None, [], 1, None)])
        if before is not None:
            trials.tell("t", {"math": float(before)} if before != "nan" else None, "1")
        file = tmp_path / f"{number}.csv"
        file.write_text("\n".join(["trial,seed,math", *order]) + "\n")
        if before == "2.5":
            with pytest.raises(InputError, match="told before"):
                new_losses(file, trials, ["math"])
            continue
        found = new_losses(file, trials, ["math"])
        assert sorted(found) == [("t", "1"), ("t", "2")]
        for (name, seed), losses in found.items():
            trials.tell(name, losses, seed)
        # a journal of an earlier version holds such a row under no seed
        trials.tell("t", {"math": 3.5})
        again = AskedTrials(tmp_path / str(number))
        assert again.runs == trials.runs
        ends.append(dict(sorted(again.runs["t"].items())))
    assert all(end == {"1": {"math": 3.5}, "2": {"math": 3.7}} for end in ends)


WORST = ("--set", "search.objective_rule=worst")


def test_the_worst_case_is_measured_against_a_natural_trial(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = tmp_path / "trials"
    done = ask(asked / "run.yaml", out, N, *WORST, "--json")
    assert done.code == 0, done.err
    assert done.json["waiting"] == N + 1
    natural = next(trial for trial in trials(out) if trial["name"] == "natural")
    assert natural["theta"] is None
    folder = out / natural["manifest"]
    assert quadmix("verify", folder).code == 0
    assert Manifest.load(folder).selector == "natural"
    assert trials(out)[1:] == trials(asked / "trials")  # one more trial, the others are what they were
    fill(out)
    with open(out / "losses.csv", newline="") as handle:
        lines = list(csv.reader(handle))
    reference = dict(
        zip(("math", "code"), map(float, next(row for row in lines if row[0] == "natural")[1:]), strict=True)
    )
    kept = (out / "losses.csv").read_bytes()
    # without it nothing can be judged, and the other losses are kept
    with open(out / "losses.csv", "w", newline="") as handle:
        csv.writer(handle).writerows(row if row[0] != "natural" else ["natural", "", ""] for row in lines)
    early = tell(asked / "run.yaml", out, None, *WORST, "--json")
    assert early.code == 0, early.err
    assert (early.json["proposals"], early.json["waiting"]) == ([], ["natural"])
    waits = ask(asked / "run.yaml", out, 4, *WORST, "--json")
    assert (waits.code, waits.json["new"]) == (0, 0)
    (out / "losses.csv").write_bytes(kept)
    done = tell(asked / "run.yaml", out, None, *WORST)
    assert done.code == 0, done.err
    assert "1 new losses" in done.err
    result = result_of(out)
    assert (result["objective_rule"], result["reference"]) == ("worst", reference)
    for one in result["proposals"]:
        excess = max(one["predicted"][name] - reference[name] for name in ("math", "code"))
        assert one["predicted"]["joint"] == pytest.approx(excess)
    more = ask(asked / "run.yaml", out, 2, *WORST, "--json")
    assert (more.json["new"], more.json["origin"]) == (2, "acquisition")
    # by the mean, the same trials give another objective; the table is a swarm still
    assert tell(asked / "run.yaml", out).code == 0
    assert result_of(out)["reference"] == {}
    (tmp_path / "losses.csv").write_bytes(kept)
    shutil.copy(out / "trials.csv", tmp_path / "trials.csv")
    with open(tmp_path / "losses.csv", "a") as handle:
        handle.writelines(f"{trial['name']},,\n" for trial in trials(out)[N + 1 :])
    assert len(read_swarm(tmp_path / "trials.csv", tmp_path / "losses.csv", ColumnChoice()).ids) == N + 1


def test_the_worst_case_may_be_chosen_after_the_trials(asked: Path, tmp_path: Path, here: InlineEngine) -> None:
    out = copy(asked, tmp_path)
    fill(out)
    missing = tell(asked / "run.yaml", out, None, *WORST)
    assert missing.code == 0, missing.err
    assert "was not asked for; run `quadmix search ask`" in missing.err
    asks = ask(asked / "run.yaml", out, 2, *WORST, "--json")
    assert (asks.json["new"], asks.json["waiting"]) == (0, 1)
    fill(out)
    assert tell(asked / "run.yaml", out, None, *WORST).code == 0
    assert result_of(out)["objective_rule"] == "worst"


def test_a_tell_that_ends_after_losses_were_kept_says_so(
    asked: Path, tmp_path: Path, here: InlineEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise BudgetError("mixture.constraints: not one of 600 candidates keeps them all")

    out = copy(asked, tmp_path)
    fill(out)
    monkeypatch.setattr("quadmix.stages.proposing.Proposing.propose", none)
    done = tell(asked / "run.yaml", out)
    assert done.code == 2
    assert "nothing was started" not in done.err
    assert "resume at stage 'tell'" in done.err
    assert "loss/" in (out / "journal.jsonl").read_text()
