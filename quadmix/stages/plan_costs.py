"""CPU seconds of one core for the work of annotation, Quad and diversity. Constants are orders of magnitude."""

from __future__ import annotations

import math
from pathlib import Path

from quadmix.config import DiversityConfig, RunConfig, TrainedModelConfig
from quadmix.config_annotate import (
    AskLlmScorerConfig,
    ClusterDomainConfig,
    ClustersConfig,
    ColorScorerConfig,
    DensityScorerConfig,
    DomainConfig,
    DsirScorerConfig,
    EmbeddingClustersConfig,
    HeadsScorerConfig,
    LinearDomainConfig,
    LinearScorerConfig,
    PerplexityScorerConfig,
    RarityScorerConfig,
)
from quadmix.config_heads import EncoderModelConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.stages.plan_probe import step_seconds
from quadmix.stages.plan_sample import Seen

# seconds of one core per megabyte of text, measured on the shipped pool at 2.5 GHz: orders of magnitude, not promises
_SCORER_SECONDS = {
    "columns": 0.0, "heuristics": 0.35, "prose": 0.15, "rarity": 0.1, "linear": 0.08, "heads": 0.06, "dsir": 0.08,
    "density": 0.08, "color": 0.0,
}  # fmt: skip
_FLOPS = 5e10  # a second, of large float32 products on one core
_CHARS_PER_TOKEN = 4.0
_LABEL_SECONDS = {"column": 0.0, "linear": 0.09, "clusters": 0.06, "embeddings": 0.06}
# per megabyte, of documents of about 2,000 characters
_EMBED_SECONDS = {"lsa": 0.0, "model2vec": 0.4, "sentence_transformers": 20.0}
_LEARNERS = (
    LinearScorerConfig, RarityScorerConfig, DsirScorerConfig, DensityScorerConfig, LinearDomainConfig,
    ClusterDomainConfig, EmbeddingClustersConfig,
)  # fmt: skip
_ENCODER_FLOPS = 3e10  # a second of one core in an encoder's products
_FIT_SECONDS = 0.2  # per megabyte of the sample that a linear model or the clusters learn from
_READ_SECONDS = 0.1  # to decode, check, hash and write
_COMPARE_SECONDS = 0.8  # per megabyte of sampled text: hashed words, signatures, distances


def annotate_seconds(config: RunConfig, seen: Seen) -> float:
    """Of one core: tokenizer as measured, scorers by their constants, perplexity by the proxy's speed."""
    megabytes = seen.text_bytes / 1e6
    labels = (config.annotate.domains, config.annotate.clusters)
    total = seen.tokens * seen.token_seconds + megabytes * _READ_SECONDS
    total += megabytes * sum(_label_seconds(section) for section in labels if section is not None)
    for learner in (*config.annotate.scorers, *labels):
        if isinstance(learner, _LEARNERS):
            total += _FIT_SECONDS * megabytes * min(learner.sample_docs / max(seen.documents, 1), 1.0)
    for scorer in config.annotate.scorers:
        if isinstance(scorer, PerplexityScorerConfig | AskLlmScorerConfig) or (
            isinstance(scorer, ColorScorerConfig) and scorer.columns is None
        ):
            total += _reading_seconds(config, scorer, seen)
        elif isinstance(scorer, HeadsScorerConfig) and scorer.model.kind == "encoder":
            total += min(seen.tokens, seen.documents * scorer.model.max_tokens) * _encoder_seconds(scorer.model)
            continue  # it has no use for the embedder
        else:
            total += megabytes * _SCORER_SECONDS[scorer.kind]
        embedder = getattr(scorer, "embedder", None)
        total += 0.0 if embedder is None else megabytes * _EMBED_SECONDS[embedder.kind]
    return total


def _reading_seconds(
    config: RunConfig, scorer: PerplexityScorerConfig | ColorScorerConfig | AskLlmScorerConfig, seen: Seen
) -> float:
    """Of one core: a language model that reads every document's beginning, and its training if it is ours."""
    read = min(seen.tokens, seen.documents * scorer.max_tokens)
    if isinstance(scorer, AskLlmScorerConfig):
        asked = read + seen.documents * len(scorer.prompt) / _CHARS_PER_TOKEN
        return 2.0 * _parameters(scorer.path) * asked / _FLOPS
    # a forward pass is about a third of a training step
    if isinstance(scorer, PerplexityScorerConfig):
        tokens = scorer.train_tokens * bool(scorer.train_on) + read / 3
    else:
        tokens = (scorer.train_tokens + scorer.target_tokens) * bool(scorer.targets) + 2 * read / 3
    return tokens * step_seconds(config, scorer.proxy or ProxyConfig())


def _parameters(folder: str) -> int:
    """Of a model in safetensors, by the headers of its files."""
    from safetensors import safe_open

    total = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(str(path), framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def _encoder_seconds(model: EncoderModelConfig) -> float:
    """Of one core, per token that an encoder scores. Its training is not in it: how many labels there are is not known
    here."""
    weights = model.layers * (4 * model.d_model**2 + 3 * model.d_model * model.d_ff)
    attended = 2 * model.layers * model.d_model * model.max_tokens
    return 2 * (weights + attended) / _ENCODER_FLOPS


def _label_seconds(section: DomainConfig | ClustersConfig) -> float:
    """Of one core, per megabyte of text."""
    embedder = getattr(section, "embedder", None)
    return _LABEL_SECONDS[section.kind] + (0.0 if embedder is None else _EMBED_SECONDS[embedder.kind])


def quad_seconds(config: RunConfig, seen: Seen, documents: int, fraction: float, workers: int) -> float:
    """Tokenising the store, training the proxy (on one core), curvature and all documents that may be scored; what a
    Hugging Face model costs is not known here and counts as the default proxy."""
    asked = config.quad
    stored = fraction * seen.tokens * seen.token_seconds
    model = asked.model if isinstance(asked.model, TrainedModelConfig) else TrainedModelConfig()
    token = step_seconds(config, model.proxy)  # forward and backward, as a benefit needs them
    length = min(asked.max_tokens, seen.tokens / max(seen.documents, 1))
    factored = 0 if asked.curvature == "identity" else asked.factor_docs
    passes = (2 * factored + asked.max_scored * documents) * length + 2.0 * asked.reference_tokens
    trained = model.train_tokens * token if model is asked.model else 0.0
    return trained + (stored + passes * token) / workers


def diversity_seconds(asked: DiversityConfig, seen: Seen, documents: int, workers: int) -> float:
    """Reading the text once; embedding and comparing the samples of the selection and of the pool, on one core."""
    megabytes = seen.text_bytes / 1e6
    sampled = megabytes * min((2 * asked.repeats + 4) * asked.sample_docs / max(documents, 1), 1.0)
    embedding = 0.0 if asked.embedder is None else _EMBED_SECONDS[asked.embedder.kind]
    return megabytes * _READ_SECONDS / workers + sampled * (_COMPARE_SECONDS + embedding)
