"""What is put on every document: scorers, domains, clusters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quadmix.config_heads import HeadsModelConfig, RidgeModelConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.config_values import Count, Name, Section


class ColumnScorerConfig(Section):
    """Scores that the input already holds: criterion name -> column path."""

    kind: Literal["columns"]
    columns: dict[Name, str] = Field(min_length=1)
    lower_is_better: tuple[Name, ...] = ()
    ranges: dict[Name, tuple[float, float]] = {}


class HeuristicScorerConfig(Section):
    """Rules of Gopher, C4 and FineWeb as numbers; `outputs` picks from `scorers.heuristics.SIGNALS`."""

    kind: Literal["heuristics"]
    outputs: tuple[str, ...] = ("heuristic_quality",)


class ProseScorerConfig(Section):
    """Difficulty and density of running text; `outputs` picks from `scorers.prose.OUTPUTS`."""

    kind: Literal["prose"]
    outputs: tuple[str, ...] = (
        "reading_grade",
        "clause_depth",
        "fact_density",
        "lexical_density",
        "impersonality",
    )


class RarityScorerConfig(Section):
    """How rare a document's words are, in bits, by their frequencies in a sample of the pool, or in `model`."""

    kind: Literal["rarity"]
    name: Name = "word_rarity"
    model: str | None = None
    buckets: Annotated[int, Field(ge=2**8, le=2**26)] = 2**18
    sample_docs: Count = 20_000


class LinearScorerConfig(Section):
    """A linear classifier on hashed n-grams: trained from positives (DCLM recipe), or loaded from `model`.

    `positives` are paths of documents or `target:<name>` (that target's search half only); negatives are a
    sample of the pool.
    """

    kind: Literal["linear"]
    name: Name
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()  # paths; empty means a sample of the pool
    model: str | None = None
    buckets: Annotated[int, Field(ge=2**8, le=2**26)] = 2**18
    ngrams: Annotated[int, Field(ge=1, le=5)] = 2
    sample_docs: Count = 20_000
    epochs: Annotated[int, Field(ge=1, le=100)] = 5

    @model_validator(mode="after")
    def _one_source(self) -> LinearScorerConfig:
        if bool(self.positives) == bool(self.model):
            raise ValueError("give either positives (to train) or model (a trained file), not both or neither")
        return self


class PerplexityScorerConfig(Section):
    """Minus the mean loss in nats per token under a small decoder: higher is more like its training text."""

    kind: Literal["perplexity"]
    name: Name = "fluency"
    train_on: tuple[str, ...] = ()  # paths, `target:<name>` or `pool`
    model: str | None = None
    train_tokens: Count = 400_000
    max_tokens: Annotated[int, Field(ge=16, le=8192)] = 256
    proxy: ProxyConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PerplexityScorerConfig:
        if bool(self.train_on) == bool(self.model):
            raise ValueError("give either train_on (to train) or model (a trained directory), not both or neither")
        return self


class ColumnDomainConfig(Section):
    """Domain labels from `pool.columns.domain`."""

    kind: Literal["column"] = "column"
    allowed: tuple[str, ...] | None = None
    unknown: Literal["error", "ignore", "default"] = "error"
    default: str | None = None


class LinearDomainConfig(Section):
    """Domain labels from a linear classifier trained on labelled documents (`label` is their column)."""

    kind: Literal["linear"]
    labelled: tuple[str, ...] = ()
    label: str = "domain"
    model: str | None = None
    buckets: Annotated[int, Field(ge=2**8, le=2**26)] = 2**18
    sample_docs: Count = 20_000
    epochs: Annotated[int, Field(ge=1, le=100)] = 5


class LsaEmbedderConfig(Section):
    """Hashed TF-IDF and a truncated SVD, fitted on the sample."""

    kind: Literal["lsa"] = "lsa"
    dimensions: Annotated[int, Field(ge=2, le=1024)] = 64


