"""The budget engine over annotation files: the same cuts as in memory, however the pool lies on disk."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.generated_pool import CRITERIA, DOMAINS, documents, table
from quadmix.config import MixtureConfig, Theta
from quadmix.core.budget import Settled, copies_taken
from quadmix.core.param_space import ParamSpace, sample_params
from quadmix.core.summary import PoolSummary
from quadmix.engine.local import LocalEngine
from quadmix.errors import BudgetError, ConfigError, InputError, VerificationError
from quadmix.hashing import uniform
from quadmix.selectors.base import DocBatch, SelectionPlan, Window
from quadmix.selectors.baselines import RandomPlan, natural_plan, topk_plan, uniform_plan
from quadmix.selectors.in_memory import select
from quadmix.selectors.quadmix import theta_by_name
from quadmix.stages import budgeting
from quadmix.stages.budgeting import find_cuts, order64, unorder64
from quadmix.stages.emit import EmitTask, Emitted
from quadmix.stages.fitting import fit_score_maps, fit_theta
from quadmix.stages.rows import RowReader

N = 6000
SEED, PURPOSE = 5, "select"
EXTRA = ("doc_id", "shard", "row")


@dataclass(frozen=True)
class Held:
    value: Any

    def get(self) -> Any:
        return self.value


@dataclass
class Inline:
    """An engine without processes that counts its passes, so that properties can be tried by the hundred."""

    name: str = "inline"
    parallelism: int = 1
    passes: list[str] = field(default_factory=list)

    def map(self, task: Callable[[Any], Any], items: Sequence[Any], *, label: str, size: Any = None) -> Iterator[Any]:
        self.passes.append(label)
        return iter([(index, task(item)) for index, item in enumerate(items)])

    def reduce(self, task: Callable[[Any], Any], items: Sequence[Any], merge: Any, *, label: str) -> Any:
        self.passes.append(label)
        return functools.reduce(merge, map(task, items))

    def share(self, value: Any) -> Held:
        return Held(value)

    def close(self) -> None: ...


@dataclass(frozen=True)
class Pool:
    paths: tuple[str, ...]
    summary: PoolSummary
    docs: dict[str, np.ndarray]

    def batch(self, criteria: Sequence[str]) -> DocBatch:
        columns = [CRITERIA.index(name) for name in criteria]
        return DocBatch(
            self.docs["doc_hash"], self.docs["domain"], self.docs["n_tokens"], self.docs["scores"][:, columns]
        )

    def one_by_one(self) -> list[list[str]]:
        return [[path] for path in self.paths]


def summarise(docs: dict[str, np.ndarray]) -> PoolSummary:
    return PoolSummary.of_rows(
        DOMAINS, docs["domain"], docs["n_tokens"], docs["n_tokens"] * 4, docs["scores"], CRITERIA
    )


def write_rows(folder: Path, rows: pa.Table, sizes: Sequence[int], row_group: int = 700) -> tuple[str, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    paths, start = [], 0
    for number, size in enumerate(sizes):
        paths.append(str(folder / f"unit-{number:05d}.parquet"))
        pq.write_table(rows.slice(start, size), paths[-1], row_group_size=row_group, write_page_checksum=True)
        start += size
    assert start == rows.num_rows
    return tuple(paths)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    docs: dict[str, Any] = documents(0, N)
    paths = write_rows(tmp_path_factory.mktemp("pool"), table(0, N), [2500, 1, 1499, 2000])
    return Pool(paths, summarise(docs), docs)


def mixture(pool: Pool, share: float, **other: Any) -> MixtureConfig:
    return MixtureConfig(criteria=CRITERIA, budget=int(pool.summary.total_tokens * share), **other)


def theta(pool: Pool, seed: int) -> Theta:
    params = sample_params(ParamSpace(len(pool.summary.domains), len(CRITERIA)), 1, seed)
    return Theta(**theta_by_name(params, pool.summary.domains, CRITERIA))


def plans(pool: Pool) -> dict[str, SelectionPlan]:
    tokens, total = pool.summary.tokens, pool.summary.total_tokens
    engine = Inline()
    packs = pool.one_by_one()

    def quadmix(seed: int, share: float, **other: Any) -> SelectionPlan:
        return fit_theta(engine, packs, pool.summary, mixture(pool, share, **other), theta(pool, seed))

    return {
        "natural": natural_plan(tokens, int(total * 0.3), 4),
        "natural, copies": natural_plan(tokens, int(total * 1.7), 4),
        "natural, all": natural_plan(tokens, total, 1),
        "natural, all copies": natural_plan(tokens, 3 * total, 3),
        "natural, one token": natural_plan(tokens, 1, 4),
        "uniform": uniform_plan(pool.summary.domains, tokens, int(total * 0.1), 4),
        "uniform, dry": uniform_plan(pool.summary.domains, tokens, int(total * 1.5), 2),
        "topk": topk_plan("edu", tokens, int(total * 0.2)),
        "topk, ties": topk_plan("stars", tokens, int(total * 0.2)),
        "quadmix": quadmix(1, 0.2),
        "quadmix, copies": quadmix(2, 1.2),
        "quadmix, cap 1": quadmix(3, 0.3, max_copies=1),
        "quadmix, scale": quadmix(4, 0.2, meet_budget="scale"),
        "quadmix, paper": quadmix(5, 0.2, rank="paper"),
        "quadmix, zscore": quadmix(6, 0.2, normalise="zscore"),
        "quadmix, minmax": quadmix(7, 0.2, normalise="minmax"),
        "quadmix, all": quadmix(0, 1.0, max_copies=1),
    }


def cuts_of(pool: Pool, plan: SelectionPlan, engine: Any, packs: Sequence[Sequence[str]]) -> dict[int, Settled]:
    reader = RowReader(pool.summary.domains, plan.criteria)
    return find_cuts(engine, plan, engine.share(plan), packs, reader, seed=SEED, purpose=PURPOSE)


def apply(pool: Pool, plan: SelectionPlan, settled: dict[int, Settled]) -> np.ndarray:
    batch = pool.batch(plan.criteria)
    u = uniform(batch.doc_hash, SEED, PURPOSE)
    stratum = plan.stratum(batch)
    key = np.where(stratum >= 0, plan.key(batch, u), np.inf)
    cut_key = np.array([settled[s].cut.key for s in range(len(plan.strata))])
    cut_hash = np.array([settled[s].cut.hash for s in range(len(plan.strata))], dtype=np.uint64)
    return copies_taken(key, plan.step(batch), batch.doc_hash, cut_key[stratum], cut_hash[stratum], plan.max_copies)


def in_memory(pool: Pool, plan: SelectionPlan) -> np.ndarray:
    batch = pool.batch(plan.criteria)
    return select(plan, batch, uniform(batch.doc_hash, SEED, PURPOSE))


@pytest.fixture(scope="module")
def fitted(pool: Pool) -> dict[str, SelectionPlan]:
    return plans(pool)


NAMES = [
    "natural", "natural, copies", "natural, all", "natural, all copies", "natural, one token", "uniform",
    "uniform, dry", "topk", "topk, ties", "quadmix", "quadmix, copies", "quadmix, cap 1", "quadmix, scale",
    "quadmix, paper", "quadmix, zscore", "quadmix, minmax", "quadmix, all",
]  # fmt: skip


@pytest.mark.parametrize("limit", [budgeting.COLLECT_LIMIT, 64])
@pytest.mark.parametrize("name", NAMES)
def test_cuts_over_files_are_those_in_memory(
    pool: Pool, fitted: dict[str, SelectionPlan], name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small limit nothing may be collected at first, and every range is narrowed bin by bin."""
    monkeypatch.setattr(budgeting, "COLLECT_LIMIT", limit)
    plan, engine = fitted[name], Inline()
    settled = cuts_of(pool, plan, engine, pool.one_by_one())
    copies = apply(pool, plan, settled)
    assert np.array_equal(copies, in_memory(pool, plan))
    tokens = pool.docs["n_tokens"]
    assert sum(one.taken for one in settled.values()) == int((copies * tokens).sum())
    wanted = sum(plan.quotas.values())
    assert abs(int((copies * tokens).sum()) - wanted) <= tokens.max() / 2
    assert len(engine.passes) <= (2 if limit > 64 else 8)


