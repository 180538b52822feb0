"""Accepting connections on listening sockets.

uvloop's own servers close a listening socket for good, and don't report it, when a connection arrives while the process
has no file descriptor left and another thread takes the one that libuv holds in reserve. Until then they close every
connection that arrives. :class:`Acceptor` leaves connections in the listen queue until there is a descriptor again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import structlog

from ssl_cert_server.log_interval import LogInterval

_AT_ONCE = 16
"""Connections accepted from one listener in one turn of the event loop, so that open connections have their turn."""

_PAUSE = 0.1
"""Seconds until the next attempt after the kernel refused to accept: EMFILE leaves a listener readable."""

_GONE = (BlockingIOError, InterruptedError, ConnectionAbortedError)

_log = structlog.get_logger()


class Acceptor:
    """Calls ``accepted`` with each new connection, and ``make_room`` when no descriptor is left for one.

    ``accepted`` owns the socket it is given. ``make_room`` closes what can be spared.
    """

    def __init__(self, accepted: Callable[[socket.socket], None], make_room: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepted = accepted
        self._make_room = make_room
        self._listeners: list[socket.socket] = []
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._log_interval = LogInterval()

    def start(self, listeners: Sequence[socket.socket]) -> None:
        """Accept connections on these listening sockets. The caller closes them."""
        for listener in listeners:
            listener.settimeout(0)
            self._listeners.append(listener)
            self._watch(listener)

    def close(self) -> None:
        """Stop accepting."""
        for timer in self._paused.values():
            timer.cancel()
        self._paused.clear()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        self._listeners.clear()

    def accept(self, listener: socket.socket) -> None:
        """Accept the connections that wait in one listener's queue, a bounded number of them."""
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except _GONE:
                return  # the queue is empty, or the client left it: the loop calls again where there are more
            except OSError as error:
                self._pause(listener, error)
                return
            connection.settimeout(0)
            self._accepted(connection)

    def _watch(self, listener: socket.socket) -> None:
        self._paused.pop(listener, None)
        self._loop.add_reader(listener, self.accept, listener)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        self._loop.remove_reader(listener)
        self._paused[listener] = self._loop.call_later(_PAUSE, self._watch, listener)
        self._make_room()
        if self._log_interval.over():
            _log.error("connections.not_accepted", reason=error.strerror, again_in=_PAUSE)
