"""Storage keys of certificates that aren't ACME's under which an ACME certificate would be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ssl_cert_server.config.tree import Document, KeyPath
from ssl_cert_server.config.values import identifier, matches, wildcard
from ssl_cert_server.errors import ConfigProblem
from ssl_cert_server.pki.names import is_ip

_MESSAGE = "certificates by ACME for the name of the same spelling are kept under this key; choose another"


def taken_keys(document: Document) -> Iterator[ConfigProblem]:
    """Find them."""
    issued_for = _issued_for(document)
    for path in _key_paths(document):
        key = document.at(*path)
        if isinstance(key, str) and issued_for(key.removesuffix("+rsa")):
            yield document.problem(path, _MESSAGE)


def _key_paths(document: Document) -> Iterator[KeyPath]:
    for index in range(len(document.entries("managed"))):
        yield ("managed", index, "cert_key")
    yield ("self_signed", "cert_key")


def _issued_for(document: Document) -> Callable[[str], bool]:
    """Tell of a text whether it is a name that a CA would issue for: ``managed`` is looked at first."""
    lists = ((), ("lets_encrypt",))
    domains = {_spelling(identifier, text) for path in lists for text in _listed(document, *path, "domains")}
    wildcards = {_spelling(wildcard, text) for text in _listed(document, "wildcards")}
    patterns = [text for path in lists for text in _listed(document, *path, "re_patterns")]
    managed = (document.at("managed", index, "pattern") for index in range(len(document.entries("managed"))))
    taken = [pattern for pattern in managed if isinstance(pattern, str)]
    asks = isinstance(document.at("ask"), dict)

    def issued_for(name: str) -> bool:
        if name in wildcards:
            return True
        if _spelling(identifier, name) != name or any(matches(pattern, name) for pattern in taken):
            return False
        if name in domains:
            return True
        return not is_ip(name) and ((asks and "." in name) or any(matches(pattern, name) for pattern in patterns))

    return issued_for


def _listed(document: Document, *path: str) -> list[str]:
    return [text for _, text in document.texts(*path)]


def _spelling(check: Callable[[str], str], text: str) -> str | None:
    try:
        return check(text)
    except ValueError:
        return None
