"""What a tracker logs beside losses decides nothing, and what is left out is said with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quadmix.errors import ConfigError, InputError
from quadmix.search.bookkeeping import is_bookkeeping
from quadmix.search.trial_columns import ColumnChoice
from quadmix.search.trial_files import Swarm, read_swarm

RUNS = 12


def swarm_with(folder: Path, chosen: ColumnChoice, **columns: list[object]) -> Swarm:
    """Mixtures of two domains, and losses with the given columns."""
    (folder / "m.csv").write_text("run,web,code\n" + "".join(f"r{k},{k / 20},{1 - k / 20}\n" for k in range(RUNS)))
    rows = [",".join(str(column[k]) for column in columns.values()) for k in range(RUNS)]
    lines = [f"run,{','.join(columns)}", *(f"r{k},{row}" for k, row in enumerate(rows))]
    (folder / "l.csv").write_text("\n".join(lines) + "\n")
    return read_swarm(folder / "m.csv", folder / "l.csv", chosen)


MATH: list[object] = [3 + k / 7 for k in range(RUNS)]
WIDE: list[object] = [0.5 + 3 * k for k in range(RUNS)]

TRACKED = """
    seed step steps tokens n_tokens lr learning_rate epoch time runtime flops params batch_size timestamp _step _runtime
    num_steps total_tokens Learning-Rate n_params train/global_step global_step wall_time
"""


@pytest.mark.parametrize(
    "name",
    TRACKED.split(),
)
def test_bookkeeping_is_known_by_its_name_and_taken_only_if_chosen(tmp_path: Path, name: str) -> None:
    if "/" not in name:
        assert is_bookkeeping(name)
    swarm = swarm_with(tmp_path, ColumnChoice(), **{"math": MATH, name: [k * 1000 for k in range(2, RUNS + 2)]})
    assert swarm.targets == ("math",)
    assert f"{name} (" in swarm.notes[-1]
    assert "--targets" in swarm.notes[-1]
    chosen = ColumnChoice(targets=("math", name))
    assert swarm_with(tmp_path, chosen, **{"math": MATH, name: WIDE}).targets == ("math", name)


@pytest.mark.parametrize(
    "name", ["math", "loss", "time_loss", "token_loss", "bpb", "accuracy", "eval_lambada", "stepwise"]
)
def test_names_of_losses_are_no_bookkeeping(name: str) -> None:
    assert not is_bookkeeping(name)


def test_what_can_be_no_loss_is_left_out_by_its_values(tmp_path: Path) -> None:
    swarm = swarm_with(
        tmp_path,
        ColumnChoice(),
        math=MATH,
        correct=[40 + k % 5 for k in range(RUNS)],
        width=[768] * RUNS,
        seen=[10**6 + 5 * k for k in range(RUNS)],
        perplexity=[2000.5 + k for k in range(RUNS)],
        which=list(reversed(range(RUNS))),
    )
    assert swarm.targets == ("math", "correct", "perplexity")
    for said in ("width (768 in every run)", "seen (whole numbers above 1,000", "which (the numbers of the runs)"):
        assert said in swarm.notes[-1]
    with pytest.raises(ConfigError, match=r"no column of losses.*not taken for losses: seed \(bookkeeping"):
        swarm_with(tmp_path, ColumnChoice(), seed=WIDE)


def test_a_constant_loss_is_refused_where_it_was_named_and_left_out_where_not(tmp_path: Path) -> None:
    flat: list[object] = [2.5] * RUNS
    with pytest.raises(ConfigError, match=r"the same in all 12 finished runs: code_loss \(2.5\)"):
        swarm_with(tmp_path, ColumnChoice(targets=("math", "code_loss")), math=MATH, code_loss=flat)
    swarm = swarm_with(tmp_path, ColumnChoice(targets=("math", "code*")), math=MATH, code_loss=flat)
    assert swarm.targets == ("math",)
    assert swarm.losses.shape == (RUNS, 1)
    assert "left out: code_loss (2.5)" in swarm.notes[-1]
    # constant among the finished runs alone
    swarm = swarm_with(tmp_path, ColumnChoice(), math=["nan", *MATH[1:]], code_loss=[9.5, *flat[1:]])
    assert (swarm.targets, swarm.failed) == (("math",), ("r0",))


def swarm_of(folder: Path, header: str, lines: list[str], chosen: ColumnChoice | None = None) -> Swarm:
    (folder / "m.csv").write_text("\n".join([header, *lines]) + "\n")
    (folder / "l.csv").write_text("run,math\n" + "".join(f"r{k},{3 + k / 7}\n" for k in range(9)))
    return read_swarm(folder / "m.csv", folder / "l.csv", chosen or ColumnChoice())


def test_a_domain_with_such_a_name_is_missed_out_loud(tmp_path: Path) -> None:
    header, lines = "run,web,code,time", [f"r{k},{k / 20},0.3,{70 - 5 * k}" for k in range(9)]  # in percent
    with pytest.raises(InputError, match="no domains by their names: time, see --domains"):
        swarm_of(tmp_path, header, lines)
    lines = [f"r{k},{k / 20},{1 - k / 20},0.5" for k in range(9)]
    swarm = swarm_of(tmp_path, header, lines)
    assert swarm.domains == ("web", "code")
    assert "not taken for domains, bookkeeping by their names: time. Name them with --domains" in swarm.notes[0]
    lines = [f"r{k},{k / 20},0.3,{0.7 - k / 20}" for k in range(9)]
    chosen = ColumnChoice(domains=("web", "code", "time"))
    assert swarm_of(tmp_path, header, lines, chosen).domains == ("web", "code", "time")


@pytest.mark.parametrize("names", [("documents", "nodes"), ("time", "rank"), ("tokens", "samples")])
@pytest.mark.parametrize("digits", [17, 4])
def test_shares_that_the_others_leave_out_of_1_are_domains_whatever_their_name(
    tmp_path: Path, names: tuple[str, str], digits: int
) -> None:
    """Less than 1 % each: without them the sums would pass for rounding."""
    lines, shares = [], []
    for k in range(9):
        small = [round(0.002 + k / 3000, digits), round(0.004 - k / 5000, digits)]
        web = round(k / 21, digits)
        shares.append([web, round(1 - web - sum(small), digits), *small])
        lines.append(",".join([f"r{k}", *map(str, shares[-1]), "0.0003", "7", str(k), "0"]))
    swarm = swarm_of(tmp_path, f"run,web,code,{names[0]},{names[1]},lr,seed,step,status", lines)
    assert swarm.domains == ("web", "code", *names)
    assert swarm.shares == pytest.approx(np.array(shares), abs=1e-12)
    assert f"although bookkeeping has such names: {names[0]}, {names[1]}; with them" in swarm.notes[0]
    assert "by their names: lr, seed, step, status." in swarm.notes[1]


def test_a_rate_beside_shares_that_were_rounded_is_no_domain(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    lines = []
    for k in range(9):
        web, code, law = rng.dirichlet(np.ones(3)).round(3)
        lines.append(f"r{k},{web},{code},{law},{rng.choice([3e-4, 1e-3])}")
    assert swarm_of(tmp_path, "run,web,code,law,lr", lines).domains == ("web", "code", "law")
