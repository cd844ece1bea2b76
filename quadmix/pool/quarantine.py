"""Rows that cannot be used: the first fault of each is kept, counted, and shown so that somebody can act on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.schema import RowReason

DETAIL_CHARACTERS = 200
REASONS = tuple(RowReason)
_CODE = {reason: code for code, reason in enumerate(REASONS, start=1)}
# these lose nothing that was wanted: the document stays once, or a rule of the config leaves it out
HARMLESS = frozenset({RowReason.DUP_ID_SAME, RowReason.TARGET_LEAK, RowReason.UNKNOWN_DOMAIN})


@dataclass
class Faults:
    """The first fault of each of n rows. codes: (n,) int16, 0 = fine, else 1 + index into REASONS."""

    codes: NDArray[np.int16]
    details: dict[int, str] = field(default_factory=dict)

    @classmethod
    def none(cls, n_rows: int) -> Faults:
        return cls(np.zeros(n_rows, dtype=np.int16))

    @property
    def fine(self) -> NDArray[np.bool_]:
        """(n,) rows without a fault so far."""
        fine: NDArray[np.bool_] = self.codes == 0
        return fine

    def mark(
        self, mask: NDArray[np.bool_], reason: RowReason, detail: str | Callable[[int], str] | None = None
    ) -> None:
        """Give the rows in `mask` this fault, unless they have one. `detail` may be computed from the row's number."""
        rows = np.flatnonzero(mask & self.fine)
        self.codes[rows] = _CODE[reason]
        if detail is not None:
            for row in rows.tolist():
                self.details[row] = escaped(detail if isinstance(detail, str) else detail(row))

    def mark_rows(self, faults: Mapping[int, tuple[RowReason, str]]) -> None:
        """Give single rows their faults."""
        for row, (reason, detail) in faults.items():
            if self.codes[row] == 0:
                self.codes[row] = _CODE[reason]
                self.details[row] = escaped(detail)

    def reasons(self) -> pa.Array:
        """(n,) string: the reason, null for rows that are fine."""
        if not self.codes.any():
            return pa.nulls(len(self.codes), pa.string())
        return pa.DictionaryArray.from_arrays(
            pa.array(self.codes - 1, type=pa.int16(), mask=self.codes == 0), pa.array([str(name) for name in REASONS])
        ).dictionary_decode()

    def detail_column(self) -> pa.Array:
        """(n,) string: what was found, null where there is nothing to add."""
        if not self.details:
            return pa.nulls(len(self.codes), pa.string())
        return pa.array([self.details.get(row) for row in range(len(self.codes))], pa.string())

    @classmethod
    def of_columns(cls, reasons: pa.Array, details: pa.Array) -> Faults:
        """Back from the two columns of a batch."""
        faults = cls.none(len(reasons))
        if reasons.null_count < len(reasons):
            for row in np.flatnonzero(reasons.is_valid().to_numpy(zero_copy_only=False)).tolist():
                faults.codes[row] = _CODE[RowReason(reasons[row].as_py())]
                if details[row].is_valid:
                    faults.details[row] = details[row].as_py()
        return faults


def escaped(text: str) -> str:
    """At most 200 characters of printable ASCII: safe in a terminal, a log and a table."""
    shown = text[:DETAIL_CHARACTERS].encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= DETAIL_CHARACTERS else shown[: DETAIL_CHARACTERS - 3] + "..."
