"""What no single key can show: names that must exist elsewhere, sections that need each other, paths that meet.

Each check takes the sections it needs and yields (path, sentence); it is skipped when one of them is already
known to be wrong. `search ask` and `search tell` train no proxies and publish nothing: what only these need is not
asked of their config.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

from quadmix.config import (
    LEAST_TRIALS,
    CompareConfig,
    EngineConfig,
    HuggingFaceModelConfig,
    LocalEngineConfig,
    MixtureConfig,
    OdisConfig,
    PoolConfig,
    QuadConfig,
    SearchConfig,
    SelectConfig,
    TargetConfig,
    TokenizerConfig,
    TrainedModelConfig,
)
from quadmix.config_annotate import (
    AnnotateConfig,
    AskLlmScorerConfig,
    ClusterDomainConfig,
    ColorScorerConfig,
    ColumnDomainConfig,
    ColumnScorerConfig,
    HeadsScorerConfig,
    HeuristicScorerConfig,
    LinearDomainConfig,
    PerplexityScorerConfig,
    PretrainedEmbedderConfig,
    ProseScorerConfig,
    ScorerConfig,
)
from quadmix.config_compare_checks import charged, contest, counted, entry_problems, measured
from quadmix.config_label_checks import heads_checks, labels_checks
from quadmix.config_labels import LabelsConfig
from quadmix.config_rules import RuleSettings
from quadmix.strict_yaml import Path

Problem = tuple[Path, str]
Targets = tuple[TargetConfig, ...]

_UNSAFE_MODELS = {".pkl", ".pickle", ".joblib", ".npy", ".pt", ".pth", ".ckpt", ".bin"}
_RUN_MARKS = ("run.lock", "stages", "CURRENT.json")
_MASTER = re.compile(r"local(\[(\*|[1-9][0-9]*)(,[1-9][0-9]*)?\])?|spark://.+|k8s://.+|yarn")


def cross_checks(sections: Mapping[str, Any], own_trainer: bool = False) -> Iterator[Problem]:
    """All problems between sections; `sections` holds those that are right in themselves, by their key.

    own_trainer: for `search ask` and `search tell`, whose losses somebody else measures.
    """
    if own_trainer:
        if "search" in sections and sections["search"] is None:
            sections = {**sections, "search": SearchConfig()}  # a search all the same
        yield from _within(sections, _NOT_OF_ONES_OWN_TRAINER)
        return
    yield from _within(sections)
    yield from entry_problems(sections, _within)


def _within(sections: Mapping[str, Any], but: Collection[Callable[..., Iterator[Problem]]] = ()) -> Iterator[Problem]:
    """Those of one run, its `select` and the sections that it needs. but: checks that are left out."""
    for needs, check in _CHECKS:
        if check not in but and all(name in sections for name in needs):
            yield from check(*(sections[name] for name in needs))


def produced_criteria(scorers: Iterable[ScorerConfig]) -> list[tuple[int, str]]:
    """(index of the scorer, criterion) of everything the configured scorers put on a document."""
    return [(index, name) for index, scorer in enumerate(scorers) for name in _outputs(scorer)]


def _outputs(scorer: ScorerConfig) -> tuple[str, ...]:
    if isinstance(scorer, ColumnScorerConfig):
        return tuple(scorer.columns)
    if isinstance(scorer, HeuristicScorerConfig | ProseScorerConfig):
        return scorer.outputs
    if isinstance(scorer, HeadsScorerConfig):
        return tuple(scorer.labels)
    return (scorer.name,)


# ---------------------------------------------------------------------------------------------- names


def _criteria(annotate: AnnotateConfig, mixture: MixtureConfig) -> Iterator[Problem]:
    produced = produced_criteria(annotate.scorers)
    names = [name for _, name in produced]
    for position, (index, name) in enumerate(produced):
        if name in names[:position]:
            yield ("annotate", "scorers", index), f"found criterion {name!r} a second time, wanted each name once"
    for index, name in enumerate(mixture.criteria):
        if name in mixture.criteria[:index]:
            yield ("mixture", "criteria", index), f"found {name!r} a second time, wanted each criterion once"
        elif name not in names:
            yield ("mixture", "criteria", index), _unknown(name, names, "a criterion of annotate.scorers")


def _target_names(targets: Targets) -> Iterator[Problem]:
    names = [target.name for target in targets]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("targets", index, "name"), f"found {name!r} a second time, wanted each name once"
        if name == "joint":
            yield ("targets", index, "name"), "found 'joint', the name of the objective over all targets; take another"


def _references(annotate: AnnotateConfig, targets: Targets) -> Iterator[Problem]:
    names = [target.name for target in targets]
    for index, scorer in enumerate(annotate.scorers):
        for key in ("positives", "negatives", "train_on", "targets"):
            for entry, reference in enumerate(getattr(scorer, key, ())):
                name = reference.removeprefix("target:")
                if name != reference and name not in names:
                    path: Path = ("annotate", "scorers", index, key, entry)
                    yield path, _unknown(name, names, "the name of a target")


def _scorer_details(annotate: AnnotateConfig) -> Iterator[Problem]:
    for index, scorer in enumerate(annotate.scorers):
        if isinstance(scorer, HeuristicScorerConfig | ProseScorerConfig):
            yield from _measured_outputs(scorer, ("annotate", "scorers", index, "outputs"))
        if not isinstance(scorer, ColumnScorerConfig):
            continue
        path: Path = ("annotate", "scorers", index)
        for entry, name in enumerate(scorer.lower_is_better):
            if name not in scorer.columns:
                yield (*path, "lower_is_better", entry), _unknown(name, scorer.columns, "a criterion of this scorer")
        for name, (low, high) in scorer.ranges.items():
            if name not in scorer.columns:
                yield (*path, "ranges", name), _unknown(name, scorer.columns, "a criterion of this scorer")
            elif not low < high:
                yield (*path, "ranges", name), f"found [{low}, {high}], wanted the smaller bound first"


def _measured_outputs(scorer: HeuristicScorerConfig | ProseScorerConfig, path: Path) -> Iterator[Problem]:
    from quadmix.scorers import heuristics, prose  # bring pyarrow, which most configs do not need to be checked

    known = heuristics.OUTPUTS if isinstance(scorer, HeuristicScorerConfig) else prose.OUTPUTS
    for entry, name in enumerate(scorer.outputs):
        if name not in known:
            yield (*path, entry), _unknown(name, known, f"a signal of the {scorer.kind} scorer")
        elif name in scorer.outputs[:entry]:
            yield (*path, entry), f"found {name!r} a second time, wanted each signal once"


def _quad(config: QuadConfig, select: SelectConfig, annotate: AnnotateConfig, targets: Targets) -> Iterator[Problem]:
    if "quad" not in select.selectors:
        return
    if annotate.clusters is None:
        text = "missing, but select.selector is quad, whose arms are clusters; wanted {kind: embeddings}, or a column"
        yield ("annotate", "clusters"), text
    if not targets:
        yield ("targets",), "missing, but select.selector is quad, which measures what helps on the targets"
    names = [target.name for target in targets]
    for place, name in enumerate(config.references):
        if name not in names:
            yield ("quad", "references", place), _unknown(name, names, "the name of a target")
    if isinstance(config.model, TrainedModelConfig) and config.model.proxy.seq_len < config.max_tokens:
        text = (
            f"found {config.model.proxy.seq_len}, wanted at least quad.max_tokens, {config.max_tokens}: a model knows"
        )
        yield (
            ("quad", "model", "proxy", "seq_len"),
            f"{text} nothing of positions beyond the rows that it was trained on",
        )


def _quad_tokens(select: SelectConfig, tokenizer: TokenizerConfig | None) -> Iterator[Problem]:
    if "quad" in select.selectors and tokenizer is None:
        yield ("tokenizer",), "missing, but select.selector is quad, whose model reads tokens"


def _quad_model(config: QuadConfig) -> Iterator[Problem]:
    if isinstance(config.model, HuggingFaceModelConfig) and not FilePath(config.model.path).is_dir():
        text = f"found {config.model.path!r}, wanted the folder of a saved model (nothing is downloaded)"
        yield ("quad", "model", "path"), text


def _odis(config: OdisConfig, select: SelectConfig, annotate: AnnotateConfig) -> Iterator[Problem]:
    if "odis" not in select.selectors:
        return
    produced = [name for _, name in produced_criteria(annotate.scorers)]
    if len(config.dimensions) < 2:
        text = f"found {len(config.dimensions)}, wanted at least two of the criteria of annotate.scorers"
        yield ("odis", "dimensions"), f"{text} ({', '.join(sorted(produced))}), since select.selector is odis"
    for place, name in enumerate(config.dimensions):
        if name in config.dimensions[:place]:
            yield ("odis", "dimensions", place), f"found {name!r} a second time, wanted each dimension once"
        elif name not in produced:
            yield ("odis", "dimensions", place), _unknown(name, produced, "a criterion of annotate.scorers")
    grouped: list[str] = []
    for group, names in config.groups.items():
        for place, name in enumerate(names):
            if name not in config.dimensions:
                yield ("odis", "groups", group, place), _unknown(name, config.dimensions, "one of odis.dimensions")
            elif name in grouped:
                yield ("odis", "groups", group, place), f"found {name!r} a second time, wanted each in one group"
            grouped.append(name)
    for place, name in enumerate(config.quality_dimensions):
        if name not in config.dimensions:
            yield ("odis", "quality_dimensions", place), _unknown(name, config.dimensions, "one of odis.dimensions")
    if not isinstance(config.shares, str) and sum(config.shares) <= 0:
        yield ("odis", "shares"), f"found {list(config.shares)}, wanted at least one weight above 0"


def _rules(select: SelectConfig, annotate: AnnotateConfig) -> Iterator[Problem]:
    """Rules go by any annotated score, a mixture by its own criteria only."""
    produced = [name for _, name in produced_criteria(annotate.scorers)]
    chosen: list[tuple[Path, str, RuleSettings]] = [(("select",), select.selector, select)]
    chosen += [(("select", "union", name), member.selector, member) for name, member in select.union.items()]
    for path, selector, settings in chosen:
        for place, name in enumerate(settings.scores_of(selector)):
            if name not in produced:
                where: Path = ("criteria_mix", "criteria", place) if selector == "criteria_mix" else ("criterion",)
                yield (*path, *where), _unknown(name, produced, "a criterion of annotate.scorers")
        if selector == "cluster_quality" and annotate.clusters is None:
            text = f"missing, but {'.'.join(map(str, path))}.selector is cluster_quality; wanted {{kind: embeddings}},"
            yield ("annotate", "clusters"), f"{text} or a column"


def _weights(select: SelectConfig) -> Iterator[Problem]:
    if isinstance(select.weights, dict) and not sum(select.weights.values()) > 0:
        yield ("select", "weights"), f"found {select.weights}, wanted at least one share above 0"
    if isinstance(select.weights, str) and not FilePath(select.weights).is_file():
        yield ("select", "weights"), f"found {select.weights!r}, wanted a JSON file of domain weights that exists"


def _selection(select: SelectConfig, mixture: MixtureConfig) -> Iterator[Problem]:
    of_mixture = select.selector == "mixture" and select.criterion is not None
    if of_mixture and select.criterion not in mixture.criteria:
        assert select.criterion is not None
        yield ("select", "criterion"), _unknown(select.criterion, mixture.criteria, "one of mixture.criteria")
    if select.theta is None:
        return
    domains = set(select.theta.merge_weights)
    for domain, weights in select.theta.merge_weights.items():
        path: Path = ("select", "theta", "merge_weights", domain)
        for name in weights:
            if name not in mixture.criteria:
                yield (*path, name), _unknown(name, mixture.criteria, "one of mixture.criteria")
        if sum(weights.values()) <= 0:
            yield path, "found merge weights that sum to 0, wanted at least one above 0"
    for key in ("steepness", "cutoff", "exponent", "floor"):
        given = set(getattr(select.theta, key))
        if given != domains:
            odd = ", ".join(sorted(given ^ domains))
            yield ("select", "theta", key), f"wanted the same domains as merge_weights; not in both: {odd}"


# ---------------------------------------------------------------------------------------------- sections


def _search_needed(
    select: SelectConfig, search: SearchConfig | None, compare: CompareConfig | None
) -> Iterator[Problem]:
    if compare is not None and not select.model_fields_set:
        return  # a comparison's entries say what is selected
    if search is None and select.mixture in ("winner", "proposal"):
        text = f"missing, but select.mixture is {select.mixture!r}; add the section or choose natural, topk or theta"
        yield ("search",), text


def _search_proxies(
    search: SearchConfig | None, targets: Targets, tokenizer: TokenizerConfig | None, select: SelectConfig
) -> Iterator[Problem]:
    """What a search needs to train proxies of its own and to measure them. A theta from a file (`search tell` writes
    one) stands for a search that is over, so targets and a tokenizer may be missing then; `search` itself asks for them
    again."""
    if search is None:
        return
    if select.theta_file is None:
        if not targets:
            yield ("targets",), "missing, but a search needs at least one target to measure its proxies on"
        if tokenizer is None:
            yield ("tokenizer",), "missing, but a search trains proxies on tokens"
        names = [target.name for target in targets]
        for name in search.objective or {}:
            if name not in names:
                yield ("search", "objective", name), _unknown(name, names, "the name of a target")
    if search.trials < LEAST_TRIALS * search.rounds:
        text = f"found {search.rounds}, wanted at most trials / {LEAST_TRIALS} = {search.trials // LEAST_TRIALS}: "
        yield ("search", "rounds"), text + "a round learns from the one before"
    if search.objective_rule == "worst" and "natural" not in search.confirm.rivals:
        text = "wanted `natural` among them: `objective_rule: worst` measures every loss against that mixture's"
        yield ("search", "confirm", "rivals"), text
    if search.tokens_per_trial > search.pool_tokens:
        text = f"found {search.tokens_per_trial:,}, wanted at most search.pool_tokens, which is {search.pool_tokens:,}"
        yield ("search", "tokens_per_trial"), text


def _search_sizes(search: SearchConfig | None) -> Iterator[Problem]:
    """What is made of losses, whoever measured them."""
    if search is None:
        return
    if search.objective == {}:
        yield ("search", "objective"), "found no target, wanted at least one (or leave the key out: all count alike)"
    if search.objective_rule == "worst" and search.objective is not None:
        text = "found weights beside `objective_rule: worst`, where the largest excess counts"
        yield ("search", "objective"), text
    sizes = {"average_top": search.average_top, "finalists": search.finalists, "candidates": search.candidates}
    for (small, fewer), (large, more) in pairwise(sizes.items()):
        if fewer > more:
            yield ("search", small), f"found {fewer:,}, wanted at most search.{large}, which is {more:,}"
    if search.regressor.kind == "log_linear" and search.regressor.features == "theta":
        text = "found 'log_linear' with features 'theta'; the law is about shares, so it wants features: realised"
        yield ("search", "regressor", "kind"), text
    if search.warm_start and search.regressor.features == "theta":
        text = (
            "found trials of earlier runs beside features 'theta'; what a theta gives is another mixture in each pool"
        )
        yield ("search", "warm_start"), text + ", so they want features: realised"


def _tokens(pool: PoolConfig, annotate: AnnotateConfig, tokenizer: TokenizerConfig | None) -> Iterator[Problem]:
    if tokenizer is None and pool.columns.tokens is None:
        yield ("tokenizer",), "missing: wanted a tokenizer, or pool.columns.tokens where tokens are already counted"
    for index, scorer in enumerate(annotate.scorers):
        reads = isinstance(scorer, PerplexityScorerConfig)
        reads |= isinstance(scorer, ColorScorerConfig) and scorer.columns is None
        if reads and tokenizer is None:
            yield ("annotate", "scorers", index), f"found a {scorer.kind} scorer, which needs the section `tokenizer`"


def _domains(annotate: AnnotateConfig, pool: PoolConfig) -> Iterator[Problem]:
    domains = annotate.domains
    path: Path = ("annotate", "domains")
    if isinstance(domains, ColumnDomainConfig):
        if pool.columns.domain is None:
            text = "missing, but annotate.domains takes labels from a column; name it, or use kind linear or clusters"
            yield ("pool", "columns", "domain"), text
        if domains.unknown == "default" and domains.default is None:
            yield (*path, "default"), "missing, wanted a domain name since `unknown: default`"
        if domains.default is not None and domains.unknown != "default":
            yield (*path, "default"), f"found {domains.default!r}, which does nothing unless `unknown: default`"
        if domains.unknown != "error" and domains.allowed is None:
            text = f"missing: without it no domain is unknown and `unknown: {domains.unknown}` does nothing"
            yield (*path, "allowed"), text
    elif isinstance(domains, LinearDomainConfig) and bool(domains.labelled) == bool(domains.model):
        yield path, "wanted either `labelled` (to train) or `model` (a trained file), not both or neither"


def _ranges(mixture: MixtureConfig) -> Iterator[Problem]:
    limits = {"steepness": (0.0, 1e6), "cutoff": (0.0, 1.0), "exponent": (0.0, 16.0), "floor": (0.0, 1000.0)}
    for name, (least, most) in limits.items():
        if getattr(mixture.space, name) is None:
            continue
        low, high = getattr(mixture.space, name)
        path: Path = ("mixture", "space", name)
        if not low <= high:
            yield path, f"found [{low}, {high}], wanted the smaller bound first"
        elif low < least or high > most:
            yield path, f"found [{low}, {high}], wanted bounds within [{least:g}, {most:g}]"
        elif name in ("steepness", "cutoff") and mixture.space.preset == "log" and low <= 0:
            yield path, f"found [{low}, {high}], wanted bounds above 0: preset `log` draws it on a log scale"


def _constraints(mixture: MixtureConfig) -> Iterator[Problem]:
    asked = mixture.constraints
    path: Path = ("mixture", "constraints")
    if asked.bounds_shares and mixture.meet_budget != "omega":
        text = f"found bounds beside `meet_budget: {mixture.meet_budget}`, wanted `omega`: a bound moves one domain's"
        yield path, f"{text} cutoff, which one factor on all of S cannot stand for"
    if asked.bounds_shares and mixture.rank != "interval":
        text = f"found bounds beside `rank: {mixture.rank}`, wanted `interval`: only then are a domain's tokens known"
        yield path, f"{text} before its documents are read"
    for name, least in asked.min_share.items():
        if least > asked.max_share.get(name, 1.0):
            yield (*path, "min_share", name), f"found {least:g}, wanted at most max_share, {asked.max_share[name]:g}"
    for name in asked.fixed_share:
        if name in asked.min_share or name in asked.max_share:
            yield (*path, "fixed_share", name), "found it bounded as well, wanted either a fixed share or bounds"
    total = math.fsum((*asked.min_share.values(), *asked.fixed_share.values()))
    if total > 1.0 + 1e-9:
        text = f"found shares that sum to {total:g} with those of fixed_share, wanted at most 1"
        yield (*path, "min_share" if asked.min_share else "fixed_share"), text


def _rank_searched(mixture: MixtureConfig, search: SearchConfig | None) -> Iterator[Problem]:
    if search is not None and mixture.rank != "interval":
        text = (
            f"found {mixture.rank!r} beside a search, wanted 'interval': tied documents all take their group's largest"
        )
        text += " rank, so a mixture has other shares than its theta was predicted to have. Only a theta of your own"
        yield ("mixture", "rank"), f"{text} can be selected so: select.mixture: theta, without a section `search`"


def _constraints_searched(mixture: MixtureConfig, search: SearchConfig | None) -> Iterator[Problem]:
    if search is None or search.regressor.features != "theta":
        return
    if mixture.constraints.bounds_shares:
        text = "found `theta` beside mixture.constraints, wanted `realised`: a theta as drawn does not show its bounds"
        yield ("search", "regressor", "features"), text


def _engine(engine: EngineConfig) -> Iterator[Problem]:
    if isinstance(engine, LocalEngineConfig):
        return
    if engine.master is not None and not _MASTER.fullmatch(engine.master):
        wanted = "local[N], spark://host:port, k8s://..., yarn, or no key under spark-submit"
        yield ("engine", "master"), f"found {engine.master!r}, wanted {wanted}"
    if engine.gpus_per_trial is not None and (engine.master or "").startswith("local"):
        text = (
            f"found {engine.gpus_per_trial:g} beside master {engine.master!r}, which schedules no GPUs; leave it out: "
        )
        yield ("engine", "gpus_per_trial"), f"{text}proxies are dealt round this machine's GPUs"
    if engine.gpus_per_trial is not None and "spark.task.resource.gpu.amount" in engine.conf:
        text = (
            "found it beside engine.gpus_per_trial, wanted one: with this property every task asks for GPUs, those of"
        )
        yield ("engine", "conf", "spark.task.resource.gpu.amount"), f"{text} annotate too"
    for key in engine.conf:
        if not key.startswith("spark."):
            yield ("engine", "conf", key), "found a property that is not Spark's, wanted names that begin with `spark.`"
        elif key == "spark.master":
            yield ("engine", "conf", key), "wanted the master in engine.master, not among the properties"


# ---------------------------------------------------------------------------------------------- paths


def _paths(
    labels: LabelsConfig | None, annotate: AnnotateConfig, targets: Targets, tokenizer: TokenizerConfig | None
) -> Iterator[Problem]:
    for path, value in _named_paths(annotate, targets, tokenizer):
        if labels is not None and value == labels.file and path[-2:-1] == ("labelled",):
            continue  # `quadmix label` writes it
        if FilePath(value).suffix.lower() in _UNSAFE_MODELS:
            yield path, f"UNSUPPORTED_FORMAT: found {value!r}, whose format can run code; use safetensors or json"
        elif "://" not in value and not FilePath(value).exists():
            yield path, f"found {value!r}, which does not exist (working directory: {FilePath.cwd()})"


def _named_paths(annotate: AnnotateConfig, targets: Targets, tokenizer: TokenizerConfig | None) -> Iterator[Problem]:
    """(path of the key, file or directory it names), the pool's inputs apart: the inventory looks at those."""
    for index, target in enumerate(targets):
        yield ("targets", index, "path"), target.path
    if tokenizer is not None:
        yield ("tokenizer", "path"), tokenizer.path
    for index, scorer in enumerate(annotate.scorers):
        where: Path = ("annotate", "scorers", index)
        yield from _model_paths(scorer, where)
        if isinstance(scorer, ColorScorerConfig) and scorer.models is not None:
            yield from (((*where, "models", role), folder) for role, folder in scorer.models)
        if isinstance(scorer, AskLlmScorerConfig):
            yield (*where, "path"), scorer.path
        embedder = getattr(scorer, "embedder", None)
        if isinstance(embedder, PretrainedEmbedderConfig):
            yield (*where, "embedder", "path"), embedder.path
    if not isinstance(annotate.domains, ColumnDomainConfig | ClusterDomainConfig):
        yield from _model_paths(annotate.domains, ("annotate", "domains"))
    for key in ("domains", "clusters"):
        embedder = getattr(getattr(annotate, key), "embedder", None)
        if isinstance(embedder, PretrainedEmbedderConfig):
            yield ("annotate", key, "embedder", "path"), embedder.path


