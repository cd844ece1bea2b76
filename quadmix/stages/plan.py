"""`quadmix plan`: is the run feasible, how much work is it, and about how long. Reads a few documents, writes nothing.

Counts that an earlier run established are exact and said to be; the others are extrapolated from a sample of a few
megabytes. Times come from short measurements made here (tokenizer, proxy steps, a matrix product for the scorers'
constants) and are meant to tell minutes from hours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config import DiversityConfig, HuggingFaceModelConfig, RunConfig, SelectConfig, TrainedModelConfig
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
from quadmix.core.sketch import order_key
from quadmix.core.summary import COARSE_SHIFT, PoolSummary
from quadmix.engine.local import usable_cores
from quadmix.errors import ConfigError, InputError
from quadmix.labels.costs import LabelCost, expected_cost
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.quarantine import Faults
from quadmix.pool.readers import read_unit
from quadmix.pool.storage import open_input
from quadmix.pool.units import InputFile, Unit
from quadmix.scorers.tokens import load_tokenizer
from quadmix.selectors.baselines import uniform_plan, weights_plan
from quadmix.selectors.quad_plan import check_holdings
from quadmix.stages.annotate import SUMMARY_FILE
from quadmix.stages.annotate_identity import stage_parts
from quadmix.stages.compare.costs import training_flops
from quadmix.stages.compare.entries import contenders
from quadmix.stages.constraining import constraints_of
from quadmix.stages.quad.foreign_model import check_folder
from quadmix.stages.quad.store import stored_fraction
from quadmix.stages.records import StageRecord, current, stage_directory
from quadmix.stages.targets import load_targets
from quadmix.stages.weights_file import read_weights

_SAMPLE_UNITS = 4
_SAMPLE_BYTES = 500_000
_HEAD_BYTES = 2**20  # stored bytes of a JSONL file in which lines are counted
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
_ODIS_SECONDS = 4e-7  # per document and dimension: four passes over the annotated scores
_READ_SECONDS = 0.1  # to decode, check, hash and write
_COMPARE_SECONDS = 0.8  # per megabyte of sampled text: hashed words, signatures, distances
_CANDIDATE_SECONDS, _FINALIST_SECONDS = 8e-5, 9e-3  # to screen one, to predict one from realised mixtures
_PROBE_STEPS = 12
_PROBE_FLOPS = 1e11  # of the probe at most, some seconds
_BFLOAT16_PAYS = 1.2  # times as fast, to be worth a word


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
    seen = _sample(config, plan_units(find_inputs(config.pool).files, config.pool.unit_bytes))
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
        seconds["compare"] = tokens * _step_seconds(config, config.compare.model) / first.workers
    reachable = min(found.reachable for _, found in alone)
    return replace(
        first,
        problems=tuple(problems),
        reachable=reachable,
        seconds=seconds,
        target_models=models,
        target_tokens=tokens,
    )


def _estimate(config: RunConfig, seen: _Seen | None = None) -> Estimate:
    """Of one run: its annotation, search and selection. seen: the pool as an estimate before this one found it."""
    problems: list[str] = []
    inventory = find_inputs(config.pool)
    problems += [refusal.line() for refusal in inventory.refused if not config.pool.skip_bad_files]
    units = plan_units(inventory.files, config.pool.unit_bytes)
    workers = _workers(config)
    seen = seen or _sample(config, units)
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
        problems += _constraint_problems(config, done) + quota_problems(config, done)
    labels = _label_cost(config, seen)
    if labels is not None and labels.problem is not None:
        problems.append(labels.problem)
    advice = list(_advice(config))
    seconds, proxies, proxy_tokens = {"annotate": _annotate_seconds(config, seen) / workers}, 0, 0
    search = config.search
    if search is not None and config.select.mixture in ("winner", "proposal"):
        rivals = len(search.confirm.rivals) + 1
        swarm = search.trials + 2 + len(config.mixture.criteria)  # the baselines run beside the thetas
        swarm += search.noise.seeds * search.noise.mixtures
        proxies = swarm + rivals * search.confirm.seeds
        proxy_tokens = proxies * search.tokens_per_trial
        if not problems:
            judged = search.candidates * _CANDIDATE_SECONDS + search.finalists * _FINALIST_SECONDS
            each = _step_seconds(config, search.proxy)
            seconds["search"] = (proxy_tokens * each + judged) / workers
            advice += _bfloat16(config, each)
    work = None
    if quad:
        fraction = stored_fraction(config.quad, documents, tokens)
        work = {"scored": int(documents * config.quad.max_scored), "tokenised": round(documents * fraction)}
        advice += _foreign_model(config, problems)
        if not problems:
            seconds["quad"] = _quad_seconds(config, seen, documents, fraction, workers)
    if "odis" in config.select.selectors:
        seconds["odis"] = documents * _ODIS_SECONDS * len(config.odis.dimensions) / workers + 1.0
    passes = 1.0 + 0.5 * len(config.select.union)  # a union is cut member by member
    seconds["select"] = documents * 4e-6 * passes / workers + 1.0
    if config.diversity is not None:
        seconds["diversity"] = _diversity_seconds(config.diversity, seen, documents, workers)
    return Estimate(
        tuple(problems), inventory.warnings, len(inventory.files), len(units),
        sum(file.size for file in inventory.files), documents, tokens, done is not None, config.mixture.budget,
        tokens * cap, proxies, proxy_tokens, workers, seconds, work, tuple(advice), labels,
    )  # fmt: skip


def _constraint_problems(config: RunConfig, done: StageRecord) -> list[str]:
    """What `mixture.constraints` cannot have of the pool that was counted: the search's own check, made early."""
    if config.search is None or config.select.mixture not in ("winner", "proposal"):
        return []
    path = stage_directory(Path(config.output), "annotate", done.fingerprint) / SUMMARY_FILE
    try:
        constraints_of(config, PoolSummary.load(str(path)))
    except ConfigError as error:
        return error.problems
    return []


