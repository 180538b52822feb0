"""What is stapled to a handshake, in the raw: most tests staple what is no real OCSP response.

TLS 1.2 sends the certificate and its status in the clear, so that a ClientHello is all it takes.
"""

from __future__ import annotations

import asyncio
import contextlib

from tests.support.visitors import LIMIT, NAME, client_hello

_CERTIFICATE, _CERTIFICATE_STATUS, _SERVER_HELLO_DONE = 11, 22, 14


def _messages(stream: bytes) -> dict[int, bytes]:
    """The handshake messages in the records so far, by type."""
    flat, rest = b"", stream
    while len(rest) >= 5 and len(rest) >= 5 + (length := int.from_bytes(rest[3:5], "big")):
        if rest[0] == 22:
            flat += rest[5 : 5 + length]
        rest = rest[5 + length :]
    found = {}
    while len(flat) >= 4 and len(flat) >= 4 + (length := int.from_bytes(flat[1:4], "big")):
        found[flat[0]] = flat[4 : 4 + length]
        flat = flat[4 + length :]
    return found


async def hello(port: int, name: str = NAME, **options: bytes) -> dict[int, bytes]:
    """What the server says to a ClientHello of TLS 1.2, by message type; empty where it sends an alert."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stream = b""
    try:
        writer.write(client_hello(name.encode(), **options))
        async with asyncio.timeout(LIMIT):
            while _SERVER_HELLO_DONE not in _messages(stream) and (data := await reader.read(65536)):
                stream += data
        return _messages(stream)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def stapled(port: int, name: str = NAME, **options: bytes) -> bytes | None:
    """The OCSP response that came with the certificate."""
    messages = await hello(port, name, **options)
    assert _CERTIFICATE in messages
    status = messages.get(_CERTIFICATE_STATUS)
    if status is None:
        return None
    assert status[0] == 1  # ocsp
    return status[4 : 4 + int.from_bytes(status[1:4], "big")]