class PretrainedEmbedderConfig(Section):
    """A saved model2vec or sentence-transformers model; `path` is its folder, nothing is downloaded."""

    kind: Literal["model2vec", "sentence_transformers"]
    path: str


EmbedderConfig = Annotated[LsaEmbedderConfig | PretrainedEmbedderConfig, Field(discriminator="kind")]


class HeadsScorerConfig(Section):
    """Dimensions of which only some documents carry labels, learned from their text, one head each.

    labelled: files of labelled documents; labels: criterion -> column of theirs, higher is better. incomplete: what to
    do with documents that lack a label. model: `ridge` on the `embedder`, or an `encoder`, which needs none. components
    and explained_variance: as in `odis`, for the validation on held-out documents, component by component;
    least_spearman: below it the scorer is refused.
    """

    kind: Literal["heads"]
    labelled: tuple[str, ...] = Field(min_length=1)
    labels: dict[Name, str] = Field(min_length=2)
    incomplete: Literal["refuse", "leave_out"] = "refuse"
    model: HeadsModelConfig = RidgeModelConfig()
    embedder: EmbedderConfig = LsaEmbedderConfig()
    components: Annotated[int, Field(ge=1, le=9)] = 4
    explained_variance: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    least_spearman: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.5

    @model_validator(mode="after")
    def _embedder_used(self) -> HeadsScorerConfig:
        if self.model.kind == "encoder" and self.embedder != LsaEmbedderConfig():
            raise ValueError("`embedder` does nothing beside `model: {kind: encoder}`; leave it out")
        return self


class ClusterDomainConfig(Section):
    """Domain labels from k-means over embeddings of a pool sample."""

    kind: Literal["clusters"]
    k: Annotated[int, Field(ge=2, le=50_000)] = 8
    embedder: EmbedderConfig = LsaEmbedderConfig()
    sample_docs: Count = 20_000


class ColumnClustersConfig(Section):
    """Clusters that the input already holds: a column path, strings or integers."""

    kind: Literal["column"]
    column: str


class EmbeddingClustersConfig(Section):
    """K-means over embeddings of a pool sample, sizes repaired. k `auto`: about sqrt(documents / 2), at most one for
    ten documents of the sample."""

    kind: Literal["embeddings"] = "embeddings"
    k: Literal["auto"] | Annotated[int, Field(ge=2, le=200_000)] = "auto"
    embedder: EmbedderConfig = LsaEmbedderConfig()
    sample_docs: Count = 20_000


# scorers that the baselines of algorithms.md, section 5, rank or sample by


class DsirScorerConfig(Section):
    """Log importance weight of a document on hashed n-grams (DSIR, arXiv 2302.03169): its targets against the pool.

    targets: `target:<name>` (that target's search half only) or paths of documents; sample_docs: of the pool. model: a
    fitted file, which brings its own buckets and ngrams. A document of fewer words than least_words ranks last.
    """

    kind: Literal["dsir"]
    name: Name = "dsir"
    targets: tuple[str, ...] = ()
    model: str | None = None
    buckets: Annotated[int, Field(ge=2**8, le=2**26)] = 10_000
    ngrams: Annotated[int, Field(ge=1, le=5)] = 2
    least_words: Annotated[int, Field(ge=0)] = 100
    sample_docs: Count = 20_000

    @model_validator(mode="after")
    def _one_source(self) -> DsirScorerConfig:
        if bool(self.targets) == bool(self.model):
            raise ValueError("give either targets (to fit) or model (a fitted file), not both or neither")
        return self


class DensityScorerConfig(Section):
    """How sparse the pool is around a document: minus the log of its kernel density, from sketches of a pool sample.

    rows: independent sketches, the more the less noise; bits: of each, the more the narrower the kernel.
    """

    kind: Literal["density"]
    name: Name = "sparsity"
    embedder: EmbedderConfig = LsaEmbedderConfig()
    rows: Annotated[int, Field(ge=1, le=4096)] = 256
    bits: Annotated[int, Field(ge=1, le=16)] = 8
    sample_docs: Count = 20_000


