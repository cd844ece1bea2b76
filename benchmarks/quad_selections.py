"""What every contestant takes from one planted pool, and what finding that cost.

Quad's two contestants are runs of the product (annotate, the stage `quad`, `select`); their manifests say what was
taken. The others take documents by the same rule of draws and quotas from the same annotations (`selectors.in_memory`);
top-k documents needs every document's benefit, along the vectors that Quad had.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.quad_costs import Used
from proxy_models.data import TokenPool
from proxy_models.influence import Layers, Vector, score_each
from quadmix.config import RunConfig, TrainedModelConfig
from quadmix.engine.base import Engine
from quadmix.hashing import fingerprint, uniform
from quadmix.progress import Progress
from quadmix.scorers.tokens import load_tokenizer
from quadmix.selectors.base import DocBatch
from quadmix.selectors.in_memory import select as take
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_baselines import cluster_uniform, random_tokens, top_clusters
from quadmix.selectors.quad_outcome import Outcome
from quadmix.selectors.quad_plan import quad_plan
from quadmix.stages.annotate import Annotated
from quadmix.stages.quad.cluster_table import cluster_table
from quadmix.stages.quad.curvature import STAGE as VECTORS_STAGE
from quadmix.stages.quad.curvature import quad_vectors
from quadmix.stages.quad.model import STAGE as MODEL_STAGE
from quadmix.stages.quad.model import ModelRef, quad_model
from quadmix.stages.quad.outcome_file import quad_outcome
from quadmix.stages.quad.store import quad_store, stored_fraction
from quadmix.stages.records import current
from quadmix.stages.rows import RowReader
from quadmix.stages.select import PURPOSE, select
from quadmix.stages.targets import load_targets

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

CURVATURES = ("ekfac", "identity")
_SCORED_AT_ONCE = 256  # documents of a task


@dataclass(frozen=True)
class Selection:
    """rows: of the pool's usable documents, in the order of `Pool`; used: tokens that finding them read; scored:
    documents."""

    rows: Rows
    used: Used
    scored: int


@dataclass(frozen=True)
class Measured:
    """One run of Quad's stage. vector: its file, of the one reference."""

    selection: Selection
    outcome: Outcome
    model: ModelRef
    vector: str
    pullable: NDArray[np.int64]


class Pool:
    """The usable documents of an annotated pool, n of them in the order of its files."""

    def __init__(self, annotated: Annotated) -> None:
        names = {
            name
            for path in annotated.files
            for name in pq.read_table(path, columns=["cluster"])["cluster"].unique().to_pylist()
            if name is not None
        }
        self.annotated = annotated
        self.clusters = tuple(sorted(names))
        reader = RowReader(annotated.summary.domains, (), ("doc_id",), clusters=self.clusters)
        batches = [found for path in annotated.files for found in reader.batches(path)]
        self.ids: list[str] = [id_ for _, table in batches for id_ in table["doc_id"].to_pylist()]
        self.hashes = np.concatenate([batch.doc_hash for batch, _ in batches])
        self.tokens = np.concatenate([batch.n_tokens for batch, _ in batches])
        self.domain = np.concatenate([batch.domain for batch, _ in batches])
        self.cluster = np.concatenate([batch.cluster for batch, _ in batches if batch.cluster is not None])

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {id_: row for row, id_ in enumerate(self.ids)}

    def rows_of(self, outcome: Outcome, seed: int) -> Rows:
        """What `select` takes for an outcome."""
        batch = DocBatch(self.hashes, self.domain, self.tokens, np.zeros((len(self.ids), 0), np.float32), self.cluster)
        return np.flatnonzero(take(quad_plan(outcome), batch, uniform(self.hashes, seed, PURPOSE)))

    def arms(self, pullable: NDArray[np.int64]) -> Arms:
        """The clusters, for baselines: they look at sizes only."""
        documents = np.bincount(self.cluster, minlength=len(self.clusters))
        tokens = np.bincount(self.cluster, weights=self.tokens, minlength=len(self.clusters)).astype(np.int64)
        return Arms.of(self.clusters, np.arange(len(self.clusters), dtype=np.int32), documents, tokens, pullable)


