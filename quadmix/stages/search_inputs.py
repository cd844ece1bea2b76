"""What a search starts from: the checked config, the tokenised pool, the score maps, the halves of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import RunConfig, SearchConfig
from quadmix.config_proxy import ARITHMETIC
from quadmix.core.normalise import save_score_maps
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint, uniform
from quadmix.progress import Progress
from quadmix.scorers.tokens import FileTokenizer, load_tokenizer
from quadmix.search.counting import LARGEST_VOCABULARY
from quadmix.search.regressors import require_regressor
from quadmix.search.result import JOINT, TargetFacts
from quadmix.stages.annotate import Annotated
from quadmix.stages.fitting import fit_score_maps
from quadmix.stages.proxy_pool import ProxyPool, Sample, load_sample, proxy_pool
from quadmix.stages.records import record_digest
from quadmix.stages.select import packs
from quadmix.stages.swarm import TrainJobs, sample_budget
from quadmix.stages.target_tokens import context_tokens
from quadmix.stages.targets import TargetSet, load_targets

if TYPE_CHECKING:
    from proxy_models.completions import HeldOut


def checked(config: RunConfig) -> tuple[SearchConfig, FileTokenizer, tuple[TargetSet, ...]]:
    """What a search needs of the config; all that is missing is said at once."""
    problems = []
    if config.search is None:
        problems.append("search: missing; wanted a section with at least `trials` and `tokens_per_trial`")
    if config.tokenizer is None:
        problems.append("tokenizer: missing; proxies need a tokenizer file")
    if not config.targets:
        problems.append("targets: empty; wanted at least one held-out set that the model should become good at")
    if any(target.name == JOINT for target in config.targets):
        problems.append(f"targets: the name {JOINT!r} is taken by the joint objective; give the target another one")
    objective = config.search.objective if config.search else None
    names = [target.name for target in config.targets]
    problems += [
        f"search.objective.{name}: no such target; wanted one of {', '.join(names)}"
        for name in sorted(objective or {})
        if name not in names
    ]
    if problems or config.search is None or config.tokenizer is None:
        raise ConfigError(problems)
    require_regressor(config.search.regressor.kind)  # a missing library is found now
    tokenizer = load_tokenizer(config.tokenizer)
    if config.search.counting is not None and tokenizer.vocab_size >= LARGEST_VOCABULARY:
        raise ConfigError(
            f"search.counting: the tokenizer has {tokenizer.vocab_size:,} entries, wanted fewer than "
            f"{LARGEST_VOCABULARY:,}; leave the counting proxy out with `counting: null`"
        )
    return config.search, tokenizer, load_targets(config)


def swarm_parts(
    config: RunConfig,
    settings: SearchConfig,
    annotated: Annotated,
    tokenizer: FileTokenizer,
    targets: Sequence[TargetSet],
) -> dict[str, str]:
    """What every proxy's losses depend on beside its own job."""
    return {
        "version": __version__,
        "arithmetic": str(ARITHMETIC),
        "annotations": record_digest(annotated.record),
        "tokenizer": tokenizer.digest,
        "targets": fingerprint(*(target.digest for target in targets)),
        # constraints act on proposals: proxies that are trained already stay what they are
        "config.mixture": config.mixture.model_dump_json(exclude={"space", "constraints"}),
        "config.search.proxy": settings.proxy.identity,
        "config.search.tokens_per_trial": str(settings.tokens_per_trial),
        "config.search.pool_tokens": str(settings.pool_tokens),
        "config.search.eval_tokens": str(settings.eval_tokens),
        "seed": str(config.seed),
    }


@dataclass(frozen=True)
class Prepared:
    """Files that the proxies read, the task that trains them, and the facts of the targets' search halves."""

    directory: Path
    pool: ProxyPool
    sample: Sample
    task: TrainJobs
    facts: dict[str, TargetFacts]


def prepare(
    config: RunConfig,
    settings: SearchConfig,
    engine: Engine,
    progress: Progress,
    annotated: Annotated,
    tokenizer: FileTokenizer,
    targets: Sequence[TargetSet],
    directory: Path,
) -> Prepared:
    pool = proxy_pool(config, engine, progress, annotated, tokenizer, settings.pool_tokens)
    maps_path = str(directory / "score-maps.npz")
    save_score_maps(maps_path, fit_score_maps(engine, packs(annotated.files), annotated.summary, config.mixture))
    eval_sets, facts = _eval_sets(config, settings, tokenizer, targets, directory)
    swarm = directory.name
    task = TrainJobs(
        directory=str(directory),
        swarm=fingerprint(swarm, pool.digest),
        pool=pool,
        score_maps=maps_path,
        eval_sets=eval_sets,
        proxy=settings.proxy,
        vocab_size=tokenizer.vocab_size,
        mixture=config.mixture,
        budget=sample_budget(config.mixture.budget, pool.tokens, annotated.summary.total_tokens),
        tokens=settings.tokens_per_trial,
    )
    return Prepared(directory, pool, load_sample(pool, maps_path), task, facts)


def _eval_sets(
    config: RunConfig, settings: SearchConfig, tokenizer: FileTokenizer, targets: Sequence[TargetSet], directory: Path
) -> tuple[tuple[tuple[str, str, str], ...], dict[str, TargetFacts]]:
    """Write both halves of each target."""
    weights = objective_weights(settings, [target.name for target in targets])
    files: list[tuple[str, str, str]] = []
    facts = {}
    for target in targets:
        for half, documents in (("search", target.search), ("confirm", target.confirm)):
            path = str(directory / f"eval-{half}-{target.name}.bin")
            held_out = write_half(documents, tokenizer, settings.eval_tokens, config.seed, path)
            files.append((half, target.name, path))
            if half == "search":
                facts[target.name] = TargetFacts(
                    weight=weights[target.name],
                    eval_tokens=held_out.n_tokens,
                    eval_bytes=held_out.n_bytes,
                    unigram_entropy=held_out.unigram_entropy(),
                    median_loss=None,
                )
    return tuple(files), facts


def write_half(half: TargetSet, tokenizer: FileTokenizer, limit: int, seed: int, path: str) -> HeldOut:
    """Write at most `limit` tokens of one half: documents in the order of their draws, so a cut-off is a sample."""
    order = np.argsort(uniform(half.doc_hash, seed, "evaluate"), kind="stable")
    held_out = _held_out(half, order, tokenizer, limit)
    held_out.save(path)
    return held_out


def _held_out(half: TargetSet, order: NDArray[np.int64], tokenizer: FileTokenizer, limit: int) -> HeldOut:
    """The texts of one half in that order, or its pairs; a document's end is the completion's last token."""
    from proxy_models.completions import CompletionSet
    from proxy_models.data import EvalSet

    counted = [half.completions[row] for row in order]
    sizes = [len(text.encode("utf-8")) for text in counted]
    if half.prompts is None:
        return EvalSet.of_documents(tokenizer.encode_batch(counted), sizes, limit)
    contexts = context_tokens(half, order.tolist(), tokenizer)
    return CompletionSet.of_pairs(contexts, tokenizer.encode_batch(counted), sizes, limit)


def objective_weights(settings: SearchConfig, targets: Sequence[str]) -> dict[str, float]:
    """Weight of each target in the joint objective, summing to 1; equal when the config names none."""
    given = settings.objective or dict.fromkeys(targets, 1.0)
    total = sum(given.values())
    return {name: given.get(name, 0.0) / total for name in targets}