def _model_paths(section: Any, path: Path) -> Iterator[Problem]:
    model = getattr(section, "model", None)
    if isinstance(model, str):  # the heads' says what to fit
        yield (*path, "model"), model
    for key in ("positives", "negatives", "train_on", "labelled", "targets"):
        for entry, value in enumerate(getattr(section, key, ())):
            if not value.startswith("target:") and value != "pool":
                yield (*path, key, entry), value


def _output(output: str, pool: PoolConfig) -> Iterator[Problem]:
    """The output must be a place of its own: nothing of the user's is in it and it is in nothing of theirs."""
    if not output.strip() or output.startswith("~"):
        yield ("output",), f"UNSAFE_OUTPUT: found {output!r}, wanted a directory, written out (`~` is not expanded)"
        return
    if "://" in output:
        yield ("output",), f"found {output!r}, wanted a directory of a file system that every worker sees"
        return
    place = FilePath(output).resolve()
    if place in (FilePath("/"), FilePath.home().resolve(), FilePath.cwd()):
        yield ("output",), f"UNSAFE_OUTPUT: found {output!r}, which is {place}; wanted a directory of its own"
    elif place.exists() and not place.is_dir():
        yield ("output",), f"UNSAFE_OUTPUT: found {output!r}, which is a file; wanted a directory"
    elif place.is_dir() and not any((place / mark).exists() for mark in _RUN_MARKS) and any(place.iterdir()):
        text = f"UNSAFE_OUTPUT: found {output!r}, which holds files of something else; wanted a new directory"
        yield ("output",), text
    for index, entry in enumerate(pool.inputs):
        if "://" not in entry:
            source = FilePath(entry).resolve()
            if place == source or source in place.parents or place in source.parents:
                text = f"UNSAFE_OUTPUT: found {output!r}, which lies in, around or at pool.inputs.{index} ({entry!r})"
                yield ("output",), text


