"""What a manifest says: which documents, how many copies, why, and how every number can be checked again.

`manifests/<digest16>/manifest.json` lists its Parquet parts and further files with sha256; digest16 is the start of
the sha256 of `manifest.json` itself, so the folder's name covers every byte in it. `CURRENT.json` in the run directory
names the manifest that counts. The manifest says nothing about where it was made: no absolute path, no host, no
clock, no engine, no secret; the same inputs, config and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from quadmix.credentials import hide_credentials
from quadmix.errors import ConfigError, VerificationError
from quadmix.manifest.durable import inside, relative_path
from quadmix.schema import SCHEMA_VERSION

MANIFEST_NAME = "manifest.json"
POINTER_NAME = "CURRENT.json"
FOLDER = "manifests"

_STRICT = ConfigDict(extra="forbid", strict=True)
# where it ran, who was asked and what was looked at, not what was chosen
_NOT_IDENTITY = ("output", "engine", "labels", "diversity")


@dataclass(frozen=True)
class Artefact:
    """A file that a manifest lists. rows: of a Parquet file, else 0."""

    path: str
    rows: int
    bytes: int
    sha256: str
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        relative_path(self.path)


@dataclass(frozen=True)
class Part(Artefact):
    """A Parquet file of selected documents. tokens: of every copy."""

    tokens: int


@dataclass(frozen=True)
class Share:
    """Tokens and documents of one domain or selector; `requested` and `available` are None where nothing says."""

    requested: int | None
    realised: int  # tokens, every copy counted
    documents: int
    copies: int
    available: int | None  # tokens of all documents of status ok, one copy each
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Tally:
    """Documents, and tokens where known, that are not in the manifest for one reason."""

    docs: int
    tokens: int
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Input:
    """One input shard: its name, its size and what identifies its bytes (whole-file sha256 or footer hash)."""

    shard: str
    size: int
    sha256: str | None = None
    footer: str | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Annotations:
    """The annotation files that the selection read, in unit order; `folder` is relative to the run directory."""

    folder: str
    fingerprint: str
    files: tuple[Artefact, ...]
    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        relative_path(self.folder)


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`; `directory` is where it was loaded from and no part of it."""

    run_fingerprint: str
    seed: int
    selector: str
    requested_tokens: int
    realised_tokens: int
    documents: int
    copies: int
    domains: dict[str, Share]
    selectors: dict[str, Share]
    repeats: dict[int, int]  # copies -> documents that have so many
    quarantine: dict[str, Tally]  # by reason (schema.RowReason)
    exclusions: dict[str, Tally]  # by rule: documents of status ok that were not selected
    inputs: tuple[Input, ...]
    config: dict[str, Any]  # see `portable_config`
    software: dict[str, str]
    annotations: Annotations
    plan: dict[str, Any]  # what `verify` and `explain` need to compute every key again
    files: tuple[Part, ...]
    artefacts: tuple[Artefact, ...] = ()
    schema_version: int = SCHEMA_VERSION
    directory: Path | None = field(default=None, compare=False, repr=False)
    __pydantic_config__ = _STRICT

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Read a manifest from a run directory (what `CURRENT.json` names), a manifest directory, or manifest.json.

        Checks the folder's digest and the form, not the listed files: that is `manifest.verify`. Raises
        `ConfigError` if there is no manifest or a path in it escapes, `VerificationError` if it was changed.
        """
        file, wanted = _locate(Path(path))
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the manifest {file}: {error.strerror}; is this a run's output?") from error
        found = hashlib.sha256(raw).hexdigest()
        if wanted is not None and not found.startswith(wanted):
            raise VerificationError(
                f"{file}: found sha256 {found}, wanted {wanted}: it was changed after it was published; "
                "rerun `quadmix select` to publish it again"
            )
        return _parse(raw, file)

    def json_bytes(self) -> bytes:
        """The bytes of `manifest.json`: keys sorted, no NaN, the same for equal manifests."""
        content = asdict(self)
        del content["directory"]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
        return (text + "\n").encode("utf-8")

    @property
    def digest(self) -> str:
        """sha256 of `manifest.json`, hex."""
        return hashlib.sha256(self.json_bytes()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where the manifest was loaded from; `ValueError` for one that was only built."""
        if self.directory is None:
            raise ValueError("this manifest was built in memory, not loaded; publish it first")
        return self.directory

    @property
    def run_directory(self) -> Path:
        """The output of the run: the folder that holds `manifests/` and `stages/`."""
        return self.folder.parent.parent

    def part_path(self, part: Artefact) -> Path:
        """Where a part or artefact lies; PATH_ESCAPE if a link leads out of the manifest's folder."""
        return inside(self.folder, part.path)

    def annotation_path(self, entry: Artefact) -> Path:
        """Where an annotation file lies; PATH_ESCAPE if it is outside the run directory."""
        return inside(self.run_directory, f"{self.annotations.folder}/{entry.path}")


def portable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config (as JSON values) without what says where it ran: no output, no engine, no folders, no credentials.

    Absolute paths and URIs keep their last component only: inputs are identified by their digests.
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    portable = _portable(kept)
    assert isinstance(portable, dict)
    return portable


def software_versions() -> dict[str, str]:
    """Versions of what decides a selection's bytes."""
    names = ("numpy", "pyarrow", "xxhash")
    versions = {name: metadata.version(name) for name in names}
    try:
        versions["quadmix"] = metadata.version("quadmix")
    except metadata.PackageNotFoundError:
        versions["quadmix"] = "source"
    return {**versions, "python": platform.python_version()}


def _portable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if isinstance(value, str):
        value = hide_credentials(value)
        if value.startswith("/") or "://" in value:
            value = value.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        return value
    return value


def _locate(path: Path) -> tuple[Path, str | None]:
    """(manifest.json, the digest or its beginning that it must have, if anything says)."""
    pointer = path / POINTER_NAME
    if pointer.is_file():
        try:
            content = json.loads(pointer.read_bytes())
            relative, digest = str(content["manifest"]), str(content["digest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VerificationError(
                f"{pointer}: found {error}, wanted a pointer to a manifest; rerun `quadmix select` to write it again"
            ) from error
        return inside(path, relative), digest
    file = path / MANIFEST_NAME if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"no manifest at {path}: wanted a run directory with {POINTER_NAME}, a manifest directory or a "
            f"{MANIFEST_NAME}; nothing may have been published there yet"
        )
    name = file.resolve().parent.name
    return file, name if re.fullmatch(r"[0-9a-f]{16}", name) else None


def _parse(raw: bytes, file: Path) -> Manifest:
    try:
        content = json.loads(raw, parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise VerificationError(f"{file}: not a manifest: {error}") from error
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise VerificationError(
            f"{file}: found schema version {version!r}, wanted {SCHEMA_VERSION}; use the version that wrote it"
        )
    if "directory" in content:
        raise VerificationError(f"{file}: unknown key 'directory'")
    try:
        manifest: Manifest = _adapter().validate_json(raw)
    except ValidationError as error:
        lines = [f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in error.errors()[:5]]
        raise VerificationError(f"{file}: not a manifest: {'; '.join(lines)}") from error
    object.__setattr__(manifest, "directory", file.resolve().parent)
    return manifest


def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"found {name}, wanted a finite number")