def test_quadmix_finds_its_cuts_in_one_pass(pool: Pool, fitted: dict[str, SelectionPlan]) -> None:
    for name in ("quadmix", "quadmix, copies", "quadmix, cap 1", "quadmix, paper"):
        engine = Inline()
        cuts_of(pool, fitted[name], engine, pool.one_by_one())
        assert len(engine.passes) == 1, name


@dataclass(frozen=True)
class Misled(RandomPlan):
    """A plan whose windows are wrong: they may cost passes, and change nothing."""

    low: float = 0.0
    high: float = 0.0

    def window(self, stratum: int) -> Window | None:
        return Window(self.low, self.high, 1.0)


@pytest.mark.parametrize(("low", "high"), [(-5.0, -4.0), (0.999, 0.999), (0.0, 1e-9), (3.0, 9.0), (0.05, 0.12)])
def test_a_wrong_window_changes_no_cut(pool: Pool, low: float, high: float) -> None:
    right = uniform_plan(pool.summary.domains, pool.summary.tokens, pool.summary.total_tokens // 10, 2)
    wrong = Misled("uniform", right.strata, right.stratum_quotas, 2, (), low, high)
    engine = Inline()
    assert np.array_equal(apply(pool, wrong, cuts_of(pool, wrong, engine, pool.one_by_one())), in_memory(pool, right))
    assert len(engine.passes) <= 4


def small_pool(tmp: Path, rows: list[tuple[int, int, float]], hashes: Sequence[int] | None = None) -> Pool:
    """Documents (domain, tokens, star score) written two to a file; hashes: other document hashes than their own."""
    n = len(rows)
    whole = table(0, n)
    base: dict[str, Any] = documents(0, n)
    docs = {
        "doc_hash": base["doc_hash"] if hashes is None else np.array(hashes, dtype=np.uint64),
        "domain": np.array([row[0] for row in rows], dtype=np.int32),
        "n_tokens": np.array([row[1] for row in rows], dtype=np.int64),
        "scores": np.array([[row[2]] * 3 for row in rows], dtype=np.float32),
    }
    for name, values in (
        ("doc_hash", pa.array(docs["doc_hash"])),
        ("n_tokens", pa.array(docs["n_tokens"])),
        ("domain", pa.DictionaryArray.from_arrays(pa.array(docs["domain"]), pa.array(DOMAINS))),
        *((f"score_{name}", pa.array(docs["scores"][:, i])) for i, name in enumerate(CRITERIA)),
    ):
        whole = whole.set_column(whole.column_names.index(name), name, values)
    sizes = [2] * (n // 2) + [1] * (n % 2)
    return Pool(write_rows(tmp, whole, sizes, row_group=1), summarise(docs), docs)


rows_of = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 9) | st.sampled_from([10**6, 10**12]), st.integers(-1, 1).map(float)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows_of, st.floats(0.01, 1.0), st.integers(1, 3), st.sampled_from([1, 2, 1 << 20]))
def test_tiny_pools_ties_and_giants_over_files_as_in_memory(
    tmp_path: Path, rows: list[tuple[int, int, float]], share: float, cap: int, limit: int
) -> None:
    pool = small_pool(tmp_path, rows)
    # domains without documents are no part of a pool's summary: codes follow the names that are left
    present = {name: index for index, name in enumerate(pool.summary.domains)}
    pool.docs["domain"] = np.array([present[DOMAINS[row[0]]] for row in rows], dtype=np.int32)
    budget = max(int(pool.summary.total_tokens * share), 1)
    made: list[SelectionPlan] = [
        natural_plan(pool.summary.tokens, budget * cap, cap),
        uniform_plan(pool.summary.domains, pool.summary.tokens, budget * cap, cap),
        topk_plan("stars", pool.summary.tokens, budget),
    ]
    try:
        config = MixtureConfig(criteria=CRITERIA, budget=budget, max_copies=cap)
        made.append(fit_theta(Inline(), pool.one_by_one(), pool.summary, config, theta(pool, len(rows))))
    except BudgetError:
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budgeting, "COLLECT_LIMIT", limit)
        patch.setattr(budgeting, "_MARGIN", 1)
        for plan in made:
            copies = apply(pool, plan, cuts_of(pool, plan, Inline(), pool.one_by_one()))
            assert np.array_equal(copies, in_memory(pool, plan)), plan.selector
            assert (
                abs(int((copies * pool.docs["n_tokens"]).sum()) - sum(plan.quotas.values()))
                <= max(row[1] for row in rows) / 2
            )