def quota_problems(config: RunConfig, done: StageRecord) -> list[str]:
    """Domains that hold less than `weights`, or a uniform mixture, ask of them, and thresholds; what a theta asks is
    known once its ranks are."""
    asked = config.select
    cap = config.mixture.max_copies if asked.selector == "mixture" else 1
    summary = PoolSummary.load(str(stage_directory(Path(config.output), "annotate", done.fingerprint) / SUMMARY_FILE))
    pool, budget = (summary.domains, summary.tokens), config.mixture.budget
    try:
        if asked.weights is not None:
            weights_plan(read_weights(asked.weights)[0], *pool, budget, cap)
        elif asked.mixture == "uniform" and asked.selector != "mixture":
            plan = uniform_plan(*pool, budget, config.mixture.max_copies)
            check_holdings(summary.domains, plan.stratum_quotas, summary.tokens.tolist())
    except ConfigError as error:
        return error.problems
    return _threshold_problems(asked, summary, budget)


def _threshold_problems(asked: SelectConfig, summary: PoolSummary, budget: int) -> list[str]:
    """A threshold that surely lets too little pass: by the pool's sketch, so to one bin of scores."""
    if asked.threshold is None or asked.criterion not in summary.criteria:
        return []
    sketch = summary.sketches[summary.criteria.index(asked.criterion)]
    if asked.threshold.least_score is not None:
        least = order_key(np.array([asked.threshold.least_score], dtype=np.float32)) >> np.uint32(COARSE_SHIFT)
        first = int(np.searchsorted(sketch.bins, int(least[0])))
    else:
        assert asked.threshold.least_quantile is not None
        first = int(np.searchsorted(np.cumsum(sketch.tokens), asked.threshold.least_quantile * sketch.total_tokens))
    passing = int(sketch.tokens[first:].sum())
    if budget <= passing:
        return []
    return [
        f"select.threshold: at most {passing:,} tokens of the pool pass it, the budget is {budget:,}; lower the "
        "threshold or the budget"
    ]


