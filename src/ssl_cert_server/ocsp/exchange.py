"""One HTTP exchange with a responder: bounded in time and size, no redirects, and how long caches may keep it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2

from ssl_cert_server.acme.outgoing import FAILURES, HEADERS, read_body, reason_of
from ssl_cert_server.acme.retry_after import parse_retry_after
from ssl_cert_server.acme.text import one_line
from ssl_cert_server.errors import MalformedResponse, ResponderRefused, ResponderUnreachable

DEADLINE = 15.0
"""Seconds for a whole exchange."""

MAX_BODY = 64 * 1024
"""Bytes. A response is 0.5 to 3 kB, the certificates of an issuer a few more."""

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})", re.IGNORECASE)
_MAX_TAG = 200
_REFUSALS = frozenset({400, 403, 404, 405, 410, 415, 422})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back with status 200, or 304 where ``body`` is None; ``max_age`` is in seconds."""

    body: bytes | None = field(repr=False)
    max_age: float
    etag: str


def open_http_client() -> httpx2.AsyncClient:
    """Make the client; the caller closes it. The environment's proxies are used."""
    return httpx2.AsyncClient(timeout=DEADLINE)


async def exchange(
    http: httpx2.AsyncClient,
    url: str,
    *,
    now: float,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """GET a URL, or POST ``content`` to it; ``now`` is in Unix seconds.

    :raises ResponderUnreachable: nothing usable came back.
    :raises ResponderRefused: the status says that the request is at fault.
    """
    method = "GET" if content is None else "POST"
    where = f"{method} {one_line(url, 200)}"
    try:
        async with (
            asyncio.timeout(DEADLINE),
            http.stream(
                method, url, headers={**HEADERS, **(headers or {})}, content=content, follow_redirects=False
            ) as response,
        ):
            return await _read(response, where, now, asked_with_tag="If-None-Match" in (headers or {}))
    except TimeoutError as error:
        raise ResponderUnreachable(f"{where}: no answer within {DEADLINE:g} s") from error
    except FAILURES as error:
        raise ResponderUnreachable(f"{where}: {reason_of(error)}") from error
    except MalformedResponse as error:
        raise ResponderUnreachable(f"{where}: {error}") from None


async def _read(response: httpx2.Response, where: str, now: float, *, asked_with_tag: bool) -> Answer:
    max_age = _max_age(response.headers, now)
    etag = response.headers.get("etag", "")
    if len(etag) > _MAX_TAG:
        etag = ""
    if response.status_code == 304 and asked_with_tag:
        return Answer(None, max_age, etag)
    if response.status_code != 200:
        retry_after = parse_retry_after(response.headers.get("retry-after"), now)
        kind = ResponderRefused if response.status_code in _REFUSALS else ResponderUnreachable
        raise kind(f"{where}: status {response.status_code}", retry_after=retry_after)
    return Answer(await read_body(response, MAX_BODY), max_age, etag)


def _max_age(headers: Mapping[str, str], now: float) -> float:
    """Give for how long caches keep the answer (RFC 9111 section 5.2.2.1, RFC 9919 section 6); 0 for not at all."""
    found = _MAX_AGE.search(headers.get("cache-control", ""))
    if found:
        return float(found[1])
    # An HTTP date is parsed as it is for Retry-After; plain seconds, which that allows, are no Expires.
    expires = headers.get("expires", "")
    return (parse_retry_after(expires, now) or 0.0) if "," in expires else 0.0
