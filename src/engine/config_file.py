"""Reads a YAML file into a pydantic model, and says where in the file each problem is.

The text is composed into nodes, which know their lines, before it becomes plain data; what pydantic then
finds wrong with the data is explained in an operator's words, one line a problem.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

SHOWN_VALUE_CHARS = 60
MAX_INTEGER = 2**63

SECRET_KEY = re.compile(
    r"(?i)(^|[_-])(api[_-]?key|key|passwd|password|secret|token|credentials?|authorization|user(name)?)$"
)

# pydantic's error types, in words that follow "expected"; the braces are filled from the error's context.
EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a section with keys of its own",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a section with keys of its own",
    "path_type": "text (a path)",
    "string_too_short": "some text",
    "string_type": "text (in quotes if it looks like something else)",
    "tuple_type": "a list",
}


class ConfigError(Exception):
    """The file cannot be used. ``problems`` has one line for each thing to repair, in the file's order."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        super().__init__("\n".join(self.problems))


@dataclass(slots=True)
class Document:
    """A YAML file as data, with the line (from 1) of every key and list item."""

    name: str
    """What the file is called in problems."""
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    """What the data model cannot see: a duplicate key, a value of no plain type; each with its line."""

    def known_part(self, path: KeyPath) -> KeyPath:
        """The longest beginning of ``path`` that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return path

    def line_of(self, path: KeyPath) -> int:
        return self.lines.get(self.known_part(path), 1)


def read_text(path: Path) -> str:
    """The file's text with its line ends and byte order mark as they are. Raises ConfigError."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise ConfigError(f"{path}: not UTF-8 text (byte 0x{byte:02x} at offset {error.start})") from None


def parse(text: str, name: str) -> Document:
    """Turns YAML text into data. Raises ConfigError where it is no YAML, or no mapping."""
    document = Document(name)
    try:
        document.data = _Builder(document).value(_root(text, name), (), ())
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: nested too deeply") from None
    return document


def _root(text: str, name: str) -> yaml.MappingNode:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = ord(error.character) if isinstance(error.character, str) else error.character
        raise ConfigError(f"{name}:{line}: not valid YAML: unprintable character U+{code:04X}") from None
    if root is None or root.tag == "tag:yaml.org,2002:null":
        raise ConfigError(f"{name}: the file is empty (one line such as 'default_provider: local' is enough)")
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        raise ConfigError(f"{name}:{line}: expected 'key: value' lines at the top level")
    return root


