"""The fixed vectors that benefits are measured along: (G + d I)^-1 times the gradient of each reference's loss.

Curvature factors and reference gradients are sums over documents, so each is one `reduce` over fixed groups of them;
solving takes seconds and happens here. Groups follow from the documents alone, so every engine adds in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from quadmix import __version__
from quadmix.config import QuadConfig, RunConfig
from quadmix.config_proxy import ARITHMETIC
from quadmix.engine.base import Engine, Shared
from quadmix.hashing import fingerprint, seed_for, uniform
from quadmix.progress import Progress
from quadmix.scorers.tokens import FileTokenizer
from quadmix.stages.quad.model import ModelRef
from quadmix.stages.quad.store import Place, Store, read_places
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
from quadmix.stages.target_tokens import context_tokens, joined
from quadmix.stages.targets import TargetSet

if TYPE_CHECKING:
    from proxy_models.data import Tokens
    from proxy_models.influence import Bases, Corrected, Covariances, Curvature, Gradient, Group

    ReferenceDocument = tuple[Tokens, int]

STAGE = "quad_curvature"
_GROUP_TOKENS = 16_384  # of an item of a reduce


@dataclass(frozen=True)
class Vectors:
    """Finished: one vector a reference, by its target's name. damping: of each layer, as it was added."""

    files: tuple[tuple[str, str], ...]
    damping: dict[str, float]
    digest: str


def quad_vectors(
    config: RunConfig,
    engine: Engine,
    progress: Progress,
    tokenizer: FileTokenizer,
    store: Store,
    model: ModelRef,
    targets: Sequence[TargetSet],
) -> Vectors:
    """Compute the vectors, or reuse them."""
    root, asked = Path(config.output), config.quad
    names = asked.references or tuple(target.name for target in targets)
    parts = {
        "version": __version__,
        "arithmetic": str(ARITHMETIC),
        "store": store.digest,
        "model": model.digest,
        "targets": fingerprint(*(target.digest for target in targets if target.name in names)),
        "config.quad": asked.model_dump_json(
            include={
                "references", "reference_tokens", "layers", "curvature", "damping", "factor_docs", "max_tokens"
            }
        ),
        "seed": str(config.seed),
    }  # fmt: skip
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        directory = begin(root, STAGE, parts)
        record = _made(
            config, engine, progress, tokenizer, store, model, [t for t in targets if t.name in names], directory, parts
        )
        commit(root, record)
    folder = stage_directory(root, STAGE, record.fingerprint)
    damping: dict[str, float] = record.summary["damping"]
    for layer, value in damping.items():
        progress.say(f"quad: {layer}: damping {value:.3g} ({asked.damping:g} of the layer's mean curvature)")
    files = tuple((name, str(folder / file)) for name, file in record.summary["files"].items())
    return Vectors(files, damping, record_digest(record))


def _made(
    config: RunConfig,
    engine: Engine,
    progress: Progress,
    tokenizer: FileTokenizer,
    store: Store,
    model: ModelRef,
    targets: Sequence[TargetSet],
    directory: Path,
    parts: dict[str, str],
) -> StageRecord:
    asked = config.quad
    found = _curvature(config, engine, progress, store, model)
    gradients = {}
    for target in targets:
        groups = reference_groups(target, tokenizer, asked, config.seed)
        task = ReferenceGradient(model, asked.layers, asked.max_tokens)
        gradients[target.name] = engine.reduce(task, groups, _merge_gradients, label=f"quad: reference {target.name}")
    solved = {name: found.solve(gradient) for name, gradient in gradients.items()}
    files = {name: f"vector-{place:03d}.safetensors" for place, name in enumerate(solved)}
    for name, vector in solved.items():
        vector.save(directory / files[name])
    summary = {
        "files": files,
        "damping": dict(found.damping),
        "references": {name: gradient.n_tokens for name, gradient in gradients.items()},
    }
    entries = tuple(file_entry(directory, name, 0) for name in files.values())
    return StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, entries, summary)


