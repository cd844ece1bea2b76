"""What a selector that looks at the pool first leaves for `select`: Quad, ODiS, rules and unions of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from quadmix.selectors.base import SelectionPlan


class Measured(Protocol):
    """A selector that knows the pool, by a stage of its own or by what its plan asks for: a plan, with or without the
    domain quotas of a mixture."""

    @property
    def digest(self) -> str:
        """Of the stage's record, or of the settings from which all follows."""
        ...

    def alone(self) -> SelectionPlan: ...

    def within(self, domain_quotas: Sequence[int]) -> SelectionPlan:
        """domain_quotas: tokens of the pool's domains, by index."""
        ...
