"""What scorers that read text cost per GB of it, how that grows with the pool, and memory.

    python build_corpus.py CORPUS                                    # see docs/results.md
    python -m benchmarks.text_scorers --corpus CORPUS --work WORK [--shares 0.25,1] [--scorers dsir,density,...]

Each scorer annotates the pool of the results page (300 MB of the corpus in 18 sources; shares of it are drawn by
document) by the `annotate` stage itself, on the local engine with one worker: reading, checking, hashing, counting
tokens, fitting the scorer, scoring, writing. `bare` does all that without a scorer. Each runs in a process of its own;
CPU seconds are of the process and its worker, from the first byte read on; fitting on a sample of the pool is among
them, as is a proxy's training. Models read 128 tokens of a document.

Growth is seconds a GB in the largest pool over those in the smallest; 1 is linear, less than 1 where fitting, which
does not grow, is part of the cost.
"""

from __future__ import annotations

import argparse
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
from quadmix.progress import Progress
from quadmix.stages.annotate import annotate

ALL = [f"target:{name}" for name in TARGETS]
SCORERS: dict[str, dict[str, Any]] = {
    "bare": {},
    "heuristics": {"scorers": [{"kind": "heuristics", "outputs": ["heuristic_quality"]}]},
    "linear": {"scorers": [{"kind": "linear", "name": "like", "positives": ALL}]},
    "perplexity": {"scorers": [{"kind": "perplexity", "train_on": ["pool"]}]},
    "dsir": {"scorers": [{"kind": "dsir", "targets": ALL}]},
    "density": {"scorers": [{"kind": "density"}]},
    "color": {"scorers": [{"kind": "color", "targets": ALL}]},
    "clusters": {"clusters": {"kind": "embeddings"}},
}


def run(name: str, prepared: Prepared) -> dict[str, float]:
    """Annotate in this process; CPU seconds of it and its worker, and bytes of text in the pool."""
    asked = SCORERS[name]
    scorers = reading_beginnings(asked.get("scorers", ()))
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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", required=True, type=Path, help="the folder that the corpus' build script wrote")
    arguments.add_argument("--work", required=True, type=Path, help="where the pools are written and kept")
    arguments.add_argument("--shares", default="0.25,1", help="of the corpus' documents")
    arguments.add_argument("--scorers", default=",".join(SCORERS))
    arguments.add_argument("--run", choices=sorted(SCORERS), help="one, in this process")
    given = arguments.parse_args()
    names, shares = given.scorers.split(","), [float(share) for share in given.shares.split(",")]
    if given.run:
        print(json.dumps(run(given.run, prepare(given, shares[0]))))
        return
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    sizes = []
    for share in shares:
        prepare(given, share)
        for name in names:
            script = [sys.executable, "-m", "benchmarks.text_scorers", "--run", name, "--shares", str(share)]
            found = measure(
                [*script, "--corpus", str(given.corpus.resolve()), "--work", str(given.work.resolve())],
                {"OMP_NUM_THREADS": "1"},
            )
            said = json.loads(found.said.splitlines()[-1])
            costs[name].append((said["cpu"] / said["bytes"] * 1e9, found.peak))
            megabytes = f"{said['bytes'] / 1e6:6.0f} MB"
            print(f"{megabytes}  {name:12}{costs[name][-1][0]:8.0f} CPU s per GB{found.peak:8.0f} MiB", flush=True)
        sizes.append(megabytes.strip())
    print("\n| scorer | " + " | ".join(f"{size}: CPU s per GB | peak MiB" for size in sizes) + " | growth |")
    print("|---|" + "---|" * (2 * len(shares) + 1))
    for name, many in costs.items():
        cells = [f"{cpu:.0f} | {peak:.0f}" for cpu, peak in many]
        print(f"| {name} | {' | '.join(cells)} | {many[-1][0] / many[0][0]:.2f} |")


def prepare(given: argparse.Namespace, share: float) -> Prepared:
    folder = given.work.resolve() / f"share-{share:g}"
    folder.mkdir(parents=True, exist_ok=True)
    return prepare_corpus(given.corpus.resolve(), folder, share)


if __name__ == "__main__":
    main()
