"""From a file to a :class:`~ssl_cert_server.config.schema.Config`, or to everything that is wrong with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pydantic import ValidationError

from ssl_cert_server.config.cross import cross_problems
from ssl_cert_server.config.problems import schema_problems
from ssl_cert_server.config.schema import Config
from ssl_cert_server.config.tree import Document, parse_tree
from ssl_cert_server.config.values import reason
from ssl_cert_server.errors import ConfigError, ConfigProblem
from ssl_cert_server.files import read_regular

MAX_FILE = 1024 * 1024
"""Bytes."""

_NOT_REGULAR = ("/dev/stdin", "/dev/fd/", "/dev/null")
"""Paths that may lead to something else than a regular file.

The first two are descriptors that the parent process opened, as shells do for ``-c <(...)``. The last one is an empty
configuration.
"""


def load_config(path: Path) -> Config:
    """Load a configuration file.

    :raises ConfigError: the file can't be read, or with every mistake in it.
    """
    try:
        content = _read(path)
    except OSError as error:
        raise _failure(path, f"can't be read: {reason(error)}") from error
    except ValueError as error:  # a path with a NUL in it
        raise _failure(path, "can't be read: not a path") from error
    if len(content) > MAX_FILE:
        raise _failure(path, "larger than 1 MiB, which no configuration is")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _failure(path, "not UTF-8 text", line) from error
    return parse_config(text, str(path))


def parse_config(text: str, source: str) -> Config:
    """Load a configuration from its text; ``source`` names it in errors.

    :raises ConfigError: with every mistake at once.
    """
    document = _with_file_defaults(parse_tree(text, source))
    problems = [*document.problems, *cross_problems(document)]
    config = None
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        # What the tree refused is missing from the data, and would be reported as missing, too.
        refused = {(problem.path, problem.line) for problem in document.problems}
        problems += (found for found in schema_problems(error, document) if (found.path, found.line) not in refused)
    if config is None or problems:
        raise ConfigError(source, tuple(sorted(problems, key=lambda problem: problem.line or 0)))
    return config


def _read(path: Path) -> bytes:
    if str(path).startswith(_NOT_REGULAR):
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    return read_regular(path, MAX_FILE)


def _with_file_defaults(document: Document) -> Document:
    """Leave the local CA off unless the file enables it: ``Config`` itself has the defaults for no file at all."""
    if document.data.get("local_ca") in (None, ""):
        return dataclasses.replace(document, data={**document.data, "local_ca": {}})
    return document


def _failure(path: Path, message: str, line: int | None = None) -> ConfigError:
    return ConfigError(str(path), (ConfigProblem("", message, line),))
