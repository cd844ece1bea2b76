"""From a rule's settings to its plan: what it needs to know of the pool, in the summary or by a pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadmix.config_rules import DensityConfig, GumbelConfig, RuleSettings, ThresholdConfig
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import score_classes
from quadmix.core.score_depth import ScoreDepth
from quadmix.core.sketch import TokenHistogram, key_score, order_key
from quadmix.core.summary import COARSE_SHIFT, PoolSummary
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError, InputError
from quadmix.selectors.base import SelectionPlan
from quadmix.selectors.cluster_quality import cluster_quality_plan, cluster_quality_plan_within
from quadmix.selectors.rules import (
    CriteriaMix,
    Density,
    Gumbel,
    InDrawOrder,
    Rule,
    Threshold,
    TopK,
    rule_plan,
    rule_plan_within,
)
from quadmix.stages.fitting import give_back, score_histograms
from quadmix.stages.quad.cluster_table import ClusterTable, cluster_table
from quadmix.stages.rows import RowReader


@dataclass(frozen=True)
class RuleFit:
    """A rule that is fitted when its plan is made. packs: annotation files, a task each."""

    selector: str
    settings: RuleSettings
    budget: int
    engine: Engine
    packs: Sequence[Sequence[str]]
    summary: PoolSummary

    @property
    def digest(self) -> str:
        """The settings: what is fitted follows from them and the annotations."""
        return self.settings.model_dump_json(include={"criterion", self.selector}, exclude_none=True)

    def alone(self) -> SelectionPlan:
        """The whole pool fills the budget."""
        if self.selector == "cluster_quality":
            table = self._clusters()
            return cluster_quality_plan(self._quality(), table.names, table.cluster_tokens, self.budget)
        rule = self._rule()
        return rule_plan(rule, self.budget, int(self._held(rule).sum()))

    def within(self, domain_quotas: Sequence[int]) -> SelectionPlan:
        """Each domain fills its quota."""
        domains = self.summary.domains
        if self.selector == "cluster_quality":
            table = self._clusters()
            tokens = table.tokens_by_domain()
            return cluster_quality_plan_within(self._quality(), table.names, domains, domain_quotas, tokens)
        rule = self._rule()
        return rule_plan_within(rule, domains, domain_quotas, self._held(rule))

    def _rule(self) -> Rule:
        self._check_names()
        return _MAKERS[self.selector](self)

    def _check_names(self) -> None:
        names = self.settings.scores_of(self.selector)
        missing = [name for name in names if name not in self.summary.criteria]
        if missing:
            raise ConfigError(
                f"select: {', '.join(missing)} not among the annotated scores ({', '.join(self.summary.criteria)})"
            )

    @property
    def criterion(self) -> str:
        assert self.settings.criterion is not None  # checked by the config
        return self.settings.criterion

    def _held(self, rule: Rule) -> NDArray[np.int64]:
        """(n_domains,) tokens that the rule lets pass."""
        if not isinstance(rule, Threshold):
            return self.summary.tokens
        task = CountPassing(rule, RowReader(self.summary.domains, rule.criteria, hashes=False))
        return self.engine.reduce(task, self.packs, add, label="select: counting what passes")

    def _quality(self) -> Gumbel:
        self._check_names()
        asked = self.settings.cluster_quality
        return Gumbel(self.criterion, 1.0 if asked is None else asked.temperature)

    def _clusters(self) -> ClusterTable:
        return cluster_table(self.engine, [path for pack in self.packs for path in pack], self.summary.domains)

    def histograms(self, criteria: Sequence[str]) -> list[tuple[TokenHistogram, FineHistogram]]:
        """(coarse, exact) of each score."""
        return list(zip(*score_histograms(self.engine, self.packs, self.summary, criteria), strict=True))


@dataclass(frozen=True)
class CountPassing:
    """Task: annotation files -> (n_domains,) tokens of the documents that a rule lets pass."""

    rule: Threshold
    reader: RowReader

    def __call__(self, paths: Sequence[str]) -> NDArray[np.int64]:
        total = np.zeros(len(self.reader.domains), dtype=np.int64)
        for path in paths:
            for batch, _ in self.reader.batches(path):
                passes = self.rule.passes(batch)
                np.add.at(total, batch.domain[passes], batch.n_tokens[passes])
        return total


def add(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    return first + second


def score_at(quantile: float, sketch: TokenHistogram, fine: FineHistogram) -> float:
    """The score at a token-weighted quantile: the first score of the first class up to which the pool has that share
    of its tokens. What scores at least as much holds the rest of the tokens or more."""
    classes = score_classes(sketch, fine)
    upto = np.cumsum(classes.tokens)
    place = int(np.flatnonzero(upto.astype(np.float64) >= quantile * float(upto[-1]))[0])
    return float(key_score(classes.keys[place : place + 1])[0])


def _random(fit: RuleFit) -> Rule:
    return InDrawOrder()


def _topk(fit: RuleFit) -> Rule:
    return TopK(fit.criterion)


def _threshold(fit: RuleFit) -> Rule:
    asked = fit.settings.threshold
    assert isinstance(asked, ThresholdConfig)
    if asked.least_quantile is None:
        assert asked.least_score is not None
        # scores are float32: 0.7 means the nearest of these, which a score of 0.7 is
        return Threshold(fit.criterion, float(np.float32(asked.least_score)))
    ((sketch, fine),) = fit.histograms([fit.criterion])
    return Threshold(fit.criterion, score_at(asked.least_quantile, sketch, fine), asked.least_quantile)


def _gumbel(fit: RuleFit) -> Rule:
    return Gumbel(fit.criterion, (fit.settings.gumbel or GumbelConfig()).temperature)


def _criteria_mix(fit: RuleFit) -> Rule:
    asked = fit.settings.criteria_mix
    assert asked is not None
    shares = (1.0,) * len(asked.criteria) if isinstance(asked.shares, str) else asked.shares
    depths = tuple(ScoreDepth.of(sketch, fine) for sketch, fine in fit.histograms(asked.criteria))
    give_back()
    return CriteriaMix(asked.criteria, shares, depths)


def _density(fit: RuleFit) -> Rule:
    asked = fit.settings.density or DensityConfig()
    sketch = fit.summary.sketches[fit.summary.criteria.index(fit.criterion)]
    zero = int(order_key(np.zeros(1, dtype=np.float32))[0]) >> COARSE_SHIFT
    if asked.measures == "density" and sketch.bins.size and sketch.bins[0] <= zero:
        raise InputError(
            f"select.criterion: found values of {fit.criterion} that are not above 0, wanted densities. Where it is "
            "a logarithm, say so: `density: {measures: log_density}`, or minus_log_density where higher is rarer"
        )
    return Density(fit.criterion, asked.measures, asked.exponent)


_MAKERS: dict[str, Callable[[RuleFit], Rule]] = {
    "random": _random,
    "topk": _topk,
    "threshold": _threshold,
    "gumbel": _gumbel,
    "criteria_mix": _criteria_mix,
    "density": _density,
}
