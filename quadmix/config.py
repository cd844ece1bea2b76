"""The run configuration: every key that a YAML file may hold, with its type, range and meaning.

Unknown keys are errors, objects are frozen, unions are told apart by `kind`. Sizes and budgets accept plain
integers or `10B`, `500M`, `64MiB` (see `config_values`). Reading a file, with all its problems listed at
once, is `quadmix.config_reader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quadmix.config_annotate import AnnotateConfig, EmbedderConfig
from quadmix.config_labels import LabelsConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.config_rules import MemberConfig, RuleSettings
from quadmix.config_values import ByteSize, Count, Fraction, Name, Section

LEAST_TRIALS = 8  # to fit a regressor on

# ---------------------------------------------------------------------------------------------- input


class Columns(Section):
    """Where the fields of a document are; a dotted path reaches into nested objects (`meta.url`)."""

    id: str | None = "id"
    text: str = "text"
    domain: str | None = None
    tokens: str | None = None


class PoolConfig(Section):
    """The documents to choose from."""

    inputs: tuple[str, ...] = Field(min_length=1)
    recursive: bool = False
    columns: Columns = Columns()
    id_from: Literal["column", "content", "position"] = "column"
    unit_bytes: ByteSize = 128 * 2**20
    max_doc_bytes: ByteSize = 64 * 10**6
    max_id_bytes: ByteSize = 4096
    max_quarantine_fraction: Fraction = 0.001
    skip_bad_files: bool = False
    follow_symlinks: bool = False
    require_success_marker: bool = False


class TargetConfig(Section):
    """Text that the model should become good at; split in halves by document hash, for search and confirmation.

    With `prompt` and `completion`, column paths that take the place of `columns.text`, rows are pairs: the completion
    follows its prompt as it stands, the loss counts the completion alone, and pairs of one prompt stay in one half.
    """

    name: Name
    path: str
    columns: Columns = Columns()
    prompt: str | None = None
    completion: str | None = None
    max_docs: Count | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> TargetConfig:
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("`prompt` and `completion` belong together: give both columns or neither")
        return self


class TokenizerConfig(Section):
    """A Hugging Face `tokenizer.json` or tiktoken ranks; a document ends with `end_token`, which is counted."""

    path: str
    end_token: str | None = "<|endoftext|>"
    pattern: str | None = None  # tiktoken only: the pre-tokenisation pattern


# ---------------------------------------------------------------------------------------------- mixture


class ParamSpaceConfig(Section):
    """Ranges of Algorithm 1. `log` draws lambda as 10**(3u) and omega log-uniformly; `paper` as printed."""

    preset: Literal["log", "paper"] = "log"
    steepness: tuple[float, float] | None = None  # None: the range of the preset
    cutoff: tuple[float, float] | None = None
    exponent: tuple[float, float] | None = None
    floor: tuple[float, float] | None = None


class ConstraintsConfig(Section):
    """What a proposal must keep, by domain name; shares are of the budget's tokens.

    max_repeats: a domain's selected tokens over its tokens in the pool, one number for all domains or one each. kl:
    weight of KL(share || natural share), in nats, in what is minimised.
    """

    min_share: dict[str, Fraction] = {}
    max_share: dict[str, Fraction] = {}
    fixed_share: dict[str, Fraction] = {}
    max_repeats: Annotated[float, Field(gt=0.0)] | dict[str, Annotated[float, Field(gt=0.0)]] = {}
    kl: Annotated[float, Field(ge=0.0)] = 0.0

    @property
    def bounds_shares(self) -> bool:
        """Whether any domain's tokens are bounded."""
        return bool(self.min_share or self.max_share or self.fixed_share or self.max_repeats)


class MixtureConfig(Section):
    """How scores become a mixture: the criteria, the token budget and the rules that every stage shares."""

    criteria: tuple[Name, ...] = Field(min_length=1)
    budget: Count
    max_copies: Annotated[int, Field(ge=1, le=1000)] = 4
    normalise: Literal["quantile", "zscore", "minmax"] = "quantile"
    rank: Literal["interval", "paper"] = "interval"
    meet_budget: Literal["omega", "scale"] = "omega"
    space: ParamSpaceConfig = ParamSpaceConfig()
    constraints: ConstraintsConfig = ConstraintsConfig()


