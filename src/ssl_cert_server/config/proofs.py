"""Whether control of every name can be proven by what is enabled (RFC 8555 section 8, RFC 8738 section 7)."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from ssl_cert_server.config.challenges import Challenges
from ssl_cert_server.config.tree import Document, KeyPath
from ssl_cert_server.config.values import identifier, wildcard
from ssl_cert_server.errors import ConfigProblem
from ssl_cert_server.pki.names import is_ip

_DOMAINS: tuple[KeyPath, ...] = (("domains",), ("lets_encrypt", "domains"))
_PERMITTING: tuple[KeyPath, ...] = (*_DOMAINS, ("wildcards",), ("re_patterns",), ("lets_encrypt", "re_patterns"))


def proof_problems(document: Document) -> Iterator[ConfigProblem]:
    """Find names that no CA could be shown control of."""
    try:
        challenges = Challenges.model_validate(document.at("challenges") or {})
    except ValidationError:
        return  # the schema says so
    by_address = challenges.http01 or challenges.tls_alpn01.enable
    if not by_address and not challenges.dns01.enabled:
        if document.at("ask") or any(document.entries(*path) for path in _PERMITTING):
            message = "none is enabled, so that nothing can be issued; enable http01, tls_alpn01 or dns01"
            yield document.problem(("challenges",), message)
        return
    if not by_address:
        yield from _addresses(document)
    # Of a zone that isn't listed the record may be delegated into one that is, which only DNS knows.
    if not challenges.dns01.enabled:
        yield from _wildcards(document)


def _addresses(document: Document) -> Iterator[ConfigProblem]:
    for place, text in (found for path in _DOMAINS for found in document.texts(*path)):
        try:
            if is_ip(identifier(text)):
                message = "control of an IP address is proven by http01 or tls_alpn01; enable one of them"
                yield document.problem(place, message)
        except ValueError:
            continue  # the schema says so


def _wildcards(document: Document) -> Iterator[ConfigProblem]:
    for place, text in document.texts("wildcards"):
        try:
            name = wildcard(text)
        except ValueError:
            continue  # the schema says so
        yield document.problem(place, f"{name} needs dns-01; give a provider in challenges.dns01")
