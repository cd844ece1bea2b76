"""From a YAML file and `--set` overrides to a checked RunConfig, or to all problems at once.

Values keep their type: `"5"` is no number and `true` is no 1. A problem is one line,
`path.to.key: found ..., wanted ...; did you mean ... (line n)`. Nothing is started and no big package is imported.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from quadmix.config import RunConfig
from quadmix.config_checks import cross_checks
from quadmix.credentials import hide_credentials
from quadmix.errors import ConfigError
from quadmix.strict_yaml import Document, Path, dotted, parse

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}


def read_config(path: str | FilePath, overrides: list[str] | None = None, *, own_trainer: bool = False) -> RunConfig:
    """Read, override and check a configuration.

    overrides: `path.to.key=value`, the value in YAML (`pool.inputs=[a, b]`, `annotate.scorers.0.epochs=3`); another
    `kind` replaces its section. own_trainer: for `search ask` and `search tell`, which need neither targets nor a
    tokenizer for proxies. Raises ConfigError with one line per problem, all of them found at once.
    """
    document = parse(_text(FilePath(path)), str(path))
    if document.value is None and not document.problems:
        raise ConfigError(f"{path}: found an empty file, wanted at least `output`, `pool` and `mixture`")
    if document.value is not None and not isinstance(document.value, dict):
        raise ConfigError(f"{path}: found {_shown(document.value)}, wanted a mapping of keys to values at the top")
    values: dict[str, Any] = document.value or {}
    # a section's kind comes first: it decides which other keys there are
    for override in sorted(overrides or [], key=lambda text: not text.partition("=")[0].strip().endswith(".kind")):
        document.problems += _override(values, document.lines, override)
    return check_config(values, document, own_trainer=own_trainer)


def check_config(values: Mapping[str, Any], source: Document | None = None, *, own_trainer: bool = False) -> RunConfig:
    """Check plain values, as read from YAML or JSON. Raises ConfigError with one line per problem."""
    problems = list(source.problems) if source else []
    noted = {line.split(": ", 1)[0] for line in problems}
    config: RunConfig | None = None
    broken: set[str] = set()
    try:
        # strict, and by way of JSON, where a list is the one sequence: no "5" for 5, no true for 1
        config = RunConfig.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            path = _plain_path(error["loc"], values)
            broken.add(str(path[0]) if path else "")
            if not any(dotted(path[:length]) in noted for length in range(1, len(path) + 1)):
                problems.append(_line(error, path, values) + _line_number(path, source))
    sections = dict(config) if config else _sound_sections(values, broken)
    found = cross_checks(sections, own_trainer)
    problems += [f"{dotted(path)}: {text}{_line_number(path, source)}" for path, text in found]
    if problems or config is None:
        raise ConfigError([hide_credentials(line) for line in problems])
    return config


def _text(path: FilePath) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: found bytes at offset {error.start} that are not UTF-8, wanted text") from None
    except OSError as error:
        nearest = (
            _nearest(path.name, sorted(other.name for other in path.parent.glob("*.y*ml"))) if error.errno == 2 else ""
        )
        raise ConfigError(f"{path}: cannot be read ({error.strerror}){nearest}") from None


# ---------------------------------------------------------------------------------------------- overrides


def _override(values: dict[str, Any], lines: dict[Path, int], override: str) -> list[str]:
    """Put one `a.b=value` into `values`; the problems it has, if any."""
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        return [f"--set {override}: wanted path.to.key=value"]
    keys = _split(name.strip())
    place: Path = tuple(int(key) if key.isdigit() else key for key in keys)
    try:
        parsed = parse(text, f"--set {name.strip()}", place)
    except ConfigError as error:
        return error.problems
    if parsed.problems:
        return parsed.problems
    node: Any = values
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, dict):
            if last:
                if key == "kind" and node.get("kind") != parsed.value:
                    node.clear()  # another kind has other keys: its section starts afresh
                node[key] = parsed.value
            elif node.get(key) is None:
                node[key] = {}
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            if last:
                node[int(key)] = parsed.value
            node = node[int(key)]
        else:
            here = ".".join(keys[:depth])
            size = f"a list of {len(node)} (entries 0 to {len(node) - 1})" if isinstance(node, list) else _shown(node)
            return [f"--set {name.strip()}: found {size} at {here}, which has no {key!r}"]
    for path in [path for path in lines if path[: len(place)] == place]:
        del lines[path]  # the value no longer stands in the file
    lines[place] = 0
    return []


def _split(name: str) -> list[str]:
    """Keys of a dotted path. The names of Spark's properties hold dots: what follows `engine.conf.` is one key."""
    if name.startswith("engine.conf."):
        return ["engine", "conf", name.removeprefix("engine.conf.")]
    return name.split(".")


# ---------------------------------------------------------------------------------------------- problems as lines


