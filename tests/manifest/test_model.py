"""A manifest reads back as written, from any of its three addresses, and refuses what was tampered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quadmix.credentials import find_credential
from quadmix.errors import ConfigError, VerificationError
from quadmix.manifest import Manifest
from quadmix.manifest.model import Part, portable_config
from quadmix.manifest.publish import publish


def test_it_loads_from_the_run_the_folder_and_the_file(tmp_path: Path, draft: Callable[..., Any]) -> None:
    manifest, sources = draft(tmp_path / "src", "x", seed=2**63 - 1, repeats={1: 2, 2: 1, 10: 1})
    published = publish(tmp_path / "out", manifest, sources)
    folder = tmp_path / "out" / "manifests" / manifest.digest[:16]
    for address in (tmp_path / "out", folder, folder / "manifest.json", str(tmp_path / "out")):
        loaded = Manifest.load(address)
        assert loaded == manifest == published
        assert loaded.digest == manifest.digest
        assert loaded.folder == folder
        assert loaded.run_directory == tmp_path / "out"
        assert all(loaded.part_path(part).is_file() for part in loaded.files)


def test_a_manifest_elsewhere_than_under_its_digest_still_loads(tmp_path: Path, draft: Callable[..., Any]) -> None:
    manifest, _ = draft(tmp_path / "src", "x")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "manifest.json").write_bytes(manifest.json_bytes())
    assert Manifest.load(tmp_path / "copy") == manifest


def test_nothing_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no manifest at"):
        Manifest.load(tmp_path)
    with pytest.raises(ConfigError, match="no manifest at"):
        Manifest.load(tmp_path / "missing.json")


@pytest.mark.parametrize("address", ["run", "folder"])
def test_a_changed_manifest_is_refused(tmp_path: Path, draft: Callable[..., Any], address: str) -> None:
    published = publish(tmp_path / "out", *draft(tmp_path / "src", "x"))
    file = published.folder / "manifest.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(VerificationError, match="sha256"):
        Manifest.load(tmp_path / "out" if address == "run" else published.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"directory": "/etc"}, "directory"),
        ({"seed": "1"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"files": None}, "files"),
        ({"domains": {"web": {"requested": 1}}}, "domains.web"),
    ],
)
def test_a_wrong_form_is_refused_and_named(
    tmp_path: Path, draft: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    content = {**json.loads(draft(tmp_path / "src", "x")[0].json_bytes()), **change}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(VerificationError, match=message):
        Manifest.load(tmp_path / "manifest.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": NaN}', "\x00"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(VerificationError, match="not a manifest"):
        Manifest.load(tmp_path / "manifest.json")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret", "x/../../y", "c:\\x"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, draft: Callable[..., Any], path: str) -> None:
    with pytest.raises(ConfigError, match="PATH_ESCAPE"):
        Part(path, 0, 0, "", 0)
    content = json.loads(draft(tmp_path / "src", "x")[0].json_bytes())
    content["files"][0]["path"] = path
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="PATH_ESCAPE"):
        Manifest.load(tmp_path / "manifest.json")
    content = json.loads(draft(tmp_path / "src", "x")[0].json_bytes())
    content["annotations"]["folder"] = path
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="PATH_ESCAPE"):
        Manifest.load(tmp_path / "manifest.json")


def test_a_pointer_or_a_link_cannot_lead_outside(tmp_path: Path, draft: Callable[..., Any]) -> None:
    published = publish(tmp_path / "out", *draft(tmp_path / "src", "x"))
    part = published.files[0]
    published.part_path(part).unlink()
    (published.folder / part.path).symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="PATH_ESCAPE"):
        published.part_path(part)
    (tmp_path / "out" / "CURRENT.json").write_text('{"manifest": "../src/manifest.json", "digest": "00"}')
    with pytest.raises(ConfigError, match="PATH_ESCAPE"):
        Manifest.load(tmp_path / "out")
    (tmp_path / "out" / "CURRENT.json").write_text("{}")
    with pytest.raises(VerificationError, match="CURRENT"):
        Manifest.load(tmp_path / "out")


def test_a_portable_config_says_what_was_chosen_and_not_where() -> None:
    config = {
        "output": "/home/me/out",
        "engine": {"kind": "spark", "conf": {"spark.authenticate.secret": "x"}},
        "pool": {
            "inputs": ["/data/pool", "s3://key:word@bucket/a/b/", "s3://key:word@bucket", "pool/part.parquet"],
            "unit_bytes": 128,
        },
        "note": "AKIAABCDEFGHIJKLMNOP",
        "query": "https://host/file?X-Amz-Signature=abcdef",
    }
    assert portable_config(config) == {
        "pool": {"inputs": ["pool", "b", "***@bucket", "pool/part.parquet"], "unit_bytes": 128},
        "note": "***",
        "query": "file",
    }


@pytest.mark.parametrize(
    "text",
    ["AKIAABCDEFGHIJKLMNOP", "s3://user:pass@bucket", "x?sig=abc", "-----BEGIN RSA PRIVATE KEY-----", "hf_" + "a" * 30],
)
def test_credentials_are_recognised(text: str) -> None:
    assert find_credential(f'{{"a": "{text}"}}') is not None


def test_ordinary_text_is_no_credential() -> None:
    assert (
        find_credential('{"a": "s3://bucket/x",\n "b": "me@host", "shard": "books/a@b.parquet", "tokens": 5}') is None
    )
