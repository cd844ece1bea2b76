"""Files of one swarm are joined by what names its runs, by the order of rows only where nothing else is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quadmix.errors import ConfigError, InputError
from quadmix.search.trial_columns import ColumnChoice
from quadmix.search.trial_files import Swarm, read_named_numbers, read_swarm

RUNS = 12
ORDER = np.random.default_rng(1).permutation(RUNS).tolist()


def loss_of(run: int) -> float:
    return 3.0 + (run / 20 - 0.2) ** 2


def pair(folder: Path, left: str, right: str, names: str = "run-{run}", sorted_by: list[int] = ORDER) -> Swarm:
    """Mixtures in the order of the runs and losses in another; headers as given, with what stands under each."""
    for file, header, order in (("ratios.csv", left, list(range(RUNS))), ("metrics.csv", right, sorted_by)):
        lines = [header]
        for row, run in enumerate(order):
            cells = {
                "": row, "Unnamed: 0": row, "index": row, "id": row, "seed": 7, "web": run / 20, "code": 1 - run / 20,
                "math": loss_of(run), "number": 40 + (run * 5) % RUNS, "shuffled": (run * 7) % RUNS,
            }  # fmt: skip
            lines.append(",".join(str(cells.get(name, names.format(run=run))) for name in header.split(",")))
        (folder / file).write_text("\n".join(lines) + "\n")
    return read_swarm(folder / "ratios.csv", folder / "metrics.csv", ColumnChoice())


def is_joined_right(swarm: Swarm) -> bool:
    wanted = [loss_of(round(20 * share)) for share in swarm.shares[:, swarm.domains.index("web")]]
    return swarm.losses[:, swarm.targets.index("math")].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("number", ["", "Unnamed: 0", "index", "id"])
@pytest.mark.parametrize("run", ["run", "label"])
@pytest.mark.parametrize("names", ["run-{run}", "{run}5"])
def test_what_pandas_writes_is_joined_by_the_runs_and_not_by_row_numbers(
    tmp_path: Path, number: str, run: str, names: str
) -> None:
    swarm = pair(tmp_path, f"{number},{run},web,code", f"{number},{run},math", names)
    assert swarm.id_column == run
    assert (swarm.domains, swarm.targets) == (("web", "code"), ("math",))
    assert is_joined_right(swarm)


def test_columns_without_a_name_are_neither_domains_nor_losses(tmp_path: Path) -> None:
    swarm = pair(tmp_path, "run,web,code,", "run,math,Unnamed: 0")
    assert (swarm.domains, swarm.targets) == (("web", "code"), ("math",))
    assert "(one without a name), Unnamed: 0" in swarm.notes[0]


@pytest.mark.parametrize("column", ["", "Unnamed: 0", "index"])
def test_row_numbers_join_only_where_nothing_else_names_a_run_and_the_log_says_so(tmp_path: Path, column: str) -> None:
    swarm = pair(tmp_path, f"{column},web,code", f"{column},math", sorted_by=list(range(RUNS)))
    assert swarm.id_column == (column or "run")
    assert is_joined_right(swarm)
    assert "the only one that names a run in both" in swarm.notes[0]
    with pytest.raises(ConfigError, match=r"'run_id'.*'run'.*would be a guess.*--id-column"):
        pair(tmp_path, f"{column},run_id,web,code", f"{column},run,math")
    (tmp_path / "metrics.csv").write_text(f"{column},math\n" + "".join(f"{row},{row / 3}\n" for row in range(9)))
    with pytest.raises(ConfigError, match=r"'run_id'.*would be a guess"):
        read_swarm(tmp_path / "ratios.csv", tmp_path / "metrics.csv", ColumnChoice())


@pytest.mark.parametrize("column", ["", "index"])
@pytest.mark.parametrize("name", ["name", "label", "run"])
def test_row_numbers_join_nothing_where_one_file_alone_names_its_runs(tmp_path: Path, column: str, name: str) -> None:
    """The losses were sorted and numbered again: their row numbers are not those of the mixtures."""
    names = "{run}5" if name == "run" else "run-{run}"
    for left, right in ((column, f"{column},{name}"), (f"{column},{name}", column)):
        with pytest.raises(ConfigError, match=f"{name!r}.*would be a guess"):
            pair(tmp_path, f"{left},web,code", f"{right},math", names)
    swarm = pair(tmp_path, f"{column},web,code", f"{column},math,date", sorted_by=list(range(RUNS)))
    assert is_joined_right(swarm)  # a date names no run


def test_an_index_of_names_without_a_header_joins(tmp_path: Path) -> None:
    (tmp_path / "ratios.csv").write_text(",web,code\n" + "".join(f"r{k},{k / 20},{1 - k / 20}\n" for k in range(RUNS)))
    (tmp_path / "metrics.csv").write_text(",math\n" + "".join(f"r{k},{loss_of(k)}\n" for k in ORDER))
    assert is_joined_right(read_swarm(tmp_path / "ratios.csv", tmp_path / "metrics.csv", ColumnChoice()))


def test_columns_that_pair_the_rows_differently_are_both_named(tmp_path: Path) -> None:
    lines = [f"{k},{(5 * k) % RUNS},{k / 20},{1 - k / 20}" for k in range(RUNS)]
    (tmp_path / "ratios.csv").write_text("run,id,web,code\n" + "\n".join(lines) + "\n")
    lines = [f"{k},{(7 * k) % RUNS},{loss_of(k)}" for k in ORDER]
    (tmp_path / "metrics.csv").write_text("run,id,math\n" + "\n".join(lines) + "\n")
    files = tmp_path / "ratios.csv", tmp_path / "metrics.csv"
    with pytest.raises(ConfigError, match=r"'run' and 'id' stand in both and pair the rows differently.*--id-column"):
        read_swarm(*files, ColumnChoice())
    assert is_joined_right(read_swarm(*files, ColumnChoice(id_column="run")))


def read_with_third_run_called(folder: Path, name: str) -> None:
    """A pair whose losses' file has another id in the place of run-3."""
    pair(folder, "index,run,web,code", "index,run,math")
    metrics = folder / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("run-3,", f"{name},"))
    read_swarm(folder / "ratios.csv", metrics, ColumnChoice())


