"""Target models: one a seed and entry, as jobs of the engine with a journal, as the swarm's proxies are.

Models of one seed share their initialisation, and documents that they both read come in one order. A job is identified
by what it reads and its seed, not by its entry: entries that select the same copies share their models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import CompareConfig, RunConfig
from quadmix.config_proxy import ARITHMETIC, ProxyConfig
from quadmix.engine.base import Engine
from quadmix.engine.gpus import assigned_gpus
from quadmix.hashing import fingerprint, seed_for
from quadmix.progress import Progress
from quadmix.scorers.tokens import FileTokenizer
from quadmix.search.journal import Journal
from quadmix.stages.annotate import Annotated
from quadmix.stages.compare.documents import Reading, read_reading
from quadmix.stages.records import load_piece, record_digest, save_piece
from quadmix.stages.search_inputs import write_half
from quadmix.stages.swarm import Outcome, given_copies, run_jobs
from quadmix.stages.targets import TargetSet


@dataclass(frozen=True)
class TargetJob:
    """One target model. number: of all jobs, which deals them over devices."""

    number: int
    name: str
    seed: int
    reading: Reading

    def key(self, swarm: str) -> str:
        return fingerprint(swarm, str(self.seed), self.reading.digest)


def training_parts(
    config: RunConfig,
    compare: CompareConfig,
    annotated: Annotated,
    tokenizer: FileTokenizer,
    targets: Sequence[TargetSet],
) -> dict[str, str]:
    """What every target model's losses depend on beside its own job."""
    return {
        "version": __version__,
        "arithmetic": str(ARITHMETIC),
        "annotations": record_digest(annotated.record),
        "tokenizer": tokenizer.digest,
        "targets": fingerprint(*(target.digest for target in targets)),
        "config.compare.model": compare.model.identity,
        "config.compare.eval_tokens": str(compare.eval_tokens),
        "seed": str(config.seed),
    }


@dataclass(frozen=True)
class TrainTargets:
    """Task: a group of jobs -> their outcomes as JSON, each also written as a piece record.

    segments: token files that hold all that is read; eval_sets: (target, file of its confirmation half).
    """

    directory: str
    swarm: str
    segments: tuple[str, ...]
    eval_sets: tuple[tuple[str, str], ...]
    model: ProxyConfig
    vocab_size: int
    uses_gpu: ClassVar[bool] = True

    def __call__(self, group: tuple[TargetJob, ...]) -> tuple[dict[str, Any], ...]:
        return tuple(self._one(job) for job in group)

    def _one(self, job: TargetJob) -> dict[str, Any]:
        key = job.key(self.swarm)
        outcome = load_piece(Path(self.directory), "model", key)
        if outcome is None:
            outcome = asdict(self._train(job))
            save_piece(Path(self.directory), "model", key, outcome)
        return outcome

    def _train(self, job: TargetJob) -> Outcome:
        from proxy_models.data import TokenPool
        from proxy_models.swarm import TrainGroup, Trial

        copies = _copies(TokenPool(self.segments).doc_hash, read_reading(job.reading.file))
        train = TrainGroup(
            config=self.model,
            vocab_size=self.vocab_size,
            segments=self.segments,
            eval_sets=self.eval_sets,
            documents=given_copies,
            gpus=assigned_gpus(),
        )
        trial = Trial(job.number, copies, seed_for(job.seed, "init"), seed_for(job.seed, "order"))
        result = train((trial,))[0].result
        if result.status != "ok":
            return Outcome(None, None, None, result.reason)
        return Outcome(None, dict(result.losses), dict(result.bits_per_byte), None)


def _copies(held: NDArray[np.uint64], rows: NDArray[np.void]) -> NDArray[np.int32]:
    """(documents of the token files,) copies of each. rows: sorted by hash, all of them among `held`."""
    place = np.minimum(np.searchsorted(rows["doc_hash"], held), rows.size - 1)
    found: NDArray[np.int32] = np.where(rows["doc_hash"][place] == held, rows["copies"][place], 0).astype(np.int32)
    return found


def write_halves(
    targets: Sequence[TargetSet], tokenizer: FileTokenizer, compare: CompareConfig, seed: int, directory: Path
) -> dict[str, tuple[str, int, int]]:
    """The confirmation half of every target, which no search and no scorer saw: its file, tokens and bytes."""
    found = {}
    for target in targets:
        path = str(directory / f"eval-{target.name}.bin")
        held_out = write_half(target.confirm, tokenizer, compare.eval_tokens, seed, path)
        found[target.name] = (path, held_out.n_tokens, held_out.n_bytes)
    return found


def train_targets(
    engine: Engine, progress: Progress, task: TrainTargets, jobs: Sequence[TargetJob], journal: Journal
) -> list[Outcome]:
    """Outcomes in the order of the jobs; each different one is trained once."""
    keys = [job.key(task.swarm) for job in jobs]
    different = [job for place, job in enumerate(jobs) if keys[place] not in keys[:place]]
    trained = run_jobs(engine, progress, task, different, journal, per_task=1, label="compare: training target models")
    by_key = {job.key(task.swarm): outcome for job, outcome in zip(different, trained, strict=True)}
    return [by_key[key] for key in keys]
