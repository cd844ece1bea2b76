"""Small annotated pools of awkward shapes, every selector by name, and what each selects from a pool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.core.summary import PoolSummary
from quadmix.hashing import doc_hash, uniform
from quadmix.progress import Progress
from quadmix.selectors.base import DocBatch, SelectionPlan
from quadmix.selectors.in_memory import select
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_baselines import random_tokens
from quadmix.stages.annotate import Annotated
from quadmix.stages.quad import stage as quad_stage
from quadmix.stages.quad.cluster_table import cluster_table
from quadmix.stages.records import StageRecord
from quadmix.stages.select import PURPOSE, choose, measured_by, plan_for
from tests.stages.inline_engine import InlineEngine

CRITERIA = ("clean", "useful", "rarity")
DOMAINS = ("books", "code", "web")
CLUSTERS = ("c0", "c1", "c2", "c3")
SEED = 4
THETA = {
    "merge_weights": {name: {"clean": 0.6, "useful": 0.4} for name in DOMAINS},
    "steepness": {"books": 30.0, "code": 3.0, "web": 100.0},
    "cutoff": {"books": 0.6, "code": 0.4, "web": 0.2},
    "exponent": {"books": 0.8, "code": 1.0, "web": 0.3},
    "floor": {"books": 0.0, "code": 0.0, "web": 0.0},
}
ODIS = {"dimensions": ["clean", "useful", "rarity"], "explained_variance": 1.0, "examples": 0}


def rule(selector: str, mixture: str = "free", **settings: Any) -> dict[str, Any]:
    return {"selector": selector, "mixture": mixture, **settings}


RULES: dict[str, dict[str, Any]] = {
    "random": {},
    "topk": {"criterion": "clean"},
    "threshold": {"criterion": "clean", "threshold": {"least_quantile": 0.2}},
    "gumbel": {"criterion": "clean", "gumbel": {"temperature": 0.5}},
    "criteria_mix": {"criteria_mix": {"criteria": ["clean", "useful"], "shares": [2.0, 1.0]}},
    "density": {"criterion": "rarity", "density": {"measures": "minus_log_density", "exponent": 0.7}},
    "cluster_quality": {"criterion": "clean"},
}
MEMBERS = {
    "best": {"share": 2.0, "selector": "topk", "criterion": "clean"},
    "components": {"share": 1.0, "selector": "odis"},
    "rest": {"share": 1.0, "selector": "random"},
    "groups": {"share": 0.5, "selector": "quad"},
    "useful": {"share": 1.5, "selector": "gumbel", "criterion": "useful"},
}
SELECTORS: dict[str, dict[str, Any]] = {
    "natural": {"mixture": "natural"},
    "uniform": {"mixture": "uniform"},
    "weights": {"mixture": "weights", "weights": {"code": 1.0, "web": 7.0, "void": 0.0}},
    "quadmix": {"mixture": "theta", "theta": THETA},
    "top-k mixture": {"mixture": "topk", "criterion": "useful"},
    **{name: rule(name, **settings) for name, settings in RULES.items()},
    **{f"{name} in natural": rule(name, "natural", **settings) for name, settings in RULES.items()},
    "quad": rule("quad"),
    "quad in natural": rule("quad", "natural"),
    "odis": rule("odis"),
    "odis in natural": rule("odis", "natural"),
    "union": rule("union", union=MEMBERS),
    "union in natural": rule("union", "natural", union=MEMBERS),
}


@dataclass(frozen=True)
class Documents:
    """n documents as rows; the last one is quarantined and alone in its domain."""

    ids: tuple[str, ...]
    tokens: np.ndarray
    domain: tuple[str, ...]
    cluster: tuple[str, ...]
    scores: np.ndarray  # (n, 3) float32

    def usable(self) -> np.ndarray:
        return np.arange(len(self.ids)) < len(self.ids) - 1


def documents(shape: str, n: int = 240) -> Documents:
    """plain | giant (one domain of nearly everything, one of a single document) | tied (equal scores and lengths)."""
    rng = np.random.default_rng(7)
    tokens = np.maximum(rng.lognormal(4.0, 1.0, n), 1).astype(np.int64)
    domain = rng.choice(DOMAINS, n, p=[0.2, 0.3, 0.5]).astype(object)
    scores = rng.normal(size=(n, 3)) + rng.normal(size=(n, 1))
    cluster = rng.choice(CLUSTERS, n, p=[0.55, 0.25, 0.15, 0.05])
    if shape == "giant":
        domain[:] = np.where(np.arange(n) % 30 == 3, "code", "web")
        domain[5], cluster[5] = "books", "c3"
    if shape == "tied":
        tokens[:] = 50
        # ODiS needs scores that are not constant
        scores = np.where(np.arange(n)[:, None] % 2, [1.0, 0.0, 2.0], [0.0, 1.0, 2.0])
        scores[0, 2] = 3.0
    domain[-1] = "void"
    return Documents(
        tuple(f"doc-{row}" for row in range(n)), tokens, tuple(domain.tolist()), tuple(cluster.tolist()),
        scores.astype(np.float32),
    )  # fmt: skip


def annotate(folder: Path, docs: Documents, files: int = 1, seed: int | None = None) -> Annotated:
    """Documents as annotation files; seed: of the order in which they lie, as given without one."""
    n = len(docs.ids)
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    ok = docs.usable()
    parts = {"pool": json.dumps([folder.name, files, seed])}
    record = StageRecord("annotate", "0" * 32, parts, (), {})
    folder.mkdir(parents=True, exist_ok=True)
    paths, summary = [], PoolSummary.empty(CRITERIA)
    for number, rows in enumerate(np.array_split(order, files)):
        ids = [docs.ids[row] for row in rows]
        columns: dict[str, Any] = {
            "doc_id": ids,
            "doc_hash": doc_hash(ids),
            "shard": [f"{number}.parquet"] * len(ids),
            "row": np.arange(len(ids)),
            "n_tokens": docs.tokens[rows],
            "domain": pa.array([docs.domain[row] for row in rows]).dictionary_encode(),
            "cluster": pa.array([docs.cluster[row] for row in rows]).dictionary_encode(),
            "status": pa.array(np.where(ok[rows], "ok", "NULL_TEXT")).dictionary_encode(),
        }
        columns |= {f"score_{name}": docs.scores[rows, column] for column, name in enumerate(CRITERIA)}
        paths.append(str(folder / f"unit-{number:05d}.parquet"))
        pq.write_table(pa.table(columns), paths[-1], row_group_size=50, write_page_checksum=True)
        mine = rows[ok[rows]]
        names = sorted(set(docs.domain))
        codes = np.array([names.index(docs.domain[row]) for row in mine], dtype=np.int64)
        tokens = docs.tokens[mine]
        summary = summary.merge(PoolSummary.of_rows(names, codes, tokens, 4 * tokens, docs.scores[mine], CRITERIA))
    return Annotated(record, folder, tuple(paths), (), summary)


def config_of(folder: Path, chosen: dict[str, Any], budget: int, max_copies: int = 4) -> RunConfig:
    return RunConfig.model_validate(
        {
            "output": str(folder), "seed": SEED, "pool": {"inputs": ["pool"]}, "odis": ODIS, "select": chosen,
            "mixture": {"criteria": ["clean", "useful"], "budget": budget, "max_copies": max_copies},
        }
    )  # fmt: skip


def measured_without_a_model(config: RunConfig, engine: Any, progress: Any, annotated: Annotated) -> Any:
    """Quad's stage as one of its baselines, which needs no model: its plan is the same."""
    table = cluster_table(engine, annotated.files, annotated.summary.domains)
    codes = np.arange(len(table.names))
    arms = Arms.of(table.names, codes, table.cluster_documents, table.cluster_tokens, table.cluster_documents)
    return quad_stage.Measured(random_tokens(arms, config.mixture.budget), table, "none")