def _line(error: ErrorDetails, path: Path, values: Any) -> str:
    where, found, context = dotted(path), _shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{where}: missing, wanted {_describe(_type_at(path, values))}"
        case "extra_forbidden":
            return f"{where}: unknown key{_meant(path, values)}"
        case "union_tag_not_found":
            return f"{dotted((*path, 'kind'))}: missing, wanted one of {_kinds(path)}"
        case "union_tag_invalid":
            kinds = _kinds(path)
            tag = str(context["tag"])
            return f"{dotted((*path, 'kind'))}: found {tag!r}, wanted one of {kinds}{_nearest(tag, kinds.split(', '))}"
        case "literal_error":
            allowed = [str(value) for value in get_args(_bare(_type_at(path, values)))]
            wanted = str(context["expected"])
            return f"{where}: found {found}, wanted {wanted}{_nearest(str(error['input']), allowed)}"
        case "too_short":
            return f"{where}: found {context['actual_length']} entries, wanted at least {context['min_length']}"
        case "too_long":
            return f"{where}: found {context['actual_length']} entries, wanted {context['max_length']}"
        case "value_error":
            return f"{where}: {context['error']}"
        case kind if kind in _WANTED:
            quote = "; quote it" if kind == "string_type" and isinstance(error["input"], bool | int | float) else ""
            return f"{where}: found {found}, wanted {_WANTED[kind].format(**context)}{quote}"
    return f"{where}: found {found}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _line_number(path: Path, source: Document | None) -> str:
    """` (line n)` of the longest part of the path that stands in the file, or that it came from an override."""
    for length in range(len(path), 0, -1):
        if source and path[:length] in source.lines:
            line = source.lines[path[:length]]
            return f" (line {line})" if line else " (from --set)"
    return ""


def _shown(value: Any) -> str:
    """A value as it stands in a problem: as in YAML, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else repr(value)
    text = hide_credentials(text)  # before it is cut, or half a password would no longer look like one
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(word: str, known: list[str]) -> str:
    plain = [name.strip("'") for name in known]
    close = difflib.get_close_matches(word.lower(), plain, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _meant(path: Path, values: Any) -> str:
    """What an unknown key was probably meant to be: a neighbour's name, or the same name in another section."""
    model = _model_at(path[:-1], values)
    key = str(path[-1])
    known = list(model.model_fields) if model else []
    near = _nearest(key, known)
    if near:
        return near
    elsewhere = [place for place in _all_places(RunConfig, ()) if place.split(".")[-1] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return f"; wanted one of {', '.join(known)}" if known else ""


# ---------------------------------------------------------------------------------------------- walking the types


def _plain_path(location: tuple[int | str, ...], values: Any) -> Path:
    """Pydantic's location without the tags of unions (`scorers.0.linear.epochs` -> `scorers.0.epochs`)."""
    path: list[int | str] = []
    node = values
    tagged = False
    for part in location:
        if isinstance(node, dict) and part == node.get("kind") and not tagged:
            tagged = True  # once a mapping: the `columns` scorer has a key `columns` too
            continue
        if part == "[key]":
            continue
        path.append(part)
        tagged = False
        node = _step(node, part)
    return tuple(path)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, `Annotated` and `| None` taken off."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part) if member is not type(None)]
    return [annotation]


def _bare(annotation: Any) -> Any:
    return _members(annotation)[0]


def _type_at(path: Path, values: Any = None) -> Any:
    """The annotation that governs a path; `values` and their `kind` choose where the annotation leaves a choice."""
    candidates: list[Any] = [RunConfig]
    for part in path:
        following: list[Any] = []
        values = _step(values, part)
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                found = candidate.model_fields.get(str(part))
                following += [found.annotation] if found else []
            elif get_origin(candidate) is tuple:
                following.append(get_args(candidate)[0])
            elif get_origin(candidate) is dict:
                following.append(get_args(candidate)[1])
        candidates = [member for annotation in following for member in _members(annotation)]
        kind = values.get("kind") if isinstance(values, dict) else None
        candidates = [member for member in candidates if _is_kind(member, kind)] or candidates
    return candidates[0] if len(candidates) == 1 else Union[tuple(candidates)] if candidates else None  # noqa: UP007


def _step(values: Any, part: int | str) -> Any:
    """One step down into plain values; None where there is nothing."""
    if isinstance(values, dict):
        return values.get(str(part))
    if isinstance(values, list) and isinstance(part, int) and part < len(values):
        return values[part]
    return None


def _is_kind(member: Any, kind: Any) -> bool:
    if not (isinstance(member, type) and issubclass(member, BaseModel)) or "kind" not in member.model_fields:
        return False
    return kind in get_args(member.model_fields["kind"].annotation)


def _model_at(path: Path, values: Any) -> type[BaseModel] | None:
    for member in _members(_type_at(path, values)):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _kinds(path: Path) -> str:
    """The kinds of the union at a path: `columns, heuristics, ...`."""
    models = [member for member in _members(_type_at(path)) if issubclass(member, BaseModel)]
    return ", ".join(str(get_args(model.model_fields["kind"].annotation)[0]) for model in models)


def _describe(annotation: Any) -> str:
    bare = _bare(annotation) if annotation is not None else None
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(bare))
    if get_origin(bare) in (tuple, list):
        return "a list"
    if get_origin(bare) is dict:
        return "a mapping of keys to values"
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        needed = [name for name, entry in bare.model_fields.items() if entry.is_required()]
        return "a section with " + ", ".join(f"`{name}`" for name in needed)
    plain = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return plain.get(bare, "a value") if isinstance(bare, type) else "a value"


def _all_places(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[str]:
    """Dotted names of every key that does not lie inside a list."""
    for name, entry in model.model_fields.items():
        yield ".".join((*prefix, name))
        members = _members(entry.annotation)
        if len(members) == 1 and isinstance(members[0], type) and issubclass(members[0], BaseModel):
            yield from _all_places(members[0], (*prefix, name))


def _sound_sections(values: Mapping[str, Any], broken: set[str]) -> dict[str, Any]:
    """The top-level sections that are right, so that their cross-checks run though another section is wrong."""
    sections: dict[str, Any] = {}
    for name, entry in RunConfig.model_fields.items():
        if name in broken or (name not in values and entry.is_required()):
            continue
        if name in values:
            adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, Annotated[entry.annotation, entry]))
            sections[name] = adapter.validate_json(json.dumps(values[name]), strict=True)
        else:
            sections[name] = entry.get_default()
    return sections
