"""Scores that the input already holds, used as they are.

The values pass through unchanged: a null, NaN or infinite score, or one outside its declared range, is for the
quarantine of `stages.annotate` to name, so nothing is clipped or filled here. Nulls come out as nulls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from quadmix.config_annotate import ColumnScorerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import fingerprint
from quadmix.scorers.base import Criterion
from quadmix.scorers.context import FitContext


@dataclass(frozen=True)
class ColumnScorer:
    """`inputs[i]` of the batch becomes criterion `outputs[i]`."""

    inputs: tuple[str, ...]
    outputs: tuple[Criterion, ...]
    name: str = "columns"
    version: str = "1"

    @classmethod
    def from_config(cls, config: ColumnScorerConfig, context: FitContext) -> ColumnScorer:
        """Nothing is learned. Raises ConfigError when a range or direction names no column, or a range is empty."""
        problems = [
            f"columns scorer: {field} names {name!r}, wanted one of {', '.join(config.columns)}"
            for field, names in (("lower_is_better", config.lower_is_better), ("ranges", tuple(config.ranges)))
            for name in names
            if name not in config.columns
        ]
        problems += [
            f"columns scorer: ranges.{name}: found [{low:g}, {high:g}], wanted the lower end first"
            for name, (low, high) in config.ranges.items()
            if not low < high
        ]
        if problems:
            raise ConfigError(problems)
        return cls(
            inputs=tuple(config.columns.values()),
            outputs=tuple(
                Criterion(name, config.ranges.get(name), name not in config.lower_is_better) for name in config.columns
            ),
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, repr(self.inputs), repr(self.outputs))

    def load(self) -> None:
        """Nothing to load."""

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One float32 column per criterion. Raises InputError when a column is absent or not numeric."""
        return pa.record_batch(
            [as_float32(batch, path) for path in self.inputs], names=[criterion.name for criterion in self.outputs]
        )


def as_float32(batch: pa.RecordBatch, path: str) -> pa.Array[Any]:
    """A batch's column as scores. Raises InputError when it is absent or not numeric."""
    position = batch.schema.get_field_index(path)
    if position < 0:
        raise InputError(f"score column {path!r} is not in the input; it holds {', '.join(batch.schema.names)}")
    column = batch.column(position)
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.float32())
    if pa.types.is_boolean(kind):
        return pc.cast(pc.cast(column, pa.uint8()), pa.float32())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise InputError(f"score column {path!r} holds {kind}, wanted numbers")
    # unsafe: integers beyond 2**24 round to the nearest float32, which is what a score is stored as
    return pc.cast(column, pa.float32(), safe=False)
