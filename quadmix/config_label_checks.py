"""What the section `labels` and the heads that learn from its file ask of the rest of a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from urllib.parse import urlsplit

from quadmix.config import PoolConfig, TokenizerConfig
from quadmix.config_annotate import AnnotateConfig, HeadsScorerConfig
from quadmix.config_labels import LabelsConfig
from quadmix.errors import ConfigError
from quadmix.labels.rubrics import rubrics_of
from quadmix.strict_yaml import Path

Problem = tuple[Path, str]
_OURS = ("messages", "model", "stream", "n")  # of a request


def labels_checks(
    labels: LabelsConfig | None, annotate: AnnotateConfig, pool: PoolConfig, tokenizer: TokenizerConfig | None
) -> Iterator[Problem]:
    """Problems of the section itself."""
    if labels is None:
        return
    if tokenizer is None:
        yield ("tokenizer",), "missing, but labels are asked of texts that are cut, and priced, by tokens"
    yield from _endpoint(labels)
    yield from _file(labels, pool)
    try:
        names = tuple(rubrics_of(labels))
    except ConfigError as error:
        for line in error.problems:
            where, _, text = line.partition(": ")
            yield tuple(where.split(".")), text
        return
    taken = {(path or "id").split(".")[0] for path in (pool.columns.id, pool.columns.text)}
    for name in names:
        if name in taken:
            yield (
                ("labels", "dimensions"),
                f"found {name!r}, the name of a column of the pool that the label file has too",
            )
    for index, scorer in enumerate(annotate.scorers):
        if isinstance(scorer, HeadsScorerConfig) and scorer.labelled == (labels.file,):
            for name, column in scorer.labels.items():
                if column not in names:
                    text = f"found {column!r}, wanted one of the dimensions of {labels.file}: {', '.join(names)}"
                    yield ("annotate", "scorers", index, "labels", name), text


def heads_checks(annotate: AnnotateConfig, tokenizer: TokenizerConfig | None) -> Iterator[Problem]:
    """An encoder reads tokens."""
    for index, scorer in enumerate(annotate.scorers):
        if isinstance(scorer, HeadsScorerConfig) and scorer.model.kind == "encoder" and tokenizer is None:
            text = "found an encoder, which needs the section `tokenizer`"
            yield ("annotate", "scorers", index, "model"), text


def _endpoint(labels: LabelsConfig) -> Iterator[Problem]:
    url = urlsplit(labels.endpoint.url)
    if url.scheme not in ("http", "https") or not url.netloc or url.query or url.fragment:
        text = f"found {labels.endpoint.url!r}, wanted the base of an endpoint, such as https://api.example.com/v1"
        yield ("labels", "endpoint", "url"), text
    if url.username is not None or url.password is not None:
        text = "found a name or a password in it; wanted the key in an environment variable, named by api_key_env"
        yield ("labels", "endpoint", "url"), text
    for name in _OURS:
        if name in labels.endpoint.parameters:
            yield (
                ("labels", "endpoint", "parameters", name),
                "found it, but it is set from the rest of the section",
            )


def _file(labels: LabelsConfig, pool: PoolConfig) -> Iterator[Problem]:
    if not labels.file.endswith(".jsonl"):
        yield ("labels", "file"), f"found {labels.file!r}, wanted a name that ends with .jsonl"
    place = FilePath(labels.file).resolve()
    for entry in pool.inputs:
        if "://" not in entry and place.is_relative_to(FilePath(entry).resolve()):
            yield ("labels", "file"), f"found {labels.file!r}, which is inside of the pool's input {entry!r}"
