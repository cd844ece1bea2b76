"""What values and sections of a configuration are made of: counts with suffixes, sizes, names, the base of sections."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_COUNT_SUFFIX = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTE_SUFFIX = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _parse(value: object, suffixes: dict[str, int], wanted: str) -> int:
    if isinstance(value, bool):
        raise ValueError(f"found a boolean, wanted {wanted}")
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?\s*([A-Za-z]*)", value.strip())
        if match and match[3].upper() in suffixes:
            scale, fraction = suffixes[match[3].upper()], match[2] or ""
            scaled: int = int(match[1] + fraction) * scale
            unit = int("1" + "0" * len(fraction))
            if scaled % unit == 0 and (scale > 1 or not fraction):
                return scaled // unit
    raise ValueError(f"found {value!r}, wanted {wanted}")


def parse_count(value: object) -> int:
    """`3`, `"10B"`, `"1.5M"` to an integer; anything else (floats, `1e9`) is refused."""
    return _parse(value, _COUNT_SUFFIX, "a whole number or a form such as 500M or 10B")


def parse_bytes(value: object) -> int:
    """`4096`, `"64MB"`, `"128MiB"` to an integer number of bytes."""
    return _parse(value, _BYTE_SUFFIX, "a whole number of bytes or a form such as 64MB or 128MiB")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"found {value!r}, wanted a name: a letter, then up to 63 letters, digits or underscores")
    return value


Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
ByteSize = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Name = Annotated[str, AfterValidator(_check_name)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of all sections: unknown keys refused, values frozen, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
