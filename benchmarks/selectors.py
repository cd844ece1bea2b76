"""What each selector costs beside the bare scan, how that grows with the pool, and memory.

    python -m benchmarks.selectors [--docs 1M,10M] [--selectors topk,odis,...] [--folder selectors-pool]

The pool holds documents without text (`generated_pool`) in 200 uneven clusters. Every selector takes a tenth of its
tokens by the `select` stage itself, on the local engine with one worker: what it asks of the pool, the cuts, the parts
with their checksums, the published manifest. `scan` reads the columns of one score once and writes nothing. Each runs
in a process of its own; CPU seconds are of the process and its worker, from the first pass on. `quad` is a baseline of
the same plan, its grants being given: what its model costs, benchmarks/quad_costs.py measures.

Growth is seconds a document in the largest pool over those in the smallest; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.generated_pool import CRITERIA, DOMAINS, documents, table
from benchmarks.measuring import cpu_of_tree, measure, start_workers
from quadmix.config import LocalEngineConfig, RunConfig
from quadmix.config_values import parse_count
from quadmix.core.summary import PoolSummary
from quadmix.engine import make_engine
from quadmix.hashing import uniform
from quadmix.progress import Progress
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_baselines import random_tokens
from quadmix.stages.annotate import Annotated
from quadmix.stages.quad import stage as quad_stage
from quadmix.stages.quad.cluster_table import cluster_table
from quadmix.stages.records import StageRecord, file_entry
from quadmix.stages.rows import RowReader
from quadmix.stages.select import select

DOCS_PER_FILE = 500_000
CLUSTERS = 200
SHARE = 0.1
THETA = {
    "merge_weights": {name: {"edu": 0.5, "fluency": 0.3, "stars": 0.2} for name in DOMAINS},
    "steepness": dict.fromkeys(DOMAINS, 50.0),
    "cutoff": dict.fromkeys(DOMAINS, 0.1),
    "exponent": dict.fromkeys(DOMAINS, 0.5),
    "floor": dict.fromkeys(DOMAINS, 0.0),
}
RULES: dict[str, dict[str, Any]] = {
    "random": {},
    "topk": {"criterion": "edu"},
    "threshold": {"criterion": "edu", "threshold": {"least_quantile": 0.7}},
    "gumbel": {"criterion": "edu"},
    "criteria_mix": {"criteria_mix": {"criteria": ["edu", "fluency", "stars"]}},
    "density": {"criterion": "edu", "density": {"measures": "log_density"}},
    "cluster_quality": {"criterion": "edu"},
    "quad": {},
    "odis": {},
}
MEMBERS = {
    "a": {"share": 2.0, "selector": "topk", "criterion": "edu"},
    "b": {"share": 1.0, "selector": "density", "criterion": "fluency", "density": {"measures": "log_density"}},
    "c": {"share": 1.0, "selector": "random"},
}
SELECTORS: dict[str, dict[str, Any]] = {
    "natural": {"mixture": "natural"},
    "quadmix": {"mixture": "theta", "theta": THETA},
    **{name: {"selector": name, "mixture": "free", **settings} for name, settings in RULES.items()},
    "topk in natural": {"selector": "topk", "mixture": "natural", "criterion": "edu"},
    "odis in quadmix": {"selector": "odis", "mixture": "theta", "theta": THETA},
    "union of 3": {"selector": "union", "mixture": "free", "union": MEMBERS},
}


def make_pool(folder: Path, docs: int) -> None:
    """Write the annotations and their summary unless they are there."""
    if (folder / "summary.npz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = pa.array([f"cluster_{number:03d}" for number in range(CLUSTERS)])
    summary = PoolSummary.empty(CRITERIA)
    for number, start in enumerate(range(0, docs, DOCS_PER_FILE)):
        stop = min(start + DOCS_PER_FILE, docs)
        found = documents(start, stop)
        hashes: Any = found["doc_hash"]
        code = (CLUSTERS * uniform(hashes, 0, "cluster") ** 2).astype(np.int32)
        rows = table(start, stop)
        cluster = pa.DictionaryArray.from_arrays(pa.array(code), names)
        rows = rows.set_column(rows.schema.get_field_index("cluster"), "cluster", cluster)
        path = folder / f"unit-{number:05d}.parquet"
        pq.write_table(rows, path, row_group_size=131_072, compression="zstd", write_page_checksum=True)
        values: Any = found
        tokens = values["n_tokens"]
        summary = summary.merge(
            PoolSummary.of_rows(DOMAINS, values["domain"], tokens, 4 * tokens, values["scores"], CRITERIA)
        )
    summary.save(str(folder / "summary.npz"))


def pool_of(folder: Path) -> Annotated:
    paths = sorted(folder.glob("unit-*.parquet"))
    entries = tuple(file_entry(folder, path.name, pq.read_metadata(path).num_rows) for path in paths)
    record = StageRecord("annotate", "0" * 32, {}, entries, {"quarantine": {}, "inputs": []})
    summary = PoolSummary.load(str(folder / "summary.npz"))
    return Annotated(record, folder, tuple(map(str, paths)), (), summary)


def quad_without_a_model(config: RunConfig, engine: Any, progress: Progress, annotated: Annotated) -> Any:
    found = cluster_table(engine, annotated.files, annotated.summary.domains)
    codes = np.arange(len(found.names))
    arms = Arms.of(found.names, codes, found.cluster_documents, found.cluster_tokens, found.cluster_documents)
    return quad_stage.Measured(random_tokens(arms, config.mixture.budget), found, "given")


class Scan:
    """Task: one file -> its tokens, everything a rule by one score reads having been read."""

    def __init__(self, reader: RowReader) -> None:
        self.reader = reader

    def __call__(self, path: str) -> int:
        return sum(int(batch.n_tokens.sum()) for batch, _ in self.reader.batches(path))


def run(name: str, folder: Path) -> dict[str, float]:
    """Select in this process; CPU seconds of it and its worker."""
    annotated = pool_of(folder)
    budget = int(SHARE * annotated.summary.total_tokens)
    quad_stage.measure = quad_without_a_model  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(dir=folder) as output:
        engine: Any = make_engine(LocalEngineConfig(workers=1), Progress.silent())
        start_workers(engine)
        before = cpu_of_tree()
        if name == "scan":
            tokens = engine.reduce(Scan(RowReader(DOMAINS, ("edu",))), list(annotated.files), _add, label="scan")
            taken = float(tokens)
        else:
            config = RunConfig.model_validate(
                {
                    "output": output, "pool": {"inputs": ["pool"]}, "select": SELECTORS[name],
                    "mixture": {"criteria": CRITERIA, "budget": budget},
                    "odis": {"dimensions": CRITERIA, "examples": 0},
                }
            )  # fmt: skip
            taken = float(select(config, engine, Progress.silent(), annotated, None).realised_tokens)
        used = cpu_of_tree() - before
        engine.close()
        return {"cpu": used, "off": taken - budget}


def _add(first: int, second: int) -> int:
    return first + second


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count: Callable[[str], list[int]] = lambda text: [parse_count(one) for one in text.split(",")]  # noqa: E731
    arguments.add_argument("--docs", default=[10**6, 10**7], type=count)
    arguments.add_argument("--selectors", default=",".join(SELECTORS))
    arguments.add_argument("--folder", default="selectors-pool", type=Path, help="where the pools are written and kept")
    arguments.add_argument("--run", choices=sorted([*SELECTORS, "scan"]), help="one, in this process")
    given = arguments.parse_args()
    if given.run:
        print(json.dumps(run(given.run, given.folder)))
        return
    names = ["scan", *given.selectors.split(",")]
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for docs in given.docs:
        folder = given.folder.resolve() / str(docs)
        make_pool(folder, docs)
        for name in names:
            script = [sys.executable, "-m", "benchmarks.selectors", "--run", name, "--folder", str(folder)]
            found = measure(script, {"OMP_NUM_THREADS": "1"})
            costs[name].append((json.loads(found.said.splitlines()[-1])["cpu"] / docs * 1e6, found.peak))
            print(f"{docs:>12,}  {name:18}{costs[name][-1][0]:8.2f} CPU s per million{found.peak:8.0f} MiB", flush=True)
    columns = "CPU s per million | times the scan | peak MiB"
    print("\n| selector | " + " | ".join(f"{docs:,} documents: {columns}" for docs in given.docs) + " | growth |")
    print("|---|" + "---|" * (3 * len(given.docs) + 1))
    for name, many in costs.items():
        cells = [
            f"{cpu:.2f} | {cpu / costs['scan'][place][0]:.1f} | {peak:.0f}" for place, (cpu, peak) in enumerate(many)
        ]
        print(f"| {name} | {' | '.join(cells)} | {many[-1][0] / many[0][0]:.2f} |")


if __name__ == "__main__":
    main()
