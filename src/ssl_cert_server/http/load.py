"""Limits over all HTTP connections: their number, waiting requests, and bytes held for slow clients."""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Protocol

import structlog

from ssl_cert_server.log_interval import LogInterval

MAX_HELD = 16 * 1024 * 1024
"""Bytes that are held for clients that send faster than they read, over all connections."""

_LEAST_CLOSED = 32
_CLOSED_SHARE = 16
_AT_ONCE = 4
"""Connections that go on in one turn of the event loop."""


_log = structlog.get_logger()


class Connection(Protocol):
    """The part of a connection that :class:`Load` uses."""

    def idle_since(self) -> float | None:
        """Return the loop's time since when no request is under way, or None where one is."""

    def abort(self) -> None:
        """Close the connection at once."""

    def go_on(self) -> None:
        """Begin the next queued request, or parse the next piece of what is held."""


class Load:
    """Bounds on connections, waiting requests and held bytes; selects connections to close for new ones."""

    def __init__(self, connections: int = 16_384, waiting: int = 12_288) -> None:
        self.max_connections = connections
        self.max_waiting = waiting
        self.waiting = 0
        self._held: OrderedDict[Connection, int] = OrderedDict()
        """By connection, the longest held first."""
        self._held_bytes = 0
        self._ready: deque[Connection] = deque()
        self._log_interval = LogInterval()

    def too_many_wait(self) -> bool:
        """Return whether no further request may wait."""
        if self.waiting < self.max_waiting:
            return False
        if self._log_interval.over():
            _log.warning("requests.too_many_waiting", waiting=self.waiting)
        return True

    def hold(self, connection: Connection, size: int) -> None:
        """Record that ``size`` bytes are held for a connection; abort the longest held where all are too many."""
        self._held_bytes += size - self._held.get(connection, 0)
        self._held[connection] = size
        while self._held_bytes > MAX_HELD:
            oldest = next(iter(self._held))
            self.release(oldest)
            oldest.abort()

    def release(self, connection: Connection) -> None:
        """Record that nothing is held for a connection any more."""
        self._held_bytes -= self._held.pop(connection, 0)

    def schedule(self, connection: Connection) -> None:
        """Schedule ``go_on`` of a connection: a few run in each turn of the loop, and others needn't wait."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._work)
        self._ready.append(connection)

    def _work(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(min(_AT_ONCE, len(self._ready))):
            loop.call_soon(self._ready.popleft().go_on)
        if self._ready:
            loop.call_soon(self._work)

    def make_room(self, connections: Iterable[Connection]) -> list[Connection]:
        """Abort connections that can be spared, and return them.

        Those without a request go first, the longest idle before the others: keep-alive connections, and those on which
        a request has not arrived whole. Where there are none, the one that has not read its answers for longest goes.
        """
        idle = [(since, id(each), each) for each in connections if (since := each.idle_since()) is not None]
        spared = [each for *_, each in heapq.nsmallest(max(_LEAST_CLOSED, len(idle) // _CLOSED_SHARE), idle)]
        if not spared and self._held:
            spared = [next(iter(self._held))]
        for each in spared:
            self.release(each)
            each.abort()
        return spared
