"""Long lists in messages: the first of them, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 20


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def listed_faults(faults: Sequence[str]) -> list[str]:
    """The first faults of one kind, a line each, and how many more there are."""
    more = [f"... and {len(faults) - SHOWN} more of this kind"] if len(faults) > SHOWN else []
    return [*faults[:SHOWN], *more]
