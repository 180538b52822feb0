"""One connection to Redis, of redis-py's making, that can be dropped at once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

from ssl_cert_server.storage.redis.settings import Address

Word: TypeAlias = str | bytes | int
"""What a command is made of."""

Reply: TypeAlias = Any
"""What a command gives: bytes, an integer, None, or a list of these; in ``exchange`` a refusal, too."""


class Found(NamedTuple):
    """Where a server is, and which of several said so."""

    host: str
    port: int
    teller: Address | None = None


class Finder(Protocol):
    """Finds the server for new connections."""

    must_tell_its_role: bool
    """Whether a server may be found that isn't the primary any more, and is to be asked."""

    async def find(self) -> Found:
        """Give the server; raises redis-py's ConnectionError where nobody knows."""

    def doubt(self, found: Found) -> None:
        """Hear that it was not to be had there, or was not the one: somebody else may know better."""


class _Droppable(AbstractConnection):
    """What both kinds can."""

    def doubt(self) -> None:
        """Say that this did not lead to the server that was wanted."""

    def drop(self) -> None:
        """Close without waiting; what was not sent yet never will be."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._parser.on_disconnect()  # type: ignore[no-untyped-call]
        self._close()  # type: ignore[no-untyped-call]


class _TcpConnection(_Droppable, Connection):
    """To a server that is looked for at each connect, by TLS where there is a context."""

    def __init__(
        self,
        finder: Finder,
        tls: Callable[[], ssl.SSLContext] | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__(**options)
        self._finder = finder
        self._found: Found | None = None
        self._tls = tls
        self._context: ssl.SSLContext | None = None

    def doubt(self) -> None:
        if self._found is not None:
            self._finder.doubt(self._found)

    async def _connect(self) -> None:
        self._found = await self._finder.find()
        self.host, self.port = self._found.host, self._found.port
        if self._tls is not None:
            self._context = self._tls()
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {"host": self.host, "port": self.port, **({"ssl": self._context} if self._context else {})}


class _UnixConnection(_Droppable, UnixDomainSocketConnection):
    """To a Unix socket."""

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(self.path)


RedisConnection: TypeAlias = _TcpConnection | _UnixConnection


def make_connection(
    address: Address,
    username: str,
    password: str,
    finder: Finder,
    tls: Callable[[], ssl.SSLContext] | None,
) -> RedisConnection:
    """Make a connection that is not connected yet.

    It has no timeouts of its own, as every call has a deadline; RESP 2 and no greeting, so that it costs no round
    trips and asks for no rights.
    """
    options: dict[str, Any] = {
        "db": address.db,
        "username": username or address.username or None,
        "password": password or address.password or None,
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }
    if address.path:
        return _UnixConnection(path=address.path, **options)
    return _TcpConnection(finder, tls, options)


async def exchange(connection: RedisConnection, commands: Sequence[Sequence[Word]]) -> list[Reply]:
    """Send commands at once and give their replies, refusals among them as exceptions.

    Whatever is raised leaves the connection unusable.
    """
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as refusal:
            replies.append(refusal)
    return replies


async def connect(connection: RedisConnection) -> None:
    """Connect and log in."""
    await connection.connect()  # type: ignore[no-untyped-call]
