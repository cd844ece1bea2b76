"""`quadmix search --from-trials`: a proposal from files alone, exact to the bit, and refusals that say what to do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from quadmix.cli import main
from quadmix.config import RegressorConfig
from quadmix.errors import ResourceError
from quadmix.stages import foreign_trials
from tests.e2e.command_line import quadmix

REGMIX = Path(__file__).parents[3] / "shared" / "data" / "regmix"
BEST = np.array([0.1, 0.6, 0.3])
DOMAINS = ["law", "math", "web"]


def swarm(folder: Path, runs: int = 40) -> list[Path]:
    """Runs on three domains; the loss is lowest at BEST, the accuracy highest; one run failed."""
    rng = np.random.default_rng(2)
    shares = rng.dirichlet([1.0, 1.0, 1.0], runs).round(4)
    shares[:, 2] = 1 - shares[:, :2].sum(axis=1)
    distance = ((shares - BEST) ** 2).sum(axis=1)
    with open(folder / "ratios.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([["run_id", *DOMAINS], *([f"r{i}", *row] for i, row in enumerate(shares))])
    with open(folder / "metrics.csv", "w", newline="") as handle:
        rows = [[f"r{i}", 3 + d if i else "nan", 60 - 9 * d, i] for i, d in enumerate(distance)]
        csv.writer(handle).writerows([["run_id", "loss", "accuracy", "steps"], *rows])
    return [folder / "ratios.csv", folder / "metrics.csv"]


FAST = ("--candidates", "3K", "--average-top", "30", "--regressor", "gaussian_process")


def test_a_swarm_of_files_gives_weights_without_a_config(tmp_path: Path) -> None:
    files = swarm(tmp_path)
    chosen = ("--targets", "loss,accuracy", "--higher-is-better", "acc*", "--objective", "loss=1,accuracy=0.01")
    done = quadmix("search", "--from-trials", *files, "--out", tmp_path / "out", *chosen, *FAST)
    assert done.code == 0, done.err
    for said in ("1 failed run(s)", "ignored: steps", "held out, joint: Spearman", "no fresh run has confirmed"):
        assert said in done.err
    result = json.loads((tmp_path / "out" / "trials_search.json").read_text())
    assert result["confirmed"] is False
    assert (result["runs"], result["failed"]) == (39, ["r0"])
    assert result["objective"]["loss"] == pytest.approx(1 / 1.01)
    by_origin = {row["origin"]: row for row in result["proposals"]}
    assert list(by_origin) == ["average", "argmin", "best_observed", "prior"]
    found = np.array([by_origin["average"]["weights"][name] for name in DOMAINS])
    assert np.abs(found - BEST).max() < 0.12
    average, prior = by_origin["average"]["predicted"], by_origin["prior"]["predicted"]
    for origin in ("average", "argmin", "prior"):  # a flipped metric's ends change places
        for name, (low, high) in by_origin[origin]["interval"].items():
            assert low < by_origin[origin]["predicted"][name] < high
    assert average["loss"] < prior["loss"]
    assert average["accuracy"] > prior["accuracy"] > 50  # in its own sign
    scores, control = (result["cross_validation"][key]["joint"]["spearman"] for key in ("scores", "permuted"))
    assert scores > 0.8 > 0.4 > control
    with open(tmp_path / "out" / "domain_weights.csv", newline="") as handle:
        table = list(csv.reader(handle))
    assert table[0] == ["run_id", *DOMAINS]
    assert [float(cell) for cell in table[1][1:]] == found.tolist()


def test_the_same_command_gives_the_same_bytes_and_a_directory_stands_for_its_files(tmp_path: Path) -> None:
    swarm(tmp_path)
    for name in ("one", "two"):
        where = ("--out", tmp_path / name)
        done = quadmix("search", *where, f"--from-trials={tmp_path}", "--targets", "loss", *FAST, "--json")
        assert (done.code, done.err) == (0, "")
        assert done.json["runs"] == 39
    for file in ("trials_search.json", "domain_weights.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_repeats_are_capped_where_sizes_and_budget_are_given(tmp_path: Path) -> None:
    files = swarm(tmp_path)
    sizes = tmp_path / "tokens.csv"
    sizes.write_text("domain,tokens\nlaw,400\nmath,100\nweb,800\n")
    command = ("search", "--from-trials", *files, "--targets", "loss", "--domain-tokens", sizes, *FAST)
    done = quadmix(*command, "--budget", "1K", "--max-copies", "3", "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    average = done.json["proposals"][0]
    assert 0.29 < average["weights"]["math"] <= 0.3 + 1e-12  # 3 copies of 100 tokens in 1,000; the optimum is 0.6
    assert average["within_cap"]
    assert average["repeats"]["math"] == pytest.approx(10 * average["weights"]["math"])
    assert done.json["prior"]["weights"]["web"] == pytest.approx(8 / 13)
    refused = quadmix(*command, "--budget", "10K", "--max-copies", "3", "--out", tmp_path / "more")
    assert refused.code == 2
    assert "asked 10,000 tokens, the domains hold 3,900" in refused.err
    assert refused.last_line == "nothing was changed"
    assert not (tmp_path / "more").exists()


def test_the_regressor_is_the_config_s_unless_one_is_named(tmp_path: Path) -> None:
    files = swarm(tmp_path, 24)
    command = ("search", "--from-trials", *files, "--targets", "loss", "--candidates", "2K", "--folds", "2", "--json")
    done = quadmix(*command, "--out", tmp_path / "auto")
    assert done.code == 0, done.err
    chosen = RegressorConfig()
    assert (done.json["regressor"], done.json["preset"]) == (chosen.kind, chosen.preset) == ("auto", "small")
    assert sum(done.json["models"].values()) == pytest.approx(1.0)
    weights = {}
    for preset in ("small", "regmix"):
        done = quadmix(*command, "--out", tmp_path / preset, "--regressor", "lightgbm", "--preset", preset)
        assert done.json["models"] == {"lightgbm": 1.0}
        weights[preset] = done.json["proposals"][0]["weights"]
    assert weights["small"] != weights["regmix"]


def test_a_domain_without_tokens_has_share_0_and_its_repeats_are_no_number(tmp_path: Path) -> None:
    files = swarm(tmp_path)
    sizes, prior = tmp_path / "tokens.csv", tmp_path / "prior.csv"
    sizes.write_text("domain,tokens\nlaw,400\nmath,0\nweb,800\n")
    command = ("search", "--from-trials", *files, "--targets", "loss", "--domain-tokens", sizes, *FAST)
    done = quadmix(*command, "--budget", "1K", "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    by_origin = {row["origin"]: row for row in done.json["proposals"]}
    assert [by_origin[origin]["weights"]["math"] for origin in ("average", "argmin", "prior")] == [0.0] * 3
    assert by_origin["average"]["repeats"]["math"] == 0.0
    best = by_origin["best_observed"]
    assert (best["weights"]["math"] > 0, best["repeats"]["math"], best["within_cap"]) == (True, None, False)
    assert "domains without tokens have share 0 in every proposal: math" in done.json["notes"]
    # also where no budget caps it, and where the prior asks for it
    prior.write_text("domain,share\nlaw,0.5\nmath,0.5\nweb,0\n")
    done = quadmix(*command, "--prior", prior, "--out", tmp_path / "out", "--json")
    assert done.json["proposals"][0]["weights"] == {"law": 1.0, "math": 0.0, "web": 0.0}
    prior.write_text("domain,share\nlaw,0\nmath,1\nweb,0\n")
    refused = quadmix(*command, "--prior", prior, "--out", tmp_path / "new")
    assert refused.code == 3
    assert "nothing is left to mix" in refused.err
    for wrong in ("-1", "nan", "inf"):
        sizes.write_text(f"domain,tokens\nlaw,400\nmath,{wrong}\nweb,800\n")
        refused = quadmix(*command, "--out", tmp_path / "new")
        assert refused.code == 3
        assert "line 3, column 'tokens': wanted its tokens, a number of at least 0" in refused.err
    assert not (tmp_path / "new").exists()


def test_a_pull_towards_a_prior_of_0_is_refused_or_said_to_be_no_number(tmp_path: Path) -> None:
    files, prior = swarm(tmp_path), tmp_path / "prior.csv"
    prior.write_text("domain,share\nlaw,0.6\nmath,0\nweb,0.4\n")
    command = ("search", "--from-trials", *files, "--targets", "loss", "--prior", prior, "--kl", "0.1", *FAST)
    done = quadmix(*command, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    by_origin = {row["origin"]: row for row in done.json["proposals"]}
    assert by_origin["best_observed"]["weights"]["math"] > 0
    assert by_origin["best_observed"]["kl_penalty"] is None
    for origin in ("average", "argmin", "prior"):
        assert by_origin[origin]["weights"]["math"] == 0
        assert by_origin[origin]["kl_penalty"] >= 0
    refused = quadmix(*command, "--min-share", "math=0.2", "--out", tmp_path / "new")
    assert refused.code == 2
    assert "--min-share math=0.2: the prior of 'math' is 0" in refused.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "flags", [("--max-copies", "inf"), ("--max-copies", "x"), ("--objective", "loss=nan"), ("--objective", "loss=inf")]
)
def test_numbers_that_are_not_finite_are_no_options(
    tmp_path: Path, flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["search", "--from-trials", *map(str, swarm(tmp_path)), "--out", str(tmp_path / "out"), *flags])
    assert refused.value.code == 2
    assert "wanted a finite number" in capsys.readouterr().err


def test_floors_ceilings_and_fixed_shares_hold_for_what_is_proposed(tmp_path: Path) -> None:
    """The optimum is law .1, math .6, web .3."""
    files = swarm(tmp_path)
    command = ("search", "--from-trials", *files, "--targets", "loss", "--json", *FAST)
    bounds = ("--min-share", "law=0.2", "--max-share", "mat*=0.45,web=0.9")
    done = quadmix(*command, *bounds, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    by_origin = {row["origin"]: row for row in done.json["proposals"]}
    for origin in ("average", "argmin"):
        weights = by_origin[origin]["weights"]
        assert weights["law"] == pytest.approx(0.2, abs=0.02)
        assert weights["math"] == pytest.approx(0.45, abs=0.02)
        assert weights["law"] >= 0.2 - 1e-9
        assert weights["math"] <= 0.45 + 1e-9
        assert sum(weights.values()) == pytest.approx(1.0)
        assert by_origin[origin]["breaks"] == []
    (law, math_) = by_origin["best_observed"]["breaks"]
    assert law.startswith("min_share.law is 0.2, it has 0.")
    assert math_.startswith("max_share.math is 0.45, it has 0.")
    assert done.json["constraints"]["min_share"] == {"law": 0.2}
    done = quadmix(*command, "--fixed-share", "web=0.7", "--out", tmp_path / "out")
    assert done.json["proposals"][0]["weights"]["web"] == pytest.approx(0.7, abs=1e-12)


def test_the_worst_case_gives_every_metric_something(tmp_path: Path) -> None:
    """One loss falls with math four times as fast as the other rises: the mean takes math, the maximum does not."""
    files = swarm(tmp_path)
    with open(files[0], newline="") as handle:
        rows = list(csv.DictReader(handle))
    lines = [f"{row['run_id']},{5 - 4 * float(row['math'])},{3 + float(row['math'])}" for row in rows]
    files[1].write_text("\n".join(["run_id,falls,rises", *lines]) + "\n")
    command = ("search", "--from-trials", *files, "--out", tmp_path / "out", "--json", *FAST)
    mean, worst = (quadmix(*command, *flags).json for flags in ((), ("--worst-case",)))
    assert (mean["objective_rule"], worst["objective_rule"]) == ("mean", "worst")
    at_prior = {row["origin"]: row for row in worst["proposals"]}["prior"]["predicted"]
    assert at_prior["joint"] == pytest.approx(0.0, abs=1e-9)
    of_mean, of_worst = (found["proposals"][0] for found in (mean, worst))
    assert of_mean["predicted"]["rises"] > at_prior["rises"] + 0.2
    assert of_worst["predicted"]["rises"] < at_prior["rises"] + 0.05
    excess = max(of_worst["predicted"][name] - at_prior[name] for name in ("falls", "rises"))
    assert of_worst["predicted"]["joint"] == pytest.approx(excess)
    low, high = of_worst["interval"]["joint"]
    assert low < excess < high
    refused = quadmix(*command, "--worst-case", "--objective", "falls=1")
    assert refused.code == 2
    assert "weights play no part" in refused.err


def test_a_pull_towards_the_prior_moves_the_proposal_there(tmp_path: Path) -> None:
    files = swarm(tmp_path)
    command = ("search", "--from-trials", *files, "--targets", "loss", "--out", tmp_path / "out", "--json", *FAST)
    away = []
    for weight in ("0", "0.3", "10"):
        done = quadmix(*command, "--kl", weight)
        assert done.code == 0, done.err
        prior = done.json["prior"]["weights"]
        found = done.json["proposals"][0]["weights"]
        away.append(max(abs(found[name] - prior[name]) for name in prior))
    assert away[0] > away[1] + 0.02 > away[2] + 0.07
    assert away[2] < 0.03


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--min-share", "law=0.7,web=0.5"), "--min-share law=0.7, --min-share web=0.5 sum to 1.2: 0.2 too much"),
        (("--min-share", "law=0.7", "--max-share", "law=0.5"), "exclude each other: 0.2 apart"),
        (("--max-share", "*=0.3"), "all domains together can be 0.9 of the mixture at most, wanted 1: 0.1 short"),
        (("--fixed-share", "math=0.4"), "of 'math' there are tokens for a share of 0.3 at most"),
        (("--min-share", "maths=0.4"), "did you mean 'math'?"),
        (("--min-share", "math=40"), "--min-share: math=40, wanted a share from 0 to 1"),
        (("--max-share", "math=0.2,m*=0.3"), "math is given 0.2 and 0.3, wanted one share"),
        (("--kl", "-1"), "--kl: found -1"),
    ],
)
def test_bounds_that_nothing_keeps_are_explained_before_anything_is_fitted(
    tmp_path: Path, flags: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = swarm(tmp_path)
    monkeypatch.delattr(foreign_trials, "cross_validate")
    sizes = tmp_path / "tokens.csv"
    sizes.write_text("domain,tokens\nlaw,400\nmath,100\nweb,800\n")
    capped = ("--domain-tokens", sizes, "--budget", "1K", "--max-copies", "3")
    done = quadmix("search", "--from-trials", *files, "--targets", "loss", "--out", tmp_path / "out", *capped, *flags)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_an_error_leaves_nothing_that_blocks_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, out = swarm(tmp_path), tmp_path / "out"
    command = ("search", "--from-trials", *files, "--targets", "loss", "--out", out, *FAST)
    written: list[str] = []

    def fails_at_the_second(path: Path, content: bytes) -> None:
        if written:
            raise ResourceError("the disk is full")
        written.append(path.name)
        path.write_bytes(content)

    with monkeypatch.context() as patched:
        patched.setattr(foreign_trials, "VERSION", float("nan"))  # something that JSON cannot hold
        with pytest.raises(ValueError, match="JSON"):
            quadmix(*command)
    assert not out.exists()
    with monkeypatch.context() as patched:
        patched.setattr(foreign_trials, "write_atomically", fails_at_the_second)
        assert quadmix(*command).code == 5
    assert [path.name for path in out.iterdir()] == written
    assert quadmix(*command).code == 0
    assert {path.name for path in out.iterdir()} == {"trials_search.json", "domain_weights.csv"}


def test_flags_that_do_not_fit_are_said_at_once(tmp_path: Path) -> None:
    files = swarm(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    done = quadmix(
        "search", "--from-trials", *files, "--out", tmp_path / "full", "--budget", "1K", "--folds", "1",
        "--average-top", "200K", "--regressor", "oracle", "--preset", "large", "--objective", "loss=-1,loss=2",
    )  # fmt: skip
    assert done.code == 2
    assert "loss has 2 weights" in done.err
    for flag in ("--budget", "--folds", "--average-top", "--regressor", "--preset", "--objective", "--out"):
        assert flag in done.err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_bad_rows_end_with_3_and_bad_columns_with_2(tmp_path: Path) -> None:
    ratios, metrics = swarm(tmp_path)
    ratios.write_text(ratios.read_text().replace("r7,", "r8,"))
    command = ("search", "--from-trials", ratios, metrics, "--out", tmp_path / "out")
    done = quadmix(*command)
    assert done.code == 3
    assert "'r8' is there already" in done.err
    assert "'r7' has no mixture" in done.err
    assert quadmix(*command, "--targets", "accuracies").code == 2
    assert "did you mean 'accuracy'" in quadmix(*command, "--targets", "accuracies").err


def test_regmix_s_own_swarm_from_the_command_line(tmp_path: Path) -> None:
    if not REGMIX.exists():
        pytest.skip(f"RegMix's swarm is not here: {REGMIX}")
    files = (REGMIX / "train_mixture_1m.csv", REGMIX / "train_pile_loss_1m.csv")
    done = quadmix(
        "search", "--from-trials", *files, "--targets", "*pile_cc*", "--out", tmp_path / "out", "--json",
        "--candidates", "10K", "--regressor", "lightgbm", "--preset", "regmix",
    )  # fmt: skip
    assert done.code == 0, done.err
    (target,) = done.json["objective"]
    assert (done.json["regressor"], done.json["preset"]) == ("lightgbm", "regmix")
    assert done.json["cross_validation"]["scores"][target]["spearman"] > 0.975
    weights = done.json["proposals"][0]["weights"]
    # RegMix's paper finds web text to matter most for Pile-CC
    assert max(weights, key=weights.__getitem__) == "train_the_pile_pile_cc"
