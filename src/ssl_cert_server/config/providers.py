"""What the DNS providers themselves say of their names and options; no secret is read for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ssl_cert_server.challenges.dns01.providers.registry import check_kind, check_options
from ssl_cert_server.config.tree import Document, KeyPath
from ssl_cert_server.errors import ConfigProblem

_DNS01: KeyPath = ("challenges", "dns01")


def provider_problems(document: Document) -> Iterator[ConfigProblem]:
    """Find providers that don't exist, and options that don't fit theirs."""
    zones = range(len(document.entries(*_DNS01, "zones")))
    for path in (_DNS01, *((*_DNS01, "zones", index) for index in zones)):
        kind, options = document.at(*path, "provider"), _options(document.at(*path, "options"))
        if isinstance(kind, str) and kind:
            yield from _problems(document, path, kind, options)
        elif options and path == _DNS01:
            yield document.problem((*path, "options"), "without a provider, nothing reads these")


def _problems(
    document: Document, path: KeyPath, kind: str, options: Mapping[str, str] | None
) -> Iterator[ConfigProblem]:
    wrong = check_kind(kind) if kind.isprintable() else None
    if wrong:
        yield document.problem((*path, "provider"), wrong.removeprefix(kind.removeprefix("lexicon:") + ": "))
    elif kind.isprintable() and options is not None:
        for message in check_options(kind, options):
            key = max((key for key in options if message.startswith(f"{key}: ")), key=len, default=None)
            if key is None:
                yield document.problem((*path, "options"), message)
            else:
                yield document.problem((*path, "options", key), message.removeprefix(f"{key}: "))


def _options(found: object) -> Mapping[str, str] | None:
    """Give the options that have a value, or None where the schema has to say what is wrong with them."""
    if found is None or found == "":
        return {}
    if not isinstance(found, dict):
        return None
    given = {key: value for key, value in found.items() if value not in (None, "")}
    return given if all(isinstance(value, str) and value.isprintable() for value in given.values()) else None
