"""From YAML to plain data that knows the line of every key.

Scalars stay text: the schema says what is a number or a switch, so that ``cert_key: 2024`` is text and ``no`` isn't
suddenly false. Nothing here builds a Python object from a tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from ssl_cert_server.errors import ConfigError, ConfigProblem

MAX_DEPTH = 20
MAX_VALUES = 200_000
"""Values after aliases are followed; a file of a megabyte that lists host names stays below."""

KeyPath = tuple[str | int, ...]

_TAGS: Mapping[type[yaml.Node], frozenset[str]] = {
    yaml.MappingNode: frozenset({"map"}),
    yaml.SequenceNode: frozenset({"seq"}),
    yaml.ScalarNode: frozenset({"str", "null", "bool", "int", "float", "timestamp", "value", "merge"}),
}
# PyYAML's words for the commonest mistakes, and what to do about them.
_EXPLAINED: Mapping[str, str] = {
    r"'\t'": "a tab where YAML wants spaces; indent with spaces only",
    "mapping values are not allowed here": "a colon that can't stand here; put quotes around text that holds one",
    "found unexpected end of stream": "a quote is never closed",
    "but found another document": "a second document (---); a configuration is one",
}
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_MAX_SHOWN_KEY = 60


@dataclass(frozen=True, slots=True)
class Document:
    """``data`` is made of dict, list, str and None; ``lines`` has the line of every key and list entry in it."""

    data: Mapping[str, object]
    lines: Mapping[KeyPath, int]
    problems: tuple[ConfigProblem, ...]

    def line(self, path: KeyPath) -> int | None:
        """Give the line of a key, or of the nearest one above it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: KeyPath, message: str) -> ConfigProblem:
        """Make a problem of what is wrong at a path."""
        return ConfigProblem(render_path(path), message, self.line(path))

    def at(self, *path: str | int) -> object:
        """Give what stands at a path, None where nothing does."""
        found: object = self.data
        for step in path:
            try:
                found = found[step]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def entries(self, *path: str | int) -> list[object]:
        """Give the entries of the list at a path, none where there is no list."""
        found = self.at(*path)
        return found if isinstance(found, list) else []

    def texts(self, *path: str | int) -> list[tuple[KeyPath, str]]:
        """Give those entries of the list at a path that are text, each with its own path."""
        return [((*path, index), text) for index, text in enumerate(self.entries(*path)) if isinstance(text, str)]


def parse_tree(text: str, source: str) -> Document:
    """Parse YAML. Mistakes that leave the rest readable are gathered in the document.

    :raises ConfigError: not YAML, not a mapping, or too deep or too large to go on.
    """
    try:
        return _parse(text)
    except _Unreadable as error:
        raise ConfigError(source, (ConfigProblem("", str(error), error.line),)) from error


def render_path(path: KeyPath) -> str:
    """Give a path as it is shown: ``lets_encrypt.domains[2]``. Odd keys are quoted, so that they stay on one line."""
    shown = "".join(f"[{step}]" if isinstance(step, int) else f".{_render_key(step)}" for step in path)
    return shown.removeprefix(".")


def _render_key(key: str) -> str:
    shown = key if _PLAIN_KEY.fullmatch(key) else json.dumps(key)
    return shown if len(shown) <= _MAX_SHOWN_KEY else shown[:_MAX_SHOWN_KEY] + "..."


class _Unreadable(Exception):
    """The text can't be read any further."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Stops at a depth no configuration has, before Python's own stack does."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", self.get_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _parse(text: str) -> Document:
    root = _compose(text)
    if root is None:
        return Document({}, {}, ())
    builder = _Builder()
    data = builder.value(root, ())
    if data is None and not builder.problems:
        data = {}
    if not isinstance(data, dict):
        problem = builder.problems[0].message if builder.problems else "must be a mapping of keys, like `listen: ...`"
        raise _Unreadable(problem, _line(root.start_mark))
    return Document(data, builder.lines, tuple(builder.problems))


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _Unreadable("not valid YAML: holds a control character or another that YAML forbids", line) from error
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        problem = error.problem or "it ends too early"
        # An open quote is noticed at the end of the file only; the context is where it opens.
        mark = error.context_mark if "end of stream" in problem else error.problem_mark
        raise _Unreadable(_explain(problem), _line(mark) if mark else None) from error
    except (ValueError, OverflowError) as error:  # PyYAML hands escapes and versions to chr() and int() unchecked
        message = "not valid YAML: an escape or version number is out of range"
        raise _Unreadable(message, _line(loader.get_mark())) from error


def _explain(problem: str) -> str:
    for theirs, ours in _EXPLAINED.items():
        if theirs in problem:
            return f"not valid YAML: {ours}"
    return f"not valid YAML: {problem}"


def _line(mark: yaml.Mark) -> int:
    return mark.line + 1


@dataclass(slots=True)
class _Builder:
    """Turns nodes into data, counting: a few aliases can stand for billions of values."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    _count: int = 0

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _Unreadable(f"holds more than {MAX_VALUES} values", _line(node.start_mark))
        if len(path) > MAX_DEPTH:  # an alias to itself ends here, too
            raise _Unreadable(f"nested more than {MAX_DEPTH} levels deep", _line(node.start_mark))
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS[type(node)]:
            self._problem(path, "YAML tags (starting with !) are not supported", node)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        return None if node.tag.endswith(":null") else node.value

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[object]:
        entries = []
        for index, child in enumerate(node.value):
            self.lines[*path, index] = _line(child.start_mark)
            entries.append(self.value(child, (*path, index)))
        return entries

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        data: dict[str, object] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(path, "a key must be plain text, not a list or a mapping", key)
            elif key.tag.endswith(":merge"):
                self._problem((*path, key.value), "merge keys are not supported; write the keys out", key)
            elif key.value in data:
                first = self.lines[*path, key.value]
                self._problem((*path, key.value), f"this key is given twice (first on line {first})", key)
            else:
                self.lines[*path, key.value] = _line(key.start_mark)
                data[key.value] = self.value(child, (*path, key.value))
        return data

    def _problem(self, path: KeyPath, message: str, node: yaml.Node) -> None:
        self.problems.append(ConfigProblem(render_path(path), message, _line(node.start_mark)))
