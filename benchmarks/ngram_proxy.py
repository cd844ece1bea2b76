"""Does a model of counted n-grams rank mixtures as transformer proxies do? Spearman over thetas of the quick start.

    python -m benchmarks.ngram_proxy --output FOLDER [--thetas 40] [--minutes 30] [--tokens 100000,400000,1600000]

The counting proxy interpolates trigrams, bigrams, unigrams and the uniform distribution, each order with a Dirichlet
prior of the order below: p(w | h) = (c(h, w) + m p(w | shorter h)) / (c(h) + m). Only n-grams of the held-out text
matter, so the pool becomes sparse matrices (documents x n-grams of the target) once; the counts of any mixture are one
product with its copies, exact, and the three m are fitted on the natural mixture's loss on the targets' search half.
It sees the whole selection, as no thinning is needed.

Transformer proxies are those of the quick start's config with more or fewer tokens, all of one seed, each kept in
FOLDER as it ends: killed or out of `--minutes` of CPU time, the next run goes on. `--minutes 0` prints what is there.
FOLDER may be the quick start's own output, whose 56 proxies of 200,000 tokens then cost nothing. Sizes are compared on
the thetas that both have; proxies are trained theta by theta.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, vstack
from scipy.stats import spearmanr

from benchmarks.measuring import ROOT
from proxy_models.data import EvalSet, TokenPool
from quadmix.config import RunConfig
from quadmix.config_reader import read_config
from quadmix.engine.local import LocalEngine
from quadmix.hashing import fingerprint, seed_for
from quadmix.progress import Progress
from quadmix.search.proposals import theta_by_name
from quadmix.search.trials import draw_theta, param_space
from quadmix.stages.annotate import annotate
from quadmix.stages.records import begin, load_piece
from quadmix.stages.search_inputs import Prepared, checked, prepare, swarm_parts
from quadmix.stages.swarm import ProxyJob, TrainJobs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ORDERS = 3
_BLOCK = 512  # documents whose n-grams are coded at once


@dataclass(frozen=True)
class CountedTarget:
    """A target's held-out tokens as positions among its different n-grams. Of each order 1..3: `rows` (n,) and
    `context_rows` (n,), which n-gram and which context a token is; `grams`, `contexts`: (docs, distinct), the pool's.
    """

    rows: tuple[Ints, ...]
    context_rows: tuple[Ints, ...]
    grams: tuple[csr_matrix, ...]
    contexts: tuple[csr_matrix, ...]
    vocabulary: int

    @staticmethod
    def of(tokens: Ints, pool: TokenPool, vocabulary: int, end: int) -> CountedTarget:
        """tokens: (n,) held out; end: the token before a document's first one."""
        rows, context_rows, grams, contexts = [], [], [], []
        for order in range(1, ORDERS + 1):
            whole, context = codes(np.concatenate([np.full(ORDERS - 1, end), tokens]), order, vocabulary)
            known, position = np.unique(whole, return_inverse=True)
            known_context, context_position = np.unique(context, return_inverse=True)
            counted = [counts(block, order, vocabulary, known, known_context) for block in blocks(pool, end)]
            rows.append(position.astype(np.int64))
            context_rows.append(context_position.astype(np.int64))
            grams.append(vstack([one for one, _ in counted], format="csr"))
            contexts.append(vstack([one for _, one in counted], format="csr"))
        return CountedTarget(tuple(rows), tuple(context_rows), tuple(grams), tuple(contexts), vocabulary)

    def counted(self, copies: Floats) -> list[tuple[Floats, Floats]]:
        """Per order, counts of every held-out token's n-gram and of its context, (n,) each. copies: (docs,)."""
        found = []
        for order in range(ORDERS):
            whole = copies @ self.grams[order]
            context = copies @ self.contexts[order]
            found.append((whole[self.rows[order]], context[self.context_rows[order]]))
        return found

    def loss(self, counted: list[tuple[Floats, Floats]], prior: Floats) -> float:
        """Mean nats per token. prior: (orders,) the m of each order; fewer orders than counted leave out the longer."""
        chance = np.full(len(self.rows[0]), 1.0 / self.vocabulary)
        for strength, (whole, context) in zip(prior, counted, strict=False):
            chance = (whole + strength * chance) / (context + strength)
        return float(-np.log(chance).mean())


