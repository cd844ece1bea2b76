"""Other people's swarms: every layout is read by name, every fault is named with file, row and column, at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.errors import ConfigError, InputError
from quadmix.search.result import MixtureByName, Trial
from quadmix.search.run_table import read_table
from quadmix.search.trial_columns import ColumnChoice
from quadmix.search.trial_files import (
    read_named_numbers,
    read_swarm,
    swarm_files,
    trials_csv,
)

REGMIX = Path(__file__).parents[3] / "shared" / "data" / "regmix"
PLAIN = ColumnChoice()


def mixtures(folder: Path, rows: int = 9, header: str = "run_id,web,code", name: str = "ratios.csv") -> Path:
    lines = [f"r{row},{row / 20},{1 - row / 20}" for row in range(rows)]
    return write(folder / name, [header, *lines])


def losses(folder: Path, rows: int = 9, header: str = "run_id,math", name: str = "metrics.csv") -> Path:
    return write(folder / name, [header, *(f"r{row},{3 - row / 10}" for row in reversed(range(rows)))])


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_regmix_s_files_are_read_by_id_and_name() -> None:
    if not REGMIX.exists():
        pytest.skip(f"RegMix's swarm is not here: {REGMIX}")
    swarm = read_swarm(REGMIX / "train_mixture_1m.csv", REGMIX / "train_pile_loss_1m.csv", PLAIN)
    assert swarm.shares.shape == (512, 17)
    assert swarm.losses.shape == (512, 13)
    assert swarm.id_column == "index"
    assert np.abs(swarm.shares.sum(axis=1) - 1).max() < 1e-12
    assert any("303 of 512 mixtures sum to 0.9960 .. 1.0030" in note for note in swarm.notes)
    raw = np.loadtxt(REGMIX / "train_mixture_1m.csv", delimiter=",", skiprows=1)
    row = swarm.ids.index("170")
    expected = raw[raw[:, 0] == 170][0, 1:]
    assert swarm.shares[row] == pytest.approx(expected / expected.sum())


def test_olmix_s_files_are_joined_by_id_whatever_their_order(tmp_path: Path) -> None:
    """`run, name, index` name a run there; `index` is a number and still no domain."""
    lines = [f"{row},run number {row},{row},{row / 10},{1 - row / 10}" for row in range(9)]
    write(tmp_path / "ratios.csv", ["run,name,index,web,code", *lines])
    lines = [f"{row},run number {row},{row},{row + 0.5},{row + 0.25}" for row in reversed(range(9))]
    write(tmp_path / "metrics.csv", ["run,name,index,math_bpb,code_bpb", *lines])
    swarm = read_swarm(*swarm_files(tmp_path, None), PLAIN)
    assert swarm.domains == ("web", "code")
    assert swarm.targets == ("math_bpb", "code_bpb")
    assert swarm.ids == tuple(map(str, range(9)))
    assert swarm.losses[:, 0].tolist() == [row + 0.5 for row in range(9)]
    assert swarm.shares[:, 0].tolist() == pytest.approx([row / 10 for row in range(9)])
    assert "name, index" in swarm.notes[0]


def test_parquet_and_one_file_with_both(tmp_path: Path) -> None:
    both = pa.table(
        {"id": pa.array(range(9), pa.float64()), "train_web": [0.25] * 9, "train_code": [0.75] * 9, "seed": range(9),
         "valid_math": [float(row) for row in range(9)]}
    )  # fmt: skip
    pq.write_table(both, tmp_path / "runs.parquet")
    swarm = read_swarm(tmp_path / "runs.parquet", None, PLAIN)
    assert (swarm.domains, swarm.targets) == (("train_web", "train_code"), ("valid_math",))
    assert swarm.ids[3] == "3"
    chosen = ColumnChoice("id", ("train_*",), ("valid_math", "seed"))
    assert read_swarm(tmp_path / "runs.parquet", None, chosen).targets == ("seed", "valid_math")
    plain = both.rename_columns(["id", "web", "code", "seed", "math"])
    pq.write_table(plain, tmp_path / "plain.parquet")
    with pytest.raises(ConfigError, match="which columns are domains"):
        read_swarm(tmp_path / "plain.parquet", None, PLAIN)
    chosen = ColumnChoice(None, ("web", "code"), ("math",))
    assert read_swarm(tmp_path / "plain.parquet", None, chosen).targets == ("math",)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    left = write(
        tmp_path / "m.csv",
        ["id,web,code", "a,0.5,0.5", "b,-0.1,1.1", "b,0.5,0.5", "c,0.5,0.6", "d,x,0.5", ",0.5,0.5", "e,,1"],
    )
    right = write(tmp_path / "l.csv", ["id,math", "a,3", "b,low", "c,3", "d,3", "e,3", "z,3"])
    with pytest.raises(InputError) as refused:
        read_swarm(left, right, PLAIN)
    assert str(refused.value).splitlines() == [
        "m.csv line 4, column 'id': id 'b' is there already, in line 3",
        "m.csv line 7, column 'id': found no id",
        "l.csv line 7, column 'id': id 'z' has no mixture in m.csv",
    ]
    write(left, ["id,web,code", "a,0.5,0.5", "b,-0.1,1.1", "c,0.5,0.6", "d,x,0.5", "e,,1", "z,50,50"])
    with pytest.raises(InputError) as refused:
        read_swarm(left, right, PLAIN)
    found = str(refused.value).splitlines()
    assert found[:4] == [
        "l.csv line 3, column 'math': found 'low', wanted a number",
        "m.csv line 3, column 'web': found -0.1, wanted a share of at least 0",
        "m.csv line 5, column 'web': found 'x', wanted a number",
        "m.csv line 6, column 'web': found no share, wanted a number of at least 0",
    ]
    assert "m.csv line 4: the shares sum to 1.1, wanted 1 to within 1%" in found[4]
    assert "percentages" in found[5]


def test_a_whole_number_is_one_id_however_it_is_written(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.csv", ["run_id,web", "-5,1", "7,1", "-5.5,1"])
    point = write(tmp_path / "l.csv", ["run_id,web", "-5.0,1", "7.00,1", "-5.5,1"])
    assert read_table(whole).ids("run_id") == read_table(point).ids("run_id") == ["-5", "7", "-5.5"]


def test_a_failed_run_is_counted_and_left_out(tmp_path: Path) -> None:
    left = mixtures(tmp_path, 12)
    right = write(tmp_path / "l.csv", ["run_id,math", "r0,nan", "r1,", "r2,inf", *(f"r{k},{k}" for k in range(3, 12))])
    swarm = read_swarm(left, right, PLAIN)
    assert swarm.failed == ("r0", "r1", "r2")
    assert swarm.ids == tuple(f"r{k}" for k in range(3, 12))
    assert "3 failed run(s)" in swarm.notes[-1]
    write(right, ["run_id,math", *(f"r{k},{k + 0.5 if k < 7 else ''}" for k in range(12))])
    with pytest.raises(InputError, match=r"7 finished runs \(5 failed\), wanted at least 8"):
        read_swarm(left, right, PLAIN)


def test_shares_are_divided_by_their_sum_within_one_percent_only(tmp_path: Path) -> None:
    right = losses(tmp_path)
    lines = [f"r{row},{0.5 + 0.0049 * (row % 2)},0.5" for row in range(9)]
    swarm = read_swarm(write(tmp_path / "m.csv", ["run_id,web,code", *lines]), right, PLAIN)
    assert swarm.shares[1, 0] == pytest.approx(0.5049 / 1.0049)
    assert "4 of 9 mixtures sum to" in swarm.notes[0]
    with pytest.raises(InputError, match=r"m.csv line 3: the shares sum to 1.0101"):
        read_swarm(
            write(tmp_path / "m.csv", ["run_id,web,code", *lines[:1], "r1,0.5101,0.5", *lines[2:]]), right, PLAIN
        )


def test_columns_that_are_not_there_are_said_at_once_with_the_nearest(tmp_path: Path) -> None:
    choice = ColumnChoice("run", ("webb", "code"), ("maths", "nothing*"))
    with pytest.raises(ConfigError) as refused:
        read_swarm(mixtures(tmp_path), losses(tmp_path), choice)
    assert len(refused.value.problems) == 5
    for said in ("ratios.csv: no id column 'run'", "metrics.csv: no id", "did you mean 'web'?", "did you mean 'math'?"):
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["id,a,a", "1,0.5,0.5"], "occur twice"),
        (["id,a,b", "1,0.5"], "line 2: 2 cells, the header has 3"),
        (["id,a,b"], "found no row"),
        (["id"], "1 column"),
    ],
)
def test_files_of_no_use_are_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_swarm(write(tmp_path / "m.csv", lines), None, PLAIN)


def test_named_numbers_need_every_domain_once(tmp_path: Path) -> None:
    wanted = {"web": "share:web", "code": "share:code"}
    path = write(tmp_path / "tokens.csv", ["domain,tokens", "share:code,2e9", "web,1000"])
    assert read_named_numbers(path, wanted, "its tokens") == {"web": 1000.0, "code": 2e9}
    write(path, ["domain,tokens", "cod,2e9", "web,-1", "web,x"])
    with pytest.raises(InputError) as refused:
        read_named_numbers(path, wanted, "its tokens")
    assert "did you mean 'code'" in str(refused.value)
    assert "line 3" in str(refused.value)
    assert "line 4" in str(refused.value)


def test_our_trials_are_written_as_they_are_read(tmp_path: Path) -> None:
    """Domains may have any name; a failed trial stays in the files and is counted when they are read."""
    domains, targets = ("index", "näme, with comma"), ("math", "code")

    def trial(row: int) -> Trial:
        share = {"index": 0.1 + row / 30, "näme, with comma": 0.9 - row / 30}
        mixture = MixtureByName(1000.0, share, dict.fromkeys(domains, 1.0), {name: {} for name in domains})
        found = {"math": 3 + row / 7, "code": 2 - row / 9}
        return Trial(f"trial-{row:05d}", "theta", None, None, 1, mixture, found, None, None, None, None)

    failed = Trial("trial-00009", "theta", None, None, 1, None, None, None, None, None, "too few tokens")
    trials = [*map(trial, range(9)), failed]
    first, second = trials_csv(trials, domains, targets)
    (tmp_path / "trials_mixtures.csv").write_bytes(first)
    (tmp_path / "trials_losses.csv").write_bytes(second)
    swarm = read_swarm(*swarm_files(tmp_path, None), PLAIN)
    assert (swarm.domains, swarm.targets, swarm.failed) == (domains, targets, ("trial-00009",))
    measured = [[(t.losses or {})[name] for name in targets] for t in trials[:9]]
    assert swarm.losses.tolist() == measured  # to the last bit
    shares = [[t.mixture.share[name] for name in domains] for t in trials[:9] if t.mixture]
    assert swarm.shares == pytest.approx(np.array(shares), rel=1e-15)
