"""The report: one HTML file without outside resources, about what was decided and how sure that is.

Everything in it comes from the annotations' summary, the search's result and the published manifest; nothing is
computed anew but pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quadmix.config import RunConfig
from quadmix.core.mixture import meet_budget
from quadmix.core.sampling import sampling_value
from quadmix.core.summary import PoolSummary
from quadmix.manifest.durable import write_atomically
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.search.noise import noise_in_words
from quadmix.search.result import JOINT, Confirmed, SearchResult
from quadmix.search.stopping import worth_in_words
from quadmix.selectors.quadmix import params_by_name
from quadmix.stages import figures
from quadmix.stages.annotate import Annotated
from quadmix.stages.diversity.facts import DiversityFacts, NothingToMeasure
from quadmix.stages.diversity.sections import diversity_section
from quadmix.stages.first_fidelity import counts_in_words
from quadmix.stages.page import Page, Section, Table, render, require_report
from quadmix.stages.rule_sections import rule_sections
from quadmix.stages.selector_sections import selector_sections

_SHOWN_ABOVE = ("strata", "outcome", "odis")  # of the plan, in sections of their own


def write_report(
    config: RunConfig,
    progress: Progress,
    annotated: Annotated,
    search: SearchResult | None,
    manifest: Manifest,
    diversity: DiversityFacts | NothingToMeasure | None = None,
) -> Path:
    """Write OUT/report.html; returns its path. diversity: None where it was not measured."""
    require_report()
    chosen = selector_sections(config, manifest) + rule_sections(manifest, annotated.summary)
    chosen += [] if diversity is None else [diversity_section(diversity)]
    page = make_page(annotated.summary, annotated.record.summary, search, manifest, chosen)
    html = render(page)
    path = Path(config.output) / "report.html"
    write_atomically(path, html.encode("utf-8"))
    progress.say(f"report: {path}")
    return path


def make_page(
    summary: PoolSummary,
    annotations: dict[str, Any],
    search: SearchResult | None,
    manifest: Manifest,
    chosen: Sequence[Section] = (),
) -> Page:
    """All of the report's content. chosen: what the selector has to show of itself, and the selection's diversity."""
    sections = [_domains(summary, search, manifest)]
    sections += chosen
    shown = _shown_mixture(summary, search, manifest)
    if shown is not None:
        sections += [_curves(*shown), _weights(*shown)]
    if search is not None:
        sections += [_regression(search), _confirmation(search)]
        sections += [_constraints(search)] if search.constraints or search.kl else []
        sections += [_front(search)] if search.pareto else []
    sections += [_budget(manifest), _repeats(manifest), _quarantine(annotations, manifest)]
    winner, verdict = _verdict(search, manifest)
    return Page(
        title=f"{figures.short(manifest.realised_tokens)} tokens, selected by {_published(manifest)}",
        lead=f"Manifest {manifest.digest[:16]}, seed {manifest.seed}. Pool: {int(summary.docs.sum()):,} documents, "
        f"{summary.total_tokens:,} tokens in {len(summary.domains)} domains.",
        winner_line=winner,
        verdict=verdict,
        tiles=_tiles(search, manifest),
        sections=sections,
        provenance=json.dumps(
            {
                "config": manifest.config,
                "plan": {
                    key: value
                    for key, value in manifest.plan.items()
                    if key not in ("strata", "outcome", "odis", "fill", "members")
                },
                "inputs": [vars(entry) for entry in manifest.inputs],
                "software": manifest.software,
            },
            indent=1,
            ensure_ascii=False,
        ),
    )


def _published(manifest: Manifest) -> str:
    """The published mixture, named as the search names it."""
    criteria = manifest.plan["criteria"]
    return f"topk_{criteria[0]}" if manifest.selector == "topk" else manifest.selector


def _verdict(search: SearchResult | None, manifest: Manifest) -> tuple[str, str]:
    if search is None:
        return "", ""
    winner = search.confirmation.winner
    won = f"Winner: {winner}" if winner else "No winner"
    return f"{won}. Published here: {_published(manifest)}.", f"{search.confirmation.verdict}."


def _tiles(search: SearchResult | None, manifest: Manifest) -> list[dict[str, str]]:
    off = manifest.realised_tokens - manifest.requested_tokens
    tiles = [
        ("tokens asked", f"{manifest.requested_tokens:,}"),
        ("tokens selected", f"{manifest.realised_tokens:,} ({_signed(off)})"),
        ("documents", f"{manifest.documents:,}"),
        ("copies", f"{manifest.copies:,}"),
    ]
    if search is not None:
        joint = search.cross_validation.scores.get(JOINT)
        done = sum(trial.losses is not None and trial.kind == "theta" for trial in search.trials)
        drawn = sum(trial.kind == "theta" for trial in search.trials)
        failed = f", {drawn - done} failed" if done < drawn else ""
        tiles.append(("proxies in the swarm", f"{done} × {figures.short(search.tokens_per_trial)} tokens{failed}"))
        if joint is not None:
            tiles.append(("held-out Spearman, joint", _number(joint.spearman, 2)))
    return [{"label": label, "value": value} for label, value in tiles]


def _domains(summary: PoolSummary, search: SearchResult | None, manifest: Manifest) -> Section:
    names = list(summary.domains)
    budget = manifest.requested_tokens
    series = {"natural (pool, scaled to the budget)": [budget * t / summary.total_tokens for t in summary.tokens]}
    proposal = search.proposal.mixture.share if search is not None else None
    if proposal is not None:
        series["proposed by the search"] = [budget * proposal.get(name, 0.0) for name in names]
    series["realised in the manifest"] = [float(manifest.domains[name].realised) for name in names]
    rows = tuple(
        (
            name,
            f"{int(summary.tokens[i]):,}",
            f"{100 * float(summary.tokens[i]) / summary.total_tokens:.1f} %",
            *((f"{100 * proposal.get(name, 0.0):.1f} %",) if proposal is not None else ()),
            f"{manifest.domains[name].realised:,}",
            f"{100 * manifest.domains[name].realised / manifest.realised_tokens:.1f} %",
        )
        for i, name in enumerate(names)
    )
    proposed = ("proposed",) if proposal is not None else ()
    header = ("domain", "pool tokens", "natural", *proposed, "selected tokens", "realised")
    return Section(
        "domains",
        "Domains: before, proposed, realised",
        "",
        figures.domain_shares(names, series),
        (Table(header, rows),),
    )


def _shown_mixture(
    summary: PoolSummary, search: SearchResult | None, manifest: Manifest
) -> tuple[dict[str, Any], str] | None:
    """The mixture whose curves and weights are drawn, and what it is: the published one, else the lost proposal."""
    if manifest.plan["kind"] == "quadmix":
        return manifest.plan, "the published mixture"
    if search is None:
        return None
    rule = manifest.config["mixture"]
    theta = asdict(search.proposal.theta)
    params = params_by_name(theta, summary.domains, tuple(search.criteria))
    met = meet_budget(params, summary.tokens, manifest.requested_tokens, float(rule["max_copies"]), rule["meet_budget"])
    proposal = {key: rule[key] for key in ("meet_budget", "max_copies")}
    proposal |= {"theta": theta, "multiplier": float(met.multiplier[0])}
    proposal |= {"domains": list(summary.domains), "criteria": search.criteria}
    return proposal, "the search's proposal, which is not what was published"


def _curves(plan: dict[str, Any], of: str) -> Section:
    theta = plan["theta"]
    stretch = plan["multiplier"] if plan["meet_budget"] == "omega" else 1.0
    scale = plan["multiplier"] if plan["meet_budget"] == "scale" else 1.0
    curves = {}
    for name in plan["domains"]:
        cutoff = min(theta["cutoff"][name] * stretch, 1.0)
        # dense near the cutoff, where S jumps
        ranks = np.unique(np.concatenate([np.linspace(0.0, 1.0, 201), [cutoff, min(cutoff + 1e-9, 1.0)]]))
        shape = (theta["steepness"][name], cutoff, theta["exponent"][name], theta["floor"][name])
        values = scale * sampling_value(ranks, *(np.array([part]) for part in shape))
        curves[name] = (ranks, np.minimum(values, plan["max_copies"]), cutoff)
    text = (
        f"Of {of}: expected copies of a document by its quality rank inside its domain (eq. 3 of the paper), after the "
        f"budget's multiplier of {plan['multiplier']:.4g} on {'ω' if plan['meet_budget'] == 'omega' else 'S'}. "
        "The dashed line is the threshold ω."
    )
    return Section("curves", "Sampling curve of every domain", text, figures.sampling_curves(curves))


def _weights(plan: dict[str, Any], of: str) -> Section:
    weights = np.array([[plan["theta"]["merge_weights"][d][c] for c in plan["criteria"]] for d in plan["domains"]])
    return Section(
        "weights",
        "Merge weights",
        f"Of {of}: how much each score counts in a domain's quality (α of eq. 1); rows sum to 1.",
        figures.merge_weights(plan["domains"], plan["criteria"], weights),
    )


def _regression(search: SearchResult) -> Section:
    validation = search.cross_validation
    trials = [trial for trial in search.trials if trial.kind == "theta" and trial.losses is not None]
    panels: dict[str, tuple[Sequence[float], Sequence[float], str]] = {}
    for name in [JOINT, *search.targets]:
        pairs = [
            (trial.joint if name == JOINT else trial.losses[name], trial.predicted[name])
            for trial in trials
            if trial.predicted is not None and trial.losses is not None
        ]
        caption = f"Spearman {_number(validation.scores[name].spearman, 2)}"
        panels[name] = ([float(m) for m, _ in pairs if m is not None], [p for m, p in pairs if m is not None], caption)
    rows = tuple(
        (
            name,
            _number(validation.scores[name].spearman),
            _number(validation.permuted[name].spearman),
            _number(validation.scores[name].mae),
            _number(validation.permuted[name].mae),
            _number(validation.scores[name].r2),
            _number(validation.permuted[name].r2),
            f"{validation.coverage[name]:.0%}",
        )
        for name in panels
    )
    header = ("target", "Spearman", "permuted", "MAE, nats", "permuted", "R²", "permuted", "in 90 % interval")
    facts = Table(
        ("target", "weight", "median proxy, nats/token", "unigram entropy of the target", "evaluated tokens"),
        tuple(
            (
                name,
                f"{fact.weight:.2f}",
                "–" if fact.median_loss is None else f"{fact.median_loss:.3f}",
                f"{fact.unigram_entropy:.3f}",
                f"{fact.eval_tokens:,}",
            )
            for name, fact in search.targets.items()
        ),
    )
    low, high = validation.coverage_by_chance
    text = (
        f"{len(trials)} proxies, {validation.folds} folds: every prediction was made without its own trial. Beside it "
        f"the same with shuffled losses ({validation.permutations} times), which must predict nothing. Of "
        f"{validation.rows} losses {low:.0%} to {high:.0%} lie in their 90 % intervals by chance, where these hold "
        "what they promise."
        f"{_noise_in_words(search)}"
    )
    figure = figures.predicted_against_measured(panels)
    tables = (Table(header, rows), facts, *_failed(search))
    return Section("regression", "Predicted against measured loss", text, figure, tables)


def _failed(search: SearchResult) -> tuple[Table, ...]:
    """Proxies of the swarm without a loss: nothing was learned from them and none can be chosen."""
    rows = tuple((trial.name, trial.error or "") for trial in search.trials if trial.losses is None)
    return (Table(("failed proxy", "why"), rows),) if rows else ()


def _confirmation(search: SearchResult) -> Section:
    mixtures = search.confirmation.mixtures
    names = [JOINT, *search.targets]
    panels = {name: [_interval(mixture, name) for mixture in mixtures] for name in names}
    losses, bits = [], []
    for mixture in mixtures:
        found = [mixture.loss[name] for name in names]
        ahead = mixture.ahead.get(JOINT) if mixture is not mixtures[0] else None
        behind = "–" if ahead is None else _plus_minus(ahead.mean, ahead.half_width, signed=True)
        losses.append((mixture.name, *(_plus_minus(one.mean, one.half_width) for one in found), behind))
        values = [[v for v in mixture.bits_per_byte.get(name, []) if v is not None] for name in search.targets]
        bits.append((mixture.name, *(f"{np.mean(one):.3f}" if one else "–" for one in values)))
    tables = (
        Table(("nats per token", *names, f"behind {mixtures[0].name} (joint, paired)"), tuple(losses)),
        Table(("bits per byte", *search.targets), tuple(bits)),
    )
    barred = "".join(
        f" {m.name} cannot win: {m.loss[JOINT].n} of its {search.confirmation.seeds} proxies finished."
        for m in mixtures
        if m.loss[JOINT].n < search.confirmation.seeds
    )
    barred += "".join(f" {m.name} breaks constraints: {'; '.join(m.violates)}." for m in mixtures if m.violates)
    text = (
        "Fresh proxies at equal tokens, on the half of each target that the search never saw. Ticks are single seeds. "
        f"{search.confirmation.method}.{_joint_in_words(search)}{barred}"
    )
    return Section("confirmation", "Confirmation", text, figures.confirmation(panels), tables)


def _noise_in_words(search: SearchResult) -> str:
    """What chance does to a proxy's loss, and what more proxies would be worth."""
    sentences = [worth_in_words(search.more)]
    if search.counting is not None:
        sentences.insert(0, counts_in_words(search.counting))
    if search.noise is not None:
        sentences.insert(0, noise_in_words(search.noise, search.confirmation.seeds))
    return "".join(f" {sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _joint_in_words(search: SearchResult) -> str:
    if search.objective == "mean":
        return ""
    return (
        f" {JOINT} is the worst case: the largest excess, over targets, of the loss over that of the natural mixture's "
        "proxy of the same seed; below 0 every target is better than under it."
    )


def _constraints(search: SearchResult) -> Section:
    rows = tuple(
        (
            fact.name,
            f"{fact.value:g}",
            f"{fact.tokens:,.0f}",
            f"{100 * fact.share:.2f} %",
            "binds" if fact.binding else "–",
            "–" if fact.price is None else f"{fact.price:+.4f}".replace("-", "−"),
        )
        for fact in search.constraints
    )
    header = ("constraint", "value", "tokens", "the proposal's share", "", "price of 1 point, nats")
    text = "What the proposal had to keep, and what the constraints that bind cost."
    text += f" {search.prices}." if search.prices else ""
    if search.kl is not None and search.kl.price is not None:
        text += (
            f" Its shares are {search.kl.divergence:.3f} nats (KL) from the natural ones; without the penalty of "
            f"weight {search.kl.weight:g} the predicted objective changes by {-search.kl.price:+.4f} nats."
        ).replace("-", "−")
    return Section("constraints", "Constraints", text, "", (Table(header, rows),))


def _front(search: SearchResult) -> Section:
    names = list(search.targets)
    chosen = [search.proposal.predicted[name] for name in names]
    points = [[point.predicted[name] for name in names] for point in search.pareto]
    domains = sorted(search.domains)
    rows = tuple(
        (
            f"{place}",
            *(f"{point.predicted[name]:.3f}" for name in names),
            *(f"{100 * point.share[name]:.1f} %" for name in domains),
        )
        for place, point in enumerate(search.pareto, start=1)
    )
    text = (
        "Candidates that no other one beats on every target, by predicted loss (nats per token); the cross is the "
        "proposal. Predictions are not measurements: none of these but the proposal was confirmed. Their thetas are in "
        "the search's result."
    )
    figure = figures.pareto_front(names, points, chosen)
    return Section("pareto", "Pareto front over targets", text, figure, (Table(("point", *names, *domains), rows),))


def _interval(mixture: Confirmed, name: str) -> tuple[str, float | None, float | None, list[float]]:
    found = mixture.loss[name]
    return mixture.name, found.mean, found.half_width, [v for v in mixture.losses[name] if v is not None]


def _plus_minus(mean: float | None, half: float | None, signed: bool = False) -> str:
    if mean is None:
        return "failed"
    value = f"+{mean:.3f}" if signed and mean > 0 else _number(mean)
    return value if half is None else f"{value} ± {half:.3f}"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _signed(value: int) -> str:
    return f"{value:+,}".replace("-", "−") if value else "0"


def _budget(manifest: Manifest) -> Section:
    rows = []
    for name, share in manifest.domains.items():
        asked = "–" if share.requested is None else f"{share.requested:,}"
        off = "–" if share.requested is None else _signed(share.realised - share.requested)
        repeated = share.realised / share.available if share.available else 0.0
        rows.append(
            (name, asked, f"{share.realised:,}", off, f"{share.documents:,}", f"{share.copies:,}", f"{repeated:.3f}")
        )
    total = manifest.realised_tokens - manifest.requested_tokens
    available = sum(share.available or 0 for share in manifest.domains.values())
    everything = (
        "all", f"{manifest.requested_tokens:,}", f"{manifest.realised_tokens:,}", _signed(total),
        f"{manifest.documents:,}", f"{manifest.copies:,}", _number(manifest.realised_tokens / available),
    )  # fmt: skip
    header = ("domain", "asked", "selected", "off by", "documents", "copies", "selected / available")
    text = (
        "Whole documents only: the sum misses the budget by at most half a boundary document. What a domain misses "
        "makes the next ones choose the longer or shorter prefix."
    )
    return Section("budget", "Budget, in tokens", text, "", (Table(header, tuple(rows), everything),))


def _repeats(manifest: Manifest) -> Section:
    return Section("repeats", "Repeats", "Documents by the number of their copies.", figures.repeats(manifest.repeats))


def _quarantine(annotations: dict[str, Any], manifest: Manifest) -> Section:
    rows = [(reason, f"{found.docs:,}", f"{found.tokens:,}") for reason, found in manifest.quarantine.items()]
    left = [(rule, f"{found.docs:,}", f"{found.tokens:,}") for rule, found in manifest.exclusions.items()]
    tables = [Table(("quarantined because", "documents", "tokens"), tuple(rows))] if rows else []
    tables.append(Table(("sound, but left out because", "documents", "tokens"), tuple(left)))
    warnings = [str(line) for line in annotations.get("warnings", [])]
    return Section(
        "quarantine",
        "Quarantine and what was left out",
        " ".join(warnings),
        "",
        tuple(tables),
        "" if rows else f"No row of {annotations.get('rows', 0):,} was quarantined.",
    )