def test_ties_are_told_apart_by_hashes_however_near_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys equal, hashes neighbours at every level of the search, at both ends of the range."""
    monkeypatch.setattr(budgeting, "COLLECT_LIMIT", 1)
    monkeypatch.setattr(budgeting, "_MARGIN", 0)
    starts = (0, 1 << 16, 1 << 32, 5 << 48, (5 << 48) + (1 << 32), (7 << 48) - 2, (1 << 64) - 3)
    hashes = sorted({start + step for start in starts for step in range(3)})
    rows = [(0, 10, 1.0)] * len(hashes)
    pool = small_pool(tmp_path, rows, hashes)
    for quota in range(10, 10 * len(hashes), 30):
        plan = topk_plan("stars", pool.summary.tokens, quota)
        copies = apply(pool, plan, cuts_of(pool, plan, Inline(), pool.one_by_one()))
        assert copies.tolist() == [1] * (quota // 10) + [0] * (len(hashes) - quota // 10)


def test_a_stratum_settled_twice_does_not_go_round_in_circles(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last domain runs dry, so the first is asked a second time, for a quota in another range."""
    monkeypatch.setattr(budgeting, "COLLECT_LIMIT", 1)
    monkeypatch.setattr(budgeting, "_MARGIN", 1)
    available = pool.summary.tokens
    quotas = [int(tokens) // 10 for tokens in available]
    quotas[-1] = int(available[-1]) * 3  # more than it has
    plan = RandomPlan("uniform", pool.summary.domains, tuple(quotas), 1)
    engine = Inline()
    settled = cuts_of(pool, plan, engine, pool.one_by_one())
    assert np.array_equal(apply(pool, plan, settled), in_memory(pool, plan))
    assert abs(sum(one.taken for one in settled.values()) - sum(quotas)) <= pool.docs["n_tokens"].max() / 2
    assert len(engine.passes) <= 40


def test_annotations_that_change_between_passes_end_the_search_for_a_cut(pool: Pool) -> None:
    class Shrinking(Inline):
        """Every pass after the first reads other files."""

        def reduce(self, task: Any, items: Sequence[Any], merge: Any, *, label: str) -> Any:
            return super().reduce(task, items if not self.passes else items[1:2], merge, label=label)

    plan = natural_plan(pool.summary.tokens, pool.summary.total_tokens // 2, 1)
    with pytest.raises(VerificationError, match=r"passes over the annotations disagree.*'pool'"):
        cuts_of(pool, plan, Shrinking(), pool.one_by_one())


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=2))
def test_order64_orders_as_the_keys_do_and_comes_back(keys: list[float]) -> None:
    one, two = (int(value) for value in order64(np.array(keys)))
    assert (one < two) == (keys[0] < keys[1])
    assert unorder64(one) == keys[0]


