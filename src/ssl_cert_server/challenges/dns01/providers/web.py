"""One HTTP request to a provider of our own: bounded in time and size, no redirects, no secret in an error."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from ssl_cert_server.acme.outgoing import FAILURES, HEADERS
from ssl_cert_server.challenges.dns01.providers.words import Words
from ssl_cert_server.errors import ChallengeFailed
from ssl_cert_server.pki.names import is_loopback

REQUEST_DEADLINE = 10.0
"""Seconds for a whole request."""

MAX_BODY = 64 * 1024
"""Bytes of an answer."""


@dataclass(frozen=True, slots=True)
class WebService:
    """Where requests go. ``transport`` replaces the network, for tests."""

    base: str = field(repr=False)
    words: Words = field(repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)
    transport: httpx2.AsyncBaseTransport | None = field(default=None, repr=False)
    deadline: float = REQUEST_DEADLINE

    async def post(
        self, what: str, path: str, body: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> None:
        """Send JSON to ``base`` and ``path``; any status of 2xx is success.

        :raises ChallengeFailed: it isn't, or there is no answer; the message begins with ``what``.
        """
        problem = await self._problem_with(path, body, headers or {})
        if problem is not None:
            raise ChallengeFailed(f"{what}: {problem}")

    async def _problem_with(self, path: str, body: Mapping[str, str], headers: Mapping[str, str]) -> str | None:
        """Send it, and give what went wrong in words: the exceptions hold the request, and so the credentials."""
        url = self.base.rstrip("/") + path
        try:
            async with (
                asyncio.timeout(self.deadline),
                self._client() as http,
                http.stream(
                    "POST", url, json=dict(body), headers={**HEADERS, **headers}, follow_redirects=False
                ) as response,
            ):
                said = await _read(response)
        except TimeoutError:
            return f"no answer within {self.deadline:g} s"
        except FAILURES as error:
            return f"{type(error).__name__}: {self.words.clean(str(error))}"
        if response.is_success:
            return None
        told = self.words.clean(said.decode(errors="replace"))
        return f"HTTP {response.status_code}" + (f": {told}" if told else "")

    def _client(self) -> httpx2.AsyncClient:
        # One for each request: they are rare, and nothing needs to be closed at the end.
        verify: ssl.SSLContext | bool = urlsplit(self.base).scheme == "https"
        return httpx2.AsyncClient(auth=self.auth, verify=verify, transport=self.transport, timeout=self.deadline)


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    if response.headers.get("content-encoding", "identity") != "identity":
        return b""  # we asked for none, and a few kilobytes of compressed zeros would fill the memory
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return bytes(body)


def check_url(value: str) -> str | None:
    """Say what is wrong with a service's URL: it must be HTTPS, or HTTP to this very machine."""
    form = "must be a URL like https://dns.example.com"
    try:
        url = urlsplit(value)
        host, port = url.hostname, url.port
    except ValueError:
        return form
    if not host or port == 0 or not value.isprintable() or " " in value or url.scheme not in ("http", "https"):
        return form
    if url.username is not None:
        return "must not hold a user name or password"
    if url.query or url.fragment:
        return "must not hold a query or a fragment"
    if url.scheme == "http" and not is_loopback(host):
        return "must start with https:// (http:// is accepted for this machine only)"
    return None
