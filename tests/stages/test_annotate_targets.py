"""Target sets and what a fit may see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadmix.errors import ConfigError, InputError
from quadmix.hashing import content_hash, doc_hash, uniform
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.leakage import TargetIndex
from quadmix.stages.fit_context import PoolFitContext
from quadmix.stages.targets import TargetSet, load_targets
from tests.pool.building import documents, write_jsonl, write_parquet
from tests.stages.annotate_pools import run_config
from tests.stages.inline_engine import InlineEngine


def texts(n: int) -> list[dict[str, Any]]:
    return [{"id": f"t{number}", "text": f"Held out text number {number}"} for number in range(n)]


def targets(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> TargetSet:
    path = write_jsonl(tmp_path / "t.jsonl.zst", rows)
    (found,) = load_targets(run_config(tmp_path, targets=[{"name": "goal", "path": str(path), **settings}]))
    return found


def test_halves_cover_the_set_and_never_meet(tmp_path: Path) -> None:
    whole = targets(tmp_path, texts(100))
    search, confirm = whole.search, whole.confirm
    assert sorted(search.ids + confirm.ids) == sorted(row["id"] for row in texts(100))
    assert not set(search.ids) & set(confirm.ids)
    assert not set(search.content_hash.tolist()) & set(confirm.content_hash.tolist())
    assert 30 < len(search) < 70
    draws = uniform(doc_hash(search.ids), 0, "target-half")
    assert (draws < 0.5).all()


def test_halves_depend_on_ids_alone(tmp_path: Path) -> None:
    first = targets(tmp_path, texts(60))
    second = targets(tmp_path, [*texts(60)[::-1], *({"id": f"more{n}", "text": f"More {n}"} for n in range(20))])
    assert set(first.search.ids) <= set(second.search.ids)
    assert first.ids == tuple(doc_id for doc_id in second.ids if not doc_id.startswith("more"))


def test_a_text_that_occurs_twice_is_kept_once(tmp_path: Path) -> None:
    doubled = [*texts(40), *({"id": f"again{n}", "text": f" Held  out text number {n}"} for n in range(40))]
    whole = targets(tmp_path, doubled)
    assert len(whole) == 40
    assert not set(whole.search.content_hash.tolist()) & set(whole.confirm.content_hash.tolist())


def test_max_docs_takes_a_fixed_sample(tmp_path: Path) -> None:
    few = targets(tmp_path, texts(100), max_docs=20)
    more = targets(tmp_path, texts(100), max_docs=40)
    assert (len(few), len(more)) == (20, 40)
    assert set(few.ids) < set(more.ids)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([*texts(20), {"id": "x", "text": ""}], "EMPTY_TEXT"),
        ([*texts(20), {"id": "t3", "text": "another text"}], "two different texts"),
        (texts(1), "leave"),
    ],
)
def test_an_unfit_target_set_is_refused(tmp_path: Path, rows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(InputError, match=told):
        targets(tmp_path, rows)


def test_two_targets_of_one_name_are_a_config_error(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "t.jsonl", texts(20)))
    with pytest.raises(ConfigError, match="goal"):
        load_targets(run_config(tmp_path, targets=[{"name": "goal", "path": path}] * 2))


def test_the_digest_changes_with_the_texts(tmp_path: Path) -> None:
    first, same = targets(tmp_path, texts(20)), targets(tmp_path, texts(20)[::-1])
    other = targets(tmp_path, [{**row, "text": row["text"] + "!"} for row in texts(20)])
    assert first.digest == same.digest != other.digest


def pairs(n: int) -> list[dict[str, Any]]:
    return [
        {"id": f"q{number}", "meta": {"ask": f"What is {number // 2}? "}, "answer": f"It is number {number}."}
        for number in range(n)
    ]


PAIRED = {"prompt": "meta.ask", "completion": "answer"}


def test_pairs_are_texts_whose_end_counts_and_whose_prompts_stay_in_one_half(tmp_path: Path) -> None:
    whole = targets(tmp_path, pairs(80), **PAIRED)
    by_id = dict(zip(whole.ids, zip(whole.prompts or (), whole.completions, strict=True), strict=True))
    assert by_id == {row["id"]: (row["meta"]["ask"], row["answer"]) for row in pairs(80)}
    assert all(text == "".join(by_id[doc_id]) for doc_id, text in zip(whole.ids, whole.texts, strict=True))
    search, confirm = whole.search, whole.confirm
    assert len(search) + len(confirm) == 80
    assert not set(search.prompts or ()) & set(confirm.prompts or ())
    assert len(search) % 2 == 0  # two answers a question
    changed = [{**row, "answer": row["answer"] + "!"} for row in pairs(80)]
    assert whole.digest != targets(tmp_path, changed, **PAIRED).digest


def test_pairs_without_ids_get_them_from_both_parts(tmp_path: Path) -> None:
    rows = [{"ask": f"Question {n}", "answer": "Yes."} for n in range(40)]
    whole = targets(tmp_path, rows, columns={"id": None}, prompt="ask", completion="answer")
    assert len(set(whole.ids)) == 40
    assert (np.diff(whole.doc_hash.astype(np.float64)) > 0).all()


@pytest.mark.parametrize("blank", [None, "", "  ", 7])
def test_a_prompt_must_be_text(tmp_path: Path, blank: object) -> None:
    rows = [*pairs(20), {"id": "x", "meta": {"ask": blank}, "answer": "Well."}]
    with pytest.raises(InputError, match=r"meta\.ask"):
        targets(tmp_path, rows, **PAIRED)


def test_the_leakage_guard_covers_prompts_completions_and_both_together(tmp_path: Path) -> None:
    rows = pairs(30)
    held_out = targets(tmp_path, rows, **PAIRED)
    index = TargetIndex.of([(held_out.name, held_out.guarded, held_out.doc_hash)])
    row = rows[7]
    leaked = content_hash([row["meta"]["ask"], row["answer"], row["meta"]["ask"] + "\n" + row["answer"], "other"])
    assert index.leaks(leaked).tolist() == [0, 0, 0, -1]


def test_prompt_and_completion_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        targets(tmp_path, pairs(20), prompt="ask")


def context(tmp_path: Path, unit_bytes: int = 1, held_out: tuple[TargetSet, ...] = ()) -> PoolFitContext:
    config = run_config(tmp_path, pool={"unit_bytes": unit_bytes})
    (tmp_path / "scratch").mkdir(exist_ok=True)
    files = find_inputs(config.pool).files
    index = TargetIndex.of([(target.name, target.content_hash, target.doc_hash) for target in held_out])
    return PoolFitContext(
        tmp_path / "models", tmp_path / "scratch", 7, None, InlineEngine(), config.pool,
        plan_units(files, unit_bytes), held_out, index,
    )  # fmt: skip


@pytest.mark.parametrize("n_docs", [1, 17, 300, 10_000])
@pytest.mark.parametrize("unit_bytes", [1, 20_000, 10**9])
def test_a_sample_is_the_smallest_draws_of_the_whole_pool(tmp_path: Path, n_docs: int, unit_bytes: int) -> None:
    """Units of very different sizes, one of them full of small draws: still exactly the pool's smallest."""
    rows = documents(1000)
    draws = uniform(doc_hash(row["id"] for row in rows), 7, "a fit")
    order = np.argsort(draws)
    lucky, rest = [rows[i] for i in order[:200]], [rows[i] for i in np.sort(order[200:])]
    write_jsonl(tmp_path / "in" / "a.jsonl", rest[:700])
    write_jsonl(tmp_path / "in" / "b.jsonl", lucky)
    write_parquet(tmp_path / "in" / "c.parquet", rest[700:])
    write_jsonl(tmp_path / "in" / "d.jsonl", [*rows[:50], {**rows[3], "text": None}])  # repeated ids
    sample = context(tmp_path, unit_bytes).sample(n_docs, "a fit", ("score",))
    wanted = [rows[i] for i in order[:n_docs]]
    assert [document.id for document in sample] == [row["id"] for row in wanted]
    assert [document.columns["score"] for document in sample] == [row["score"] for row in wanted]
    assert [document.domain for document in sample] == [row["domain"] for row in wanted]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_samples_for_different_purposes_differ(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(200))
    fits = context(tmp_path)
    assert {d.id for d in fits.sample(20, "one")} != {d.id for d in fits.sample(20, "two")}