def test_a_mistyped_id_is_reported_and_never_made_up_for_by_row_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'run-33' has no mixture"):
        read_with_third_run_called(tmp_path, "run-33")


def test_a_name_that_all_runs_share_joins_nothing_and_a_repeated_id_is_a_fault(tmp_path: Path) -> None:
    swarm = pair(tmp_path, "index,name,web,code", "index,name,math", "swarm", list(range(RUNS)))
    assert swarm.id_column == "index"
    assert is_joined_right(swarm)
    with pytest.raises(InputError, match="'run-4' is there already"):
        read_with_third_run_called(tmp_path, "run-4")


def test_whole_numbers_under_any_name_join_where_both_files_have_the_same(tmp_path: Path) -> None:
    swarm = pair(tmp_path, ",number,web,code", ",number,math")
    assert swarm.id_column == "number"
    assert is_joined_right(swarm)
    swarm = pair(tmp_path, "index,number,web,code", "index,number,math")
    assert swarm.id_column == "number"
    with pytest.raises(ConfigError, match=r"ratios.csv has none, metrics.csv has none"):
        pair(tmp_path, "seed,web,code", "seed,math")


def test_one_file_needs_no_id_and_loses_no_column_to_one(tmp_path: Path) -> None:
    rows = "".join(f"{k / 20},{1 - k / 20},{loss_of(k)}\n" for k in range(RUNS))
    (tmp_path / "runs.csv").write_text("train_web,train_code,valid_math\n" + rows)
    swarm = read_swarm(tmp_path / "runs.csv", None, ColumnChoice())
    assert swarm.domains == ("train_web", "train_code")
    assert (swarm.ids[0], swarm.id_column) == ("line 2", "run")
    assert "no column names the runs" in swarm.notes[0]
    assert is_joined_right_named(swarm)


def is_joined_right_named(swarm: Swarm) -> bool:
    return swarm.losses[:, 0].tolist() == pytest.approx([loss_of(round(20 * share)) for share in swarm.shares[:, 0]])


def test_numbers_by_domain_are_read_past_pandas_row_numbers(tmp_path: Path) -> None:
    wanted = {"web": "web", "code": "code"}
    for text in (",domain,tokens\n0,web,5\n1,code,7\n", ",0\nweb,5\ncode,7\n"):
        (tmp_path / "tokens.csv").write_text(text)
        assert read_named_numbers(tmp_path / "tokens.csv", wanted, "its tokens") == {"web": 5.0, "code": 7.0}
