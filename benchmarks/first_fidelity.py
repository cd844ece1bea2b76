"""Does a cheap first fidelity save proxies? One-shot searches with and without one, on the problems of `search`.

    python -m benchmarks.first_fidelity [--seeds 5] [--spearman 0.92] [--problems 6x3 8x4] [--trials 32 64 128]

The first fidelity is a counting proxy (`benchmarks.ngram_proxy`): a loss of any mixture for tens of milliseconds, which
ranks mixtures as transformer proxies of 1.6M tokens do with Spearman .92. Here it is the planted loss with other worths
of domains and criteria, disturbed until it ranks fresh draws so. It is used as the search uses it: of a few draws a
trial the one that it likes best is trained, and finalists are judged by a Gaussian process of what it leaves over
(`quadmix.search.beside_counts`). Printed: regret in nats, mean and 95 % interval over seeds, and how many
trials the first fidelity saves.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from benchmarks.planted_mixtures import NAMES, NOISE, PROBLEMS, Problem, disturbed
from benchmarks.planted_schemes import interval, one_shot, with_counts

Floats = NDArray[np.float64]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--noise", type=float, default=NOISE)
    arguments.add_argument("--spearman", type=float, default=0.92)
    arguments.add_argument("--problems", nargs="+", choices=NAMES, default=["6x3", "8x4"])
    arguments.add_argument("--trials", nargs="+", type=int, default=[32, 64, 128])
    given = arguments.parse_args()
    print(f"regret in nats, mean and 95 % interval over {given.seeds} seeds; noise {given.noise}")
    for name in given.problems:
        problem = Problem.planted(*PROBLEMS[NAMES.index(name)])
        found: dict[tuple[str, int], Floats] = {}
        for n in given.trials:
            plain = [one_shot(problem, seed, given.noise, n) for seed in range(given.seeds)]
            helped = [
                with_counts(problem, disturbed(problem, given.spearman, seed), seed, given.noise, n)
                for seed in range(given.seeds)
            ]
            found["alone", n], found["with counts", n] = np.array(plain), np.array(helped)
        lowest = min(problem.optimum(), *(float(values.min()) for values in found.values()))
        for (how, n), values in found.items():
            print(f"{name:8}{n:>5} trials, {how:12}{values.mean() - lowest:>10.4f} ±{interval(values):.4f}", flush=True)
        for few, many in zip(given.trials, given.trials[1:], strict=False):
            gap = found["with counts", few] - found["alone", many]
            print(f"{name:8}{few} with counts less {many} alone: {gap.mean():+.4f} ±{interval(gap):.4f}", flush=True)


if __name__ == "__main__":
    main()
