"""The pool as a few of its documents tell it: how many there are, how long, and how fast the tokenizer is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config import RunConfig
from quadmix.errors import InputError
from quadmix.pool.quarantine import Faults
from quadmix.pool.readers import read_unit
from quadmix.pool.storage import open_input
from quadmix.pool.units import InputFile, Unit
from quadmix.scorers.tokens import load_tokenizer

_SAMPLE_UNITS = 4
_SAMPLE_BYTES = 500_000
_HEAD_BYTES = 2**20  # stored bytes of a JSONL file in which lines are counted


@dataclass(frozen=True)
class Seen:
    """The pool as extrapolated from a sample; token_seconds: of one core, per token."""

    documents: int
    tokens: int
    text_bytes: int
    token_seconds: float
    lengths: NDArray[np.int64]  # tokens of the sampled documents


def sampled(config: RunConfig, units: Sequence[Unit]) -> Seen:
    chosen = [units[int(place)] for place in np.linspace(0, len(units) - 1, min(_SAMPLE_UNITS, len(units)))]
    texts: list[str] = []
    given: list[int] = []
    rows = 0
    for unit in chosen:
        held = 0
        for batch in read_unit(unit, config.pool, ()):
            fine = Faults.of_columns(batch["reason"], batch["detail"]).fine
            for position, sound in enumerate(fine):
                rows += 1
                if not sound:
                    continue
                texts.append(batch["text"][position].as_py())
                held += len(texts[-1])
                if config.pool.columns.tokens:
                    given.append(int(batch["tokens"][position].as_py() or 0))
                if held >= _SAMPLE_BYTES:
                    break
            if held >= _SAMPLE_BYTES:
                break
    if not texts:
        raise InputError("plan: the sampled units hold no usable document; run annotate to see why")
    size = sum(len(text.encode()) for text in texts)
    started = time.process_time()
    counts = np.array(given) if given else _count(config, texts)
    token_seconds = (time.process_time() - started) / max(int(counts.sum()), 1)
    scale = _all_rows(units, chosen) / rows
    return Seen(round(len(texts) * scale), round(int(counts.sum()) * scale), round(size * scale), token_seconds, counts)


def _count(config: RunConfig, texts: list[str]) -> np.ndarray[Any, Any]:
    if config.tokenizer is None:
        return np.array([len(text.encode()) for text in texts])
    tokenizer = load_tokenizer(config.tokenizer)
    tokenizer.count(texts[:1])  # loading is not part of the speed
    return tokenizer.count(texts)


def _all_rows(units: Sequence[Unit], chosen: Sequence[Unit]) -> float:
    """Rows of all units: Parquet footers say, of JSONL the lines in the heads of the chosen units' files do."""
    pieces = [piece for unit in units for piece in unit.pieces]
    known = sum(piece.stop - piece.start for piece in pieces if piece.stop >= 0)
    uncounted = sum(piece.file.size for piece in pieces if piece.stop < 0)
    if not uncounted:
        return known
    heads = {piece.file.path: piece.file for unit in chosen for piece in unit.pieces if piece.stop < 0}
    lines, stored = np.sum([_lines(file) for file in heads.values()], axis=0) if heads else (0, 1)
    return float(known + uncounted * lines / stored)


def _lines(file: InputFile) -> tuple[int, int]:
    """(lines, stored bytes that hold them) at the beginning of a JSONL file."""
    with open_input(file.path) as raw:
        head = raw.read(_HEAD_BYTES)
    if not file.compression:
        return head.count(b"\n") + (len(head) == file.size and not head.endswith(b"\n")), len(head)
    lines = 0
    stream = pa.CompressedInputStream(pa.BufferReader(head), {"gz": "gzip", "zst": "zstd"}[file.compression])
    with suppress(OSError):  # the head may end inside a block
        while block := stream.read(2**16):
            lines += block.count(b"\n")
    return lines, len(head)
