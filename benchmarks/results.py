"""The results page: QuaDMix's search against its rivals, judged by a larger model on targets that no search saw.

    python build_corpus.py CORPUS        # 350 MB of real text in 18 sources, see docs/results.md
    python -m benchmarks.results --corpus CORPUS --work WORK --scale small [--seed 7] [--workers 2]
    python -m benchmarks.results --corpus CORPUS --work WORK --scale full
    python -m benchmarks.results --page                      # docs/results.md again from docs/results/*.json

Steps: three whole sources become targets, the others the pool; `annotate`; proxies of every search; each search's
proposal; target models of every contestant under paired seeds, on equal tokens; bits per byte on the halves of the
targets that no search saw. Everything that was finished is found again after a kill: run the same command. CPU
seconds are those of the jobs, and of the other steps as this process and its workers used them; a step that was
killed half-way counts from its second beginning.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measuring import ROOT
from benchmarks.results_corpus import TARGETS, Prepared, prepare_corpus
from benchmarks.results_jobs import WEIGHTS, WEIGHTS_TOPK, ContestJobs, WeightsJob
from benchmarks.results_page import write_page
from benchmarks.results_schemes import (
    REGMIX,
    SCHEMES,
    Found,
    Propose,
    Scheme,
    Setting,
    draw_points,
    found_by,
    next_points,
    regmix_jobs,
    theta_jobs,
)
from benchmarks.results_setting import CRITERIA, SCALES, TARGET_MODEL, run_config
from quadmix import __version__
from quadmix.config import RunConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.engine import make_engine
from quadmix.engine.base import Engine
from quadmix.hashing import fingerprint, seed_for
from quadmix.manifest.durable import write_atomically
from quadmix.progress import Progress
from quadmix.search.journal import Journal
from quadmix.search.learning import QUALITY_DOCS
from quadmix.search.objective import Objective
from quadmix.stages import confirming, search_inputs
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.records import begin, run_lock
from quadmix.stages.search import search
from quadmix.stages.swarm import Outcome, ProxyJob, TrainJobs, run_jobs

RESULTS = ROOT / "docs" / "results"
COSTS_FILE = "costs.json"
SEED = 7  # of the page; the same scale under other seeds tells how much of it was luck
STEPS = ("annotate", "tokenise", "shipped search", "propose")  # beside the jobs, which know their own CPU seconds


@dataclass(frozen=True)
class Contestant(confirming.Contestant):
    """A mixture that is judged. kind: of its jobs; weights: of domains, where it has no theta."""

    weights: dict[str, float] | None = None

    def job(self, index: int, half: str, seed: int) -> ProxyJob:
        if self.weights is not None:
            return WeightsJob(index, self.name, self.kind, half, seed, self.criterion, weights=self.weights)
        return ProxyJob(index, self.name, self.kind, half, seed, self.criterion, self.theta)


class Costs:
    """CPU seconds by step, kept beside the work: a run that is resumed adds to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_bytes()) if path.is_file() else {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        before = _cpu_seconds()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + _cpu_seconds() - before, 1)
        write_atomically(self.path, json.dumps(self.seconds).encode("utf-8"))


