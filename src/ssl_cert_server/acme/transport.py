"""One HTTP exchange with a CA: bounded in time and size, no redirects, nothing of httpx2 leaks out."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from ssl_cert_server.acme.fields import URL_SCHEMES
from ssl_cert_server.acme.links import alternates
from ssl_cert_server.acme.nonces import SeenNonces
from ssl_cert_server.acme.outgoing import FAILURES, HEADERS, read_body, reason_of
from ssl_cert_server.acme.retry_after import parse_retry_after
from ssl_cert_server.acme.text import one_line
from ssl_cert_server.errors import AnswerLost, AnswerRepeated, CaUnreachable, MalformedResponse, StartError

REQUEST_DEADLINE = 30.0
"""Seconds for a whole exchange. httpx2's own time-outs are per read: a server that drips would hold us for hours."""

MAX_BODY = 1024 * 1024
"""Bytes. A chain is about 6 kB, an order with 100 names 20 kB."""

_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_TIMEOUT = httpx2.Timeout(REQUEST_DEADLINE, connect=10.0)
_NONCE = re.compile(r"[A-Za-z0-9_-]{1,1024}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    ``retry_after`` is in seconds, ``nonce`` the Replay-Nonce where it is a proper one, ``alternates`` the URLs where
    there is another form of the same.
    """

    status: int
    location: str | None
    nonce: str | None
    retry_after: float | None
    alternates: tuple[str, ...]
    body: bytes = field(repr=False)

    def decoded(self, what: str) -> object:
        """Give the body's JSON.

        :raises MalformedResponse: it is none; ``what`` tells of which answer.
        """
        try:
            value: object = json.loads(self.body)
        except (ValueError, RecursionError):
            raise MalformedResponse(f"{what}: the answer is not JSON") from None
        return value

    def created(self, what: str) -> str:
        """Give the URL of what was just created.

        :raises MalformedResponse: there is none in the Location header.
        """
        if self.location is None or not self.location.startswith(URL_SCHEMES):
            raise MalformedResponse(f"{what}: the Location header is missing or no URL")
        return self.location


def open_http_client(ca_bundle: Path | None = None) -> httpx2.AsyncClient:
    """Make a client for one CA; the caller closes it.

    ``ca_bundle`` is a PEM file of roots trusted *instead of* the system's: who names a private CA's root wants that CA
    and no other. The environment's proxies are used.

    :raises StartError: the bundle can't be read.
    """
    verify: ssl.SSLContext | bool = True
    if ca_bundle is not None:
        try:
            verify = ssl.create_default_context(cafile=ca_bundle)
        except OSError as error:
            raise StartError(f"the CA bundle {ca_bundle} can't be used: {error.strerror or error}") from error
    return httpx2.AsyncClient(verify=verify, timeout=_TIMEOUT)


async def exchange(
    http: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    now: float,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    seen: SeenNonces | None = None,
    deadline: float | None = None,
) -> Answer:
    """Send a request and read the whole answer, whatever its status, within ``deadline`` or REQUEST_DEADLINE (seconds).

    An answer whose nonce is in ``seen`` belongs to an earlier request; its connection is not used again.

    :raises CaUnreachable: nothing usable came back; AnswerLost where a POST may have been received all the same.
    :raises MalformedResponse: a redirect, or an answer that is too long or compressed.
    """
    deadline = deadline or REQUEST_DEADLINE
    try:
        async with (
            asyncio.timeout(deadline),
            http.stream(
                method, url, headers={**HEADERS, **(headers or {})}, content=content, follow_redirects=False
            ) as response,
        ):
            nonce = _nonce(response)
            if seen is not None and nonce is not None and not seen.add(nonce):
                # Leaving the answer unread closes the connection, and what else may be waiting in it.
                raise AnswerRepeated(f"{_where(method, url)}: the answer to an earlier request came again")
            return await _read(response, url, now)
    except TimeoutError as error:
        raise _unanswered(method)(f"{_where(method, url)}: no answer within {deadline:g} s") from error
    except _NOT_SENT as error:
        raise CaUnreachable(f"{_where(method, url)}: {reason_of(error)}") from error
    except FAILURES as error:
        raise _unanswered(method)(f"{_where(method, url)}: {reason_of(error)}") from error
    except MalformedResponse as error:
        raise MalformedResponse(f"{_where(method, url)}: {error}") from None


async def _read(response: httpx2.Response, url: str, now: float) -> Answer:
    body = await read_body(response, MAX_BODY)
    if not (200 <= response.status_code < 300 or response.status_code >= 400):
        # A signed request is made for one URL: it can't be sent elsewhere.
        raise MalformedResponse(f"status {response.status_code} where RFC 8555 has none")
    return Answer(
        status=response.status_code,
        location=response.headers.get("location"),
        nonce=_nonce(response),
        retry_after=parse_retry_after(response.headers.get("retry-after"), now),
        alternates=alternates(response.headers.get_list("link"), url),
        body=body,
    )


def _unanswered(method: str) -> type[CaUnreachable]:
    return AnswerLost if method == "POST" else CaUnreachable


def _where(method: str, url: str) -> str:
    return f"{method} {one_line(url, 200)}"


def _nonce(response: httpx2.Response) -> str | None:
    nonce = response.headers.get("replay-nonce", "")
    # RFC 8555 section 6.5.1: nonces of any other form are to be ignored.
    return nonce if _NONCE.fullmatch(nonce) else None
