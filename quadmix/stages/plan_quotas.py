"""What the pool that an earlier run counted cannot give: constraints, quotas of domains, thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quadmix.config import RunConfig, SelectConfig
from quadmix.core.sketch import order_key
from quadmix.core.summary import COARSE_SHIFT, PoolSummary
from quadmix.errors import ConfigError
from quadmix.selectors.baselines import uniform_plan, weights_plan
from quadmix.selectors.quad_plan import check_holdings
from quadmix.stages.annotate import SUMMARY_FILE
from quadmix.stages.constraining import constraints_of
from quadmix.stages.records import StageRecord, stage_directory
from quadmix.stages.weights_file import read_weights


def constraint_problems(config: RunConfig, done: StageRecord) -> list[str]:
    """What `mixture.constraints` cannot have of the pool that was counted: the search's own check, made early."""
    if config.search is None or config.select.mixture not in ("winner", "proposal"):
        return []
    path = stage_directory(Path(config.output), "annotate", done.fingerprint) / SUMMARY_FILE
    try:
        constraints_of(config, PoolSummary.load(str(path)))
    except ConfigError as error:
        return error.problems
    return []


def quota_problems(config: RunConfig, done: StageRecord) -> list[str]:
    """Domains that hold less than `weights`, or a uniform mixture, ask of them, and thresholds; what a theta asks is
    known once its ranks are."""
    asked = config.select
    cap = config.mixture.max_copies if asked.selector == "mixture" else 1
    summary = PoolSummary.load(str(stage_directory(Path(config.output), "annotate", done.fingerprint) / SUMMARY_FILE))
    pool, budget = (summary.domains, summary.tokens), config.mixture.budget
    try:
        if asked.weights is not None:
            weights_plan(read_weights(asked.weights)[0], *pool, budget, cap)
        elif asked.mixture == "uniform" and asked.selector != "mixture":
            plan = uniform_plan(*pool, budget, config.mixture.max_copies)
            check_holdings(summary.domains, plan.stratum_quotas, summary.tokens.tolist())
    except ConfigError as error:
        return error.problems
    return _threshold_problems(asked, summary, budget)


def _threshold_problems(asked: SelectConfig, summary: PoolSummary, budget: int) -> list[str]:
    """A threshold that surely lets too little pass: by the pool's sketch, so to one bin of scores."""
    if asked.threshold is None or asked.criterion not in summary.criteria:
        return []
    sketch = summary.sketches[summary.criteria.index(asked.criterion)]
    if asked.threshold.least_score is not None:
        least = order_key(np.array([asked.threshold.least_score], dtype=np.float32)) >> np.uint32(COARSE_SHIFT)
        first = int(np.searchsorted(sketch.bins, int(least[0])))
    else:
        assert asked.threshold.least_quantile is not None
        first = int(np.searchsorted(np.cumsum(sketch.tokens), asked.threshold.least_quantile * sketch.total_tokens))
    passing = int(sketch.tokens[first:].sum())
    if budget <= passing:
        return []
    return [
        f"select.threshold: at most {passing:,} tokens of the pool pass it, the budget is {budget:,}; lower the "
        "threshold or the budget"
    ]
