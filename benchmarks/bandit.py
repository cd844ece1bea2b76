"""Regret of Quad's bandit on planted clusters, beside other ways to choose the next arm and other settings.

    python -m benchmarks.bandit [--seeds 24] [--clusters 60] [--scored 0.2] [--share 0.1] [--pull 8]

Regret: true mean benefit per token lost against the best possible choice of as many tokens; mean over seeds and 95 %
interval of the difference to the default bandit, paired. Rivals score as many documents at most, and differ in which
arm is pulled next or in one setting. No torch, no files, a few minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np

from benchmarks.planted_arms import OneByOne, Planted, Shape, at_random, plant, quotas, round_robin
from quadmix.selectors.quad import Bandit
from quadmix.selectors.quad_baselines import cluster_uniform, random_tokens, top_clusters

Choose = Callable[[Planted, Mapping[str, Any], int], np.ndarray]


def with_settings(**other: Any) -> Choose:
    def choose(planted: Planted, common: Mapping[str, Any], seed: int) -> np.ndarray:
        return quotas(planted.told(Bandit(planted.arms, planted.settings(**{**common, **other}))).outcome())

    return choose


def in_turn(planted: Planted, common: Mapping[str, Any], seed: int) -> np.ndarray:
    return OneByOne(planted, planted.settings(**common), 8, round_robin).run()


def random_arms(planted: Planted, common: Mapping[str, Any], seed: int) -> np.ndarray:
    return OneByOne(planted, planted.settings(**common), 8, at_random(seed)).run()


def whole_clusters(planted: Planted, common: Mapping[str, Any], seed: int) -> np.ndarray:
    outcome = planted.told(Bandit(planted.arms, planted.settings(**common))).outcome()
    return quotas(top_clusters(outcome))


def unscored(make: Callable[..., Any]) -> Choose:
    return lambda planted, common, seed: quotas(make(planted.arms, planted.settings(**common).budget))


WAYS: dict[str, Choose] = {
    "bandit": with_settings(),
    "next arm in turn": in_turn,
    "next arm at random": random_arms,
    "top clusters, whole": whole_clusters,
    "c = 0": with_settings(exploration=0.0),
    "c = 0.5": with_settings(exploration=0.5),
    "c = 2": with_settings(exploration=2.0),
    "threshold at half of the tokens": with_settings(threshold_quantile=0.5),
    "threshold 0": with_settings(threshold_quantile=0.0),
    "random documents": unscored(random_tokens),
    "cluster-uniform": unscored(cluster_uniform),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--clusters", type=int, default=60)
    parser.add_argument("--scored", type=float, default=0.2, help="part of the documents that may be scored")
    parser.add_argument("--share", type=float, default=0.1, help="budget, part of the tokens")
    parser.add_argument("--pull", type=int, default=8, help="documents a pull")
    asked = parser.parse_args()
    common = {"share": asked.share, "scored": asked.scored, "docs_per_pull": asked.pull}
    for shape in get_args(Shape):
        if shape == "tiny":  # a few hundred documents in all: nothing to tell apart
            continue
        pools = [plant(shape, seed, asked.clusters) for seed in range(asked.seeds)]
        found = {
            name: np.array([pool.regret(way(pool, common, seed)) for seed, pool in enumerate(pools)])
            for name, way in WAYS.items()
        }
        print(shape)
        for name, regrets in found.items():
            lost = regrets - found["bandit"]
            half = 1.96 * lost.std(ddof=1) / np.sqrt(asked.seeds)
            print(f"  {name:32} {regrets.mean():7.4f}   {lost.mean():+.4f} ± {half:.4f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
