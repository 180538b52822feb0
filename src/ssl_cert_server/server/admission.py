"""HTTP connections from the listening sockets to the protocol, as many as there is room for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, cast

import structlog

from ssl_cert_server.acceptor import Acceptor
from ssl_cert_server.http.load import Connection, Load
from ssl_cert_server.log_interval import LogInterval

_TEXT = b"too many connections; retry, or see the server log\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_TEXT), _TEXT)
)
_UNREAD = 65_536

_log = structlog.get_logger()


class Admission:
    """Serves accepted connections; beyond the bound it closes idle ones first, and answers 503 where none is idle."""

    def __init__(
        self, protocol: Callable[[], asyncio.BaseProtocol], connections: Collection[object], load: Load
    ) -> None:
        """``connections`` are the open ones, of the class that ``protocol`` makes."""
        self._protocol = protocol
        self._connections = cast("Collection[Connection]", connections)
        self._load = load
        self._starting: set[asyncio.Task[Any]] = set()
        self._log_interval = LogInterval()
        self._acceptor = Acceptor(self.admit, self._make_room)
        self.start = self._acceptor.start
        self.close = self._acceptor.close

    def admit(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted, or refuse it."""
        if len(self._connections) + len(self._starting) >= self._load.max_connections and not self._make_room():
            _refuse(connection)
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._starting.add(task)
        task.add_done_callback(lambda done: self._started(done, connection))

    def _started(self, task: asyncio.Task[Any], connection: socket.socket) -> None:
        self._starting.discard(task)
        if task.cancelled() or task.exception() is not None:
            connection.close()

    def _make_room(self) -> bool:
        closed = self._load.make_room(self._connections)
        if self._log_interval.over():
            _log.warning("connections.full", connections=len(self._connections), closed=len(closed))
        return bool(closed)


def _refuse(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.send(_REFUSAL)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(_UNREAD)  # closing with unread data resets the connection, and the client may lose the answer