def _cpu_seconds() -> float:
    """Of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Run:
    """One scale, step by step."""

    def __init__(self, name: str, corpus: Path, work: Path, seed: int, workers: int) -> None:
        self.name, self.scale, self.seed, self.workers = name, SCALES[name], seed, workers
        self.folder = work / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = Progress.for_terminal()
        self.costs = Costs(self.folder / COSTS_FILE)
        with self.costs.step("annotate"):  # what it reads is made here
            self.corpus: Prepared = prepare_corpus(corpus, self.folder, self.scale.corpus_share)
        self.config: RunConfig = run_config(self.scale, self.corpus, self.folder, seed, workers)
        assert self.config.search is not None
        self.settings = self.config.search

    def result(self) -> dict[str, Any]:
        with run_lock(Path(self.config.output)):
            return self._result()

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Workers of one step: they end with it, so that their CPU seconds are known."""
        engine = make_engine(self.config.engine, self.progress)
        try:
            yield engine
        finally:
            engine.close()

    def _result(self) -> dict[str, Any]:
        with self.costs.step("annotate"), self.engine() as engine:
            annotated = annotate(self.config, engine, self.progress)
        with self.costs.step("tokenise"), self.engine() as engine:
            prepared = self._prepare(engine, annotated)
        objective = Objective({name: fact.weight for name, fact in prepared.facts.items()})
        setting = Setting(
            prepared.pool.domains, annotated.summary.tokens, self.config.mixture, self.settings, objective,
            prepared.sample.quality_sample(np.sort(prepared.sample.drawn_rows(QUALITY_DOCS, self.seed))), self.seed,
        )  # fmt: skip
        journal = Journal(prepared.directory / "journal.jsonl")
        task = ContestJobs(**{one.name: getattr(prepared.task, one.name) for one in fields(TrainJobs)})
        contest = self._contest(task, setting, journal, annotated)
        return {
            "scale": self.name,
            "code": _commit(),
            "seed": self.seed,
            "workers": self.workers,
            "setting": asdict(self.scale),
            "machine": _machine(),
            "software": _software(),
            "pool": {
                "documents": int(annotated.summary.docs.sum()),
                "bytes": int(annotated.summary.bytes.sum()),
                "tokens": dict(zip(setting.domains, annotated.summary.tokens.tolist(), strict=True)),
            },
            "targets": {
                name: {
                    "source": TARGETS[name],
                    **self.corpus.facts["targets"][name],
                    "eval_tokens": fact.eval_tokens,
                    "unigram_entropy": round(fact.unigram_entropy, 4),
                }
                for name, fact in prepared.facts.items()
            },
            "criteria": list(CRITERIA),
            "proxy": _model_facts(task.proxy, task.vocab_size),
            "target_model": _model_facts(TARGET_MODEL, task.vocab_size),
            **contest,
        }

    def _contest(self, task: ContestJobs, setting: Setting, journal: Journal, annotated: Annotated) -> dict[str, Any]:
        """Proxies, proposals, target models: what the page tells of searches and contestants, and the CPU seconds."""
        searches: list[tuple[Scheme | None, list[ProxyJob]]] = [
            *(
                (scheme, theta_jobs(setting, scheme, draw_points(setting, scheme)))
                for scheme in SCHEMES
                if scheme.rounds == 1
            ),
            (None, [*regmix_jobs(setting)]),
        ]
        baselines = [Contestant("natural", "natural"), *(Contestant(f"topk_{c}", "topk", c) for c in CRITERIA)]
        base = seed_for(self.seed, "swarm")
        swarm = [one.job(place, "search", base) for place, one in enumerate(baselines)]
        for _, trials in searches:
            swarm += trials
        trained = self._train(task, swarm, journal)
        rest = iter(trained[len(baselines) :])
        outcomes = [[next(rest) for _ in trials] for _, trials in searches]
        for scheme in SCHEMES:
            if scheme.rounds > 1:
                jobs, found_by_it = self._sequential(task, setting, scheme, journal)
                searches.append((scheme, jobs))
                outcomes.append(found_by_it)
                swarm += jobs
        with self.costs.step("propose"), self.engine() as engine:
            found = self._propose(
                engine, setting, [(*search, own) for search, own in zip(searches, outcomes, strict=True)]
            )
        with self.costs.step("shipped search"), self.engine() as engine:  # finds its baselines in the journal
            found = [
                found_by(search(self.config, engine, self.progress, annotated), self.settings.regressor.kind),
                *found,
            ]
            journal = Journal(journal.path)  # it has written there too
        best = _best_criterion(baselines, trained[: len(baselines)], setting.objective)
        contestants = [*_proposed(found, best), *baselines]
        checks = [one.job(place, "search", base) for place, one in enumerate(contestants)]
        checked = self._train(task, checks, journal)
        judge = replace(
            task,
            proxy=TARGET_MODEL,
            tokens=self.scale.target_tokens,
            swarm=fingerprint(task.swarm, TARGET_MODEL.model_dump_json(), str(self.scale.target_tokens)),
        )
        finals = [
            one.job(turn * len(contestants) + place, "confirm", seed_for(self.seed, "results", turn))
            for turn in range(self.scale.seeds)
            for place, one in enumerate(contestants)
        ]
        judged = self._train(judge, finals, journal)
        seconds = {
            **{name: self.costs.seconds[name] for name in STEPS},
            "proxies": _job_seconds(journal, {job.key(task.swarm) for job in [*swarm, *checks]}),
            "target models": _job_seconds(journal, {job.key(judge.swarm) for job in finals}),
        }
        return {
            "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
            "median_loss": {name: round(_median(trained, name), 4) for name in setting.objective.targets},
            "searches": {one.scheme: _search_facts(one) for one in found},
            "contestants": [
                _contestant_facts(one, checked[place], judged[place :: len(contestants)], setting.objective)
                for place, one in enumerate(contestants)
            ],
        }

    def _prepare(self, engine: Engine, annotated: Annotated) -> search_inputs.Prepared:
        settings, tokenizer, targets = search_inputs.checked(self.config)
        parts = search_inputs.swarm_parts(self.config, settings, annotated, tokenizer, targets)
        directory = begin(Path(self.config.output), "swarm", parts)
        return search_inputs.prepare(
            self.config, settings, engine, self.progress, annotated, tokenizer, targets, directory
        )

    def _sequential(
        self, task: ContestJobs, setting: Setting, scheme: Scheme, journal: Journal
    ) -> tuple[list[ProxyJob], list[Outcome]]:
        """Trials of a search in rounds. What its first round shares with another search is found in the journal."""
        points = draw_points(setting, scheme)
        jobs = theta_jobs(setting, scheme, points)
        outcomes = self._train(task, jobs, journal)
        for number in range(2, scheme.rounds + 1):
            with self.costs.step("propose"):
                new = next_points(setting, scheme, points, outcomes, number)
            more = theta_jobs(setting, scheme, new, len(jobs))
            points, jobs = np.concatenate([points, new]), [*jobs, *more]
            outcomes += self._train(task, more, journal)
        return jobs, outcomes

    def _train(self, task: ContestJobs, jobs: Sequence[ProxyJob], journal: Journal) -> list[Outcome]:
        label = f"{jobs[0].half} {task.tokens:,} tokens, {jobs[0].name} to {jobs[-1].name}"
        with self.engine() as engine:
            return run_jobs(engine, self.progress, task, jobs, journal, per_task=1, label=label)

    def _propose(
        self,
        engine: Engine,
        setting: Setting,
        searches: Sequence[tuple[Scheme | None, list[ProxyJob], list[Outcome]]],
    ) -> list[Found]:
        """Proposals of all searches, in their order; those of an earlier run are found in a file."""
        schemes = json.dumps([None if scheme is None else asdict(scheme) for scheme, _, _ in searches], default=dict)
        known = fingerprint(
            __version__, schemes, *(json.dumps([asdict(one) for one in outcomes]) for _, _, outcomes in searches)
        )
        path = self.folder / f"proposals-{known[:16]}.json"
        if not path.is_file():
            done = dict(engine.map(Propose(setting), searches, label="proposing"))
            write_atomically(path, json.dumps([done[index] for index in range(len(searches))]).encode("utf-8"))
        return [Found(**one) for one in json.loads(path.read_bytes())]


