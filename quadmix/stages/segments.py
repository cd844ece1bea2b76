"""Tokenised documents on disk, by unit or bucket: a segment of tokens and an array of what is known of each."""

from __future__ import annotations

from quadmix.pool.units import Unit


def segment_name(index: int) -> str:
    """File of tokens (`proxy_models.data`)."""
    return f"tokens-{index:05d}.bin"


def array_name(index: int) -> str:
    """File of one row a document of the segment, in its order."""
    return f"documents-{index:05d}.npy"


def unit_bytes(item: tuple[int, tuple[Unit, str]]) -> int:
    """Size of a task's item: (index, (unit, its annotation file))."""
    return item[1][0].bytes
