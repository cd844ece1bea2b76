"""The select stage: a mixture becomes a plan, the plan an exact set of copies, the copies a published manifest.

Three passes over the annotations at most: score maps and quality ranks (QuaDMix only), the cut of every stratum, the
parts. The driver sees histograms, at most a few candidates a stratum, and one line a part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from quadmix import __version__
from quadmix.config import RunConfig, Theta
from quadmix.config_rules import RuleSettings
from quadmix.core.budget import Cut, Settled, whole_shares
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError, ConfigError, InputError, VerificationError
from quadmix.manifest.model import (
    Annotations,
    Artefact,
    Input,
    Manifest,
    Part,
    Share,
    Tally,
    portable_config,
    software_versions,
)
from quadmix.manifest.publish import publish
from quadmix.progress import Progress
from quadmix.schema import DOC_ID, ROW, SHARD
from quadmix.search.constraints import limits_of, violations
from quadmix.search.result import SearchResult
from quadmix.selectors.base import SelectionPlan
from quadmix.selectors.baselines import natural_plan, topk_plan, uniform_plan, weights_plan
from quadmix.selectors.quad_plan import check_holdings
from quadmix.selectors.union import UnionPlan, member_budgets, settle_union
from quadmix.stages.annotate import Annotated
from quadmix.stages.budgeting import find_cuts
from quadmix.stages.emit import EmitTask, Emitted
from quadmix.stages.fitting import fit_theta
from quadmix.stages.measured import Measured
from quadmix.stages.records import (
    FileEntry,
    StageRecord,
    begin,
    commit,
    current,
    find,
    record_digest,
    stage_fingerprint,
)
from quadmix.stages.rows import RowReader
from quadmix.stages.rule_fits import RuleFit
from quadmix.stages.theta_file import read_theta
from quadmix.stages.union_fit import UnionFit
from quadmix.stages.weights_file import read_weights

PURPOSE = "select"
_STAGES = ("quad", "odis")  # selectors that measure in a stage of their own
# annotation rows that one task of a pass reads, whole files: also about the rows a manifest part is made from
PACK_ROWS = 500_000


@dataclass(frozen=True)
class Choice:
    """Which mixture is published, and why in words."""

    kind: str  # quadmix | natural | uniform | topk | weights | free
    why: str
    theta: Theta | None = None
    criterion: str | None = None
    provenance: str | None = None  # of a theta or weights from a file; the manifest's plan says it
    weights: Mapping[str, float] | None = None  # of domains


def select(
    config: RunConfig, engine: Engine, progress: Progress, annotated: Annotated, search: SearchResult | None
) -> Manifest:
    """Select exactly `mixture.budget` tokens (to half a document) and publish the manifest.

    Raises BudgetError before any pass when the budget is out of reach; InputError when nothing is selected.
    """
    root = Path(config.output)
    choice = choose(config, search)
    progress.say(f"select: {choice.why}")
    quotas = None
    measuring = [name for name in config.select.selectors if name in _STAGES and current(root, name) is None]
    if measuring and choice.kind != "free":
        # found before the stage measures, which takes far longer
        quotas = quotas_within(config, engine, annotated, choice)
    measured = measured_by(config, engine, progress, annotated)
    parts = _identity(config, annotated, choice, measured)
    reuse = find(root, "select", parts)
    progress.say(reuse.why)
    directory = begin(root, "select", parts) if reuse.record is None else None
    record = reuse.record
    if record is None:
        assert directory is not None
        plan = plan_for(config, engine, annotated, choice, measured, quotas)
        record = run_plan(config, engine, annotated, plan, directory, parts, choice.provenance)
    if reuse.record is None:
        commit(root, record)
    folder = root / "stages" / f"select-{record.fingerprint[:16]}"
    manifest = manifest_of(config, annotated, record)
    published = publish(root, manifest, {entry.path: folder / entry.path for entry in record.files})
    off = published.realised_tokens - published.requested_tokens
    progress.say(
        f"select: {published.documents:,} documents, {published.realised_tokens:,} tokens of "
        f"{published.requested_tokens:,} asked ({off:+,}); manifest {published.digest[:16]}"
    )
    return published


def plan_for(
    config: RunConfig,
    engine: Engine,
    annotated: Annotated,
    choice: Choice,
    measured: Measured | None,
    quotas: tuple[int, ...] | None = None,
) -> SelectionPlan:
    """The plan of what was chosen. measured: of `measured_by`; quotas: of domains, where they are known already."""
    if measured is None:
        return make_plan(config, engine, packs(annotated.files), annotated, choice)
    if choice.kind == "free":
        return measured.alone()
    return measured.within(quotas or quotas_within(config, engine, annotated, choice))


def measured_by(config: RunConfig, engine: Engine, progress: Progress, annotated: Annotated) -> Measured | None:
    """The selector, None where the mixture alone decides."""
    selector = config.select.selector
    if selector == "mixture":
        return None
    if selector == "union":
        return _union(config, engine, progress, annotated)
    return _one_selector(config, selector, config.select, engine, progress, annotated)


def _one_selector(
    config: RunConfig,
    selector: str,
    settings: RuleSettings,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
) -> Measured:
    if selector == "quad":
        from quadmix.stages.quad.stage import measure

        return measure(config, engine, progress, annotated)
    if selector == "odis":
        from quadmix.stages.odis.stage import measure as fit

        return fit(config, engine, progress, annotated)
    return RuleFit(selector, settings, config.mixture.budget, engine, packs(annotated.files), annotated.summary)


def _union(config: RunConfig, engine: Engine, progress: Progress, annotated: Annotated) -> UnionFit:
    """Each member measures for the tokens that its share gives it."""
    asked, held = sorted(config.select.union.items()), annotated.summary.total_tokens
    if config.mixture.budget > held:
        raise BudgetError(
            f"mixture.budget: asked {config.mixture.budget:,} tokens, the pool holds {held:,} and a union takes each "
            "document once. Lower the budget"
        )
    budgets = member_budgets([member.share for _, member in asked], config.mixture.budget)
    members = {}
    for (name, member), budget in zip(asked, budgets.tolist(), strict=True):
        if not budget:
            raise BudgetError(
                f"select.union.{name}: its share is less than one token of {config.mixture.budget:,}; raise the share"
            )
        own = config.model_copy(update={"mixture": config.mixture.model_copy(update={"budget": budget})})
        found = _one_selector(own, member.selector, member, engine, progress, annotated)
        members[name] = (member.share, member.selector, found)
    return UnionFit(members, config.mixture.budget, config.seed, PURPOSE, annotated.summary.domains)


def choose(config: RunConfig, search: SearchResult | None) -> Choice:
    """The mixture that the config asks for; `winner` and `proposal` come from the search."""
    wanted = config.select
    if wanted.theta_file is not None:
        told = read_theta(Path(wanted.theta_file))
        return Choice("quadmix", told.provenance, theta=told.theta, provenance=told.provenance)
    if wanted.mixture == "theta":
        return Choice("quadmix", "the theta of the config", theta=wanted.theta)
    if wanted.mixture == "free":
        return Choice("free", f"{wanted.selector} alone decides, as the config says")
    if wanted.weights is not None:
        weights, source = read_weights(wanted.weights)
        return Choice("weights", f"{source}{_unbound(config)}", weights=weights, provenance=source)
    if wanted.mixture in ("natural", "uniform", "topk"):
        why = f"{wanted.mixture}, as the config says{_unbound(config)}"
        return Choice(wanted.mixture, why, criterion=wanted.criterion)
    if search is None:
        raise ConfigError(f"select.mixture: {wanted.mixture} needs a search; add a search section or name a theta")
    if wanted.mixture == "proposal":
        return Choice("quadmix", "the search's proposal, as the config says", theta=search.proposal.theta.as_config())
    winner = search.winner
    if winner is None:
        raise InputError(f"select.mixture: winner, but there is none: {search.confirmation.verdict}")
    theta = winner.theta.as_config() if winner.theta else None
    kind = "quadmix" if theta else winner.kind
    return Choice(kind, f"the confirmed winner, {winner.name}", theta=theta, criterion=winner.criterion)


def _unbound(config: RunConfig) -> str:
    return "; mixture.constraints do not bind it" if config.mixture.constraints.bounds_shares else ""


def packs(files: Sequence[str]) -> list[list[str]]:
    """Annotation files in unit order, in groups of about PACK_ROWS rows: a function of the annotations alone."""
    groups: list[list[str]] = []
    rows = PACK_ROWS
    for path in files:
        if rows >= PACK_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(path)
        rows += pq.read_metadata(path).num_rows
    return groups


def _identity(
    config: RunConfig, annotated: Annotated, choice: Choice, measured: Measured | None = None
) -> dict[str, str]:
    return {
        **({} if measured is None else {config.select.selector: measured.digest}),
        "version": __version__,
        "annotations": record_digest(annotated.record),
        "config.mixture": config.mixture.model_dump_json(exclude={"space"}),
        "seed": str(config.seed),
        "choice": json.dumps(
            {
                "kind": choice.kind,
                "criterion": choice.criterion,
                "theta": choice.theta.model_dump() if choice.theta else None,
                **({"provenance": choice.provenance} if choice.provenance else {}),
                **({"weights": dict(choice.weights)} if choice.weights else {}),
            },
            sort_keys=True,
        ),
    }


def make_plan(
    config: RunConfig,
    engine: Engine,
    groups: Sequence[Sequence[str]],
    annotated: Annotated,
    choice: Choice,
) -> SelectionPlan:
    """Fit the chosen mixture; BudgetError when it cannot meet the budget."""
    summary, mixture = annotated.summary, config.mixture
    if choice.kind == "natural":
        return natural_plan(summary.tokens, mixture.budget, mixture.max_copies)
    if choice.kind == "uniform":
        return uniform_plan(summary.domains, summary.tokens, mixture.budget, mixture.max_copies)
    if choice.kind == "weights":
        assert choice.weights is not None
        copies = mixture.max_copies if config.select.selector == "mixture" else 1
        return weights_plan(choice.weights, summary.domains, summary.tokens, mixture.budget, copies)
    if choice.kind == "topk":
        assert choice.criterion is not None  # checked by the config
        return topk_plan(choice.criterion, summary.tokens, mixture.budget)
    assert choice.theta is not None
    bounds, _ = limits_of(mixture, summary.domains, summary.tokens)
    plan = fit_theta(engine, groups, summary, mixture, choice.theta)
    share = {name: quota / mixture.budget for name, quota in zip(plan.domains, plan.domain_quotas, strict=True)}
    broken = violations(bounds, share, mixture.budget, dict.fromkeys(plan.domains, 1.0))
    if broken:
        raise BudgetError(
            f"select.mixture: {choice.why}, breaks mixture.constraints: {'; '.join(broken)}. Choose `proposal`, which "
            "keeps them, or change the constraints"
        )
    return plan


def quotas_within(config: RunConfig, engine: Engine, annotated: Annotated, choice: Choice) -> tuple[int, ...]:
    """Tokens of each domain that a selector chooses inside. Raises ConfigError where the mixture gives
    domains none, BudgetError where a domain holds less."""
    if choice.kind == "topk":
        raise ConfigError(
            f"select: `selector: {config.select.selector}` needs tokens for each domain or `mixture: free`; "
            f"{choice.why}, takes the best documents by {choice.criterion} whatever their domain. Choose `mixture: "
            "proposal`, or free"
        )
    summary = annotated.summary
    quotas = domain_quotas(config, make_plan(config, engine, packs(annotated.files), annotated, choice), annotated)
    check_holdings(summary.domains, quotas, summary.tokens.tolist())
    return quotas


def domain_quotas(config: RunConfig, plan: SelectionPlan, annotated: Annotated) -> tuple[int, ...]:
    """Tokens that a mixture gives each domain of the pool."""
    domains = annotated.summary.domains
    if plan.strata == domains:
        return tuple(plan.quotas[index] for index in range(len(domains)))
    tokens = annotated.summary.tokens.astype(np.float64)
    return tuple(int(quota) for quota in whole_shares(tokens, config.mixture.budget))


def run_plan(
    config: RunConfig,
    engine: Engine,
    annotated: Annotated,
    plan: SelectionPlan,
    directory: Path,
    parts: Mapping[str, str],
    provenance: str | None = None,
) -> StageRecord:
    """Find the cuts of a fitted plan and write its parts into `directory`; the record, not committed."""
    groups = packs(annotated.files)
    domains = annotated.summary.domains
    reader = RowReader(domains, plan.criteria, clusters=plan.clusters)

    def cut(
        one: SelectionPlan, missed: Mapping[str, int] | None = None, domain_of: Sequence[str] | None = None
    ) -> dict[int, Settled]:
        return find_cuts(
            engine, one, engine.share(one), groups, reader, seed=config.seed, purpose=PURPOSE, missed=missed,
            domain_of=domain_of,
        )  # fmt: skip

    if isinstance(plan, UnionPlan):
        plan, settled = settle_union(plan, cut)
    else:
        settled = cut(plan)
    shared = engine.share(plan)
    cuts = engine.share({stratum: outcome.cut for stratum, outcome in settled.items()})
    reader = RowReader(domains, plan.criteria, (DOC_ID, SHARD, ROW), clusters=plan.clusters)
    task = EmitTask(shared, cuts, reader, str(directory), config.seed, PURPOSE)
    results = dict(engine.map(task, list(enumerate(groups)), label="select: writing the manifest", size=_pack_size))
    emitted = [results[index] for index in range(len(groups))]
    _check_sums(settled, emitted)
    files = tuple(FileEntry(one.file, one.rows, one.bytes, one.sha256) for one in emitted if one.file)
    summary = _summary(plan, settled, emitted, domains)
    if provenance is not None:
        summary["plan"]["provenance"] = provenance
    return StageRecord("select", stage_fingerprint("select", parts), dict(parts), files, summary)


def _pack_size(item: tuple[int, Sequence[str]]) -> int:
    return len(item[1])


def _check_sums(settled: Mapping[int, Settled], emitted: Sequence[Emitted]) -> None:
    """What the cuts promised is what was written."""
    wanted = sum(outcome.taken for outcome in settled.values())
    written = sum(int(one.tokens.sum()) for one in emitted)
    if wanted != written:
        raise VerificationError(
            f"select: the cuts take {wanted:,} tokens, the parts hold {written:,}; nothing was published. "
            "The annotations changed between two passes, or this is a bug: run again, then report it"
        )
    if not written:
        raise InputError("select: the mixture selects no document; nothing was published")


def _summary(
    plan: SelectionPlan, settled: Mapping[int, Settled], emitted: Sequence[Emitted], domains: tuple[str, ...]
) -> dict[str, Any]:
    documents, copies, tokens, repeats, left_out = (
        np.sum([getattr(one, name) for one in emitted], axis=0)
        for name in ("documents", "copies", "tokens", "repeats", "left_out")
    )
    strata = {
        plan.strata[index]: {
            "quota": outcome.quota,
            "taken": outcome.taken,
            "cut_key": _finite(outcome.cut),
            "cut_hash": str(outcome.cut.hash),
        }
        for index, outcome in settled.items()
    }
    return {
        "plan": {
            **plan.describe(), "purpose": PURPOSE, "domains": list(domains),
            "part_rows": PACK_ROWS, "tokens_of_parts": [int(one.tokens.sum()) for one in emitted if one.file],
            "strata": strata,
        },
        "domains": {
            name: {"documents": int(documents[i]), "copies": int(copies[i]), "tokens": int(tokens[i])}
            for i, name in enumerate(domains)
        },
        "repeats": {str(count): int(docs) for count, docs in enumerate(repeats) if docs and count},
        "left_out": {
            "NOT_ELIGIBLE": {"docs": int(left_out[0, 0]), "tokens": int(left_out[0, 1])},
            "BEYOND_CUT": {"docs": int(left_out[1, 0]), "tokens": int(left_out[1, 1])},
        },
    }  # fmt: skip


def _finite(cut: Cut) -> float | str:
    """JSON has no infinities: `all` and `none` stand for them."""
    if np.isinf(cut.key):
        return "all" if cut.key > 0 else "none"
    return cut.key


def manifest_of(config: RunConfig, annotated: Annotated, record: StageRecord) -> Manifest:
    """The manifest of a finished selection, not published."""
    summary, pool = record.summary, annotated.summary
    plan = dict(summary["plan"])
    part_tokens = plan.pop("tokens_of_parts")
    by_domain = plan["kind"] in ("quadmix", "uniform", "weights")
    inside = plan.get("domain_quotas") or {}  # of a selector inside the quotas of domains
    domains = {
        name: Share(
            requested=plan["strata"][name]["quota"] if by_domain and name in plan["strata"] else inside.get(name),
            realised=found["tokens"],
            documents=found["documents"],
            copies=found["copies"],
            available=int(pool.tokens[pool.domains.index(name)]),
        )
        for name, found in summary["domains"].items()
    }
    realised = sum(share.realised for share in domains.values())
    documents = sum(share.documents for share in domains.values())
    copies = sum(share.copies for share in domains.values())
    whole = Share(config.mixture.budget, realised, documents, copies, pool.total_tokens)
    upstream = annotated.record.summary
    return Manifest(
        run_fingerprint=record.fingerprint,
        seed=config.seed,
        selector=plan["kind"],
        requested_tokens=config.mixture.budget,
        realised_tokens=realised,
        documents=documents,
        copies=copies,
        domains=domains,
        selectors={plan["kind"]: whole},
        repeats={int(count): docs for count, docs in summary["repeats"].items()},
        quarantine={reason: Tally(**found) for reason, found in upstream["quarantine"].items()},
        exclusions={rule: Tally(**found) for rule, found in summary["left_out"].items()},
        inputs=tuple(Input(**entry) for entry in upstream["inputs"]),
        config=portable_config(config.model_dump(mode="json")),
        software=software_versions(),
        annotations=Annotations(
            folder=f"stages/annotate-{annotated.record.fingerprint[:16]}",
            fingerprint=annotated.record.fingerprint,
            files=tuple(
                Artefact(entry.path, entry.rows, entry.bytes, entry.sha256)
                for entry in annotated.record.files
                if Path(entry.path).name in {Path(path).name for path in annotated.files}
            ),
        ),
        plan=plan,
        files=tuple(
            Part(entry.path, entry.rows, entry.bytes, entry.sha256, tokens)
            for entry, tokens in zip(record.files, part_tokens, strict=True)
        ),
    )