def _best_criterion(baselines: Sequence[Contestant], trained: Sequence[Outcome], objective: Objective) -> str:
    """The score whose top-k makes the best proxy of the search halves."""
    joint = [
        (objective.of(outcome.losses), one.criterion)
        for one, outcome in zip(baselines, trained, strict=True)
        if one.criterion is not None and outcome.losses is not None
    ]
    return min(joint)[1]


def _proposed(found: Sequence[Found], best: str) -> list[Contestant]:
    """What the searches propose, and RegMix's shares filled by the best single score."""
    contestants = [Contestant(one.scheme, "theta", theta=one.by_name()) for one in found if one.theta is not None]
    for one in found:
        if one.weights is not None:
            contestants.append(Contestant(REGMIX, WEIGHTS, weights=one.weights))
            contestants.append(Contestant(f"{REGMIX}_topk", WEIGHTS_TOPK, best, weights=one.weights))
    return contestants


def _job_seconds(journal: Journal, keys: set[str]) -> float:
    return sum(float(journal.entries[key]["cpu_seconds"]) for key in sorted(keys))


def _median(trained: Sequence[Outcome], target: str) -> float:
    return median(one.losses[target] for one in trained if one.losses is not None)


def _search_facts(found: Found) -> dict[str, Any]:
    numbers = {name: round(getattr(found, name), 4) for name in ("predicted", "best_seen", "spearman", "shuffled")}
    return {"regressor": found.regressor, "trials": found.trials, **numbers}


