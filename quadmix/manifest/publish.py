"""Publish a manifest all or nothing: a reader finds the previous one or the new one, whole, at every instant.

Everything is gathered in a private folder, checked there byte by byte, made durable, and renamed to a name made from
its content; then one pointer, `CURRENT.json`, is replaced atomically. That replacement is the only moment at which
anything changes for a reader. Published files are never overwritten in place and never deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from quadmix.credentials import find_credential
from quadmix.errors import ConfigError, InputError, VerificationError
from quadmix.hashing import sha256_file
from quadmix.manifest.durable import (
    copy_durably,
    private_name,
    resource_errors,
    sync_folder,
    write_atomically,
    write_durably,
)
from quadmix.manifest.model import FOLDER, MANIFEST_NAME, POINTER_NAME, Artefact, Manifest, Part


def publish(root: Path, manifest: Manifest, sources: Mapping[str, Path]) -> Manifest:
    """Make `manifest` the current one of the run directory `root`; hold `run_lock(root)` while calling.

    sources: where each listed file (`manifest.files` and `artefacts`, by path) lies now; they are copied.
    Returns the published manifest as loaded again. Raises `VerificationError` if a
    file is not as described, `InputError` if nothing is selected, `ResourceError` on a full or read-only disk: in
    each case the previous manifest stays current.
    """
    root = Path(root)
    target = store(root, manifest, sources)
    pointer = {"manifest": f"{FOLDER}/{target.name}/{MANIFEST_NAME}", "digest": manifest.digest}
    write_atomically(root / POINTER_NAME, (json.dumps(pointer, sort_keys=True, indent=1) + "\n").encode("utf-8"))
    return Manifest.load(root)


def store(root: Path, manifest: Manifest, sources: Mapping[str, Path]) -> Path:
    """All of `publish` but the pointer: the folder in which the manifest now lies, durable, under its digest."""
    data = manifest.json_bytes()
    _refuse(manifest, data, sources)
    digest = manifest.digest
    target = root / FOLDER / digest[:16]
    with resource_errors(f"cannot publish the manifest under {root / FOLDER}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        if target.exists():
            _repair(target, manifest, data, sources)
        else:
            work = target.parent / private_name(target.name)
            _fill(work, manifest, data, sources)
            os.rename(work, target)
        sync_folder(target.parent)
        sync_folder(root)
    return target


def _refuse(manifest: Manifest, data: bytes, sources: Mapping[str, Path]) -> None:
    if manifest.documents == 0 or not manifest.files:
        raise InputError("nothing was selected, so nothing is published; see the quarantine and exclusion tallies")
    secret = find_credential(data.decode("utf-8"))
    if secret:
        raise ConfigError(
            f"the manifest would hold something that looks like a credential ({secret}); nothing was published; "
            "take it out of the config (file names included) and rerun"
        )
    listed = [entry.path for entry in _listed(manifest)]
    reserved = {MANIFEST_NAME} & set(listed)
    if reserved or len(set(listed)) != len(listed) or set(listed) != set(sources):
        raise VerificationError(
            f"files listed {sorted(listed)}, wanted each of {sorted(sources)} exactly once; nothing was published"
        )


def _fill(work: Path, manifest: Manifest, data: bytes, sources: Mapping[str, Path]) -> None:
    """Gather and check everything in the private folder `work`."""
    work.mkdir()
    folders = {work}
    for entry in _listed(manifest):
        target = work / entry.path
        for folder in reversed(target.relative_to(work).parents):
            (work / folder).mkdir(exist_ok=True)
            folders.add(work / folder)
        _copy_checked(sources[entry.path], target, entry)
    write_durably(work / MANIFEST_NAME, data)
    for folder in sorted(folders, reverse=True):
        sync_folder(folder)


def _repair(target: Path, manifest: Manifest, data: bytes, sources: Mapping[str, Path]) -> None:
    """Put right what is damaged in an already published folder, file by file, each by atomic replace.

    The name of the folder says what its bytes must be, so no reader can be harmed by restoring them.
    """
    if not (target / MANIFEST_NAME).is_file() or (target / MANIFEST_NAME).read_bytes() != data:
        write_atomically(target / MANIFEST_NAME, data)
    for entry in _listed(manifest):
        path = target / entry.path
        try:
            _compare(path, path.stat().st_size, sha256_file(str(path)), entry)
        except (OSError, VerificationError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.parent / private_name(path.name)
            _copy_checked(sources[entry.path], fresh, entry)
            os.replace(fresh, path)
            sync_folder(path.parent)


def _copy_checked(source: Path, target: Path, entry: Part | Artefact) -> None:
    _compare(source, *copy_durably(source, target), entry)
    if isinstance(entry, Part):
        rows = pq.read_metadata(target).num_rows
        if rows != entry.rows:
            raise VerificationError(f"{source}: found {rows} rows, wanted {entry.rows}; nothing was published")


def _compare(path: Path, size: int, digest: str, entry: Part | Artefact) -> None:
    """The file has exactly the bytes that its entry declares."""
    if size != entry.bytes:
        raise VerificationError(f"{path}: found {size} bytes, wanted {entry.bytes}; nothing was published")
    if digest != entry.sha256:
        raise VerificationError(f"{path}: found sha256 {digest}, wanted {entry.sha256}; nothing was published")


def _listed(manifest: Manifest) -> Iterable[Part | Artefact]:
    return (*manifest.files, *manifest.artefacts)


def _sweep(root: Path) -> None:
    """Remove the private leftovers of runs that were stopped; they never had a published name.

    Safe under the run lock: whoever made them is gone.
    """
    for leftover in sorted((root / FOLDER).glob(".*.tmp")):
        for folder, _, names in os.walk(leftover, topdown=False):
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
    for leftover in sorted(root.glob(f".{POINTER_NAME}.*.tmp")):
        leftover.unlink()
