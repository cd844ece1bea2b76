"""What every selector promises, mixtures, rules, Quad, ODiS and unions alike, on pools of awkward shapes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.config_rules import RULES as RULE_NAMES
from quadmix.errors import BudgetError, InputError
from quadmix.hashing import uniform
from quadmix.selectors.in_memory import select
from quadmix.stages.annotate import Annotated
from quadmix.stages.select import PURPOSE, run_plan
from tests.selectors.contract_pools import (
    MEMBERS,
    RULES,
    SEED,
    SELECTORS,
    Documents,
    annotate,
    batch_of,
    config_of,
    copies_of,
    documents,
    make,
)
from tests.stages.inline_engine import InlineEngine

SHAPES = ("plain", "giant", "tied")
ONCE = [name for name, chosen in SELECTORS.items() if chosen.get("selector", "mixture") != "mixture"]
# one stratum, or the same documents whatever the budget: a larger budget keeps what a smaller one took
KEEPS = ["natural", "top-k mixture", *(name for name in RULES if name != "cluster_quality")]
# raising a document's score (lowering its density) never loses it
BETTER = {
    "topk": 0,
    "threshold": 0,
    "gumbel": 0,
    "criteria_mix": 0,
    "density": 2,
    "cluster_quality": 0,
    "topk in natural": 0,
    "criteria_mix in natural": 0,
}
Pools = Callable[..., tuple[Documents, Annotated]]


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    made: dict[Any, tuple[Documents, Annotated]] = {}

    def get(shape: str, files: int = 1, seed: int | None = None) -> tuple[Documents, Annotated]:
        key = shape, files, seed
        if key not in made:
            docs = documents(shape)
            made[key] = docs, annotate(tmp_path_factory.mktemp(f"{shape}{files}"), docs, files, seed)
        return made[key]

    return get


def total(annotated: Annotated) -> int:
    return annotated.summary.total_tokens


def test_every_selector_is_here() -> None:
    covered = {chosen.get("selector", "mixture") for chosen in SELECTORS.values()}
    known = RunConfig.model_fields["select"].annotation.model_fields["selector"].annotation  # type: ignore[union-attr]
    assert covered == set(known.__args__)  # type: ignore[union-attr]
    assert set(RULES) == set(RULE_NAMES)
    assert len({member["selector"] for member in MEMBERS.values()}) == len(MEMBERS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SELECTORS)
def test_the_budget_is_met_to_half_a_document(pools: Pools, name: str, shape: str) -> None:
    docs, annotated = pools(shape)
    for share in (0.03, 0.4):
        budget = int(share * total(annotated))
        plan = make(annotated, SELECTORS[name], budget)
        assert sum(plan.quotas.values()) == budget
        assert list(plan.strata) == sorted(plan.strata)
        copies = copies_of(docs, plan, annotated.summary.domains)
        assert abs(int((copies * docs.tokens).sum()) - budget) <= docs.tokens.max() / 2
        assert copies.max() <= (1 if name in ONCE else 4)
        assert copies[-1] == 0
        if plan.strata == annotated.summary.domains:
            for domain, quota in zip(plan.strata, plan.quotas.values(), strict=True):
                mine = np.array(docs.domain) == domain
                # one that runs dry of short documents may leave its rest to the others
                held = int(docs.tokens[mine].sum()) * plan.max_copies
                off = abs(int((copies * docs.tokens)[mine].sum()) - quota)
                assert off <= docs.tokens[mine].max() or quota > held


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("shape", ["plain", "tied"])
def test_no_partition_and_no_order_changes_a_copy(pools: Pools, name: str, shape: str, tmp_path: Path) -> None:
    docs, annotated = pools(shape)
    budget = total(annotated) // 4
    whole = make(annotated, SELECTORS[name], budget)
    wanted = copies_of(docs, whole, annotated.summary.domains)
    for files, seed in ((2, 1), (7, 2)) if shape == "plain" else ((3, 2),):
        dealt = pools(shape, files, seed)[1]
        plan = make(dealt, SELECTORS[name], budget)
        assert plan.describe() == whole.describe()
        (tmp_path / str(files)).mkdir()
        config = config_of(tmp_path, SELECTORS[name], budget)
        record = run_plan(config, InlineEngine(), dealt, plan, tmp_path / str(files), {})  # type: ignore[arg-type]
        rows = [row for one in record.files for row in pq.read_table(tmp_path / str(files) / one.path).to_pylist()]
        assert {row["doc_id"]: row["copies"] for row in rows} == {
            docs.ids[at]: int(wanted[at]) for at in np.flatnonzero(wanted)
        }


@pytest.mark.parametrize("name", SELECTORS)
def test_plans_are_values(pools: Pools, name: str) -> None:
    docs, annotated = pools("plain")
    plan = make(annotated, SELECTORS[name], total(annotated) // 3)
    again = pickle.loads(pickle.dumps(plan))
    batch = batch_of(docs, plan, annotated.summary.domains)
    u = uniform(batch.doc_hash, SEED, PURPOSE)
    first = select(plan, batch, u)
    assert np.array_equal(first, select(again, batch, u))
    assert np.array_equal(first, select(plan, batch, u))
    assert plan.describe()["kind"] == plan.selector
    backwards = np.flatnonzero(docs.usable())[::-1]
    turned = batch_of(docs, plan, annotated.summary.domains, backwards)
    assert np.array_equal(first[::-1], select(plan, turned, uniform(turned.doc_hash, SEED, PURPOSE)))


@pytest.mark.parametrize("name", KEEPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_larger_budget_keeps_what_a_smaller_one_took(pools: Pools, name: str, shape: str) -> None:
    docs, annotated = pools(shape)
    before = np.zeros(len(docs.ids), dtype=np.int64)
    for share in (0.05, 0.1, 0.11, 0.35, 0.6):
        plan = make(annotated, SELECTORS[name], int(share * total(annotated)))
        copies = copies_of(docs, plan, annotated.summary.domains)
        assert (copies >= before).all()
        before = copies


@pytest.mark.parametrize("name", BETTER)
def test_a_better_score_never_hurts(pools: Pools, name: str, tmp_path: Path) -> None:
    docs, annotated = pools("plain")
    budget = total(annotated) // 5
    taken = copies_of(docs, make(annotated, SELECTORS[name], budget), annotated.summary.domains)
    for at in np.flatnonzero(taken)[:: max(int(taken.sum()) // 4, 1)]:
        scores = docs.scores.copy()
        scores[at, BETTER[name]] += 0.75
        better = replace(docs, scores=scores)
        changed = annotate(tmp_path / str(at), better)
        found = copies_of(better, make(changed, SELECTORS[name], budget), changed.summary.domains)
        assert found[at] >= taken[at]


@pytest.mark.parametrize("name", [name for name in ONCE if "threshold" not in name])
def test_everything_once_is_the_largest_budget(pools: Pools, name: str) -> None:
    for shape in ("giant", "tied"):
        docs, annotated = pools(shape)
        plan = make(annotated, SELECTORS[name], total(annotated))
        assert np.array_equal(copies_of(docs, plan, annotated.summary.domains), docs.usable())
    with pytest.raises(BudgetError, match=r"[0-9],[0-9]{3}"):
        plan = make(annotated, SELECTORS[name], total(annotated) + 1)


@pytest.mark.parametrize("name", SELECTORS)
def test_one_token_takes_one_document_or_none(pools: Pools, name: str) -> None:
    docs, annotated = pools("giant")
    if name.startswith("union"):
        with pytest.raises(BudgetError, match="less than one token"):
            make(annotated, SELECTORS[name], 1)
        return
    plan = make(annotated, SELECTORS[name], 1)
    assert copies_of(docs, plan, annotated.summary.domains).sum() <= 1


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in ("natural", "uniform", "weights")])
def test_nan_is_refused(pools: Pools, name: str, tmp_path: Path) -> None:
    _, annotated = pools("plain")
    plan = make(annotated, SELECTORS[name], total(annotated) // 4)
    if not plan.criteria:
        pytest.skip("reads no score")
    path = tmp_path / "unit.parquet"
    table = pq.read_table(annotated.files[0])
    column = f"score_{plan.criteria[-1]}"
    values = table[column].to_numpy().copy()
    values[3] = np.nan
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, [values]), path, write_page_checksum=True)
    spoiled = replace(annotated, files=(str(path),))
    config = config_of(tmp_path, SELECTORS[name], total(annotated) // 4)
    with pytest.raises(InputError, match=f"{column} holds NaN"):
        run_plan(config, InlineEngine(), spoiled, plan, tmp_path, {})  # type: ignore[arg-type]
