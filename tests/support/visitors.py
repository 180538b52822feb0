"""Visitors of the plugin's tests: handshakes in asyncio, many at once, some of them crafted."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Callable

NAME = "www.example.com"
LIMIT = 45.0
"""Seconds: a loaded machine does it within that, too, and it is less than the minute a 400 is believed."""


def client_context(protocols: list[str] | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


async def handshake(port: int, name: str | None = NAME, protocols: list[str] | None = None) -> bytes:
    """The DER of the certificate that nginx gave."""
    context = client_context(protocols)
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name or "", ssl_handshake_timeout=60
    )
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(der, bytes)
        return der
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def until_served(port: int, der: bytes, name: str = NAME) -> None:
    """Handshakes until nginx gives that certificate."""
    async with asyncio.timeout(LIMIT):
        while True:
            if await handshake(port, name) == der:
                return
            await asyncio.sleep(0.1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def quickly(port: int, name: str = NAME) -> bytes:
    async with asyncio.timeout(LIMIT):
        return await handshake(port, name)


async def http_get(port: int, path: str, host: str, method: str = "GET") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body
    finally:
        writer.close()
        await writer.wait_closed()


ECDSA_AND_RSA = b"\x04\x03\x08\x04\x04\x01"  # signature schemes, with SHA-256


def client_hello(server_name: bytes, *, schemes: bytes = ECDSA_AND_RSA) -> bytes:
    """A TLS 1.2 ClientHello with any bytes as its SNI, that asks for a staple.

    In TLS 1.2 the certificate comes back in the clear.
    """

    def vector(data: bytes, width: int) -> bytes:
        return len(data).to_bytes(width, "big") + data

    def extension(number: int, data: bytes) -> bytes:
        return struct.pack("!H", number) + vector(data, 2)

    extensions = b"".join(
        [
            extension(0, vector(b"\x00" + vector(server_name, 2), 2)),
            extension(10, vector(b"\x00\x17\x00\x1d", 2)),  # groups: P-256, X25519
            extension(11, vector(b"\x00", 1)),  # uncompressed points
            extension(5, b"\x01\x00\x00\x00\x00"),  # status_request: ocsp
            extension(13, vector(schemes, 2)),
        ]
    )
    suites = vector(b"\xc0\x2b\xc0\x2f\xc0\x2c\xc0\x30", 2)  # ECDHE with ECDSA or RSA, AES-GCM
    body = b"\x03\x03" + bytes(range(32)) + b"\x00" + suites + b"\x01\x00" + vector(extensions, 2)
    return b"\x16\x03\x01" + vector(b"\x01" + vector(body, 3), 2)


async def raw_handshake(port: int, server_name: bytes, until_seen: bytes) -> bytes:
    """What nginx sends back, until it contains the given bytes or ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seen = b""
    try:
        writer.write(client_hello(server_name))
        async with asyncio.timeout(LIMIT):
            while until_seen not in seen and (data := await reader.read(65536)):
                seen += data
        return seen
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