def _contestant_facts(
    one: Contestant, proxy: Outcome, judged: Sequence[Outcome], objective: Objective
) -> dict[str, Any]:
    mixture = judged[0].mixture
    return {
        "name": one.name,
        "criterion": one.criterion,
        "proxy": None if proxy.losses is None else round(objective.of(proxy.losses), 4),
        "tokens": [None if outcome.mixture is None else int(outcome.mixture.tokens) for outcome in judged],
        "share": None if mixture is None else {name: round(value, 4) for name, value in mixture.share.items()},
        "repeats": None if mixture is None else {name: round(value, 2) for name, value in mixture.repeats.items()},
        "bits_per_byte": {
            target: [None if found.bits_per_byte is None else round(found.bits_per_byte[target], 5) for found in judged]
            for target in objective.targets
        },
        "errors": sorted({outcome.error for outcome in judged if outcome.error}),
    }


def _model_facts(config: ProxyConfig, vocabulary: int) -> dict[str, Any]:
    from proxy_models.model import Decoder

    model = Decoder(config, vocabulary)
    parameters, embedding = sum(one.numel() for one in model.parameters()), model.embedding.numel()
    names = ("d_model", "layers", "heads", "d_ff", "seq_len", "batch", "optimiser", "lr", "warmup")
    return {
        **{name: getattr(config, name) for name in names},
        "parameters": parameters,
        "without_embedding": parameters - embedding,
    }


def _commit() -> str:
    """Of the working tree that runs, as git names it; `unknown` outside of one."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": models[0] if models else platform.machine(), "cores": os.cpu_count()}


def _software() -> dict[str, str]:
    names = ("torch", "numpy", "lightgbm", "scikit-learn", "pyarrow", "tiktoken")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, help="the folder that the corpus' build script wrote")
    arguments.add_argument("--work", type=Path, help="where everything is kept; the same folder resumes")
    arguments.add_argument("--scale", choices=sorted(SCALES), default="small")
    arguments.add_argument("--seed", type=int, default=SEED, help=f"another than {SEED} is stored beside it")
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--page", action="store_true", help="write the page from the stored numbers, train nothing")
    given = arguments.parse_args()
    if not given.page:
        if given.corpus is None or given.work is None:
            arguments.error("--corpus and --work are needed, or --page")
        run = Run(given.scale, given.corpus.resolve(), given.work.resolve(), given.seed, given.workers)
        RESULTS.mkdir(parents=True, exist_ok=True)
        text = json.dumps(run.result(), indent=1, ensure_ascii=False) + "\n"
        name = given.scale if given.seed == SEED else f"{given.scale}-seed-{given.seed}"
        write_atomically(RESULTS / f"{name}.json", text.encode("utf-8"))
    write_page(RESULTS, RESULTS.parent / "results.md")


if __name__ == "__main__":
    main()