class _Builder:
    """Makes plain data of nodes, noting lines and problems in a Document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: KeyPath, inside: tuple[yaml.Node, ...]) -> Any:
        """``inside`` are the nodes around this one: an alias of one of them has no plain value."""
        if node in inside:
            self._note(node, f"{dotted(path)} contains itself")
            return None
        if isinstance(node, yaml.MappingNode):
            return {key: self.value(child, (*path, key), (*inside, node)) for key, child in self._pairs(node, path)}
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, child in enumerate(node.value):
                self._document.lines[*path, index] = child.start_mark.line + 1
                items.append(self.value(child, (*path, index), (*inside, node)))
            return items
        try:
            plain = self._constructor.construct_object(node)
            if isinstance(plain, str):
                plain.encode()
        except (yaml.YAMLError, ValueError) as error:
            reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            self._note(node, f"{dotted(path)}: {shown(node.value)} cannot be understood: {reason}")
            return None
        if plain is None or isinstance(plain, str | float) or (isinstance(plain, int) and abs(plain) < MAX_INTEGER):
            return plain
        return node.value  # a date or the like: to an operator it is the text that stands there

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key = _key_text(key_node)
            if key in seen:
                self._note(key_node, f"{dotted((*path, key))} is given twice (first on line {seen[key]})")
            seen.setdefault(key, key_node.start_mark.line + 1)
        try:
            self._constructor.flatten_mapping(node)
        except yaml.constructor.ConstructorError as error:
            self._note(node, f"{dotted(path) or 'the file'}: {error.problem}")
        for key_node, child in node.value:
            key = _key_text(key_node)
            self._document.lines[*path, key] = key_node.start_mark.line + 1
            yield key, child

    def _note(self, node: yaml.Node, problem: str) -> None:
        self._document.problems.append((node.start_mark.line + 1, problem))


def _key_text(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "(a key that is not text)"


def validate(model: type[Model], document: Document, variable_of: Callable[[KeyPath], str]) -> Model:
    """Makes a ``model`` of the document's data; raises ConfigError with every problem, in the file's order.

    ``variable_of`` names the environment variable that a secret belongs into which was found at a path.
    """
    problems = list(document.problems)
    result = None
    try:
        # As JSON, pydantic's strict mode takes lists for tuples and text for paths, and yet no "60" for 60.
        text = json.dumps(_without_empty_sections(model, document.data))
        result = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems += _explained(model, document, error.errors(), variable_of)
    if problems or result is None:
        raise ConfigError(*(f"{document.name}:{line}: {problem}" for line, problem in sorted(problems)))
    return result


def _without_empty_sections(model: type[BaseModel], data: dict[str, Any]) -> dict[str, Any]:
    """A section whose every line is commented out reads as null in YAML, and means its defaults."""
    kept = {}
    for key, value in data.items():
        section = _section(model, key)
        if section and isinstance(value, dict):
            kept[key] = _without_empty_sections(section, value)
        elif not section or value is not None:
            kept[key] = value
    return kept


def _explained(
    model: type[BaseModel],
    document: Document,
    errors: list[ErrorDetails],
    variable_of: Callable[[KeyPath], str],
) -> list[tuple[int, str]]:
    wanted: dict[KeyPath, list[str]] = {}
    given: dict[KeyPath, Any] = {}
    explained = []
    for error in errors:
        path = document.known_part(error["loc"])
        if error["type"] == "extra_forbidden":
            explained.append((document.line_of(path), _unknown_key(model, path, variable_of)))
        elif error["type"] in EXPECTED:
            # The branches of a union each report on their own; together they say what would be right.
            wanted.setdefault(path, []).append(EXPECTED[error["type"]].format(**error.get("ctx", {})))
            given[path] = error["input"]
        else:
            message = error["msg"].removeprefix("Value error, ")
            explained.append((document.line_of(path), f"{dotted(path)}: {message}" if path else message))
    for path, alternatives in wanted.items():
        expected = " or ".join(dict.fromkeys(alternatives))
        got = f"got {shown(given[path])}"
        explained.append((document.line_of(path), f"{dotted(path)}: expected {expected}, {got}"))
    return explained


def _unknown_key(model: type[BaseModel], path: KeyPath, variable_of: Callable[[KeyPath], str]) -> str:
    key = str(path[-1])
    known = [str(known[-1]) for known in key_paths(model, depth=1, start=path[:-1])]
    elsewhere = [dotted(known) for known in key_paths(model) if known[-1] == key]
    near = nearest(key, known)
    if SECRET_KEY.search(key) and not difflib.get_close_matches(key, known, cutoff=0.8):
        source = f"set {variable_of(path)} in the environment or in .env"
        return f"{dotted(path)}: credentials are not read from this file; {source}"
    if near:
        hint = f"; did you mean {near}?"
    elif elsewhere:
        hint = f" here; did you mean {' or '.join(elsewhere)}?"
    else:
        hint = f"; known here: {', '.join(known)}" if known else ""
    return f"{dotted(path)} is not a known key{hint}"


def key_paths(model: type[BaseModel], depth: int = 99, start: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of all keys under ``start``, sections before what is in them, ``depth`` levels down."""
    section: type[BaseModel] | None = model
    for part in start:
        section = _section(section, str(part)) if section else None
    for name in section.model_fields if section else ():
        yield (*start, name)
        if depth > 1:
            yield from key_paths(model, depth - 1, (*start, name))


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    info = model.model_fields.get(name)
    for kind in (info.annotation, *get_args(info.annotation)) if info else ():
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The one of ``known`` that somebody who wrote ``word`` most likely meant."""
    begun = [name for name in known if name.startswith(word.lower())] if len(word) > 2 else []
    near = difflib.get_close_matches(word.lower(), known, n=1) or begun
    return near[0] if near else None


def dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def shown(value: Any) -> str:
    """A value as it may stand in a one-line message."""
    if value is None:
        return "nothing"
    text = "a section" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= SHOWN_VALUE_CHARS else text[: SHOWN_VALUE_CHARS - 1] + "…"