class PriorAndConditional(Section):
    """A column, or a model's folder, for each of CoLoR-Filter's two models."""

    prior: str
    conditional: str


class ColorScorerConfig(Section):
    """Loss under a prior less loss under a conditional model, nats per token (CoLoR-Filter, arXiv 2406.10670).

    Either `targets`: a proxy learns train_on (paths, `target:<name>` or `pool`), and goes on to the targets' text at
    tune_rate times its learning rate; or `models`, two folders that the perplexity scorer or this one left; or
    `columns` of the input with the two losses.
    """

    kind: Literal["color"]
    name: Name = "color"
    targets: tuple[str, ...] = ()
    models: PriorAndConditional | None = None
    columns: PriorAndConditional | None = None
    train_on: tuple[str, ...] = Field(default=("pool",), min_length=1)
    train_tokens: Count = 400_000
    target_tokens: Count = 100_000
    tune_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    max_tokens: Annotated[int, Field(ge=16, le=8192)] = 256
    proxy: ProxyConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ColorScorerConfig:
        if bool(self.targets) + (self.models is not None) + (self.columns is not None) != 1:
            raise ValueError("give one of targets (to train two models), models (two folders) and columns (two losses)")
        return self


# examples, not a question: small models that rank texts at random when asked do better than that when shown
ASK_PROMPT = """Text: Chalk is a soft white rock. It formed over millions of years from the shells of sea creatures.
Readable and useful: yes

Text: aw rlt ,eh onsid tea.k ol  fhr Tiuue e
Readable and useful: no

Text: To mend a puncture, take the tube out of the tyre, find the hole under water, dry it, and glue a patch over it.
Readable and useful: yes

Text: log in | sign up | home | click here!!! | next | previous | free $$$
Readable and useful: no

Text: {text}
Readable and useful:"""


class AskLlmScorerConfig(Section):
    """What a causal language model answers when asked whether a text is worth training on (Ask-LLM, arXiv 2402.09668).

    path: folder of a Hugging Face model with safetensors and tokenizer.json; nothing is downloaded and none of its code
    is run. prompt: has `{text}` where the document goes, cut to max_tokens. yes, no: answers, of which those count that
    are one token. chat: the prompt is put as a user's message, by the tokenizer's chat template.
    """

    kind: Literal["ask_llm"]
    path: str
    name: Name = "ask_llm"
    prompt: str = ASK_PROMPT
    yes: tuple[str, ...] = Field(default=("yes", " yes", "Yes", " Yes"), min_length=1)
    no: tuple[str, ...] = Field(default=("no", " no", "No", " No"), min_length=1)
    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = 512
    chat: bool = False

    @model_validator(mode="after")
    def _text_once(self) -> AskLlmScorerConfig:
        if self.prompt.count("{text}") != 1:
            raise ValueError(f"prompt: found {{text}} {self.prompt.count('{text}')} times, wanted it once")
        return self


ScorerConfig = Annotated[
    ColumnScorerConfig
    | HeuristicScorerConfig
    | ProseScorerConfig
    | RarityScorerConfig
    | LinearScorerConfig
    | HeadsScorerConfig
    | PerplexityScorerConfig
    | DsirScorerConfig
    | DensityScorerConfig
    | ColorScorerConfig
    | AskLlmScorerConfig,
    Field(discriminator="kind"),
]
DomainConfig = Annotated[
    ColumnDomainConfig | LinearDomainConfig | ClusterDomainConfig,
    Field(discriminator="kind"),
]

ClustersConfig = Annotated[ColumnClustersConfig | EmbeddingClustersConfig, Field(discriminator="kind")]


class AnnotateConfig(Section):
    """What is put on every document. clusters: finer than domains, the arms of `select.selector: quad`."""

    scorers: tuple[ScorerConfig, ...] = ()
    domains: DomainConfig = ColumnDomainConfig()
    clusters: ClustersConfig | None = None
    leakage: Literal["refuse", "exclude"] = "refuse"