def _curvature(config: RunConfig, engine: Engine, progress: Progress, store: Store, model: ModelRef) -> Curvature:
    from proxy_models.influence import Bases, Layers, curvature, eigenbases

    asked = config.quad
    layers = Layers.of(model.load(), asked.layers)
    progress.say(f"quad: {layers.describe(model.load())}")
    if asked.curvature == "identity":
        return curvature("identity", layers)
    seed = seed_for(config.seed, "quad-labels")
    places = store.drawn("quad-factors", config.seed, docs=asked.factor_docs)
    if len(places) < asked.factor_docs:
        progress.say(
            f"quad: the curvature is that of {len(places):,} documents of {asked.factor_docs:,} asked "
            "(quad.factor_docs): all of the store that have two tokens or more"
        )
    groups = _groups(store, places)
    bases: Bases | None = None
    if asked.curvature != "diagonal":
        sums = FactorSums(store, model, asked.layers, asked.max_tokens, seed)
        bases = eigenbases(engine.reduce(sums, groups, _merge_covariances, label="quad: curvature, covariances"))
    corrected: Corrected | None = None
    if asked.curvature != "kfac":
        shared = engine.share(bases if bases is not None else Bases.none())
        task = CorrectedSums(store, model, asked.layers, asked.max_tokens, seed, shared)
        corrected = engine.reduce(task, groups, _merge_corrected, label="quad: curvature, eigenvalues")
    return curvature(asked.curvature, layers, bases=bases, corrected=corrected, damping=asked.damping)


def _groups(store: Store, places: Sequence[Place]) -> list[tuple[Place, ...]]:
    """Documents in their order, about as many tokens a group."""
    lengths = store.lengths()
    sizes = np.cumsum([int(lengths[bucket][row]) for bucket, row in places])
    return [
        tuple(places[index] for index in members)
        for members in np.split(np.arange(len(places)), np.flatnonzero(np.diff(sizes // _GROUP_TOKENS)) + 1)
    ]


def reference_groups(
    target: TargetSet, tokenizer: FileTokenizer, asked: QuadConfig, seed: int
) -> list[tuple[ReferenceDocument, ...]]:
    """A reference's documents, by their draws, until `reference_tokens` of them count; of the search half alone."""
    half = target.search
    texts = half.completions
    order = np.argsort(uniform(half.doc_hash, seed, "quad-reference"), kind="stable")
    groups: list[list[ReferenceDocument]] = []
    total, held = 0, _GROUP_TOKENS
    for row in order.tolist():
        (whole,) = tokenizer.encode_batch([texts[row]])
        before: list[Tokens] = [] if half.prompts is None else context_tokens(half, [row], tokenizer)
        tokens, context = joined(before[0], whole, asked.max_tokens) if before else (whole[: asked.max_tokens], 0)
        if held >= _GROUP_TOKENS:
            groups.append([])
            held = 0
        groups[-1].append((tokens, context))
        held += len(tokens)
        total += len(tokens) - context
        if total >= asked.reference_tokens:
            break
    return [tuple(group) for group in groups]


@dataclass(frozen=True)
class FactorSums:
    """Task: documents of the store -> their part of the covariances."""

    store: Store
    model: ModelRef
    layers: Group
    max_tokens: int
    seed: int
    uses_gpu: ClassVar[bool] = True

    def __call__(self, places: Sequence[Place]) -> Covariances:
        from proxy_models.influence import Layers, covariances

        model = self.model.load()
        docs, hashes = read_places(self.store, places)
        layers = Layers.of(model, self.layers)
        return covariances(model, layers, docs, hashes, self.seed, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class CorrectedSums:
    """Task: documents of the store -> their part of the eigenvalues in the bases."""

    store: Store
    model: ModelRef
    layers: Group
    max_tokens: int
    seed: int
    bases: Shared[Bases]
    uses_gpu: ClassVar[bool] = True

    def __call__(self, places: Sequence[Place]) -> Corrected:
        from proxy_models.influence import Layers, corrected

        model = self.model.load()
        docs, hashes = read_places(self.store, places)
        layers = Layers.of(model, self.layers)
        return corrected(model, layers, self.bases.get(), docs, hashes, self.seed, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class ReferenceGradient:
    """Task: documents and how many of their first tokens are context -> their part of a reference's gradient."""

    model: ModelRef
    layers: Group
    max_tokens: int
    uses_gpu: ClassVar[bool] = True

    def __call__(self, group: Sequence[ReferenceDocument]) -> Gradient:
        from proxy_models.influence import Layers, reference_gradient

        model = self.model.load()
        docs, contexts = [tokens for tokens, _ in group], [context for _, context in group]
        return reference_gradient(
            model, Layers.of(model, self.layers), docs, contexts=contexts, max_tokens=self.max_tokens
        )


def _merge_covariances(first: Covariances, second: Covariances) -> Covariances:
    return first.merge(second)


def _merge_corrected(first: Corrected, second: Corrected) -> Corrected:
    return first.merge(second)


def _merge_gradients(first: Gradient, second: Gradient) -> Gradient:
    return first.merge(second)