def test_no_fit_sees_target_documents_of_the_pool_or_the_confirmation_half(tmp_path: Path) -> None:
    rows = documents(50)
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    held_out = targets(tmp_path, [{"id": f"t{n}", "text": row["text"]} for n, row in enumerate(rows[:30])])
    fits = context(tmp_path, held_out=(held_out,))
    assert {document.id for document in fits.sample(100, "fit")} == {row["id"] for row in rows[30:]}
    assert {document.id for document in fits.target("goal")} == set(held_out.search.ids)
    with pytest.raises(ConfigError, match="wanted one of the configured targets: goal"):
        fits.target("gaol")


def test_side_files_are_read_strictly_and_in_hash_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", documents(5))
    side = write_jsonl(tmp_path / "side.jsonl", [{**row, "label": "x"} for row in documents(30, 100)])
    found = context(tmp_path).read_paths((str(side),), ("label",))
    ids = [row["id"] for row in documents(30, 100)]
    assert [document.id for document in found] == [ids[i] for i in np.argsort(doc_hash(ids))]
    assert {document.columns["label"] for document in found} == {"x"}
    write_jsonl(side, [{**row, "text": None if row["id"].endswith("3") else row["text"]} for row in documents(30, 100)])
    with pytest.raises(InputError, match="3 row"):
        context(tmp_path).read_paths((str(side),))