def measure_quad(config: RunConfig, engine: Engine, annotated: Annotated, pool: Pool) -> Measured:
    """Run `select`; what its stage left behind is then found again."""
    quiet = Progress.silent()
    manifest = select(config, engine, quiet, annotated, None)
    chosen = [
        pool.row_of[id_]
        for part in manifest.files
        for id_ in pq.read_table(manifest.part_path(part), columns=["doc_id"])["doc_id"].to_pylist()
    ]
    outcome = quad_outcome(config, manifest)
    assert outcome is not None
    assert config.tokenizer is not None
    asked, tokenizer = config.quad, load_tokenizer(config.tokenizer)
    table = cluster_table(engine, annotated.files, annotated.summary.domains)
    fraction = stored_fraction(asked, int(table.documents.sum()), int(table.tokens.sum()))
    store = quad_store(config, engine, quiet, annotated, table, tokenizer, fraction, asked.max_tokens)
    model = quad_model(config, engine, quiet, tokenizer, store)
    vectors = quad_vectors(config, engine, quiet, tokenizer, store, model, load_targets(config))
    trained, curved = current(Path(config.output), MODEL_STAGE), current(Path(config.output), VECTORS_STAGE)
    assert trained is not None
    assert curved is not None
    lengths = store.lengths()

    def read(places: Sequence[tuple[int, int]]) -> int:
        return sum(int(lengths[bucket][row]) for bucket, row in places)

    factors = store.drawn("quad-factors", config.seed, docs=asked.factor_docs)
    at = {name: index for index, name in enumerate(table.names)}
    used = Used(
        proxy=int(trained.summary["tokens"]),
        benefit=sum(
            read(store.places(at[pull.cluster], pull.first, pull.n)) for done in outcome.rounds for pull in done.pulls
        ),
        curvature=0 if asked.curvature == "identity" else read(factors),
        reference=sum(curved.summary["references"].values()),
    )
    ((_, vector),) = vectors.files
    selection = Selection(np.sort(np.array(chosen, dtype=np.int64)), used, outcome.scored)
    return Measured(selection, outcome, model, vector, np.array(store.documents, dtype=np.int64))


def unscored(pool: Pool, measured: Measured, kind: str, budget: int, seed: int) -> Selection:
    """random or cluster_uniform."""
    make = {"random": random_tokens, "cluster_uniform": cluster_uniform}[kind]
    rows = pool.rows_of(make(pool.arms(measured.pullable), budget), seed)
    return Selection(rows, Used(), 0)


def best_clusters(pool: Pool, measured: Measured, seed: int) -> Selection:
    """Whole clusters by the means that the bandit's pulls gave, so at its cost."""
    rows = pool.rows_of(top_clusters(measured.outcome), seed)
    return Selection(rows, measured.selection.used, measured.outcome.scored)


def best_documents(pool: Pool, measured: Measured, benefits: Floats, budget: int, max_tokens: int) -> Selection:
    """The documents of the highest benefit until the next one would leave the total farther from the budget."""
    order = np.lexsort((pool.hashes, -benefits))
    held = np.cumsum(pool.tokens[order])
    count = int(np.searchsorted(held - pool.tokens[order] / 2, budget, side="right"))
    used = measured.selection.used
    every = int(np.minimum(pool.tokens, max_tokens).sum())
    return Selection(
        np.sort(order[:count]), Used(used.proxy, every, used.curvature, used.reference), int(benefits.size)
    )


@dataclass(frozen=True)
class ScoreAll:
    """Task: rows of a segment of tokens -> benefits along each vector, (vectors, rows) as lists."""

    model: ModelRef
    vectors: tuple[str, ...]
    segment: str
    max_tokens: int

    def __call__(self, rows: range) -> list[list[float]]:
        model = self.model.load()
        pool = TokenPool([self.segment])
        docs = [pool.gather(np.array([row]))[: self.max_tokens] for row in rows]
        vectors = [Vector.load(Path(path)) for path in self.vectors]
        found: list[list[float]] = score_each(
            model, Layers.of(model, "all"), vectors, docs, max_tokens=self.max_tokens
        ).tolist()
        return found


def all_benefits(engine: Engine, task: ScoreAll, documents: int, folder: Path) -> Floats:
    """(vectors, documents); found in a file of the folder when they were measured before."""
    kept = folder / f"benefits-{fingerprint(repr(task))}.npy"
    if not kept.is_file():
        items = [
            range(first, min(first + _SCORED_AT_ONCE, documents)) for first in range(0, documents, _SCORED_AT_ONCE)
        ]
        done = dict(engine.map(task, items, label="every document's benefit"))
        whole = np.concatenate([np.array(done[index]) for index in range(len(items))], axis=1)
        unfinished = kept.with_suffix(".part.npy")
        np.save(unfinished, whole)
        unfinished.replace(kept)
    found: Floats = np.load(kept)
    return found


def proxy_of(config: RunConfig) -> TrainedModelConfig:
    """SystemExit for a model from elsewhere: what that cost is not known."""
    if not isinstance(config.quad.model, TrainedModelConfig):
        raise SystemExit("the contest counts what training the proxy costs: quad.model must be a proxy")
    return config.quad.model


def read_kinds(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_bytes())
    return found
