"""A few connections, kept open between calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from redis.exceptions import ConnectionError as NoConnection

from ssl_cert_server.storage.redis.connection import RedisConnection, connect, exchange


class Pool:
    """At most ``size`` connections. One that a call failed or was cancelled on is not used again."""

    def __init__(self, size: int, make: Callable[[], RedisConnection], *, must_be_primary: bool) -> None:
        self._slots = asyncio.Semaphore(size)
        self._make = make
        self._must_be_primary = must_be_primary
        self._idle: list[RedisConnection] = []
        self._used: set[RedisConnection] = set()
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[RedisConnection]:
        """Lend a connection, waiting for one where all are lent; put a deadline around it."""
        async with self._slots:
            connection = await self._live_idle() or self._make()
            self._used.add(connection)
            try:
                if not connection.is_connected:
                    await self._connect(connection)
                yield connection
            except BaseException:
                connection.drop()
                raise
            else:
                self._take_back(connection)
            finally:
                self._used.discard(connection)

    def forget(self) -> None:
        """Close all: whoever is at the other end is not whom we want to talk to."""
        for connection in self._idle:
            connection.drop()
        self._idle.clear()
        self._used.clear()  # those in use are not taken back

    def close(self) -> None:
        """Close all, those in use too."""
        self._closed = True
        for connection in self._used:
            connection.drop()
        self.forget()

    def _take_back(self, connection: RedisConnection) -> None:
        if self._closed or connection not in self._used:
            connection.drop()
        else:
            self._idle.append(connection)

    async def _live_idle(self) -> RedisConnection | None:
        """Give one that the server has not closed meanwhile, the last used first."""
        while self._idle:
            connection = self._idle.pop()
            try:
                if not await connection.can_read():
                    return connection
            except (NoConnection, OSError):
                pass  # as good as closed
            connection.drop()
        return None

    async def _connect(self, connection: RedisConnection) -> None:
        try:
            await connect(connection)
            if self._must_be_primary:
                await _check_role(connection)
        except BaseException:
            connection.doubt()
            raise


async def _check_role(connection: RedisConnection) -> None:
    [role] = await exchange(connection, [("ROLE",)])
    if isinstance(role, Exception):
        raise role
    if role[0] != b"master":
        raise NoConnection("the Sentinels' primary is a replica now; another one is being chosen")