def _unknown(name: str, known: Iterable[str], wanted: str) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"found {name!r}, wanted {wanted} ({', '.join(names) or 'there is none'}){hint}"


_CHECKS: tuple[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]], ...] = (
    (("output", "pool"), _output),
    (("engine",), _engine),
    (("targets",), _target_names),
    (("pool", "annotate", "tokenizer"), _tokens),
    (("annotate", "pool"), _domains),
    (("annotate",), _scorer_details),
    (("annotate", "targets"), _references),
    (("labels", "annotate", "targets", "tokenizer"), _paths),
    (("labels", "annotate", "pool", "tokenizer"), labels_checks),
    (("annotate", "tokenizer"), heads_checks),
    (("annotate", "mixture"), _criteria),
    (("mixture",), _ranges),
    (("mixture",), _constraints),
    (("mixture", "search"), _rank_searched),
    (("mixture", "search"), _constraints_searched),
    (("search",), _search_sizes),
    (("search", "targets", "tokenizer", "select"), _search_proxies),
    (("select", "search", "compare"), _search_needed),
    (("select", "mixture"), _selection),
    (("select", "annotate"), _rules),
    (("select",), _weights),
    (("quad", "select", "annotate", "targets"), _quad),
    (("odis", "select", "annotate"), _odis),
    (("select", "tokenizer"), _quad_tokens),
    (("quad",), _quad_model),
    (("compare", "mixture"), contest),
    (("compare", "search"), charged),
    (("compare", "pool"), counted),
    (("compare", "targets", "tokenizer"), measured),
)
# a search with one's own trainer trains no proxies, selects by thetas of its own and compares nothing
_NOT_OF_ONES_OWN_TRAINER = (_search_proxies, _search_needed, _quad, _quad_tokens, charged, measured)
