"""Kinds of scorers and domain labellers: adding one is a module, a line here and a config class.

Modules are imported when a run uses them, so a run with precomputed columns needs neither scikit-learn nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from quadmix.errors import ConfigError, EnvironmentFault
from quadmix.scorers.base import DomainLabeler, Scorer
from quadmix.scorers.context import FitContext

SCORERS: dict[str, str] = {
    "columns": "quadmix.scorers.columns:ColumnScorer",
    "heuristics": "quadmix.scorers.heuristics:HeuristicScorer",
    "prose": "quadmix.scorers.prose:ProseScorer",
    "rarity": "quadmix.scorers.rarity:RarityScorer",
    "linear": "quadmix.scorers.linear:LinearScorer",
    "heads": "quadmix.scorers.heads:HeadsScorer",
    "perplexity": "quadmix.scorers.perplexity:PerplexityScorer",
    "dsir": "quadmix.scorers.dsir:DsirScorer",
    "density": "quadmix.scorers.density:DensityScorer",
    "color": "quadmix.scorers.color:ColorScorer",
    "ask_llm": "quadmix.scorers.ask_llm:AskLlmScorer",
}

DOMAINS: dict[str, str] = {
    "column": "quadmix.scorers.domains:ColumnLabeler",
    "linear": "quadmix.scorers.domains:LinearLabeler",
    "clusters": "quadmix.scorers.clusters:ClusterLabeler",
}

CLUSTERS: dict[str, str] = {
    "column": "quadmix.scorers.clusters:ColumnClusterLabeler",
    "embeddings": "quadmix.scorers.clusters:ClusterLabeler",
}


class FittedScorer(Scorer, Protocol):
    """A scorer ready to be sent to workers: a frozen dataclass that names its model files by path and digest."""

    @property
    def fingerprint(self) -> str:
        """Identity of what the scores depend on: config, version and the digests of model files."""
        ...


class FittedLabeler(DomainLabeler, Protocol):
    """A labeller ready to be sent to workers."""

    @property
    def fingerprint(self) -> str: ...


class KindConfig(Protocol):
    """The config section of one scorer or labeller, told apart by `kind`."""

    @property
    def kind(self) -> str: ...


def make_scorer(config: KindConfig, context: FitContext) -> FittedScorer:
    """The scorer that `config` describes, fitted if it learns. Raises ConfigError for an unknown kind."""
    return cast(FittedScorer, _load(SCORERS, "scorer", config.kind).from_config(config, context))


def make_labeler(config: KindConfig, context: FitContext) -> FittedLabeler:
    """The domain labeller that `config` describes, fitted if it learns. Raises ConfigError for an unknown kind."""
    return cast(FittedLabeler, _load(DOMAINS, "domain labeller", config.kind).from_config(config, context))


def make_clusters(config: KindConfig, context: FitContext) -> FittedLabeler:
    """The cluster labeller that `config` describes, fitted if it learns. Raises ConfigError for an unknown kind."""
    return cast(FittedLabeler, _load(CLUSTERS, "cluster labeller", config.kind).from_config(config, context))


def _load(table: dict[str, str], what: str, kind: str) -> Any:
    if kind not in table:
        raise ConfigError(f"unknown {what} kind {kind!r}, wanted one of {', '.join(sorted(table))}")
    module, _, name = table[kind].partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("quadmix", "proxy_models"):
            raise
        raise EnvironmentFault(
            f"{what} {kind!r} needs the package {error.name!r}, which is not installed; pip install '.[score]'"
        ) from error