# ------------------------------------------------------------------------------------ the whole path, with files


def emit(
    pool: Pool, plan: SelectionPlan, engine: Any, packs: Sequence[Sequence[str]], directory: Path
) -> list[Emitted]:
    directory.mkdir(parents=True)
    settled = cuts_of(pool, plan, engine, packs)
    cuts = engine.share({stratum: one.cut for stratum, one in settled.items()})
    reader = RowReader(pool.summary.domains, plan.criteria, EXTRA)
    task = EmitTask(engine.share(plan), cuts, reader, str(directory), SEED, PURPOSE)
    results = dict(engine.map(task, list(enumerate(packs)), label="emit"))
    return [results[index] for index in range(len(packs))]


def chosen(directory: Path, emitted: Sequence[Emitted]) -> pa.Table:
    names = [one.file for one in emitted if one.file]
    return pa.concat_tables([pq.read_table(directory / name) for name in names], promote_options="default")


def multiset(rows: pa.Table) -> Counter[tuple[str, int]]:
    return Counter(zip(rows["doc_id"].to_pylist(), rows["copies"].to_pylist(), strict=True))


def test_parts_hold_the_chosen_documents_and_sums_that_add_up(
    pool: Pool, fitted: dict[str, SelectionPlan], tmp_path: Path
) -> None:
    for number, name in enumerate(("quadmix, copies", "uniform, dry", "topk, ties")):
        plan = fitted[name]
        directory = tmp_path / str(number)
        emitted = emit(pool, plan, Inline(), pool.one_by_one(), directory)
        rows, copies = chosen(directory, emitted), in_memory(pool, plan)
        taken = np.flatnonzero(copies)
        assert rows["row"].to_pylist() == taken.tolist()  # input order
        assert rows["doc_id"].to_pylist() == [f"doc-{row:010d}" for row in taken]
        assert rows["copies"].to_pylist() == copies[taken].tolist()
        assert rows["n_tokens"].to_pylist() == pool.docs["n_tokens"][taken].tolist()
        assert rows["domain"].to_pylist() == [DOMAINS[d] for d in pool.docs["domain"][taken]]
        assert rows["draw"].to_pylist() == uniform(pool.docs["doc_hash"], SEED, PURPOSE)[taken].tolist()
        batch = pool.batch(plan.criteria)
        u = uniform(batch.doc_hash, SEED, PURPOSE)
        assert rows["key"].to_pylist() == plan.key(batch, u)[taken].tolist()
        assert set(rows["selector"].to_pylist()) == {plan.selector}
        assert rows["stratum"].to_pylist() == [plan.strata[s] for s in plan.stratum(batch)[taken]]
        for column, values in plan.columns(batch).items():
            assert rows[column].to_pylist() == values[taken].tolist()
        tokens, domain = pool.docs["n_tokens"], pool.docs["domain"]
        for field_, wanted in (("documents", copies > 0), ("copies", copies), ("tokens", copies * tokens)):
            total = np.sum([getattr(one, field_) for one in emitted], axis=0)
            assert total.tolist() == np.bincount(domain, weights=wanted, minlength=8).astype(int).tolist()
        left = np.sum([one.left_out for one in emitted], axis=0)
        assert left[:, 0].sum() + taken.size == N
        assert left[:, 1].sum() + int(tokens[taken].sum()) == int(tokens.sum())
        repeats = np.sum([one.repeats for one in emitted], axis=0)
        assert repeats[0] == 0
        assert repeats[1:].tolist() == np.bincount(copies, minlength=plan.max_copies + 1)[1:].tolist()


