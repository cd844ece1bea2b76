"""The stage `quad`: clusters, store, model, vectors, rounds; its outcome becomes the plan that `select` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quadmix import __version__
from quadmix.config import QuadConfig, RunConfig
from quadmix.config_proxy import ARITHMETIC
from quadmix.engine.base import Engine, SchedulesGpus
from quadmix.errors import BudgetError, ConfigError
from quadmix.progress import Progress
from quadmix.scorers.clusters import centroids_of
from quadmix.scorers.model_files import describe_model
from quadmix.scorers.tokens import load_tokenizer
from quadmix.search.journal import Journal
from quadmix.selectors.quad import BanditSettings
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_outcome import Outcome
from quadmix.selectors.quad_plan import QuadPlan, quad_plan, quad_plan_within
from quadmix.stages.annotate import Annotated
from quadmix.stages.quad.cluster_table import ClusterTable, cluster_table
from quadmix.stages.quad.curvature import quad_vectors
from quadmix.stages.quad.model import own_model, quad_model
from quadmix.stages.quad.outcome_file import OUTCOME_FILE, STAGE, read_outcome, write_outcome
from quadmix.stages.quad.rounds import ScoreDocuments, run_rounds
from quadmix.stages.quad.store import Store, quad_store, stored_fraction
from quadmix.stages.records import (
    StageRecord,
    begin,
    commit,
    file_entry,
    find,
    record_digest,
    stage_directory,
    stage_fingerprint,
)
from quadmix.stages.targets import load_targets

_MANY_ROUNDS = 2_000
_MANY_CLUSTERS = 10_000


@dataclass(frozen=True)
class Measured:
    """What the stage found: the bandit's outcome and the table that its clusters come from."""

    outcome: Outcome
    table: ClusterTable
    digest: str

    def alone(self) -> QuadPlan:
        """Clusters of the whole pool fill the budget."""
        return quad_plan(self.outcome)

    def within(self, domain_quotas: Sequence[int]) -> QuadPlan:
        """They fill given tokens of each domain."""
        return quad_plan_within(self.outcome, self.table.domains, domain_quotas, self.table.tokens_by_domain())


def measure(config: RunConfig, engine: Engine, progress: Progress, annotated: Annotated) -> Measured:
    """Find what every cluster is worth, or reuse it. Raises ConfigError for what the config lacks, BudgetError where
    the pool holds less than the budget."""
    asked = config.quad
    if config.tokenizer is None or not config.targets:
        raise ConfigError("select.selector: quad needs the sections `tokenizer` and `targets`: benefits are to targets")
    if isinstance(engine, SchedulesGpus):
        engine.require_gpus(STAGE)
    tokenizer, targets = load_tokenizer(config.tokenizer), load_targets(config)
    table = cluster_table(engine, annotated.files, annotated.summary.domains)
    held = int(table.documents.sum())
    if config.mixture.budget > annotated.summary.total_tokens:
        raise BudgetError(
            f"mixture.budget: asked {config.mixture.budget:,} tokens, the pool holds "
            f"{annotated.summary.total_tokens:,} and Quad takes each document once. Lower the budget"
        )
    most = max(1, int(held * asked.max_scored))
    _warn_of_rounds(asked, len(table.names), most, progress)
    own = own_model(config, progress, tokenizer)
    fraction = stored_fraction(asked, held, int(table.tokens.sum()))
    store = quad_store(config, engine, progress, annotated, table, tokenizer, fraction, asked.max_tokens)
    model = own or quad_model(config, engine, progress, tokenizer, store)
    vectors = quad_vectors(config, engine, progress, tokenizer, store, model, targets)
    root = Path(config.output)
    parts = {
        "version": __version__,
        "arithmetic": str(ARITHMETIC),
        "store": store.digest,
        "vectors": vectors.digest,
        "config.quad": asked.model_dump_json(exclude={"model"}),
        "budget": str(config.mixture.budget),
    }
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        directory = begin(root, STAGE, parts)
        settings = BanditSettings(
            budget=config.mixture.budget,
            max_scored=most,
            docs_per_pull=asked.docs_per_pull,
            arms_per_round=asked.arms_per_round,
            grant_share=asked.grant_share,
            exploration=asked.exploration,
            threshold_quantile=asked.threshold_quantile,
        )
        files = tuple(file for _, file in vectors.files)
        task = ScoreDocuments(store, model, asked.layers, files, asked.reference_rule, asked.max_tokens)
        journal = Journal(directory / "journal.jsonl")
        outcome = run_rounds(engine, progress, _arms(annotated, table, store), settings, store, task, journal)
        write_outcome(directory, outcome)
        entries = (file_entry(directory, OUTCOME_FILE, len(outcome.clusters)),)
        summary = {"scored": outcome.scored, "documents": held, "stop": outcome.why}
        record = StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, entries, summary)
        commit(root, record)
    folder = stage_directory(root, STAGE, record.fingerprint)
    outcome = read_outcome(folder)
    progress.say(f"quad: {outcome.scored:,} of {held:,} documents scored ({outcome.scored / held:.2%}); {outcome.why}")
    return Measured(outcome, table, record_digest(record))


def _warn_of_rounds(asked: QuadConfig, clusters: int, most: int, progress: Progress) -> None:
    """A round is one job and looks at every cluster: both counts together are what the driver does by itself."""
    rounds = most // (asked.docs_per_pull * asked.arms_per_round)
    if rounds > _MANY_ROUNDS or clusters > _MANY_CLUSTERS:
        progress.say(
            f"quad: up to {rounds:,} rounds over {clusters:,} clusters; a round is one job, between two of them the "
            "driver weighs every cluster. Raise quad.arms_per_round or quad.docs_per_pull for fewer rounds"
        )


def _arms(annotated: Annotated, table: ClusterTable, store: Store) -> Arms:
    """The clusters as arms; those of a user's own column have no centroids."""
    model = annotated.record.summary["clusters"]["model"]
    centroids = None
    if model is not None:
        file = describe_model(str(annotated.directory / model))
        every = centroids_of(file)
        # names of fitted clusters end in their index; one that holds no document is no arm
        centroids = every[[int(name.rpartition("_")[2]) for name in table.names]]
    return Arms.of(
        table.names,
        np.arange(len(table.names), dtype=np.int32),
        table.cluster_documents,
        table.cluster_tokens,
        np.array(store.documents, dtype=np.int64),
        centroids,
    )
