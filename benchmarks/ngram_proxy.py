"""Does a model of counted n-grams rank mixtures as transformer proxies do? Spearman over thetas of the quick start.

    python -m benchmarks.ngram_proxy --output FOLDER [--thetas 40] [--minutes 30] [--tokens 100000,400000,1600000]

The counting proxy is that of the search (`quadmix.search.counting`), over all documents of the pool; it sees the whole
selection, as no thinning is needed.

Transformer proxies are those of the quick start's config with more or fewer tokens, all of one seed, each kept in
FOLDER as it ends: killed or out of `--minutes` of CPU time, the next run goes on. `--minutes 0` prints what is there.
FOLDER may be the quick start's own output, whose 56 proxies of 200,000 tokens then cost nothing. Sizes are compared on
the thetas that both have; proxies are trained theta by theta.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.measuring import ROOT
from proxy_models.data import TokenPool
from quadmix.config import RunConfig
from quadmix.config_reader import read_config
from quadmix.engine.local import LocalEngine
from quadmix.hashing import fingerprint, seed_for
from quadmix.progress import Progress
from quadmix.search.counting import START, CountedSample, Known
from quadmix.search.proposals import theta_by_name
from quadmix.search.trials import draw_theta, param_space
from quadmix.stages.annotate import annotate
from quadmix.stages.counting import held_out_windows
from quadmix.stages.records import begin, load_piece
from quadmix.stages.search_inputs import Prepared, checked, prepare, swarm_parts
from quadmix.stages.swarm import ProxyJob, TrainJobs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """The quick start, annotated and tokenised, and the thetas that are compared."""

    config: RunConfig
    prepared: Prepared
    jobs: tuple[ProxyJob, ...]

    @staticmethod
    def of(folder: Path, thetas: int) -> Setting:
        config = read_config(ROOT / "configs" / "quickstart.yaml", [f"output={folder}"])
        settings, tokenizer, targets = checked(config)
        engine, progress = LocalEngine(1), Progress.for_terminal()
        annotated = annotate(config, engine, progress)
        shared = begin(folder, "swarm", swarm_parts(config, settings, annotated, tokenizer, targets))
        prepared = prepare(config, settings, engine, progress, annotated, tokenizer, targets, shared)
        engine.close()
        pool, sample, mixture = prepared.pool, prepared.sample, config.mixture
        space = param_space(mixture.space, len(pool.domains), len(pool.criteria))
        scaled = mixture.model_copy(update={"budget": prepared.task.budget})
        base, jobs = seed_for(config.seed, "swarm"), []
        for index in range(thetas):
            drawn = draw_theta(space, index, config.seed, sample.tokens_by_domain, scaled)
            theta = theta_by_name(drawn.params, pool.domains, pool.criteria)
            jobs.append(ProxyJob(index, f"trial-{index:05d}", "theta", "search", base, theta=theta))
        return Setting(config, prepared, tuple(jobs))

    def task(self, tokens: int) -> TrainJobs:
        """Proxies of that many tokens; those of the configured size are the quick start's own."""
        task = self.prepared.task
        swarm = task.swarm if tokens == task.tokens else fingerprint(task.swarm, str(tokens))
        return replace(task, tokens=tokens, swarm=swarm)

    def train(self, sizes: list[int], largest: int, seconds: float) -> None:
        """Until all is there or the CPU time is spent; at most `largest` proxies of the largest size."""
        order = [(job, size) for job in self.jobs for size in sizes if size < sizes[-1] or job.index < largest]
        started = time.process_time()
        for job, size in order:
            if time.process_time() - started > seconds:
                print("out of CPU time; run again to go on")
                return
            self.task(size)((job,))

    def losses(self, tokens: int) -> dict[int, float]:
        """Joint loss by theta, of those that are trained."""
        task, found = self.task(tokens), {}
        for job in self.jobs:
            outcome = load_piece(Path(task.directory), "proxy", job.key(task.swarm))
            if outcome is not None and outcome["losses"] is not None:
                found[job.index] = float(np.mean(list(outcome["losses"].values())))
        return found


def counting_losses(setting: Setting) -> tuple[Floats, Floats]:
    """(thetas,) joint losses by trigrams and by unigrams alone, nats per token; says what they cost."""
    prepared = setting.prepared
    task, sample = replace(prepared.task, tokens=prepared.task.budget), prepared.sample
    pool = TokenPool(prepared.pool.segments)
    _, tokenizer, _ = checked(setting.config)
    end = tokenizer.end_id or 0
    started = time.process_time()
    known = Known.of(
        [held_out_windows(path, end) for half, _, path in task.eval_sets if half == "search"], tokenizer.vocab_size
    )
    documents = [pool.gather(place).astype(np.int64) for place in sample.place[:, None]]
    matrix = known.count(documents, end).T.tocsr()
    print(f"counting the pool's n-grams: {time.process_time() - started:.1f} CPU s")

    def copies(job: ProxyJob) -> Floats:
        return task.draw(job, sample).astype(np.float64)

    natural = copies(ProxyJob(0, "natural", "natural", "search", setting.jobs[0].seed))
    counted = CountedSample(known, matrix, np.array(START)).fitted(natural)
    # under a prior that outweighs all counts, the longer orders say what the shorter does
    unigrams = replace(counted, prior=np.array([counted.prior[0], 1e15, 1e15]))
    print(f"priors of unigrams, bigrams, trigrams: {', '.join(f'{m:.1f}' for m in counted.prior)}")
    drawn = np.stack([copies(job) for job in setting.jobs])
    started = time.process_time()
    trigrams = counted.losses(drawn).mean(axis=1)
    print(f"loss of a mixture on both targets: {1e3 * (time.process_time() - started) / len(drawn):.1f} CPU ms")
    return trigrams, unigrams.losses(drawn).mean(axis=1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", type=Path, required=True)
    arguments.add_argument("--thetas", type=int, default=40)
    arguments.add_argument("--largest", type=int, default=24, help="thetas of the largest size")
    arguments.add_argument("--tokens", default="100000,400000,1600000")
    arguments.add_argument("--minutes", type=float, default=30.0, help="of CPU time for transformer proxies")
    given = arguments.parse_args()
    sizes = sorted(int(size) for size in given.tokens.split(","))
    given.output.mkdir(parents=True, exist_ok=True)
    setting = Setting.of(given.output.resolve(), given.thetas)
    setting.train(sizes, given.largest, 60.0 * given.minutes)
    trigrams, unigrams = counting_losses(setting)
    columns = {f"{size:,} tokens": setting.losses(size) for size in sizes}
    columns |= {
        name: dict(enumerate(values.tolist())) for name, values in (("1-3-grams", trigrams), ("1-grams", unigrams))
    }
    print(f"{'Spearman (thetas)':20}" + "".join(f"{name:>22}" for name in columns))
    for name, mine in columns.items():
        row = f"{name:20}"
        for other in columns.values():
            shared = sorted(mine.keys() & other.keys())
            value = (
                spearmanr([mine[i] for i in shared], [other[i] for i in shared]).statistic
                if len(shared) > 2
                else np.nan
            )
            row += f"{value:>16.3f} ({len(shared):2d})"
        print(row + f"   sd {np.std(list(mine.values())):.3f}")


if __name__ == "__main__":
    main()