def test_the_local_engine_chooses_what_one_process_chooses_and_writes_the_same_bytes(
    pool: Pool, fitted: dict[str, SelectionPlan], local_engine: LocalEngine, tmp_path: Path
) -> None:
    packs = pool.one_by_one()
    there = fit_theta(local_engine, packs, pool.summary, mixture(pool, 0.2), theta(pool, 1))
    assert np.array_equal(there.expected, fitted["quadmix"].expected)  # type: ignore[attr-defined]
    here = emit(pool, fitted["quadmix"], Inline(), packs, tmp_path / "here")
    spread = emit(pool, there, local_engine, packs, tmp_path / "spread")
    assert [(one.file, one.sha256, one.bytes) for one in here] == [(one.file, one.sha256, one.bytes) for one in spread]
    assert sorted(path.name for path in (tmp_path / "spread").iterdir()) == sorted(one.file for one in here if one.file)


@pytest.mark.parametrize("kind", ["quadmix", "natural", "topk"])
def test_the_same_documents_however_the_input_is_split_ordered_or_renamed(
    pool: Pool, tmp_path: Path, kind: str
) -> None:
    def run(folder: Path, rows: pa.Table, sizes: list[int], bundle: int, names: Callable[[str], str]) -> Counter[Any]:
        paths = write_rows(folder, rows, sizes, row_group=997)
        renamed = []
        for path in paths:
            renamed.append(names(path))
            Path(path).rename(renamed[-1])
        renamed.sort()
        packs = [renamed[i : i + bundle] for i in range(0, len(renamed), bundle)]
        engine = Inline()
        if kind == "quadmix":
            plan: SelectionPlan = fit_theta(engine, packs, pool.summary, mixture(pool, 0.3), theta(pool, 9))
        elif kind == "natural":
            plan = natural_plan(pool.summary.tokens, int(pool.summary.total_tokens * 1.3), 4)
        else:
            plan = topk_plan("stars", pool.summary.tokens, pool.summary.total_tokens // 5)
        other = Pool(tuple(renamed), pool.summary, pool.docs)
        return multiset(chosen(folder / "out", emit(other, plan, engine, packs, folder / "out")))

    rows = table(0, N)
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(N)))
    wanted = run(tmp_path / "a", rows, [N], 1, lambda path: path)
    assert wanted
    assert run(tmp_path / "b", rows, [100] * 60, 7, lambda path: path) == wanted
    assert run(tmp_path / "c", shuffled, [1, 4999, 1000], 2, lambda path: path) == wanted
    backwards = run(
        tmp_path / "d", shuffled, [600] * 10, 3, lambda path: str(Path(path).with_name(f"z{9 - int(path[-9])}.parquet"))
    )
    assert backwards == wanted


