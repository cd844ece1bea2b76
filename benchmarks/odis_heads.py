"""How well heads learn the eleven dimensions of configs/odis.yaml from a labelled sample: ridge against the encoder.

    python -m benchmarks.odis_heads OUTPUT [--docs 1000] [--max-tokens 128]

OUTPUT: of a finished `quadmix annotate configs/odis.yaml` (on the shipped pool). Its scores stand for labels: the
documents with the smallest draws carry them, a fifth is held out, as in a run. Prints Spearman and R2 of each
component of the labels on the held-out documents, and the CPU seconds that learning took.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.odis import CONFIG, Listed, shipped
from quadmix.config_annotate import HeadsScorerConfig
from quadmix.config_reader import read_config
from quadmix.hashing import doc_hash, uniform
from quadmix.scorers.context import Document
from quadmix.scorers.heads import HeadsScorer
from quadmix.scorers.model_files import load_model
from quadmix.scorers.tokens import load_tokenizer
from quadmix.stages.records import current, stage_directory


@dataclass(frozen=True)
class Labelled(Listed):
    """`pool` is what the label file would hold."""

    def read_paths(self, paths: Sequence[str], columns: Sequence[str] = ()) -> list[Document]:
        order = np.argsort(doc_hash(document.id for document in self.pool))
        return [self.pool[index] for index in order]


def labelled(output: Path, docs: int, seed: int, names: Sequence[str]) -> list[Document]:
    """A sample of the shipped pool with its annotated scores."""
    record = current(output, "annotate")
    if record is None:
        raise SystemExit(f"{output}: no finished annotations; run quadmix annotate configs/odis.yaml first")
    folder = stage_directory(output, "annotate", record.fingerprint)
    scores: dict[str, dict[str, float]] = {}
    for entry in record.files:
        if entry.path.startswith("unit-"):
            rows = pq.read_table(folder / entry.path, columns=["doc_id", *(f"score_{name}" for name in names)])
            scores |= {row["doc_id"]: {name: row[f"score_{name}"] for name in names} for row in rows.to_pylist()}
    found = [Document(row["id"], row["text"], None, scores[row["id"]]) for row in shipped() if row["id"] in scores]
    draws = uniform(doc_hash(document.id for document in found), seed, "labels")
    return [found[index] for index in np.argsort(draws)[:docs]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--docs", type=int, default=1_000)
    parser.add_argument("--max-tokens", type=int, default=128)
    asked = parser.parse_args()
    config = read_config(CONFIG)
    assert config.tokenizer is not None
    names = config.odis.dimensions
    documents = labelled(asked.output, asked.docs, config.seed, names)
    for model in ({"kind": "ridge"}, {"kind": "encoder", "max_tokens": asked.max_tokens}):
        section = HeadsScorerConfig.model_validate(
            {
                "kind": "heads",
                "labelled": ["sample"],
                "labels": {name: name for name in names},
                "model": model,
                "least_spearman": -1.0,
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            context = Labelled(Path(folder), documents, {}, load_tokenizer(config.tokenizer), config.seed)
            started = time.process_time()
            scorer = HeadsScorer.from_config(section, context)
            seconds = time.process_time() - started
            _, facts = load_model(scorer.model, "heads")
        said = "  ".join(f"{one['name']}: {one['spearman']:.3f} (R2 {one['r2']:.3f})" for one in facts["checks"])
        print(f"{model['kind']:<8} {facts['held_out']} held out  {said}  {seconds:.0f} CPU s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
