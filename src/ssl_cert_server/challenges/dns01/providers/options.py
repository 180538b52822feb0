"""What an operator writes for a DNS provider: options, given as they are, by file or by environment variable."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_cert_server.errors import StartError
from ssl_cert_server.files import read_regular

MAX_FILE = 64 * 1024
"""Bytes of a file that holds one option; a cloud's service account takes 3 kB."""

_FORMS = ("_file", "_env")
_NEAR = 0.7
_MAX_GUESSED = 40
"""Characters; nearness is quadratic in them."""

Check = Callable[[str], str | None]
"""Tells what is wrong with a value, without quoting a secret; None where nothing is."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a provider. Its value may stand in ``NAME``, in the file ``NAME_file``, or in ``$NAME_env``."""

    name: str
    required: bool = False
    check: Check | None = None


def problems_in(known: Sequence[Option], options: Mapping[str, str]) -> list[str]:
    """Give everything that is wrong with options as they are written; no file or variable is read."""
    names = [option.name for option in known]
    problems = [explain_unknown("option", key, names) for key in options if _option_of(key, names) is None]
    for option in known:
        forms = [key for key in options if _option_of(key, names) == option.name]
        if len(forms) > 1:
            problems.append(f"{option.name}: give only one of {', '.join(sorted(forms))}")
        elif not forms and option.required:
            problems.append(f"{option.name}: is missing; give it, or {option.name}_file or {option.name}_env")
        elif forms == [option.name]:
            problems += _wrong(option, options[option.name])
        elif forms and not options[forms[0]]:
            problems.append(f"{forms[0]}: must not be empty")
    return problems


def resolve_secrets(known: Sequence[Option], options: Mapping[str, str]) -> Mapping[str, str]:
    """Read what is given by file or environment variable; a file's content is stripped.

    :raises StartError: with everything that is wrong, by option, file and variable, never with a content.
    """
    problems = problems_in(known, options)
    names = [option.name for option in known]
    values: dict[str, str] = {}
    for key, given in options.items():
        name = _option_of(key, names)
        if name is not None:
            try:
                values[name] = given if key == name else _read_form(key, given)
            except ValueError as error:
                problems.append(f"{key}: {error}")
    for option in known:
        if option.name in values and option.name not in options:
            problems += _wrong(option, values[option.name])
    if problems:
        raise StartError("; ".join(problems))
    return values


def explain_unknown(what: str, name: str, known: Sequence[str]) -> str:
    """Say what to do about a name that doesn't exist, with the nearest one that does."""
    wanted = name.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=_NEAR) if len(wanted) <= _MAX_GUESSED else []
    if near:
        return f"{name}: unknown {what}; did you mean {near[0]}?"
    return f"{name}: unknown {what}; there are {', '.join(known)}"


def whole_number(least: int, most: int) -> Check:
    """Make a check for a whole number in a range."""

    def check(value: str) -> str | None:
        if value.isascii() and value.isdigit() and len(value) < 10 and least <= int(value) <= most:
            return None
        return f"must be a whole number from {least} to {most}"

    return check


def one_of(*choices: str) -> Check:
    """Make a check for one of some words."""
    return lambda value: None if value in choices else f"must be one of {', '.join(choices)}"


def _option_of(key: str, names: Sequence[str]) -> str | None:
    """Give the option that a key stands for. A provider's own option may end in ``_file``: that comes first."""
    if key in names:
        return key
    return next(_without_form(key, names), None)


def _without_form(key: str, names: Sequence[str]) -> Iterator[str]:
    for form in _FORMS:
        if key.endswith(form) and key.removesuffix(form) in names:
            yield key.removesuffix(form)


def _wrong(option: Option, value: str) -> list[str]:
    if not value:
        return [f"{option.name}: must not be empty"]
    said = option.check(value) if option.check else None
    return [] if said is None else [f"{option.name}: {said}"]


def _read_form(key: str, given: str) -> str:
    return _read_file(given) if key.endswith("_file") else _read_variable(given)


def _read_file(path: str) -> str:
    try:
        content = read_regular(Path(path), MAX_FILE)
    except OSError as error:
        raise ValueError(f"the file {path} can't be read: {(error.strerror or 'no such path').lower()}") from None
    if len(content) > MAX_FILE:
        raise ValueError(f"the file {path} is longer than {MAX_FILE} bytes")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"the file {path} is no UTF-8 text") from None
    if not text:
        raise ValueError(f"the file {path} is empty")
    return text


def _read_variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ValueError(f"the environment variable {name} is not set")
    return value