def test_quarantined_rows_are_neither_counted_nor_chosen(pool: Pool, tmp_path: Path) -> None:
    rows = table(0, 400)
    bad = np.arange(400) % 3 == 0
    status = np.where(bad, "NAN_SCORE", "ok")
    rows = rows.set_column(rows.column_names.index("status"), "status", pa.array(status).dictionary_encode())
    nan = np.where(bad, np.nan, rows["score_edu"].to_numpy()).astype(np.float32)
    rows = rows.set_column(rows.column_names.index("score_edu"), "score_edu", pa.array(nan))
    tokens = pa.array(np.where(bad, 0, rows["n_tokens"].to_numpy()), mask=bad)
    rows = rows.set_column(rows.column_names.index("n_tokens"), "n_tokens", tokens)
    docs = {name: values[~bad] for name, values in documents(0, 400).items()}
    summary = summarise(docs)  # type: ignore[arg-type]
    paths = write_rows(tmp_path / "pool", rows, [150, 250], row_group=64)
    left = Pool(paths, summary, docs)  # type: ignore[arg-type]
    codes = {name: index for index, name in enumerate(summary.domains)}
    docs["domain"] = np.array([codes[DOMAINS[code]] for code in docs["domain"]], dtype=np.int32)
    plan = fit_theta(Inline(), left.one_by_one(), summary, mixture(left, 0.5), theta(left, 0))
    found = chosen(tmp_path / "out", emit(left, plan, Inline(), left.one_by_one(), tmp_path / "out"))
    copies = in_memory(left, plan)
    assert found["copies"].to_pylist() == copies[copies > 0].tolist()
    assert not {row for row in found["row"].to_pylist() if bad[row]}


def test_a_file_of_quarantined_rows_alone_gives_no_part(pool: Pool, tmp_path: Path) -> None:
    rows = table(0, 30)
    none = rows.set_column(
        rows.column_names.index("status"), "status", pa.array(["NULL_TEXT"] * 30).dictionary_encode()
    )
    (path,) = write_rows(tmp_path / "pool", none, [30])
    plan = natural_plan(pool.summary.tokens, pool.summary.total_tokens // 2, 1)
    emitted = emit(pool, plan, Inline(), [[path], [pool.paths[0]]], tmp_path / "out")
    assert emitted[0].file == ""
    assert emitted[0].rows == 0
    assert emitted[1].rows > 0


def test_annotations_of_another_pool_are_refused_by_name(pool: Pool) -> None:
    reader = RowReader(("domain_0", "domain_1"), ())
    with pytest.raises(InputError, match=r"domain_2.*run annotate again"):
        list(reader.batches(pool.paths[0]))


def test_names_that_do_not_fit_the_pool_are_listed_all_at_once(pool: Pool) -> None:
    good = theta(pool, 0).model_dump()
    del good["cutoff"]["domain_1"]
    good["floor"]["nowhere"] = 0.1
    good["merge_weights"]["domain_2"] = {"typo": 1.0}
    good["merge_weights"]["domain_3"] = {"edu": 0.0}
    with pytest.raises(ConfigError) as refused:
        fit_theta(Inline(), pool.one_by_one(), pool.summary, mixture(pool, 0.2), Theta(**good))
    text = "\n".join(refused.value.problems)
    assert len(refused.value.problems) == 4
    assert all(word in text for word in ("domain_1", "nowhere", "typo", "domain_3"))
    config = MixtureConfig(criteria=("edu", "missing"), budget=10)
    with pytest.raises(ConfigError, match="missing not among the annotated scores"):
        fit_score_maps(Inline(), pool.one_by_one(), pool.summary, config)


def test_pools_without_over_full_bins_save_the_second_pass(tmp_path: Path) -> None:
    docs: dict[str, Any] = documents(0, N)
    docs["scores"] = (np.arange(N, dtype=np.float32)[:, None] + 1.0) * np.float32([1.0, 2.0, 4.0])
    docs["n_tokens"] = np.full(N, 10, dtype=np.int64)
    engine = Inline()
    config = MixtureConfig(criteria=CRITERIA, budget=100)
    maps = fit_score_maps(engine, [["unread"]], summarise(docs), config)
    assert engine.passes == []
    assert all(one.resolution <= 1 / 2048 for one in maps)
