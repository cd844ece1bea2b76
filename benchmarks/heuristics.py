"""CPU seconds of the heuristic signals against datatrove's four filters on the example pool. Bar: 5 times faster.

    python -m benchmarks.heuristics [--megabytes 1.5] [--rounds 3] [--profile]

Needs datatrove and spaCy (extra `bench`). datatrove runs Gopher quality, Gopher repetition, C4 and FineWeb quality
document by document, in three ways: with spaCy's words, its default, and every threshold out of reach, so that every
rule is computed as it is here; the same at its published thresholds, where a filter stops at the first rule that
fails; and with blank-separated words, which leaves the cost of the rules alone. CPU time of one thread, rounds
interleaved, the median of them. Also printed: how often each filter, at its published thresholds and with its own
words, decides as the signals say. Exit code 1 when the bar is missed against the first way.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from quadmix.scorers.heuristics import OUTPUTS, SIGNALS, measure

BAR = 5.0
POOL = Path(__file__).resolve().parents[1] / "examples" / "pool"
FAR = 1e9
# (signal, limit, 1: at least, -1: at most) of each filter at its published thresholds
PUBLISHED: dict[str, tuple[tuple[str, float, int], ...]] = {
    "GopherQualityFilter": (
        ("word_count", 50, 1),
        ("word_count", 100_000, -1),
        ("mean_word_length", 3, 1),
        ("mean_word_length", 10, -1),
        ("hash_word_ratio", 0.1, -1),
        ("ellipsis_word_ratio", 0.1, -1),
        ("bullet_line_fraction", 0.9, -1),
        ("ellipsis_line_fraction", 0.3, -1),
        ("alpha_word_fraction", 0.8, 1),
        ("stop_word_count", 2, 1),
    ),
    "GopherRepetitionFilter": tuple(
        (name, signal.rules[0].threshold, -1)
        for name, signal in SIGNALS.items()
        if name.startswith(("duplicate_", "top_"))
    ),
    "C4QualityFilter": (("c4_sentence_count", 5, 1), ("curly_bracket_ratio", 0, -1), ("lorem_ipsum", 0, -1)),
    "FineWebQualityFilter": (
        ("terminal_line_fraction", 0.12, 1),
        ("short_line_fraction", 0.67, -1),
        ("line_duplicate_char_fraction", 0.01, -1),
        ("newline_word_ratio", 0.3, -1),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    texts = sample(asked.megabytes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.2f} MB of the example pool")
    if asked.profile:
        profile = cProfile.Profile()
        profile.runcall(measure, texts)
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)

    computed, published = filters(computed=True), filters(computed=False)
    sides: dict[str, Callable[[], object]] = {
        "datatrove, spaCy words, every rule": lambda: run(computed, texts),
        "datatrove, spaCy words, published thresholds": lambda: run(published, texts),
        "datatrove, blank-separated words, every rule": lambda: with_plain_words(computed, texts),
        "quadmix, all signals": lambda: measure(texts, tuple(OUTPUTS)),
        "quadmix, heuristic_quality": lambda: measure(texts, ("heuristic_quality",)),
    }
    run(computed, texts[:20])
    measure(texts[:20])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(asked.rounds):
        for name, side in sides.items():
            begun = time.process_time()
            side()
            seconds[name].append(time.process_time() - begun)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ours = median["quadmix, all signals"]
    for name, value in median.items():
        print(f"{name:46s} {value:7.2f} CPU-s {megabytes / value:7.2f} MB/s {value / ours:7.1f} x quadmix")

    measured = measure(texts)
    for name, kept in run(published, texts).items():
        expected = np.ones(len(texts), dtype=bool)
        for signal, limit, sign in PUBLISHED[name]:
            expected &= sign * measured[signal] >= sign * limit
        agree = (kept == expected).mean()
        print(f"{name:24s} keeps {kept.mean():6.1%}, the signals {expected.mean():6.1%}, agree {agree:6.1%}")
    ratio = median["datatrove, spaCy words, every rule"] / ours
    print(f"ratio {ratio:.1f}, bar {BAR}")
    return 0 if ratio >= BAR else 1


def sample(megabytes: float) -> list[str]:
    """Every k-th document of the pool, about so many megabytes."""
    texts = []
    for path in sorted(POOL.glob("*.jsonl.zst")):
        with path.open("rb") as handle:
            stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(handle), encoding="utf-8")
            texts += [json.loads(line)["text"] for line in stream]
    step = max(1, int(sum(map(len, texts)) / (megabytes * 1e6)))
    return texts[::step]


def filters(computed: bool) -> list[Any]:
    """datatrove's four filters, at their defaults or with thresholds that nothing reaches."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    if not computed:
        return [GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter()]
    return [
        GopherQualityFilter(
            min_doc_words=-1,
            max_doc_words=FAR,
            min_avg_word_length=-1,
            max_avg_word_length=FAR,
            max_symbol_word_ratio=FAR,
            max_bullet_lines_ratio=FAR,
            max_ellipsis_lines_ratio=FAR,
            max_non_alpha_words_ratio=-1,
            min_stop_words=-1,
        ),
        GopherRepetitionFilter(
            dup_line_frac=FAR,
            dup_para_frac=FAR,
            dup_line_char_frac=FAR,
            dup_para_char_frac=FAR,
            top_n_grams=tuple((n, FAR) for n in (2, 3, 4)),
            dup_n_grams=tuple((n, FAR) for n in range(5, 11)),
        ),
        C4QualityFilter(min_num_sentences=0, filter_curly_bracket=False, filter_lorem_ipsum=False),
        FineWebQualityFilter(line_punct_thr=-1, short_line_thr=FAR, char_duplicates_ratio=FAR, new_line_ratio=FAR),
    ]


def run(stages: list[Any], texts: list[str]) -> dict[str, np.ndarray]:
    """filter -> (n,) whether it keeps each document."""
    from datatrove.data import Document

    kept: dict[str, list[bool]] = {type(stage).__name__: [] for stage in stages}
    for text in texts:
        for stage in stages:
            decided = stage.filter(Document(text=text, id=""))
            kept[type(stage).__name__].append(decided if isinstance(decided, bool) else decided[0])
    return {name: np.array(values) for name, values in kept.items()}


def with_plain_words(stages: list[Any], texts: list[str]) -> dict[str, np.ndarray]:
    """The same with `str.split` for words and a sentence a line."""
    from datatrove.pipeline.filters import (
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    modules = (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter)
    words = gopher_quality_filter.split_into_words
    sentences = c4_filters.split_into_sentences
    try:
        for module in modules:
            module.split_into_words = lambda text, language: text.split() or [text]
        c4_filters.split_into_sentences = lambda text, language: [text]
        return run(stages, texts)
    finally:
        for module in modules:
            module.split_into_words = words
        c4_filters.split_into_sentences = sentences


if __name__ == "__main__":
    sys.exit(main())
