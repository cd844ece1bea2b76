"""Fitted models on disk: arrays as safetensors, everything else as JSON; never pickle.

A model is two files whose names carry the digest of their content: `<stem>-<digest16>.safetensors` and
`<stem>-<digest16>.json`, which names the first and its sha256. The same fit writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.errors import ConfigError, InputError

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelFile:
    """A model's JSON file and the sha256 of its bytes (which hold the arrays' sha256)."""

    path: str
    sha256: str


def save_model(directory: Path, stem: str, form: str, arrays: Mapping[str, NDArray[Any]], facts: object) -> ModelFile:
    """Write a model. `form` says what it is (`linear`, ...), `facts` is JSON: vocabulary of labels, sizes, settings."""
    from safetensors.numpy import save

    body = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    described = {"form": form, "facts": facts, "sha256": hashlib.sha256(body).hexdigest()}
    name = f"{stem}-{hashlib.sha256(_dump(described)).hexdigest()[:16]}"
    header = _dump({**described, "arrays": f"{name}.safetensors"})
    _write(directory / f"{name}.safetensors", body)
    _write(directory / f"{name}.json", header)
    return ModelFile(str((directory / f"{name}.json").absolute()), hashlib.sha256(header).hexdigest())


def describe_model(path: str) -> ModelFile:
    """A model file that a config names. Raises ConfigError when it cannot be read or is not one of ours."""
    if not path.endswith(".json"):
        raise ConfigError(
            f"model: UNSUPPORTED_FORMAT: found {path}, wanted the .json file that was saved with the model"
        )
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"model: cannot read {path}: {error.strerror}") from error
    return ModelFile(str(Path(path).absolute()), hashlib.sha256(raw).hexdigest())


def load_model(file: ModelFile, form: str) -> tuple[Arrays, Any]:
    """(arrays, facts). Raises InputError when a file is missing, changed or of another form."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    header_bytes = _read(Path(file.path), file.sha256)
    try:
        header = json.loads(header_bytes)
        found, facts, arrays, sha256 = (header[key] for key in ("form", "facts", "arrays", "sha256"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"model {file.path} is not a model file of this project: {error!r}") from error
    if found != form:
        raise InputError(f"model {file.path} is a {found!r} model, wanted a {form!r} model")
    if not isinstance(arrays, str) or Path(arrays).name != arrays:
        raise InputError(f"PATH_ESCAPE: model {file.path} names its arrays {arrays!r}, wanted a file beside it")
    try:
        return load(_read(Path(file.path).with_name(arrays), sha256)), facts
    except SafetensorError as error:
        raise InputError(f"model arrays {arrays} beside {file.path} are not safetensors: {error}") from error


def _read(path: Path, sha256: str) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"model file {path} cannot be read here: {error.strerror}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise InputError(f"model file {path} changed: sha256 {found[:16]}…, wanted {sha256[:16]}…; fit it again")
    return raw


def _write(path: Path, body: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with open(temporary, "wb") as handle:
        handle.write(body)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1).encode()
