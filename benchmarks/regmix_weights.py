"""RegMix's domain weights for a run config: its own swarm of proxies, its own regressor, its own average.

    python -m benchmarks.regmix_weights CONFIG [--trials 48] [--workers 2]

As many proxies as the config's search trains, of the same size and tokens, on the same halves of the targets; mixtures
are drawn, learned from and averaged as in RegMix (arXiv 2407.01492, `benchmarks.results_schemes`). Printed is a
`select` section whose weights the config may hold (`mixture: weights`), and how far the regressor can be trusted.
A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
import yaml

from benchmarks.results_jobs import ContestJobs
from benchmarks.results_schemes import Propose, Setting, regmix_jobs
from quadmix.config import LocalEngineConfig, RunConfig
from quadmix.config_reader import read_config
from quadmix.engine import make_engine
from quadmix.progress import Progress
from quadmix.search.journal import Journal
from quadmix.search.learning import QUALITY_DOCS
from quadmix.search.objective import Objective
from quadmix.stages import search_inputs
from quadmix.stages.annotate import annotate
from quadmix.stages.records import begin, run_lock
from quadmix.stages.swarm import TrainJobs, run_jobs


def weights_of(config: RunConfig) -> dict[str, float]:
    """Annotate, train, propose. Returns shares by domain; prints what the search knows of itself."""
    progress = Progress.for_terminal()
    engine = make_engine(config.engine, progress)
    try:
        settings, tokenizer, targets = search_inputs.checked(config)
        annotated = annotate(config, engine, progress)
        parts = search_inputs.swarm_parts(config, settings, annotated, tokenizer, targets)
        directory = begin(Path(config.output), "swarm", parts)
        prepared = search_inputs.prepare(config, settings, engine, progress, annotated, tokenizer, targets, directory)
        rows = np.sort(prepared.sample.drawn_rows(QUALITY_DOCS, config.seed))
        setting = Setting(
            prepared.pool.domains, annotated.summary.tokens, config.mixture, settings,
            Objective({name: fact.weight for name, fact in prepared.facts.items()}),
            prepared.sample.quality_sample(rows), config.seed,
        )  # fmt: skip
        task = ContestJobs(**{one.name: getattr(prepared.task, one.name) for one in fields(TrainJobs)})
        jobs = regmix_jobs(setting)
        journal = Journal(directory / "regmix.jsonl")
        outcomes = run_jobs(engine, progress, task, jobs, journal, per_task=1, label="RegMix's proxies")
        found = Propose(setting)((None, [*jobs], outcomes))
    finally:
        engine.close()
    print(
        f"# RegMix, {found['trials']} trials of {settings.tokens_per_trial:,} tokens, seed {config.seed}: held-out "
        f"Spearman {found['spearman']:.3f} (losses permuted {found['shuffled']:.3f})"
    )
    return dict(found["weights"])


def rounded(weights: dict[str, float]) -> dict[str, float]:
    """To four places, what rounding left going to the largest: they sum to 1."""
    found = {name: round(value, 4) for name, value in weights.items()}
    largest = max(found, key=lambda name: found[name])
    found[largest] = round(found[largest] + 1.0 - sum(found.values()), 4)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("config", type=Path)
    arguments.add_argument("--trials", type=int)
    arguments.add_argument("--workers", type=int)
    given = arguments.parse_args()
    config = read_config(given.config)
    assert config.search is not None, "a config with a search section"
    search = config.search if given.trials is None else config.search.model_copy(update={"trials": given.trials})
    config = config.model_copy(update={"search": search, "engine": LocalEngineConfig(workers=given.workers)})
    with run_lock(Path(config.output)):
        weights = rounded(weights_of(config))
    print(yaml.safe_dump({"select": {"selector": "random", "mixture": "weights", "weights": weights}}, sort_keys=False))


if __name__ == "__main__":
    main()