def make(annotated: Annotated, chosen: dict[str, Any], budget: int) -> SelectionPlan:
    """The plan that `select` would run."""
    config, engine = config_of(annotated.directory, chosen, budget), InlineEngine()
    # ODiS keeps its fit in the output: each pool has its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quad_stage, "measure", measured_without_a_model)
        choice = choose(config, None)
        measured = measured_by(config, engine, Progress.silent(), annotated)  # type: ignore[arg-type]
        return plan_for(config, engine, annotated, choice, measured)  # type: ignore[arg-type]


def batch_of(docs: Documents, plan: SelectionPlan, domains: Sequence[str], rows: np.ndarray | None = None) -> DocBatch:
    """The usable documents as the plan reads them, in the order of `rows`."""
    rows = np.flatnonzero(docs.usable()) if rows is None else rows
    columns = [CRITERIA.index(name) for name in plan.criteria]
    return DocBatch(
        _hashes(docs.ids)[rows],
        np.array([domains.index(docs.domain[row]) for row in rows], dtype=np.int32),
        docs.tokens[rows],
        np.asfortranarray(docs.scores[np.ix_(rows, columns)]),
        np.array([plan.clusters.index(docs.cluster[row]) for row in rows], dtype=np.int32) if plan.clusters else None,
    )


@lru_cache(maxsize=4)
def _hashes(ids: tuple[str, ...]) -> np.ndarray:
    return doc_hash(ids)


def copies_of(docs: Documents, plan: SelectionPlan, domains: Sequence[str]) -> np.ndarray:
    """(n,) copies, 0 of what is not usable."""
    found = np.zeros(len(docs.ids), dtype=np.int64)
    batch = batch_of(docs, plan, domains)
    found[docs.usable()] = select(plan, batch, uniform(batch.doc_hash, SEED, PURPOSE))
    return found