def codes(stream: Ints, order: int, vocabulary: int) -> tuple[Ints, Ints]:
    """(n-gram, context) of every token but the first two: numbers in base `vocabulary`, exact below 2,097,152."""
    length = len(stream) - (ORDERS - 1)
    context = np.zeros(length, dtype=np.int64)
    for back in range(order - 1, 0, -1):
        context = context * vocabulary + stream[ORDERS - 1 - back : ORDERS - 1 - back + length]
    return context * vocabulary + stream[ORDERS - 1 :], context


def blocks(pool: TokenPool, end: int) -> Iterator[list[Ints]]:
    """The pool's documents, each led by two end tokens."""
    lead = np.full(ORDERS - 1, end, dtype=np.int64)
    for start in range(0, pool.n_docs, _BLOCK):
        documents = np.arange(start, min(start + _BLOCK, pool.n_docs))
        yield [
            np.concatenate([lead, pool.gather(documents[i : i + 1]).astype(np.int64)]) for i in range(documents.size)
        ]


def counts(
    documents: list[Ints], order: int, vocabulary: int, known: Ints, known_context: Ints
) -> tuple[csr_matrix, csr_matrix]:
    """(documents, n-grams) and (documents, contexts): how often each document holds what the target holds."""
    coded = [codes(document, order, vocabulary) for document in documents]
    owner = np.repeat(np.arange(len(documents)), [len(whole) for whole, _ in coded])
    found = []
    for part, wanted in ((0, known), (1, known_context)):
        values = np.concatenate([one[part] for one in coded])
        place = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
        hit = wanted[place] == values
        shape = (len(documents), len(wanted))
        found.append(csr_matrix((np.ones(int(hit.sum())), (owner[hit], place[hit])), shape=shape))
    return found[0], found[1]


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
    end = tokenizer.end_id if tokenizer.end_id is not None else 0
    started = time.process_time()
    targets = [
        CountedTarget.of(EvalSet.load(path).tokens.astype(np.int64), pool, tokenizer.vocab_size, end)
        for half, _, path in task.eval_sets
        if half == "search"
    ]
    print(f"counting the pool's n-grams: {time.process_time() - started:.1f} CPU s")

    def copies(job: ProxyJob) -> Floats:
        found = np.zeros(pool.n_docs)
        found[sample.place] = task.draw(job, sample)
        return found

    natural = ProxyJob(0, "natural", "natural", "search", setting.jobs[0].seed)
    known = [target.counted(copies(natural)) for target in targets]

    def joint(logs: Floats) -> float:
        return float(np.mean([t.loss(k, np.exp(logs)) for t, k in zip(targets, known, strict=True)]))

    fitted = minimize(joint, np.log([10.0, 100.0, 100.0]), method="Nelder-Mead", options={"xatol": 0.01})
    prior = np.exp(fitted.x)
    print(f"priors of unigrams, bigrams, trigrams: {', '.join(f'{m:.1f}' for m in prior)}; natural {fitted.fun:.3f}")
    drawn = [copies(job) for job in setting.jobs]
    started = time.process_time()
    counted = [[target.counted(one) for target in targets] for one in drawn]
    both = [
        np.array([np.mean([t.loss(k, m) for t, k in zip(targets, row, strict=True)]) for row in counted])
        for m in (prior, prior[:1])
    ]
    print(f"loss of a mixture on both targets: {1e3 * (time.process_time() - started) / len(drawn):.1f} CPU ms")
    return both[0], both[1]


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
