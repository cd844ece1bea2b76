"""The eleven dimensions of configs/odis.yaml on contrast sets, and how much the top sets of components share.

    python -m benchmarks.odis dimensions [--size 150]
    python -m benchmarks.odis overlap CONFIG [--rates 0.005 0.01 0.02 0.05 0.1] [--set key=value ...]

`dimensions`: every scorer is fitted as in a run, on the shipped pool; each dimension must tell its contrast set apart
with an AUC of at least 0.8 (the better side higher), and no two may correlate beyond 0.95 on the pool. Exit code 1
else.

`overlap`: annotates CONFIG's pool (or reuses its annotations), fits at each selection rate, and prints the explained
variance and, of every pair of components, the tokens that their independent top sets share of those in either, beside
what two independent choices would share, and of those in the smaller set; then what sets of that part of the documents
share, since a few long documents can hold most of the tokens.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from benchmarks.contrast_sets import Contrast, auc, contrasts
from quadmix.config import RunConfig
from quadmix.config_reader import read_config
from quadmix.engine.base import Engine
from quadmix.engine.local import LocalEngine
from quadmix.hashing import doc_hash, uniform
from quadmix.progress import Progress
from quadmix.scorers.context import Document
from quadmix.scorers.registry import FittedScorer, make_scorer
from quadmix.scorers.tokens import Tokenizer, load_tokenizer
from quadmix.selectors.odis_outcome import Outcome
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.odis.stage import measure
from quadmix.stages.rows import RowReader
from quadmix.stages.targets import load_targets

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "odis.yaml"
LEAST_AUC, MOST_CORRELATION = 0.8, 0.95
# which pair of sets each dimension must tell apart
CONTRAST_OF = {
    "heuristic_quality": "edited against noisy",
    "terminal_line_fraction": "edited against noisy",
    "top_3gram_char_fraction": "edited against noisy",
    "fluency": "edited against noisy",
    "encyclopedic": "reference against chatter",
    "fact_density": "reference against chatter",
    "lexical_density": "reference against chatter",
    "impersonality": "reference against chatter",
    "reading_grade": "expert against plain",
    "clause_depth": "expert against plain",
    "word_rarity": "expert against plain",
}


@dataclass(frozen=True)
class Listed:
    """A fit context over documents in memory."""

    directory: Path
    pool: Sequence[Document]
    targets: dict[str, list[Document]]
    tokenizer: Tokenizer | None
    seed: int

    @property
    def engine(self) -> Engine:
        raise NotImplementedError("no scorer of this benchmark fits on an engine")

    def sample(self, n_docs: int, what: str, columns: Sequence[str] = ()) -> list[Document]:
        draws = uniform(doc_hash(document.id for document in self.pool), self.seed, what)
        return [self.pool[index] for index in np.argsort(draws)[:n_docs]]

    def target(self, name: str) -> list[Document]:
        return self.targets[name]

    def read_paths(self, paths: Sequence[str], columns: Sequence[str] = ()) -> list[Document]:
        raise NotImplementedError("no scorer of this benchmark reads files of its own")


def shipped() -> Iterator[dict[str, Any]]:
    """Documents of the shipped pool, in its order."""
    for shard in sorted((ROOT / "examples" / "pool").glob("*.jsonl.zst")):
        with shard.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
                yield json.loads(line)


def fitted_scorers(config: RunConfig, directory: Path, pool: Sequence[dict[str, Any]]) -> list[FittedScorer]:
    """The config's scorers, fitted on these documents as a run fits them on its pool."""
    documents = [Document(row["id"], row["text"], row["domain"]) for row in pool]
    halves = {target.name: target.search for target in load_targets(config)}
    targets = {
        name: [Document(doc_id, text) for doc_id, text in zip(half.ids, half.texts, strict=True)]
        for name, half in halves.items()
    }
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    context = Listed(directory, documents, targets, tokenizer, config.seed)
    return [make_scorer(section, context) for section in config.annotate.scorers]


