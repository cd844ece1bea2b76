"""A fitted model is safetensors and JSON, named by content, and refused when anything about it changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quadmix.errors import ConfigError, InputError
from quadmix.scorers.model_files import ModelFile, describe_model, load_model, save_model

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1.5], dtype=np.float64)}


def test_a_model_comes_back_and_equal_models_have_equal_files(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = save_model(tmp_path / "one", "m", "linear", ARRAYS, {"labels": ["é"]})
    second = save_model(tmp_path / "two", "m", "linear", dict(reversed(ARRAYS.items())), {"labels": ["é"]})
    assert first.sha256 == second.sha256
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(p.name for p in (tmp_path / "two").iterdir())
    arrays, facts = load_model(first, "linear")
    assert facts == {"labels": ["é"]}
    assert {name: array.tolist() for name, array in arrays.items()} == {n: a.tolist() for n, a in ARRAYS.items()}
    assert describe_model(first.path) == first


def test_another_weight_has_another_name(tmp_path):
    first = save_model(tmp_path, "m", "linear", ARRAYS, {})
    second = save_model(tmp_path, "m", "linear", ARRAYS | {"a": np.array([1.25])}, {})
    assert first.path != second.path
    load_model(first, "linear")


def test_changed_missing_and_foreign_files_are_refused(tmp_path):
    file = save_model(tmp_path, "m", "linear", ARRAYS, {})
    with pytest.raises(InputError, match="'linear' model, wanted a 'clusters'"):
        load_model(file, "clusters")
    weights = Path(file.path).with_suffix(".safetensors")
    body = weights.read_bytes()
    weights.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(InputError, match="changed"):
        load_model(file, "linear")
    weights.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_model(file, "linear")
    with pytest.raises(InputError, match="changed"):
        load_model(ModelFile(file.path, "0" * 64), "linear")


def test_arrays_outside_the_directory_are_refused(tmp_path):
    file = save_model(tmp_path, "m", "linear", ARRAYS, {})
    header = json.loads(Path(file.path).read_text(encoding="utf-8"))
    for escape in ("../x.safetensors", "/etc/passwd", 7):
        Path(file.path).write_text(json.dumps(header | {"arrays": escape}), encoding="utf-8")
        with pytest.raises(InputError, match="PATH_ESCAPE"):
            load_model(describe_model(file.path), "linear")


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pt", "model.npy"])
def test_other_formats_are_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(ConfigError, match="UNSUPPORTED_FORMAT"):
        describe_model(str(tmp_path / name))


def test_json_that_is_no_model_is_refused(tmp_path):
    for body in (b"[]", b"{", b'{"form": "linear"}'):
        (tmp_path / "x.json").write_bytes(body)
        with pytest.raises(InputError, match="not a model file"):
            load_model(describe_model(str(tmp_path / "x.json")), "linear")
