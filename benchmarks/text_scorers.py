"""What scorers that read text cost per GB of it, how that grows with the pool, and memory.

    python build_corpus.py CORPUS --max-mb 100                       # see docs/results.md; 40 gives 300 MB at most
    python -m benchmarks.text_scorers --corpus CORPUS --work WORK [--megabytes 100,400] [--scorers dsir,density,...]

Each scorer annotates a pool of that much of the corpus' text (15 sources, documents drawn by hash; all of it where it
has less) by the `annotate` stage itself, on the local engine with one worker: reading, checking, hashing, counting
tokens, fitting the scorer, scoring, writing. `bare` does all that without a scorer. Each runs in a process of its own;
CPU seconds are of the process and its worker, from the first byte read on; fitting on a sample of the pool is among
them, as is a proxy's training. Models read 128 tokens of a document. `heads`, which ODiS' learned dimensions come from,
learn two labels of 2,000 documents. The encoder and the language model asked (a Llama of random weights) are as small
as models get and read 32 tokens: what larger ones cost is their own matter.

Growth is seconds a GB in the largest pool over those in the smallest; 1 is linear, less than 1 where fitting, which
does not grow, is part of the cost. The bar is 1.1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.comparison import reading_beginnings
from benchmarks.measuring import cpu_of_tree, measure, start_workers
from benchmarks.results_corpus import TARGETS, Prepared, prepare_corpus
from benchmarks.results_setting import TOKENIZER
from quadmix.config import LocalEngineConfig, RunConfig
from quadmix.engine import make_engine
from quadmix.manifest.durable import write_atomically
from quadmix.progress import Progress
from quadmix.stages.annotate import annotate

ALL = [f"target:{name}" for name in TARGETS]
LABELLED, LANGUAGE_MODEL = "labelled.jsonl", "language-model"
LABELS = {"word_length": "word_length", "plainness": "plainness"}
BAR = 1.1
LITTLE = 32  # tokens of a document that the next two read: they are here for growth and memory, not for their price
ENCODER = {"kind": "encoder", "d_model": 32, "layers": 1, "heads": 2, "d_ff": 64, "max_tokens": LITTLE}
ASKED = {"prompt": "{text}\nUseful?", "max_tokens": LITTLE, "yes": [" is"], "no": [" no"]}
SCORERS: dict[str, dict[str, Any]] = {
    "bare": {},
    "heuristics": {"scorers": [{"kind": "heuristics", "outputs": ["heuristic_quality"]}]},
    "prose": {"scorers": [{"kind": "prose"}]},
    "rarity": {"scorers": [{"kind": "rarity"}]},
    "linear": {"scorers": [{"kind": "linear", "name": "like", "positives": ALL}]},
    "perplexity": {"scorers": [{"kind": "perplexity", "train_on": ["pool"]}]},
    "dsir": {"scorers": [{"kind": "dsir", "targets": ALL}]},
    "density": {"scorers": [{"kind": "density"}]},
    "color": {"scorers": [{"kind": "color", "targets": ALL}]},
    "clusters": {"clusters": {"kind": "embeddings"}},
    "heads_ridge": {"scorers": [{"kind": "heads"}]},
    "heads_encoder": {"scorers": [{"kind": "heads", "model": ENCODER}]},
    "ask_llm": {"scorers": [{"kind": "ask_llm", **ASKED}]},
}


def run(name: str, prepared: Prepared) -> dict[str, float]:
    """Annotate in this process; CPU seconds of it and its worker, and bytes of text in the pool."""
    asked = SCORERS[name]
    scorers = [_with_files(one, prepared.folder) for one in reading_beginnings(asked.get("scorers", ()))]
    output = tempfile.mkdtemp(dir=prepared.folder)
    try:
        config = RunConfig.model_validate(
            {
                "output": output,
                "pool": {
                    "inputs": [str(prepared.pool)],
                    "columns": {"id": "id", "text": "text", "domain": "domain"},
                    "unit_bytes": "8MiB",
                },
                "targets": [{"name": name, "path": str(prepared.target(name))} for name in TARGETS],
                "tokenizer": {"path": str(TOKENIZER)},
                "annotate": {"leakage": "exclude", **asked, "scorers": scorers},
                "mixture": {"criteria": ["score"], "budget": "1M"},
            }
        )
        engine: Any = make_engine(LocalEngineConfig(workers=1), Progress.silent())
        start_workers(engine)
        before = cpu_of_tree()
        annotated = annotate(config, engine, Progress.silent())
        used = cpu_of_tree() - before
        engine.close()
        return {"cpu": used, "bytes": float(annotated.summary.bytes.sum())}
    finally:
        shutil.rmtree(output)


def _with_files(scorer: dict[str, Any], folder: Path) -> dict[str, Any]:
    if scorer["kind"] == "heads":
        found = {"labelled": [str(folder / LABELLED)], "labels": LABELS, "least_spearman": -1.0, "components": 2}
        return {**scorer, **found}
    return {**scorer, "path": str(folder / LANGUAGE_MODEL)} if scorer["kind"] == "ask_llm" else scorer


def write_labelled(prepared: Prepared) -> None:
    """2,000 documents of the pool and two labels that any reader could give."""
    rows = []
    files = sorted(prepared.pool.glob("*.jsonl"))
    for path in files:
        with open(path, "rb") as lines:
            rows += [json.loads(line) for line in itertools.islice(lines, -(-2_000 // len(files)))]
    for row in rows:
        words = row["text"].split()
        row["word_length"] = sum(map(len, words)) / len(words)
        row["plainness"] = sum(letter.isalpha() or letter.isspace() for letter in row["text"]) / len(row["text"])
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:2_000])
    write_atomically(prepared.folder / LABELLED, text.encode("utf-8"))


def write_language_model(folder: Path) -> None:
    """A causal language model with the run's tokenizer and random weights, as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER))
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), max_position_embeddings=1024, **sizes)).save_pretrained(folder)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", required=True, type=Path, help="the folder that the corpus' build script wrote")
    arguments.add_argument("--work", required=True, type=Path, help="where the pools are written and kept")
    arguments.add_argument("--megabytes", default="100,400", help="of text in the pools")
    arguments.add_argument("--scorers", default=",".join(SCORERS))
    arguments.add_argument("--run", choices=sorted(SCORERS), help="one, in this process")
    given = arguments.parse_args()
    names, sizes = given.scorers.split(","), sorted(float(size) for size in given.megabytes.split(","))
    if unknown := sorted(set(names) - set(SCORERS)):
        raise SystemExit(f"--scorers: found {', '.join(unknown)}, wanted some of {', '.join(SCORERS)}")
    if given.run:
        print(json.dumps(run(given.run, prepare(given, sizes[0]))))
        return
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    found_sizes: list[float] = []
    for size in sizes:
        prepare(given, size)
        for name in names:
            script = [sys.executable, "-m", "benchmarks.text_scorers", "--run", name, "--megabytes", str(size)]
            found = measure(
                [*script, "--corpus", str(given.corpus.resolve()), "--work", str(given.work.resolve())],
                {"OMP_NUM_THREADS": "1"},
            )
            said = json.loads(found.said.splitlines()[-1])
            costs[name].append((said["cpu"] / said["bytes"] * 1e9, found.peak))
            megabytes = said["bytes"] / 1e6
            cost = f"{costs[name][-1][0]:8.0f} CPU s per GB{found.peak:8.0f} MiB"
            print(f"{megabytes:6.0f} MB  {name:14}{cost}", flush=True)
        found_sizes.append(megabytes)
    columns = " | ".join(f"{size:.0f} MB: CPU s per GB | peak MiB" for size in found_sizes)
    print(f"\n| scorer | {columns} | growth |")
    print("|---|" + "---|" * (2 * len(sizes) + 1))
    growth = {name: many[-1][0] / many[0][0] for name, many in costs.items()}
    for name, many in costs.items():
        cells = [f"{cpu:.0f} | {peak:.0f}" for cpu, peak in many]
        print(f"| {name} | {' | '.join(cells)} | {growth[name]:.2f} |")
    if found_sizes[-1] < 2 * found_sizes[0]:
        raise SystemExit(f"no growth to judge: found pools of {found_sizes[0]:.0f} to {found_sizes[-1]:.0f} MB")
    above = [name for name, factor in growth.items() if factor > BAR]
    print(f"growth of at most {BAR}: " + (f"missed by {', '.join(above)}" if above else "met by all"))
    sys.exit(1 if above else 0)


def prepare(given: argparse.Namespace, megabytes: float) -> Prepared:
    """A pool of about that much text, or of all there is."""
    corpus, work = given.corpus.resolve(), given.work.resolve()
    whole = prepare_corpus(corpus, _made(work / "whole"), 1.0)
    share = min(1.0, 1e6 * megabytes / sum(one["bytes"] for one in whole.facts["pool"].values()))
    prepared = whole if share == 1.0 else prepare_corpus(corpus, _made(work / f"megabytes-{megabytes:g}"), share)
    if not (prepared.folder / LABELLED).exists():
        write_labelled(prepared)
    if not (prepared.folder / LANGUAGE_MODEL / "config.json").exists():
        write_language_model(prepared.folder / LANGUAGE_MODEL)
    return prepared


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
