"""What requests to other people's servers have in common, CAs' and others'."""

from __future__ import annotations

import httpx2

from ssl_cert_server import __version__
from ssl_cert_server.acme.text import one_line
from ssl_cert_server.errors import MalformedResponse

HEADERS = {
    "User-Agent": f"ssl-cert-server/{__version__}",
    # A few kilobytes of compressed zeros would fill the memory before they could be counted.
    "Accept-Encoding": "identity",
}

FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError)
"""What httpx2 raises where there is no answer; a deadline's TimeoutError is an OSError, too, and so caught before."""


def reason_of(error: Exception, limit: int = 300) -> str:
    """Say what went wrong in one line of so many characters."""
    return one_line(f"{type(error).__name__}: {error}".removesuffix(": "), limit)


async def read_body(response: httpx2.Response, limit: int) -> bytes:
    """Read the whole body.

    :raises MalformedResponse: it is compressed, or longer than ``limit`` bytes.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        raise MalformedResponse("the answer is compressed, though we asked for none")
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > limit:
            raise MalformedResponse(f"the answer is longer than {limit} bytes")
    return bytes(body)
