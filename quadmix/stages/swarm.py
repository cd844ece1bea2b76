"""Proxies: which mixture each is trained on, the task that draws its data and trains it, and what survives a kill.

A job's data are selected from the proxy pool by the rule of `select` (fit, keys, exact budget; the budget scaled to
the proxy pool when that is a sample), then thinned to `search.tokens_per_trial`. A job is identified by everything
that its losses depend on. The task that finishes it writes a piece record, the driver appends it to the journal: a
search that was killed asks the journal first, the pieces second, and trains what neither knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.core.budget import whole_shares
from quadmix.engine.base import Engine
from quadmix.engine.gpus import assigned_gpus
from quadmix.errors import BudgetError
from quadmix.hashing import fingerprint, seed_for, uniform
from quadmix.progress import Progress
from quadmix.search.journal import Journal
from quadmix.search.proposals import params_of
from quadmix.search.result import MixtureByName, ThetaByName
from quadmix.search.trials import realised, thin
from quadmix.selectors.base import DocBatch, SelectionPlan
from quadmix.selectors.baselines import natural_plan, topk_plan, uniform_plan
from quadmix.selectors.in_memory import select
from quadmix.selectors.quadmix import QualityBinning, fit_quadmix
from quadmix.stages.proxy_pool import ProxyPool, Sample, load_sample
from quadmix.stages.records import load_piece, save_piece


@dataclass(frozen=True)
class ProxyJob:
    """One proxy. kind: theta | natural | uniform | topk; half: of the targets, search | confirm.

    seed: of draws, initialisation and order; jobs with one seed are paired.
    """

    index: int
    name: str
    kind: str
    half: str
    seed: int
    criterion: str | None = None
    theta: ThetaByName | None = None

    def key(self, swarm: str) -> str:
        """Identity of its outcome within a swarm of that fingerprint; neither its name nor its index plays a part."""
        theta = asdict(self.theta) if self.theta else None
        return fingerprint(swarm, self.kind, self.half, str(self.seed), str(self.criterion), json.dumps(theta))


@dataclass(frozen=True)
class Outcome:
    """What a proxy gave: the mixture it saw and its losses by target, or why it failed."""

    mixture: MixtureByName | None
    losses: dict[str, float] | None
    bits_per_byte: dict[str, float] | None
    error: str | None

    @staticmethod
    def of(stored: dict[str, Any]) -> Outcome:
        mixture = MixtureByName(**stored["mixture"]) if stored["mixture"] else None
        return Outcome(mixture, stored["losses"], stored["bits_per_byte"], stored["error"])


@dataclass(frozen=True)
class TrainJobs:
    """Task: a group of jobs -> their outcomes as JSON, each also written as a piece record.

    budget: tokens to select from the proxy pool; tokens: of a proxy; eval_sets: (half, target, file).
    """

    directory: str
    swarm: str
    pool: ProxyPool
    score_maps: str
    eval_sets: tuple[tuple[str, str, str], ...]
    proxy: ProxyConfig
    vocab_size: int
    mixture: MixtureConfig
    budget: int
    tokens: int
    uses_gpu: ClassVar[bool] = True

    def __call__(self, group: tuple[ProxyJob, ...]) -> tuple[dict[str, Any], ...]:
        return tuple(self._one(job) for job in group)

    def _one(self, job: ProxyJob) -> dict[str, Any]:
        key = job.key(self.swarm)
        outcome = load_piece(Path(self.directory), "proxy", key)
        if outcome is None:
            outcome = asdict(self._train(job))
            save_piece(Path(self.directory), "proxy", key, outcome)
        return outcome

    def _train(self, job: ProxyJob) -> Outcome:
        sample = load_sample(self.pool, self.score_maps)
        try:
            copies = self.draw(job, sample)
        except BudgetError as error:
            return Outcome(None, None, None, str(error))
        mixture = realised(copies, sample.lengths, sample.domain, sample.normalised, sample.whole_quality)
        named = mixture.by_name(0, self.pool.domains, self.pool.criteria)
        if named.tokens <= self.proxy.seq_len:
            return Outcome(named, None, None, f"the mixture holds {named.tokens:.0f} tokens, not one full sequence")
        from proxy_models.swarm import TrainGroup
        from proxy_models.swarm import Trial as ProxyTrial

        in_pool_order = np.zeros(copies.size, dtype=np.int32)
        in_pool_order[sample.place] = copies
        train = TrainGroup(
            config=self.proxy,
            vocab_size=self.vocab_size,
            segments=self.pool.segments,
            eval_sets=tuple((target, path) for half, target, path in self.eval_sets if half == job.half),
            documents=given_copies,
            gpus=assigned_gpus(),
        )
        trial = ProxyTrial(job.index, in_pool_order, seed_for(job.seed, "init"), seed_for(job.seed, "order"))
        result = train((trial,))[0].result
        if result.status != "ok":
            return Outcome(named, None, None, result.reason)
        return Outcome(named, dict(result.losses), dict(result.bits_per_byte), None)

    def draw(self, job: ProxyJob, sample: Sample) -> NDArray[np.int32]:
        """(n,) copies of each document of the sample that the proxy trains on. Raises BudgetError."""
        plan = self.plan(job, sample)
        columns = [self.pool.criteria.index(name) for name in plan.criteria]
        batch = DocBatch(sample.doc_hash, sample.domain, sample.n_tokens, sample.scores[:, columns])
        seed = seed_for(job.seed, "draw")
        selected = select(plan, batch, uniform(sample.doc_hash, seed, "select"))
        thinning = uniform(sample.doc_hash, seed, "thin")
        return thin(
            selected, sample.n_tokens, sample.lengths, sample.domain, thinning, sample.doc_hash, self.tokens,
            len(self.pool.domains),
        )  # fmt: skip

    def plan(self, job: ProxyJob, sample: Sample) -> SelectionPlan:
        tokens, cap = sample.tokens_by_domain, self.mixture.max_copies
        if job.kind == "natural":
            return natural_plan(tokens, self.budget, cap)
        if job.kind == "uniform":
            return uniform_plan(self.pool.domains, tokens, self.budget, cap)
        if job.kind == "topk":
            if job.criterion is None:
                raise ValueError(f"job {job.name}: top-k of no criterion")
            return topk_plan(job.criterion, tokens, self.budget)
        if job.theta is None:
            raise ValueError(f"job {job.name}: no theta")
        params = params_of(job.theta, self.pool.domains, self.pool.criteria)
        binning = QualityBinning.of(sample.score_maps, params.merge_weights[0], sample.docs_by_domain)
        batch = DocBatch(sample.doc_hash, sample.domain, sample.n_tokens, sample.scores)
        return fit_quadmix(
            params,
            domains=self.pool.domains,
            domain_tokens=tokens,
            criteria=self.pool.criteria,
            binning=binning,
            cells=binning.histogram(batch),
            budget=self.budget,
            max_copies=cap,
            rule=self.mixture.meet_budget,
            rank_rule=self.mixture.rank,
            normalise=self.mixture.normalise,
        )


def given_copies(payload: Any, pool: Any) -> NDArray[np.integer[Any]]:
    """The payload of a trial is its copies already."""
    copies: NDArray[np.integer[Any]] = payload
    return copies


def sample_budget(budget: int, sample_tokens: int, pool_tokens: int) -> int:
    """The part of the budget that a sample of the pool stands for, in whole tokens."""
    return int(whole_shares(np.array([sample_tokens, pool_tokens - sample_tokens], dtype=np.float64), budget)[0])


class Job(Protocol):
    """What is trained and journalled under its key."""

    def key(self, swarm: str) -> str: ...


J = TypeVar("J", bound=Job, contravariant=True)


class Trains(Protocol[J]):
    """A task that trains a group of jobs; `swarm` is what their outcomes depend on beside the jobs."""

    @property
    def swarm(self) -> str: ...

    def __call__(self, group: tuple[J, ...]) -> tuple[dict[str, Any], ...]: ...


def run_jobs(
    engine: Engine,
    progress: Progress,
    task: Trains[J],
    jobs: Sequence[J],
    journal: Journal,
    *,
    per_task: int,
    label: str,
) -> list[Outcome]:
    """Outcomes in the order of `jobs`. Groups are fixed by position; a group whose jobs are all known is not run."""
    keys = [job.key(task.swarm) for job in jobs]
    groups = [range(start, min(start + per_task, len(jobs))) for start in range(0, len(jobs), per_task)]
    missing = [group for group in groups if any(keys[index] not in journal.entries for index in group)]
    known = sum(key in journal.entries for key in keys)
    if known:
        progress.say(f"{label}: {known} of {len(jobs)} found in the journal")
    items = [tuple(jobs[index] for index in group) for group in missing]
    if items:
        for position, outcomes in engine.map(task, items, label=label):
            for index, outcome in zip(missing[position], outcomes, strict=True):
                if keys[index] not in journal.entries:
                    journal.append(keys[index], outcome)
    return [Outcome.of(journal.entries[key]) for key in keys]
