"""Answers tls-alpn-01 by itself, behind a front end that routes by ALPN (RFC 8737)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

import structlog

from ssl_cert_server.acceptor import Acceptor
from ssl_cert_server.challenges.client_hello import ClientHello, ClientHelloReader
from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.challenges.tlsalpn01_handshake import ACME_TLS, ChallengeHandshake
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError

CONNECTIONS = 100
"""Connections at once, where nothing bounds them further; those beyond are closed as they come."""

DEADLINE = 10.0
"""Seconds for a connection, from its beginning to its end."""

_PIECE = 4096
_TOLD_EVERY = 60.0
# Alerts in plain text (RFC 8446 section 6): nothing is agreed on yet.
_NO_APPLICATION_PROTOCOL = bytes([21, 3, 3, 0, 2, 2, 120])
_UNRECOGNIZED_NAME = bytes([21, 3, 3, 0, 2, 2, 112])

_log = structlog.get_logger()


class Reader(Protocol):
    """What a conversation needs of an asyncio.StreamReader."""

    async def read(self, size: int, /) -> bytes: ...


class Writer(Protocol):
    """What it needs of an asyncio.StreamWriter."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...


class TlsAlpn01Listener:
    """Shows the pending challenge certificates to whoever asks as a CA does, and nothing to anybody else.

    Strangers who connect cause no log lines, but for one a minute where they leave no room for the CA.
    """

    def __init__(self, responder: TlsAlpn01Responder, clock: Clock, connections: int = CONNECTIONS) -> None:
        """``connections`` are served at once at most."""
        self._max_open = connections
        self._responder = responder
        self._clock = clock
        self._open = 0
        self._quiet_until: dict[str, float] = {}

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Answer on these listening TCP sockets until cancelled, and close every connection then.

        The sockets stay the caller's: they can be served again.
        """
        async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
            acceptor = Acceptor(partial(self._accept, group), self._make_room)
            stack.callback(acceptor.close)
            acceptor.start(listeners)
            await asyncio.get_running_loop().create_future()  # until it is cancelled

    def _accept(self, group: asyncio.TaskGroup, connection: socket.socket) -> None:
        if self._open >= self._max_open:
            connection.close()
            if self._may_tell("busy"):
                _log.warning("tls_alpn01.busy", connections=self._max_open)
            return
        self._open += 1
        task = group.create_task(self._attend(connection))
        task.add_done_callback(lambda _: self._leave(connection))

    def _leave(self, connection: socket.socket) -> None:
        self._open -= 1
        connection.close()

    def _make_room(self) -> None:
        """Close nothing: each connection ends within :data:`DEADLINE`."""

    async def _attend(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(DEADLINE), _streams(connection) as (reader, writer):
                await self.talk(reader, writer)
                writer.close()
                await writer.wait_closed()
        except OSError:
            pass  # the other end is gone, or too slow: a TimeoutError is one
        except StorageError as error:
            if self._may_tell("failed"):
                _log.error("tls_alpn01.failed", reason=str(error))
        except Exception:  # noqa: BLE001 - a bug met by one connection must not end the others
            _log.exception("tls_alpn01.crashed")

    async def talk(self, reader: Reader, writer: Writer) -> None:
        """Hold one conversation, to the point where the connection is to be closed.

        :raises OSError: the connection broke.
        :raises StorageError: what is pending can't be read now.
        """
        hello_reader = ClientHelloReader()
        try:
            hello = await _hello(reader, hello_reader)
        except ValueError:
            return  # not TLS: it would not understand an alert either
        if hello is None:
            return
        if hello.protocols != (ACME_TLS.encode(),):
            writer.write(_NO_APPLICATION_PROTOCOL)
            return
        certificate = await self._responder.answer(hello.server_name or "")
        if certificate is None:
            writer.write(_UNRECOGNIZED_NAME)
            return
        await _shake_hands(ChallengeHandshake(certificate), bytes(hello_reader.received), reader, writer)

    def _may_tell(self, what: str) -> bool:
        now = self._clock.monotonic()
        if now < self._quiet_until.get(what, now):
            return False
        self._quiet_until[what] = now + _TOLD_EVERY
        return True


@asynccontextmanager
async def _streams(connection: socket.socket) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open an accepted connection as streams, and abort it in the end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
    try:
        yield reader, asyncio.StreamWriter(transport, protocol, reader, loop)
    finally:
        transport.abort()


async def _hello(reader: Reader, hello_reader: ClientHelloReader) -> ClientHello | None:
    """Give the hello, or None where the client hung up before it was whole."""
    while data := await reader.read(_PIECE):
        if hello := hello_reader.feed(data):
            return hello
    return None


async def _shake_hands(handshake: ChallengeHandshake, received: bytes, reader: Reader, writer: Writer) -> None:
    while received:
        writer.write(handshake.feed(received))
        await writer.drain()
        if handshake.over:
            return
        received = await reader.read(_PIECE)
