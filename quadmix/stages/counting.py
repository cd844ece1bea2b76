"""The counting stage: n-grams of a sample of the proxy pool, for the counting proxy of `search.counting`.

Counted are the documents on which mixtures are measured, in the order of their draws, up to `search.counting.tokens`.
Blocks of a thousand of them are tasks, and each writes a file; the driver joins them in the order of document hashes:
neither units nor engines show in the result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadmix import __version__
from quadmix.config import CountingConfig, RunConfig
from quadmix.engine.base import Engine, Shared
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint, uniform
from quadmix.progress import Progress
from quadmix.search.counting import LARGEST_VOCABULARY, CountedSample, Counts, Known, windows_of
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
)
from quadmix.stages.search_inputs import Prepared

STAGE = "counting"
COUNTS_FILE = "counts.npz"
_BLOCK = 1_000

Ints = NDArray[np.int64]


def counting_proxy(
    config: RunConfig,
    settings: CountingConfig,
    engine: Engine,
    progress: Progress,
    prepared: Prepared,
    end_id: int | None,
    sample_rows: Ints,
) -> Counts:
    """Count, or reuse what was counted. sample_rows: (n,) rows of `prepared.sample` on which mixtures are measured,
    ascending; end_id: the token that stands before a document."""
    task = prepared.task
    if task.vocab_size > LARGEST_VOCABULARY:
        raise ConfigError(
            f"search.counting: the tokenizer has {task.vocab_size:,} entries, wanted at most {LARGEST_VOCABULARY:,}; "
            "leave the counting proxy out with `counting: null`"
        )
    root = Path(config.output)
    halves = tuple((target, path) for half, target, path in task.eval_sets if half == "search")
    parts = {
        "version": __version__,
        "proxy_pool": prepared.pool.digest,
        "swarm": task.swarm,  # knows the targets' tokens
        "config.search.counting.tokens": str(settings.tokens),
        "seed": str(config.seed),
    }
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    directory = stage_directory(root, STAGE, stage_fingerprint(STAGE, parts))
    sample = prepared.sample
    places = _counted_places(sample.doc_hash[sample_rows], sample.lengths[sample_rows], config.seed, settings.tokens)
    if reuse.record is None:
        begin(root, STAGE, parts)
        known = Known.of([held_out_windows(path, end_id or 0) for _, path in halves], task.vocab_size)
        counting = CountBlock(
            str(directory), prepared.pool.segments, engine.share(known), end_id or 0, fingerprint(*parts.values())
        )
        inside = sample.place[sample_rows[places]]
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
    return Counts(str(directory / COUNTS_FILE), tuple(target for target, _ in halves), places)


def _counted_places(doc_hash: NDArray[np.uint64], lengths: Ints, seed: int, tokens: int) -> Ints:
    """Ascending places of the documents of smallest draws that hold at most `tokens`, at least one document."""
    order = np.argsort(uniform(doc_hash, seed, "counting"), kind="stable")
    fits = max(1, int(np.searchsorted(np.cumsum(lengths[order]), tokens, side="right")))
    return np.sort(order[:fits]).astype(np.int64)


def held_out_windows(path: str, end: int) -> Ints:
    """(n, 3) windows of the tokens that a target's loss counts."""
    from proxy_models.completions import CompletionSet, load_held_out

    held_out = load_held_out(path)
    tokens = held_out.tokens.astype(np.int64)
    if not isinstance(held_out, CompletionSet):
        return windows_of(tokens, end)
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
            save_npz(directory / name, self.known.get().count(documents, self.end), compressed=False)
            save_piece(
                directory, f"block-{index:05d}", key, {"files": [asdict(file_entry(directory, name, places.size))]}
            )
        return name
