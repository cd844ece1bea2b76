"""The counting stage: n-grams of a sample of the proxy pool, for the counting proxy of `search.counting`.

Counted are documents on which mixtures are measured, those of smallest draws (`documents_to_count`).
Blocks of a thousand of them are tasks, and each writes a file; the driver joins them in the order of document hashes:
neither units nor engines show in the result.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import CountingConfig, RunConfig
from quadmix.engine.base import Engine, Shared
from quadmix.hashing import fingerprint
from quadmix.progress import Progress
from quadmix.search.counting import CountedSample, Known, windows_of
from quadmix.stages.proxy_pool import Sample
from quadmix.stages.records import (
    StageRecord,
    begin,
    commit,
    file_entry,
    find,
    load_piece,
    save_piece,
    stage_directory,
    stage_fingerprint,
    write_atomically,
)
from quadmix.stages.search_inputs import Prepared

STAGE = "counting"
COUNTS_FILE = "counts.npz"
_BLOCK = 1_000
_LEAST_SHARE = 1 / 3  # of the tokens that a selection should leave of what is counted

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Counted:
    """The counting proxy of a search and what is to be said of it. rows: (docs,) of the sample, ascending."""

    path: str
    targets: tuple[str, ...]
    rows: Ints
    tokens: int


def documents_to_count(sample: Sample, settings: CountingConfig, budget: int, tokens: int, seed: int) -> Ints | None:
    """Rows of the sample, ascending: the documents of smallest draws, so many that a selection of `budget` of the
    pool's `tokens` leaves `settings.tokens` of them. None where at most too few would be left: such counts tell how
    often a mixture repeats its documents rather than what they say.
    """
    rate = min(budget / tokens, 1.0)
    wanted = min(math.ceil(settings.tokens / rate), settings.pool_tokens)
    order = sample.drawn_rows(len(sample.doc_hash), seed)
    fits = max(1, int(np.searchsorted(np.cumsum(sample.lengths[order]), wanted, side="right")))
    if fits < order.size and wanted * rate < _LEAST_SHARE * settings.tokens:
        return None
    return np.sort(order[:fits])


def counting_proxy(
    config: RunConfig,
    settings: CountingConfig,
    engine: Engine,
    progress: Progress,
    prepared: Prepared,
    end_id: int | None,
) -> Counted | None:
    """Count, or reuse what was counted. end_id: the token that stands before a document. None where a selection would
    leave too little of what may be counted."""
    task, sample = prepared.task, prepared.sample
    rows = documents_to_count(sample, settings, task.budget, prepared.pool.tokens, config.seed)
    if rows is None:
        progress.say(
            f"search: counting is left out: the budget takes {task.budget / prepared.pool.tokens:.2%} of the pool, and "
            f"so much of search.counting.pool_tokens ({settings.pool_tokens:,}) is too little to tell mixtures apart; "
            f"raise it to about {math.ceil(settings.tokens * prepared.pool.tokens / task.budget):,}"
        )
        return None
    root = Path(config.output)
    halves = tuple((target, path) for half, target, path in task.eval_sets if half == "search")
    parts = {
        "version": __version__,
        "proxy_pool": prepared.pool.digest,
        "swarm": task.swarm,  # knows the targets' tokens
        "config.mixture.budget": str(task.budget),
        "config.search.counting": settings.model_dump_json(exclude={"draws"}),
        "seed": str(config.seed),
    }
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    directory = stage_directory(root, STAGE, stage_fingerprint(STAGE, parts))
    if reuse.record is None:
        begin(root, STAGE, parts)
        # where no token ends a document, one that no text holds stands before it
        end, vocabulary = (end_id, task.vocab_size) if end_id is not None else (task.vocab_size, task.vocab_size + 1)
        known = Known.of([held_out_windows(path, end) for _, path in halves], vocabulary)
        counting = CountBlock(
            str(directory), prepared.pool.segments, engine.share(known), end, fingerprint(*parts.values())
        )
        inside = sample.place[rows]
        blocks = [(index, inside[start : start + _BLOCK]) for index, start in enumerate(range(0, inside.size, _BLOCK))]
        done = dict(engine.map(counting, blocks, label="search: counting n-grams"))
        natural = np.full(inside.size, task.budget / prepared.pool.tokens)
        counted = CountedSample.of(known, [directory / done[index] for index in range(len(blocks))], natural)
        counted.save(str(directory / COUNTS_FILE))
        priors = ", ".join(f"{strength:.1f}" for strength in counted.prior)
        loss = float(counted.losses(natural[None]).mean())
        progress.say(
            f"search: counting proxy over {inside.size:,} documents: {loss:.3f} nats per token on the natural mixture "
            f"(priors of unigrams, bigrams, trigrams {priors})"
        )
        for index in range(len(blocks)):
            (directory / done[index]).unlink()
        commit(
            root,
            StageRecord(
                STAGE,
                stage_fingerprint(STAGE, parts),
                parts,
                (file_entry(directory, COUNTS_FILE, inside.size),),
                {"documents": int(inside.size), "natural_loss": loss, "priors": counted.prior.tolist()},
            ),
        )
    path = str(directory / COUNTS_FILE)
    return Counted(path, tuple(target for target, _ in halves), rows, int(sample.lengths[rows].sum()))


def held_out_windows(path: str, end: int) -> Ints:
    """(n, 3) windows of the tokens that a target's loss counts."""
    from proxy_models.completions import CompletionSet, load_held_out

    held_out = load_held_out(path)
    tokens = held_out.tokens.astype(np.int64)
    if not isinstance(held_out, CompletionSet):
        documents = np.split(tokens, np.flatnonzero(tokens == end) + 1)  # each begins anew, as those of the pool do
        return np.concatenate([windows_of(one, end) for one in documents])
    starts = np.cumsum(held_out.lengths.sum(axis=1)) - held_out.lengths.sum(axis=1)
    return np.concatenate(
        [
            windows_of(tokens[start : start + context + completion], end)[context:]
            for start, (context, completion) in zip(starts.tolist(), held_out.lengths.tolist(), strict=True)
        ]
    )


@dataclass(frozen=True)
class CountBlock:
    """Task: (number, places of documents in the token pool) -> name of the file with their counts."""

    directory: str
    segments: tuple[str, ...]
    known: Shared[Known]
    end: int
    key: str

    def __call__(self, item: tuple[int, Ints]) -> str:
        index, places = item
        directory, name, key = Path(self.directory), f"block-{index:05d}.npz", f"{self.key}/{index}"
        if load_piece(directory, f"block-{index:05d}", key) is None:
            from scipy.sparse import save_npz

            from proxy_models.data import TokenPool

            pool = TokenPool(self.segments)
            documents = [pool.gather(places[row : row + 1]).astype(np.int64) for row in range(places.size)]
            held = io.BytesIO()
            save_npz(held, self.known.get().count(documents, self.end), compressed=False)
            write_atomically(directory / name, held.getvalue())
            save_piece(
                directory, f"block-{index:05d}", key, {"files": [asdict(file_entry(directory, name, places.size))]}
            )
        return name
