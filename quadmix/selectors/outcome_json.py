"""Outcomes of selectors that measure, read back from JSON."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from quadmix.errors import VerificationError

T = TypeVar("T")


def outcome_from_json(adapter: TypeAdapter[T], value: Any, selector: str) -> T:
    """What `asdict` gave, and JSON carried. Raises VerificationError where `value` is not that."""
    try:
        # by way of text: only there tuples may come as lists without numbers coming as strings
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise VerificationError(f"an outcome of {selector} that cannot be read: {error}; run select again") from error
