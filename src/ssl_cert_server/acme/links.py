"""The Link header (RFC 8288), as far as a chain's alternates need it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urljoin

from ssl_cert_server.acme.fields import URL_SCHEMES

MAX_ALTERNATES = 10
_MAX_HEADER = 4096
"""Characters looked at of one header line; ten alternates take a fifth of that."""

_LINK = re.compile(r'<([^<>]*)>((?:[^,"]|"(?:[^"\\]|\\.)*")*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]*))', re.IGNORECASE)


def alternates(headers: Iterable[str], base: str) -> tuple[str, ...]:
    """Give the absolute URLs with the relation ``alternate``, ten at the most, in the order they came.

    ``base`` is the URL that was asked. What isn't a link, or not one by HTTP, is passed over.
    """
    found: dict[str, None] = {}
    for url in _alternates(headers, base):
        found.setdefault(url)
        if len(found) == MAX_ALTERNATES:
            break
    return tuple(found)


def _alternates(headers: Iterable[str], base: str) -> Iterator[str]:
    for header in headers:
        for target, parameters in _LINK.findall(header[:_MAX_HEADER]):
            # Of several, the first holds (section 3.3).
            rel = _REL.search(parameters)
            if rel is None or "alternate" not in (rel[1] or rel[2] or "").lower().split():
                continue
            url = _absolute(base, target)
            if url is not None:
                yield url


def _absolute(base: str, target: str) -> str | None:
    try:
        url = urljoin(base, target.strip())
    except ValueError:
        return None
    return url if url.startswith(URL_SCHEMES) else None
