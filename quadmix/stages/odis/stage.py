"""The stage `odis`: moments, components, quantiles, census, examples; what it fits becomes the plan that `select`
runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import OdisConfig, RunConfig
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError, ConfigError
from quadmix.progress import Progress
from quadmix.selectors.odis import (
    Membership,
    OdisPlan,
    Rules,
    asked_tokens,
    odis_plan,
    odis_plan_within,
    outcome_of,
    top_quantiles,
)
from quadmix.selectors.odis_outcome import Outcome
from quadmix.stages.annotate import Annotated
from quadmix.stages.odis.examples import read_ends, with_texts
from quadmix.stages.odis.fit_file import FILES, STAGE, read_maps, read_outcome, read_tokens, write_fit
from quadmix.stages.odis.passes import fit_components, fit_quantiles, take_census
from quadmix.stages.records import (
    StageRecord,
    begin,
    commit,
    file_entry,
    find,
    record_digest,
    stage_directory,
    stage_fingerprint,
)
from quadmix.stages.select import packs


@dataclass(frozen=True)
class Fitted:
    """What the stage found, ready to be made a plan. tokens: (n_domains, K) of each component in each domain."""

    outcome: Outcome
    membership: Membership
    tokens: NDArray[np.int64]
    domains: tuple[str, ...]
    digest: str
    progress: Progress

    def alone(self) -> OdisPlan:
        """The whole pool's components fill the budget."""
        plan = odis_plan(self.membership, self.outcome)
        self._say(plan.stratum_quotas)
        return plan

    def within(self, domain_quotas: Sequence[int]) -> OdisPlan:
        """They fill given tokens of each domain."""
        plan = odis_plan_within(self.membership, self.outcome, self.domains, domain_quotas, self.tokens)
        given = np.zeros(len(self.outcome.components), dtype=np.int64)
        for k in range(given.size):
            strata = plan.place[:, k]
            given[k] = sum(plan.stratum_quotas[stratum] for stratum in strata[strata >= 0])
        self._say(given.tolist())
        return plan

    def _say(self, quotas: Sequence[int]) -> None:
        for line in self.outcome.messages(quotas):
            self.progress.say(f"odis: {line}")


def rules_of(config: OdisConfig) -> Rules:
    """The config's section for its dimensions, one after the other."""
    group_of = {name: group for group, names in config.groups.items() for name in names}
    quality = config.quality_dimensions or config.dimensions
    return Rules(
        config.dimensions,
        tuple(group_of.get(name) for name in config.dimensions),
        tuple(name in quality for name in config.dimensions),
        config.components,
        config.explained_variance,
        config.shares,
        config.floor,
    )


def measure(config: RunConfig, engine: Engine, progress: Progress, annotated: Annotated) -> Fitted:
    """Fit, or reuse a fit. Raises ConfigError for dimensions that are not annotated, InputError for constant ones, and
    BudgetError where the pool holds less than the budget."""
    summary = annotated.summary
    missing = [name for name in config.odis.dimensions if name not in summary.criteria]
    if missing or not config.odis.dimensions:
        raise ConfigError(
            f"odis.dimensions: found {', '.join(missing) or 'none'}, wanted annotated scores: "
            f"{', '.join(summary.criteria)}"
        )
    if config.mixture.budget > summary.total_tokens:
        raise BudgetError(
            f"mixture.budget: asked {config.mixture.budget:,} tokens, the pool holds {summary.total_tokens:,} and ODiS "
            "takes each document once. Lower the budget"
        )
    root = Path(config.output)
    parts = {
        "version": __version__,
        "annotations": record_digest(annotated.record),
        "config.odis": config.odis.model_dump_json(),
        "budget": str(config.mixture.budget),
    }
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        record = _made(config, engine, annotated, begin(root, STAGE, parts), parts)
        commit(root, record)
    folder = stage_directory(root, STAGE, record.fingerprint)
    outcome = read_outcome(folder)
    shown = " + ".join(f"{100 * share:.1f} %" for share in outcome.explained[: len(outcome.components)])
    progress.say(f"odis: {len(outcome.components)} of {len(outcome.dimensions)} components kept, explaining {shown}")
    membership = Membership.of(outcome.projection, read_maps(folder, outcome), outcome.floor)
    return Fitted(outcome, membership, read_tokens(folder), summary.domains, record_digest(record), progress)


def _made(
    config: RunConfig, engine: Engine, annotated: Annotated, directory: Path, parts: dict[str, str]
) -> StageRecord:
    rules, summary, groups = rules_of(config.odis), annotated.summary, packs(annotated.files)
    fitted = fit_components(engine, groups, summary, rules)
    weights = rules.weights(fitted)
    asked = asked_tokens(weights, config.mixture.budget)
    maps = fit_quantiles(engine, groups, summary, rules, fitted.projection)
    membership = Membership.of(fitted.projection, maps, rules.floor)
    tops = top_quantiles(asked, summary.total_tokens)
    census, ends = take_census(engine, groups, summary, rules, membership, tops, config.odis.examples)
    outcome = outcome_of(rules, fitted, asked, weights, census)
    texts = read_ends(engine, config.pool, annotated, ends)
    write_fit(directory, outcome, maps, census.tokens, with_texts(ends, texts))
    entries = tuple(file_entry(directory, name, 0) for name in FILES)
    said = {"components": len(outcome.components), "explained": list(outcome.explained)}
    return StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, entries, said)
