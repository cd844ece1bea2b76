"""`quadmix plan`: is the run feasible, how much work is it, and about how long. Reads a few documents, writes nothing.

Counts that an earlier run established are exact and said to be; the others are extrapolated from a sample of a few
megabytes. Times come from short measurements made here (tokenizer, proxy steps, a matrix product for the scorers'
constants) and are meant to tell minutes from hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from quadmix.config import HuggingFaceModelConfig, RunConfig
from quadmix.engine.local import usable_cores
from quadmix.errors import ConfigError
from quadmix.labels.costs import LabelCost, expected_cost
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.units import InputFile
from quadmix.scorers.tokens import load_tokenizer
from quadmix.stages.annotate_identity import stage_parts
from quadmix.stages.compare.entries import contenders
from quadmix.stages.plan_costs import annotate_seconds, diversity_seconds, quad_seconds
from quadmix.stages.plan_probe import bfloat16_advice, step_seconds
from quadmix.stages.plan_quotas import constraint_problems, quota_problems
from quadmix.stages.plan_sample import Seen, sampled
from quadmix.stages.quad.foreign_model import check_folder
from quadmix.stages.quad.store import stored_fraction
from quadmix.stages.records import StageRecord, current
from quadmix.stages.targets import load_targets

_ODIS_SECONDS = 4e-7  # per document and dimension: four passes over the annotated scores
_CANDIDATE_SECONDS, _FINALIST_SECONDS = 8e-5, 9e-3  # to screen one, to predict one from realised mixtures


@dataclass(frozen=True)
class Estimate:
    """What a run would be. exact: whether documents and tokens were counted by an earlier run or extrapolated."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    files: int
    units: int
    input_bytes: int
    documents: int
    tokens: int
    exact: bool
    budget: int
    reachable: int  # tokens of the whole pool at max_copies
    proxies: int
    proxy_tokens: int
    workers: int
    seconds: dict[str, float]
    quad: Mapping[str, int] | None = None  # documents that are tokenised for Quad, and of them scored, at most
    advice: tuple[str, ...] = field(default=())
    labels: LabelCost | None = None  # of `quadmix label`, before anything is asked; None once its file is there
    target_models: int = 0  # of a comparison
    target_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The estimate in words."""
        about = "" if self.exact else "about "
        lines = [
            f"input       {self.files:,} files, {self.input_bytes:,} bytes, {self.units:,} units",
            f"pool        {about}{self.documents:,} documents, {about}{self.tokens:,} tokens",
            f"budget      {self.budget:,} tokens of {about}{self.reachable:,} reachable at the cap on copies",
        ]
        if self.proxies:
            lines.append(f"search      {self.proxies:,} proxies, {self.proxy_tokens:,} proxy-tokens")
        if self.quad is not None:
            scored, tokenised = self.quad["scored"], self.quad["tokenised"]
            lines.append(
                f"quad        up to {scored:,} documents scored ({scored / max(self.documents, 1):.1%} of the pool), "
                f"about {tokenised:,} tokenised for it"
            )
        if self.labels is not None:
            lines.append(f"labels      {self.labels.line()}: `quadmix label` asks")
        if self.target_models:
            lines.append(f"compare     {self.target_models:,} target models, {self.target_tokens:,} tokens for them")
        for stage, seconds in self.seconds.items():
            lines.append(f"{stage:<11} about {_duration(seconds)} on {self.workers} workers")
        lines.append(f"in all      about {_duration(sum(self.seconds.values()))}")
        lines += [f"note        {text}" for text in (*self.warnings, *self.advice)]
        lines += [f"problem     {text}" for text in self.problems]
        lines.append("feasible: yes" if not self.problems else "feasible: no")
        return lines


def make_estimate(config: RunConfig) -> Estimate:
    """Estimate a checked configuration: of `quadmix compare` where it has a comparison, else of `quadmix run`. Bad
    inputs become problems of the estimate, not errors."""
    return _estimate(config) if config.compare is None else _comparison(config)


def _comparison(config: RunConfig) -> Estimate:
    """The estimates of all entries as one: what they share counts once, target models on top."""
    assert config.compare is not None
    entries = contenders(config)
    seen = sampled(config, plan_units(find_inputs(config.pool).files, config.pool.unit_bytes))
    shared = {"output": config.output}  # where an earlier run annotated
    alone = [(one, _estimate(one.config.model_copy(update=shared), seen)) for one in entries]
    searched = next((found for one, found in alone if found.proxies), None)
    seconds = dict(searched.seconds if searched is not None else alone[0][1].seconds)
    problems = list(dict.fromkeys(
        f"compare.entries.{one.index} ({one.name!r}): {text}" for one, found in alone for text in found.problems
    ))  # fmt: skip
    for name in ("quad", "odis", "select"):
        times = [
            found.seconds[name] * (1 if name != "select" or one.trains else config.compare.seeds)
            for one, found in alone
            if name in found.seconds
        ]
        if times:
            seconds[name] = sum(times)
    models = len(entries) * config.compare.seeds
    tokens = models * (config.compare.train_tokens or config.mixture.budget)
    first = searched or alone[0][1]
    if not problems:
        seconds["compare"] = tokens * step_seconds(config, config.compare.model) / first.workers
    reachable = min(found.reachable for _, found in alone)
    return replace(
        first,
        problems=tuple(problems),
        reachable=reachable,
        seconds=seconds,
        target_models=models,
        target_tokens=tokens,
    )


def _estimate(config: RunConfig, seen: Seen | None = None) -> Estimate:
    """Of one run: its annotation, search and selection. seen: the pool as an estimate before this one found it."""
    problems: list[str] = []
    inventory = find_inputs(config.pool)
    problems += [refusal.line() for refusal in inventory.refused if not config.pool.skip_bad_files]
    units = plan_units(inventory.files, config.pool.unit_bytes)
    workers = _workers(config)
    seen = seen or sampled(config, units)
    done = _annotated(config, inventory.files)
    documents, tokens = seen.documents, seen.tokens
    if done is not None:
        documents, tokens = int(done.summary["ok_docs"]), int(done.summary["ok_tokens"])
    quad = "quad" in config.select.selectors
    # selectors give each document once
    cap = config.mixture.max_copies if config.select.selector == "mixture" else 1
    if config.mixture.budget > tokens * cap:
        problems.append(
            f"mixture.budget: asked {config.mixture.budget:,} tokens, the pool holds "
            f"{'' if done else 'about '}{tokens:,}, {tokens * cap:,} with every document at {cap} copies"
        )
    elif done is not None:
        problems += constraint_problems(config, done) + quota_problems(config, done)
    labels = _label_cost(config, seen)
    if labels is not None and labels.problem is not None:
        problems.append(labels.problem)
    advice = list(_advice(config))
    seconds, proxies, proxy_tokens = {"annotate": annotate_seconds(config, seen) / workers}, 0, 0
    search = config.search
    if search is not None and config.select.mixture in ("winner", "proposal"):
        rivals = len(search.confirm.rivals) + 1
        swarm = search.trials + 2 + len(config.mixture.criteria)  # the baselines run beside the thetas
        swarm += search.noise.seeds * search.noise.mixtures
        proxies = swarm + rivals * search.confirm.seeds
        proxy_tokens = proxies * search.tokens_per_trial
        if not problems:
            judged = search.candidates * _CANDIDATE_SECONDS + search.finalists * _FINALIST_SECONDS
            each = step_seconds(config, search.proxy)
            seconds["search"] = (proxy_tokens * each + judged) / workers
            advice += bfloat16_advice(config, each)
    work = None
    if quad:
        fraction = stored_fraction(config.quad, documents, tokens)
        work = {"scored": int(documents * config.quad.max_scored), "tokenised": round(documents * fraction)}
        advice += _foreign_model(config, problems)
        if not problems:
            seconds["quad"] = quad_seconds(config, seen, documents, fraction, workers)
    if "odis" in config.select.selectors:
        seconds["odis"] = documents * _ODIS_SECONDS * len(config.odis.dimensions) / workers + 1.0
    passes = 1.0 + 0.5 * len(config.select.union)  # a union is cut member by member
    seconds["select"] = documents * 4e-6 * passes / workers + 1.0
    if config.diversity is not None:
        seconds["diversity"] = diversity_seconds(config.diversity, seen, documents, workers)
    return Estimate(
        tuple(problems), inventory.warnings, len(inventory.files), len(units),
        sum(file.size for file in inventory.files), documents, tokens, done is not None, config.mixture.budget,
        tokens * cap, proxies, proxy_tokens, workers, seconds, work, tuple(advice), labels,
    )  # fmt: skip


def _annotated(config: RunConfig, files: Sequence[InputFile]) -> StageRecord | None:
    """The annotations of exactly these inputs under this config, if an earlier run finished them."""
    done = current(Path(config.output), "annotate")
    if done is None:
        return None
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    return done if done.parts == stage_parts(config, files, tokenizer, load_targets(config)) else None


def _label_cost(config: RunConfig, seen: Seen) -> LabelCost | None:
    if config.labels is None or config.tokenizer is None or Path(config.labels.file).exists():
        return None
    return expected_cost(config.labels, load_tokenizer(config.tokenizer), seen.lengths, seen.documents)


def _foreign_model(config: RunConfig, problems: list[str]) -> tuple[str, ...]:
    """What is to say of a Hugging Face model; one that contradicts the run becomes a problem."""
    chosen = config.quad.model
    if not isinstance(chosen, HuggingFaceModelConfig) or config.tokenizer is None:
        return ()
    try:
        doubts = check_folder(chosen.path, load_tokenizer(config.tokenizer), config.quad.max_tokens)
    except ConfigError as error:
        problems += error.problems
        return ()
    return (*doubts, f"quad's time is that of the default proxy: how fast the model in {chosen.path} is, is not known")


def _workers(config: RunConfig) -> int:
    if config.engine.kind == "local":
        return config.engine.workers or usable_cores()
    return 1


def _advice(config: RunConfig) -> tuple[str, ...]:
    if config.engine.kind == "local":
        return ()
    from quadmix.engine.spark import memory_advice

    return (
        "times are for one core: divide by the cluster's cores; memory is for one core of an executor",
        memory_advice(1, config.pool.unit_bytes),
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