class Theta(Section):
    """One explicit mixture: merge weights per domain and criterion, and the sampling function of every domain."""

    merge_weights: dict[str, dict[str, Annotated[float, Field(ge=0.0)]]]
    steepness: dict[str, Annotated[float, Field(ge=0.0, le=1e6)]]
    cutoff: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]]
    exponent: dict[str, Annotated[float, Field(ge=0.0, le=16.0)]]
    floor: dict[str, Annotated[float, Field(ge=0.0, le=1000.0)]]


class RegressorConfig(Section):
    """What maps mixtures to losses. `realised` features: share, mean quality and repeats of each domain.

    `auto` averages the other kinds, with weights from a cross-validation on the training trials; `log_linear` sees the
    shares alone, so it needs `realised` features. preset: LightGBM's, also within `auto`.
    """

    kind: Literal["auto", "gaussian_process", "lightgbm", "log_linear"] = "auto"
    preset: Literal["small", "regmix"] = "small"
    features: Literal["realised", "theta"] = "realised"
    folds: Annotated[int, Field(ge=2, le=50)] = 5


class ConfirmConfig(Section):
    """Fresh proxies for the proposal and its rivals, on the half of each target that the search never saw."""

    seeds: Annotated[int, Field(ge=3, le=100)] = 4
    rivals: tuple[Literal["natural", "uniform", "topk", "best_observed", "argmin"], ...] = (
        "natural",
        "uniform",
        "topk",
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


class NoiseConfig(Section):
    """Trials that are trained again under fresh seeds, to measure a proxy's noise: the natural mixture and the first
    thetas. `seeds: 0` measures nothing."""

    mixtures: Annotated[int, Field(ge=2, le=1_000)] = 6
    seeds: Annotated[int, Field(ge=0, le=100)] = 1


class CountingConfig(Section):
    """A model of counted n-grams as a first fidelity. draws: of Algorithm 1 for each trial of the first round, of which
    the one that it likes best is trained. tokens: that a selection should leave of what is counted, so more of the
    pool is counted the less of it is selected; pool_tokens: at most."""

    draws: Annotated[int, Field(ge=1, le=100)] = 3
    tokens: Count = 750_000
    pool_tokens: Count = 16 * 10**6


class SearchConfig(Section):
    """The swarm of proxies and what is made of it."""

    trials: Annotated[int, Field(ge=LEAST_TRIALS, le=100_000)] = 56
    rounds: Annotated[int, Field(ge=1, le=1_000)] = 1  # the first by Algorithm 1, later ones where losses promise most
    # outputs of earlier runs: their trials are learned from too, where they help to predict this search's own
    warm_start: tuple[str, ...] = ()
    tokens_per_trial: Count = 200_000
    trials_per_task: Annotated[int, Field(ge=1, le=1024)] = 1
    pool_tokens: Count = 200 * 10**6  # documents tokenised for proxies: a sample by document hash of at most this size
    proxy: ProxyConfig = ProxyConfig()
    regressor: RegressorConfig = RegressorConfig()
    objective: dict[Name, Annotated[float, Field(gt=0.0)]] | None = None  # weight per target; equal when absent
    objective_rule: Literal["mean", "worst"] = "mean"  # worst: largest excess over the natural mixture's loss
    pareto_points: Annotated[int, Field(ge=2, le=1000)] = 50  # of the front over targets that are kept
    candidates: Count = 100_000
    finalists: Count = 2_000
    average_top: Annotated[int, Field(ge=1, le=10_000)] = 10
    eval_tokens: Count = 40_000  # per target and half, at most
    noise: NoiseConfig = NoiseConfig()
    counting: CountingConfig | None = CountingConfig()  # null: without
    confirm: ConfirmConfig = ConfirmConfig()


class TrainedModelConfig(Section):
    """A proxy, trained on a random sample of the pool; its rows must be as long as the documents that it scores."""

    kind: Literal["proxy"] = "proxy"
    proxy: ProxyConfig = ProxyConfig(preset="custom", d_model=64, layers=2, heads=2, d_ff=192, seq_len=128, batch=8)
    train_tokens: Count = 600_000


class HuggingFaceModelConfig(Section):
    """A saved Hugging Face causal language model with safetensors; `path` is its folder, nothing is downloaded and none
    of its code is run. Its tokenizer must be the run's."""

    kind: Literal["huggingface"]
    path: str


QuadModelConfig = Annotated[TrainedModelConfig | HuggingFaceModelConfig, Field(discriminator="kind")]


class QuadConfig(Section):
    """How Quad finds the clusters that help the targets (algorithms.md, section 3).

    references: targets whose search halves are the reference, all where none is named; reference_rule `max`: a
    document's benefit is that to the target which it helps most. reference_tokens: at most, of each target.
    factor_docs: of the pool, for the curvature. max_tokens: of a document, for training, curvature and benefits.
    max_scored: of the pool's documents. threshold_quantile: see `selectors.quad.BanditSettings`.
    """

    model: QuadModelConfig = TrainedModelConfig()
    references: tuple[Name, ...] = ()
    reference_rule: Literal["mean", "max"] = "mean"
    reference_tokens: Count = 100_000
    layers: Literal["all", "attention", "mlp"] = "all"
    curvature: Literal["ekfac", "kfac", "diagonal", "identity"] = "identity"  # as good where measured: docs/quad.md
    damping: Annotated[float, Field(gt=0.0, le=1e6)] = 0.1
    factor_docs: Count = 1_000
    max_tokens: Annotated[int, Field(ge=2, le=65_536)] = 128
    max_scored: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    docs_per_pull: Annotated[int, Field(ge=1, le=100_000)] = 16
    arms_per_round: Annotated[int, Field(ge=1, le=100_000)] = 8
    grant_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    exploration: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    threshold_quantile: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None


class OdisConfig(Section):
    """How ODiS takes scores apart (algorithms.md, section 4).

    dimensions: criteria of annotate.scorers; groups: name -> those of them that belong together, for the report;
    quality_dimensions: those whose loadings sum to more than 0 in every component, all where none is named.
    components: at most; explained_variance: share of the variance that enough components explain. shares: of the
    budget, `equal`, in proportion to `explained_variance`, or a list of weights, one a component. floor: least quantile
    in the first component of what is admitted through another one (below it a document belongs to the first); null:
    none. examples: documents shown at either end of each component.
    """

    dimensions: tuple[Name, ...] = ()
    groups: dict[str, tuple[Name, ...]] = {}
    quality_dimensions: tuple[Name, ...] = ()
    components: Annotated[int, Field(ge=1, le=9)] = 4
    explained_variance: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    shares: Literal["equal", "explained_variance"] | tuple[Annotated[float, Field(ge=0.0)], ...] = "equal"
    floor: Fraction | None = 0.3
    examples: Annotated[int, Field(ge=0, le=20)] = 3


class SelectConfig(RuleSettings):
    """What is published. `winner` is the confirmed winner of the search; a theta makes the search unnecessary.

    selector: `mixture` takes documents as the mixture says, up to `mixture.max_copies` of each; every other selector
    (docs/selectors.md) takes each document once, within the tokens that the mixture gives each domain, or, with
    `mixture: free`, from the whole pool.
    theta_file: a theta as `search tell` writes it (proposal.json), in place of `theta`.
    weights: of `mixture: weights`, the domains' shares of the budget, or a JSON file of them (as `quadmix search
    --from-trials` writes it).
    union: of `selector: union`, its members by name; in the order of their names each takes its share of what the ones
    before left.
    """

    selector: Literal[
        "mixture", "quad", "odis", "random", "topk", "threshold", "gumbel", "criteria_mix", "density",
        "cluster_quality", "union",
    ] = "mixture"  # fmt: skip
    mixture: Literal["winner", "proposal", "natural", "uniform", "topk", "theta", "weights", "free"] = "winner"
    theta: Theta | None = None
    theta_file: str | None = None
    weights: str | dict[str, Annotated[float, Field(ge=0.0)]] | None = None
    union: dict[Name, MemberConfig] = {}

    @property
    def selectors(self) -> tuple[str, ...]:
        """The selector, and those of its members if it is a union."""
        return (self.selector, *(member.selector for member in self.union.values()))

    @model_validator(mode="after")
    def _consistent(self) -> SelectConfig:
        given = (self.theta is not None) + (self.theta_file is not None)
        if given != (self.mixture == "theta"):
            raise ValueError("one of `theta` and `theta_file` must be given when, and only when, `mixture: theta`")
        if (self.weights is not None) != (self.mixture == "weights"):
            raise ValueError("`weights` must be given when, and only when, `mixture: weights`")
        if self.selector != "mixture" and self.mixture == "topk":
            text = f"`selector: {self.selector}` needs tokens for each domain or `mixture: free`; topk gives neither"
            raise ValueError(text)
        if self.selector == "mixture" and self.mixture == "free":
            raise ValueError(
                "`mixture: free` leaves everything to a selector; give one with it (`selector: topk`, say)"
            )
        if self.mixture == "topk" and self.criterion is None:
            raise ValueError("`mixture: topk` needs `criterion`, the score to rank by")
        if (self.selector == "union") != bool(self.union):
            raise ValueError("`union`, its members, must be given when, and only when, `selector: union`")
        if len(self.union) == 1:
            raise ValueError("found one member of `union`, wanted at least two")
        for selector in ("odis", "quad"):
            same = [name for name, member in self.union.items() if member.selector == selector]
            if len(same) > 1:
                raise ValueError(
                    f"`union`: found {' and '.join(same)} with selector {selector}, wanted one: both read the section "
                    f"`{selector}` of the run. Give one of them both shares"
                )
        self.check_settings(self.selector)
        return self


# ---------------------------------------------------------------------------------------------- diversity


class DiversityConfig(Section):
    """How the diversity of what was selected is measured, beside random selections of the pool.

    sample_docs: copies in each sample; repeats: samples of each selection, and random selections. embedder: that of
    `annotate.clusters` where none is given, else `lsa` fitted on random documents. beside: outputs of other runs over
    the same pool with the same budget.
    """

    sample_docs: Annotated[int, Field(ge=2, le=5_000)] = 1_000
    repeats: Annotated[int, Field(ge=3, le=100)] = 6
    embedder: EmbedderConfig | None = None
    beside: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------- comparison


class CompareEntry(Section):
    """One contestant of `quadmix compare`: `select` as a run has it; `quad` and `odis` replace single keys of the run's
    sections of that name. charge_search: its mixture came out of this run's search by another way (domain weights that
    were fitted to its trials, say), so what the search read is a cost of this entry too. charge_proxies: it came out of
    so many proxies of its own, of the search's size and tokens, which are a cost of this entry."""

    name: Name
    select: SelectConfig
    charge_search: bool = False
    charge_proxies: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    quad: QuadConfig | None = None
    odis: OdisConfig | None = None

    def sections(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The sections of the run that this entry has its own of, by key. base: the run's sections."""
        found: dict[str, Any] = {"select": self.select}
        for key in type(self).model_fields:
            own = getattr(self, key)
            if key != "select" and isinstance(own, Section):
                given = {name: getattr(own, name) for name in own.model_fields_set}
                found[key] = base[key].model_copy(update=given) if key in base else own
        return found


class CompareConfig(Section):
    """Selections of one budget from one pool, each read by target models of one kind under the same seeds.

    model: the target model, larger than the search's proxy. train_tokens: that it reads of a selection, all of it where
    none is given. against: the entry that the differences are taken to. eval_tokens: of each target's confirmation
    half, at most.
    """

    entries: tuple[CompareEntry, ...] = Field(min_length=2)
    against: Name = "random"
    model: ProxyConfig = ProxyConfig(preset="custom", d_model=128, layers=2, heads=4, d_ff=384, seq_len=128, batch=8)
    train_tokens: Count | None = None
    seeds: Annotated[int, Field(ge=3, le=100)] = 4
    eval_tokens: Count = 40_000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


# ---------------------------------------------------------------------------------------------- engines and run


class LocalEngineConfig(Section):
    """A process pool on this machine."""

    kind: Literal["local"] = "local"
    workers: Annotated[int, Field(ge=1, le=4096)] | None = None  # None: one per core


class SparkEngineConfig(Section):
    """Spark as scheduler; `master` None means the one that spark-submit gave.

    gpus_per_trial: what a task of the swarm asks of Spark, 0.25 = four proxies share a device; None = no GPUs are asked
    for (those that a task is given all the same, or sees, are used).
    """

    kind: Literal["spark"]
    master: str | None = None
    conf: dict[str, str] = {}
    gpus_per_trial: Annotated[float, Field(gt=0.0, le=1.0)] | None = None


EngineConfig = Annotated[LocalEngineConfig | SparkEngineConfig, Field(discriminator="kind")]


class RunConfig(Section):
    """A whole run: where it writes, what it reads, and one section a stage."""

    output: str
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    engine: EngineConfig = LocalEngineConfig()
    pool: PoolConfig
    targets: tuple[TargetConfig, ...] = ()
    tokenizer: TokenizerConfig | None = None
    labels: LabelsConfig | None = None
    annotate: AnnotateConfig = AnnotateConfig()
    mixture: MixtureConfig
    search: SearchConfig | None = None
    quad: QuadConfig = QuadConfig()
    odis: OdisConfig = OdisConfig()
    select: SelectConfig = SelectConfig()
    diversity: DiversityConfig | None = DiversityConfig()  # null: not measured
    compare: CompareConfig | None = None
