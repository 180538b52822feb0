"""Which keys there are, and which one an unknown key was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import get_args, get_origin

from ssl_cert_server.config.schema import Config
from ssl_cert_server.config.section import Section
from ssl_cert_server.config.tree import KeyPath

_MAX_GUESSED = 40
"""Characters; nearness is quadratic in them, and no key of ours has half as many."""

_NEAR = 0.7
"""Catches a letter missing, doubled or swapped even in the short ones."""


@cache
def sections() -> Mapping[str, type[Section]]:
    """Map every place to its section: ``""``, ``storage.redis``, ``managed[]`` for the entries of a list."""
    return dict(_walk("", Config))


def join(place: str, name: str) -> str:
    """Put a key's name behind the place of its section."""
    return f"{place}.{name}" if place else name


def explain_unknown(path: KeyPath) -> str:
    """Say what to do about a key that doesn't exist."""
    name, place = str(path[-1]), _place_of(path[:-1])
    here = list(sections()[place].model_fields)
    wanted = name.lower().replace("-", "_")
    if len(wanted) <= _MAX_GUESSED:
        near = difflib.get_close_matches(wanted, here, n=1, cutoff=_NEAR)
        if near:
            return f"unknown key; did you mean {near[0]}?"
        elsewhere = _paths_by_name()
        near = difflib.get_close_matches(wanted, elsewhere, n=1, cutoff=_NEAR)
        if near:
            return f"unknown key here; did you mean {' or '.join(elsewhere[near[0]])}?"
    return f"unknown key; the keys here are {', '.join(here)}"


@cache
def _paths_by_name() -> Mapping[str, list[str]]:
    paths: dict[str, list[str]] = {}
    for place, section in sections().items():
        for name in section.model_fields:
            paths.setdefault(name, []).append(join(place, name))
    return paths


def _place_of(path: KeyPath) -> str:
    place = ""
    for step in path:
        place = f"{place}[]" if isinstance(step, int) else join(place, step)
    return place


def _walk(place: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    yield place, section
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is not None:
            yield from _walk(join(place, name) + inner[1], inner[0])


def _section_in(annotation: object) -> tuple[type[Section], str] | None:
    suffix = ""
    if get_origin(annotation) is UnionType:
        annotation = next((part for part in get_args(annotation) if part is not NoneType), None)
    if get_origin(annotation) is tuple:
        annotation, suffix = get_args(annotation)[0], "[]"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, suffix
    return None