def scored(scorers: Sequence[FittedScorer], texts: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """(n,) of every criterion, higher is better."""
    found = {}
    for scorer in scorers:
        scorer.load()
        parts = [
            scorer.score(pa.record_batch({"text": pa.array(texts[start : start + 512], pa.large_string())}))
            for start in range(0, len(texts), 512)
        ]
        for criterion in scorer.outputs:
            values = np.concatenate([part[criterion.name].to_numpy() for part in parts]).astype(np.float64)
            found[criterion.name] = values if criterion.higher_is_better else -values
    return found


def separations(scorers: Sequence[FittedScorer], sets: dict[str, Contrast]) -> dict[str, float]:
    """AUC of every dimension on its contrast set."""
    found = {}
    for name, contrast in sets.items():
        better, worse = (scored(scorers, side) for side in (contrast.better, contrast.worse))
        for criterion in better:
            if CONTRAST_OF.get(criterion) == name:
                found[criterion] = auc(better[criterion].tolist(), worse[criterion].tolist())
    return found


def correlations(scores: dict[str, np.ndarray[Any, Any]]) -> list[tuple[float, str, str]]:
    """(correlation, dimension, dimension) of every pair, the largest in size first."""
    matrix = np.corrcoef(np.stack(list(scores.values())))
    pairs = [(float(matrix[i, j]), one, other) for (i, one), (j, other) in combinations(enumerate(scores), 2)]
    return sorted(pairs, key=lambda pair: -abs(pair[0]))


def dimensions(size: int) -> bool:
    """Print both tables; whether both bars are kept."""
    config, pool = read_config(CONFIG), list(shipped())
    with tempfile.TemporaryDirectory() as folder:
        scorers = fitted_scorers(config, Path(folder), pool)
        found = separations(scorers, contrasts(pool, size, 0))
        pairs = correlations(scored(scorers, [row["text"] for row in pool]))
    for name in config.odis.dimensions:
        print(f"{name:<26} {CONTRAST_OF[name]:<28} AUC {found[name]:.3f}")
    for value, one, other in pairs[:5]:
        print(f"correlation {value:+.3f}  {one}, {other}")
    return min(found.values()) >= LEAST_AUC and abs(pairs[0][0]) <= MOST_CORRELATION


def overlap(path: str, rates: Sequence[float], changes: list[str]) -> None:
    """Print what top sets share at each selection rate."""
    config = read_config(path, changes)
    progress = Progress.silent()
    with LocalEngine(1) as engine:
        annotated = annotate(config, engine, progress)
        print(f"{int(annotated.summary.docs.sum()):,} documents, {annotated.summary.total_tokens:,} tokens")
        for rate in rates:
            budget = int(rate * annotated.summary.total_tokens)
            # every component's own top set holds this share of the pool's tokens
            asked = budget * config.odis.components
            mixture = config.mixture.model_copy(update={"budget": asked})
            outcome = measure(config.model_copy(update={"mixture": mixture}), engine, progress, annotated).outcome
            if rate == rates[0]:
                print("explained: " + " ".join(f"{100 * share:.1f}" for share in outcome.explained), "%")
            tops = top_documents(annotated, outcome, rate)
            for one, other in combinations(range(len(outcome.components)), 2):
                shared, alone = outcome.overlap(one, other)
                both, either = len(tops[one] & tops[other]), len(tops[one] | tops[other])
                first, second = outcome.components[one], outcome.components[other]
                smaller = max(min(first.top, second.top), 1)
                print(
                    f"rate {100 * first.top / outcome.tokens:6.2f} %  {first.name} {second.name}  "
                    f"of either {100 * shared:6.2f} % (independent {100 * alone:5.2f} %)  "
                    f"of the smaller {100 * first.shared[other] / smaller:6.2f} %  "
                    f"by documents {100 * both / max(either, 1):6.2f} %"
                )


def top_documents(annotated: Annotated, outcome: Outcome, rate: float) -> list[set[int]]:
    """Of each component the hashes of this part of the documents, the largest values first."""
    reader = RowReader(annotated.summary.domains, outcome.names)
    batches = [batch for path in annotated.files for batch, _ in reader.batches(path)]
    values = np.concatenate([outcome.projection.apply(batch.scores) for batch in batches])
    hashes = np.concatenate([batch.doc_hash for batch in batches])
    most = max(int(rate * len(hashes)), 1)
    return [set(hashes[np.lexsort((hashes, -column))[:most]].tolist()) for column in values.T]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("dimensions")
    one.add_argument("--size", type=int, default=150, help="texts of each set")
    two = commands.add_parser("overlap")
    two.add_argument("config")
    two.add_argument("--rates", type=float, nargs="+", default=(0.005, 0.01, 0.02, 0.05, 0.1))
    two.add_argument("--set", action="append", default=[], dest="changes")
    asked = parser.parse_args()
    if asked.command == "dimensions":
        return 0 if dimensions(asked.size) else 1
    overlap(asked.config, asked.rates, asked.changes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
