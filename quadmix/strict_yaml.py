"""YAML without its traps: every problem of a text at once, each with its line, and nothing guessed.

Refused: repeated keys (YAML readers silently keep the last), keys that are not text (`no:` is a boolean),
tags beyond the plain types (`!!python/...` runs code elsewhere), aliases that loop or explode. Read as text rather than
converted: dates, `1:30`, `0x10` and `010`. `1e9` and `4e-3` are numbers, as everywhere but in YAML 1.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from quadmix.errors import ConfigError

Path = tuple[str | int, ...]

_MAX_CHARACTERS = 256 * 1024
_MAX_NODES = 100_000
_TAG = "tag:yaml.org,2002:"
_TRUE = frozenset({"yes", "true", "on"})


class _Loader(yaml.SafeLoader):
    """SafeLoader's parser with the plain types only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as in PyYAML)


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_TAG + kind, re.compile(pattern), list(first))


_resolve("null", r"^(?:~|null|Null|NULL|)$", "~nN")
_Loader.yaml_implicit_resolvers.setdefault("", []).append((_TAG + "null", re.compile(r"^$")))
_resolve("bool", r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$", "yYnNtTfFoO")
_resolve("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789")
_resolve(
    "float",
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF|nan|NaN|NAN))$",
    "-+0123456789.",
)
_resolve("merge", r"^<<$", "<")


@dataclass
class Document:
    """A parsed text: plain values, the line of every path (1-based), and what was wrong on the way."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def parse(text: str, where: str, at: Path = ()) -> Document:
    """Read one YAML (or JSON) document, whose top is called `at` in problems; `where` names the text.

    Raises ConfigError when the text cannot be parsed at all.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ConfigError(f"{where}: found {len(text):,} characters, wanted a configuration of at most 262,144")
    try:
        node = yaml.compose(text, Loader=_Loader)
        document = Document(None)
        if node is not None:
            document.value = _Reader(document, where).value(node, at)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        context = f" {error.context}" if error.context else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {error.problem}{context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply to be a configuration") from None
    return document


def dotted(path: Path) -> str:
    """`annotate.scorers.0.epochs`; the whole document is `(top level)`."""
    return ".".join(str(part) for part in path) or "(top level)"


class _Reader:
    """Turns YAML nodes into plain values and notes every problem."""

    def __init__(self, document: Document, where: str) -> None:
        self.document = document
        self.where = where
        self._nodes = 0
        self._inside: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise ConfigError(f"{self.where}: aliases expand to more than {_MAX_NODES:,} values; write them out")
        if id(node) in self._inside:
            self._note(path, node, "found an alias that contains itself, wanted plain values")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._inside.add(id(node))
        try:
            if node.tag not in (_TAG + "map", _TAG + "seq"):
                return self._unsafe(node, path)
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._inside.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    found = self.value(source, path)
                    if isinstance(found, dict):
                        merged = found | merged
                    else:
                        self._note(path, key_node, "found `<<` before something else than a mapping")
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in own:
                self._note((*path, key), key_node, "DUPLICATE_KEY: found the key a second time, wanted each key once")
                continue
            self.document.lines[(*path, key)] = key_node.start_mark.line + 1
            own[key] = self.value(value_node, (*path, key))
        return merged | own

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if isinstance(node, yaml.ScalarNode):
            if node.tag == _TAG + "str":
                return str(node.value)
            kinds = {"bool": "a boolean", "null": "null", "int": "a whole number", "float": "a number"}
            kind = kinds.get(node.tag.removeprefix(_TAG), node.tag)
            self._note((*path, node.value or "null"), node, f'key parsed as {kind}; quote it: "{node.value}":')
        else:
            self._note(path, node, "found a list or mapping as a key, wanted text")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = str(node.value)
        try:
            match node.tag.removeprefix(_TAG):
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() in _TRUE
                case "int":
                    return int(text.replace("_", ""))
                case "float":
                    plain = text.replace("_", "").lower()
                    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            self._note(path, node, f"found {text[:40]!r}, which is not a {node.tag.removeprefix(_TAG)}")
            return None
        return self._unsafe(node, path)

    def _unsafe(self, node: yaml.Node, path: Path) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self._note(path, node, f"UNSAFE_TAG: found {tag}, wanted plain text, numbers, booleans, lists and mappings")

    def _note(self, path: Path, node: yaml.Node, text: str) -> None:
        self.document.problems.append(f"{dotted(path)}: {text} ({self.where} line {node.start_mark.line + 1})")