def _annotated(config: RunConfig, files: Sequence[InputFile]) -> StageRecord | None:
    """The annotations of exactly these inputs under this config, if an earlier run finished them."""
    done = current(Path(config.output), "annotate")
    if done is None:
        return None
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    return done if done.parts == stage_parts(config, files, tokenizer, load_targets(config)) else None


@dataclass(frozen=True)
class _Seen:
    """The pool as extrapolated from a sample; token_seconds: of one core, per token."""

    documents: int
    tokens: int
    text_bytes: int
    token_seconds: float
    lengths: NDArray[np.int64]  # tokens of the sampled documents


def _sample(config: RunConfig, units: Sequence[Unit]) -> _Seen:
    chosen = [units[int(place)] for place in np.linspace(0, len(units) - 1, min(_SAMPLE_UNITS, len(units)))]
    texts: list[str] = []
    given: list[int] = []
    rows = 0
    for unit in chosen:
        held = 0
        for batch in read_unit(unit, config.pool, ()):
            fine = Faults.of_columns(batch["reason"], batch["detail"]).fine
            for position, sound in enumerate(fine):
                rows += 1
                if not sound:
                    continue
                texts.append(batch["text"][position].as_py())
                held += len(texts[-1])
                if config.pool.columns.tokens:
                    given.append(int(batch["tokens"][position].as_py() or 0))
                if held >= _SAMPLE_BYTES:
                    break
            if held >= _SAMPLE_BYTES:
                break
    if not texts:
        raise InputError("plan: the sampled units hold no usable document; run annotate to see why")
    size = sum(len(text.encode()) for text in texts)
    started = time.process_time()
    counts = np.array(given) if given else _count(config, texts)
    token_seconds = (time.process_time() - started) / max(int(counts.sum()), 1)
    scale = _all_rows(units, chosen) / rows
    return _Seen(
        round(len(texts) * scale), round(int(counts.sum()) * scale), round(size * scale), token_seconds, counts
    )


def _label_cost(config: RunConfig, seen: _Seen) -> LabelCost | None:
    if config.labels is None or config.tokenizer is None or Path(config.labels.file).exists():
        return None
    return expected_cost(config.labels, load_tokenizer(config.tokenizer), seen.lengths, seen.documents)


def _all_rows(units: Sequence[Unit], chosen: Sequence[Unit]) -> float:
    """Rows of all units: Parquet footers say, of JSONL the lines in the heads of the chosen units' files do."""
    pieces = [piece for unit in units for piece in unit.pieces]
    known = sum(piece.stop - piece.start for piece in pieces if piece.stop >= 0)
    uncounted = sum(piece.file.size for piece in pieces if piece.stop < 0)
    if not uncounted:
        return known
    heads = {piece.file.path: piece.file for unit in chosen for piece in unit.pieces if piece.stop < 0}
    lines, stored = np.sum([_lines(file) for file in heads.values()], axis=0) if heads else (0, 1)
    return float(known + uncounted * lines / stored)


def _lines(file: InputFile) -> tuple[int, int]:
    """(lines, stored bytes that hold them) at the beginning of a JSONL file."""
    with open_input(file.path) as raw:
        head = raw.read(_HEAD_BYTES)
    if not file.compression:
        return head.count(b"\n") + (len(head) == file.size and not head.endswith(b"\n")), len(head)
    lines = 0
    stream = pa.CompressedInputStream(pa.BufferReader(head), {"gz": "gzip", "zst": "zstd"}[file.compression])
    with suppress(OSError):  # the head may end inside a block
        while block := stream.read(2**16):
            lines += block.count(b"\n")
    return lines, len(head)


def _count(config: RunConfig, texts: list[str]) -> np.ndarray[Any, Any]:
    if config.tokenizer is None:
        return np.array([len(text.encode()) for text in texts])
    tokenizer = load_tokenizer(config.tokenizer)
    tokenizer.count(texts[:1])  # loading is not part of the speed
    return tokenizer.count(texts)


