"""Whole files that cannot be used: one reason each, always with the file's name and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quadmix.errors import InputError
from quadmix.schema import FileReason

_SHOWN = 20


@dataclass(frozen=True)
class Refusal:
    """A file that was refused. `shard` is its name in this run, `path` where it lies."""

    shard: str
    path: str
    reason: FileReason
    message: str

    def line(self) -> str:
        return f"{self.path}: {self.reason}: {self.message}"


class FileRefused(InputError):
    """Raised while a file is read; the stage collects them so that all bad files are named at once."""

    def __init__(self, shard: str, path: str, reason: FileReason, message: str) -> None:
        self.refusal = Refusal(shard, path, reason, message)
        super().__init__(self.refusal.line())

    def __reduce__(self) -> tuple[type[FileRefused], tuple[str, str, FileReason, str]]:
        refusal = self.refusal
        return FileRefused, (refusal.shard, refusal.path, refusal.reason, refusal.message)


def refused_error(refused: Sequence[Refusal]) -> InputError:
    """The error that lists refused files: counts by reason, then the files."""
    counts: dict[str, int] = {}
    for refusal in refused:
        counts[refusal.reason] = counts.get(refusal.reason, 0) + 1
    tally = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
    lines = [f"  {refusal.line()}" for refusal in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"  … and {len(refused) - _SHOWN} more")
    return InputError(
        f"{len(refused)} input file(s) refused ({tally}):\n"
        + "\n".join(lines)
        + "\nrepair or remove them, or set pool.skip_bad_files: true to go on without them"
    )
