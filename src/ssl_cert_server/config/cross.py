"""What single values can't show. It is found in the raw data, so that other mistakes don't hide it."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator

from pydantic import TypeAdapter, ValidationError

from ssl_cert_server.config.addresses import ListenAddress, TcpAddress, parse_address
from ssl_cert_server.config.proofs import proof_problems
from ssl_cert_server.config.providers import provider_problems
from ssl_cert_server.config.taken import taken_keys
from ssl_cert_server.config.tree import Document, KeyPath, render_path
from ssl_cert_server.config.values import zone_name
from ssl_cert_server.errors import ConfigProblem
from ssl_cert_server.model import KeyFamily, KeyType

_BOOL = TypeAdapter(bool)
_LISTENING: tuple[KeyPath, ...] = (("listen",), ("challenges", "tls_alpn01", "listen"))
_ZONES: KeyPath = ("challenges", "dns01", "zones")


def cross_problems(document: Document) -> Iterator[ConfigProblem]:
    """Find everything that contradicts something else."""
    yield from _twice_listened(document)
    yield from taken_keys(document)
    yield from proof_problems(document)
    yield from _zones(document)
    yield from provider_problems(document)
    yield from _cas(document)


def _twice_listened(document: Document) -> Iterator[ConfigProblem]:
    listened: list[tuple[KeyPath, ListenAddress]] = []
    for path in _LISTENING:
        alone = document.at(*path)
        for place, text in [(path, alone)] if isinstance(alone, str) else document.texts(*path):
            with contextlib.suppress(ValueError):  # the schema says so
                listened.append((place, parse_address(text)))
    # Two free ports are two addresses.
    fixed = [
        (place, address) for place, address in listened if not (isinstance(address, TcpAddress) and not address.port)
    ]
    for place, first in _repeated(fixed):
        yield document.problem(place, f"the same address as {render_path(first)}")


def _repeated(found: Iterable[tuple[KeyPath, Hashable]]) -> Iterator[tuple[KeyPath, KeyPath]]:
    """Give the place of each value that isn't the first of its kind, and the place of that."""
    first: dict[Hashable, KeyPath] = {}
    for place, value in found:
        if first.setdefault(value, place) != place:
            yield place, first[value]


def _zones(document: Document) -> Iterator[ConfigProblem]:
    zones: list[tuple[KeyPath, str]] = []
    for index in range(len(document.entries(*_ZONES))):
        zone = document.at(*_ZONES, index, "zone")
        if isinstance(zone, str):
            with contextlib.suppress(ValueError):  # the schema says so
                zones.append(((*_ZONES, index, "zone"), zone_name(zone)))
    for place, first in _repeated(zones):
        yield document.problem(place, f"the same zone as {render_path(first[:-1])}")


def _cas(document: Document) -> Iterator[ConfigProblem]:
    count = len(document.entries("acme"))
    if not count:
        return
    if _is_true(document.at("lets_encrypt", "staging")):
        message = "staging is Let's Encrypt's, but acme names another CA; give one of the two"
        yield document.problem(("lets_encrypt", "staging"), message)
    urls = [(("acme", index, "directory_url"), document.at("acme", index, "directory_url")) for index in range(count)]
    for place, first in _repeated((place, url) for place, url in urls if isinstance(url, str)):
        yield document.problem(place, f"the same CA as {render_path(first[:-1])}")
    usual = KeyType.RSA_2048 if _is_true(document.at("lets_encrypt", "force_rsa")) else KeyType.ECDSA_P256
    families = [_families(document.at("acme", index, "key_type") or usual) for index in range(count)]
    for index in range(1, count):
        if families[0] and families[index] and families[index] != families[0]:
            message = "must be of the same families as that of acme[0], in the same order; give both a key_type"
            yield document.problem(("acme", index, "key_type"), message)


def _families(key_type: object) -> list[KeyFamily]:
    """Give the families of a key type or of a list of them, none where it is neither."""
    kinds = key_type if isinstance(key_type, list) else [key_type]
    families = {str(kind): kind.family for kind in KeyType}
    return [families[kind] for kind in kinds if isinstance(kind, str) and kind in families]


def _is_true(value: object) -> bool:
    try:
        return _BOOL.validate_python(value)
    except ValidationError:
        return False