def _annotate_seconds(config: RunConfig, seen: _Seen) -> float:
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
    config: RunConfig, scorer: PerplexityScorerConfig | ColorScorerConfig | AskLlmScorerConfig, seen: _Seen
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
    return tokens * _step_seconds(config, scorer.proxy or ProxyConfig())


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


def _quad_seconds(config: RunConfig, seen: _Seen, documents: int, fraction: float, workers: int) -> float:
    """Tokenising the store, training the proxy (on one core), curvature and all documents that may be scored; what a
    Hugging Face model costs is not known here and counts as the default proxy."""
    asked = config.quad
    stored = fraction * seen.tokens * seen.token_seconds
    model = asked.model if isinstance(asked.model, TrainedModelConfig) else TrainedModelConfig()
    token = _step_seconds(config, model.proxy)  # forward and backward, as a benefit needs them
    length = min(asked.max_tokens, seen.tokens / max(seen.documents, 1))
    factored = 0 if asked.curvature == "identity" else asked.factor_docs
    passes = (2 * factored + asked.max_scored * documents) * length + 2.0 * asked.reference_tokens
    trained = model.train_tokens * token if model is asked.model else 0.0
    return trained + (stored + passes * token) / workers


def _diversity_seconds(asked: DiversityConfig, seen: _Seen, documents: int, workers: int) -> float:
    """Reading the text once; embedding and comparing the samples of the selection and of the pool, on one core."""
    megabytes = seen.text_bytes / 1e6
    sampled = megabytes * min((2 * asked.repeats + 4) * asked.sample_docs / max(documents, 1), 1.0)
    embedding = 0.0 if asked.embedder is None else _EMBED_SECONDS[asked.embedder.kind]
    return megabytes * _READ_SECONDS / workers + sampled * (_COMPARE_SECONDS + embedding)


def _bfloat16(config: RunConfig, float32_seconds: float) -> list[str]:
    """Whether the search's proxies would train faster with bfloat16 products: measured where a processor has them."""
    assert config.search is not None
    # on a cluster the executors' processors count, and a GPU's proxies are none of this processor's
    if config.search.proxy.precision != "float32" or config.engine.kind != "local" or not _has_bfloat16():
        return []
    gain = float32_seconds / _step_seconds(config, config.search.proxy.model_copy(update={"precision": "bfloat16"}))
    if gain < _BFLOAT16_PAYS:
        return []
    return [f"search.proxy.precision: bfloat16 trains such proxies {gain:.1f} times as fast on this processor"]


def _has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this processor multiplies bfloat16 (x86: avx512_bf16, amx_bf16; ARM: bf16); False where the system does
    not say, or where a GPU would train instead."""
    from proxy_models.swarm import pick_device

    with suppress(OSError):
        return pick_device(0) == "cpu" and "bf16" in Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    return False


def _step_seconds(config: RunConfig, proxy: ProxyConfig) -> float:
    """Seconds of one core per token trained, from a dozen steps on made-up tokens or, of large proxies, fewer."""
    return _probed(proxy, load_tokenizer(config.tokenizer).vocab_size if config.tokenizer else 256)


@lru_cache(maxsize=64)
def _probed(proxy: ProxyConfig, vocabulary: int) -> float:
    from proxy_models.train import train_proxy

    rows = round(_PROBE_FLOPS / (training_flops(proxy, vocabulary) * proxy.seq_len))
    rows = min(max(rows, 1), proxy.batch * _PROBE_STEPS)
    chosen = proxy.model_copy(update={"batch": min(proxy.batch, max(1, rows // _PROBE_STEPS))})
    tokens = (np.arange(rows * (proxy.seq_len + 1)) * 7919 % vocabulary).astype(np.uint32)
    once = tokens[: chosen.batch * (proxy.seq_len + 1)]
    train_proxy(chosen, vocabulary, once, init_seed=0, order_seed=0, eval_sets={})  # what torch sets up at first use
    started = time.process_time()
    train_proxy(chosen, vocabulary, tokens, init_seed=0, order_seed=0, eval_sets={})
    return (time.process_time() - started) / tokens.size


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
