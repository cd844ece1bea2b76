"""What `verify` has to say: each thing that is wrong, with its file, row, document and column."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from quadmix.errors import VerificationError

FINDINGS_KEPT = 50


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. row: number in the file, None where the whole file or a sum is meant."""

    file: str
    row: int | None
    doc_id: str | None
    column: str
    found: Any
    wanted: Any

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file} row {self.row}"
        who = "" if self.doc_id is None else f", doc_id {self.doc_id[:80]!r}"
        return f"{where}{who}, {self.column}: found {self.found}, wanted {self.wanted}"


@dataclass
class Verification:
    """The outcome: the first findings, how many there are in all, and how much was checked."""

    findings: list[Finding] = field(default_factory=list)
    total: int = 0
    files: int = 0
    rows: int = 0
    documents: int = 0

    @property
    def ok(self) -> bool:
        return self.total == 0

    def add(self, *finding: Any) -> None:
        self.total += 1
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(Finding(*finding))

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON values; what was found and wanted as text where it is no plain number."""
        findings = [asdict(finding) for finding in self.findings]
        for finding in findings:
            for side in ("found", "wanted"):
                value = finding[side].item() if isinstance(finding[side], np.generic) else finding[side]
                plain = value is None or isinstance(value, (int, str)) or (isinstance(value, float) and isfinite(value))
                finding[side] = value if plain else str(value)
        counts = {"problems": self.total, "files": self.files, "rows": self.rows, "documents": self.documents}
        return {"ok": self.ok, **counts, "findings": findings}

    def lines(self) -> list[str]:
        """The outcome in words."""
        if self.ok:
            return [
                f"verified: {self.files} files, {self.rows:,} rows recomputed from {self.documents:,} annotated "
                "documents; every number agrees"
            ]
        more = [f"… and {self.total - len(self.findings)} more"] if self.total > len(self.findings) else []
        return [str(finding) for finding in self.findings] + more

    def require(self) -> None:
        """Raise `VerificationError` with all lines unless everything agrees."""
        if not self.ok:
            raise VerificationError(
                "\n".join([*self.lines(), "do not train on this manifest; rerun `quadmix select` to publish it again"])
            )
