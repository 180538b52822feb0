"""dns-lexicon's providers and the options that each takes, as its own command line has them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache

# Private, but lexicon.client can't do without it either, and nothing public tells a provider's options.
from lexicon._private.discovery import find_providers, load_provider_module
from lexicon.interfaces import Provider

from ssl_cert_server.challenges.dns01.providers.options import Check, Option, explain_unknown, one_of, whole_number

_UNUSABLE = {
    "auto": "asks nslookup which provider to use; name the provider instead",
    "localzone": "edits a zone file and leaves the server unaware of it; use exec instead",
}
_WORDS_FOR_YES = ("true", "yes", "1")
_WORDS_FOR_NO = ("false", "no", "0")

_COMMON = (Option("zone"), Option("ttl", check=whole_number(1, 86_400)))


@cache
def provider_names() -> Mapping[str, bool]:
    """Give every provider's name, and whether the packages it needs are installed."""
    return {name: available for name, available in find_providers().items() if name not in _UNUSABLE}


def explain_provider(name: str) -> str | None:
    """Say why a provider can't be used; None where it can."""
    if name in _UNUSABLE:
        return f"lexicon:{name} {_UNUSABLE[name]}"
    if name not in provider_names():
        return explain_unknown("dns-lexicon provider", name, list(provider_names()))
    if not provider_names()[name]:
        # By the path of this very interpreter: another one's packages are of no use.
        command = shlex.join([sys.executable, "-m", "pip", "install", f"dns-lexicon[{name}]"])
        return f"lexicon:{name} needs more packages than are installed; run {command}"
    return None


def provider_class(name: str) -> type[Provider]:
    """Give a provider's class; ``name`` is one that can be used."""
    found: type[Provider] = load_provider_module(name).Provider
    return found


def provider_options(name: str) -> Sequence[Option]:
    """Give the options of a provider that can be used: ``zone``, ``ttl``, and its own.

    dns-lexicon marks none of them as required: which of them go together only the provider knows.
    """
    own = tuple(Option(action.dest, required=action.required, check=_check(action)) for action in _actions(name))
    return (*_COMMON, *own)


def typed_options(name: str, values: Mapping[str, str]) -> dict[str, object]:
    """Give a provider's own options as its command line would: converted, and with its defaults."""
    typed: dict[str, object] = {}
    for action in _actions(name):
        value = values.get(action.dest)
        typed[action.dest] = action.default if value is None else _convert(action, value)
    return {option: value for option, value in typed.items() if value is not None}


@cache
def _actions(name: str) -> Sequence[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    provider_class(name).configure_parser(parser)
    return tuple(parser._actions)  # noqa: SLF001 - argparse has no other way to list what was added


def _check(action: argparse.Action) -> Check | None:
    if action.nargs == 0:
        return one_of(*_WORDS_FOR_YES, *_WORDS_FOR_NO)
    if action.choices is not None:
        return one_of(*(str(choice) for choice in action.choices))
    if action.type is float:
        return _check_number
    return None


def _check_number(value: str) -> str | None:
    try:
        float(value)
    except ValueError:
        return "must be a number"
    return None


def _convert(action: argparse.Action, value: str) -> object:
    if action.nargs == 0:
        return value in _WORDS_FOR_YES
    return float(value) if action.type is float else value
