"""One connection that listens, so that who waits for news needs none."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import structlog
from psycopg import sql

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.postgres.connections import Connection, Connections

_log = structlog.get_logger()

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_PROBE_EVERY = 60.0


class Listener:
    """Counts what it hears. It begins when somebody first waits, and comes back by itself when it was cut off."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self.heard = 0
        self._connections = connections
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._tried = asyncio.Event()
        self._waiting: set[asyncio.Future[None]] = set()

    async def ready(self) -> None:
        """Listen, if that can be done now."""
        if self._closed:
            return
        if self._task is None:
            self._task = asyncio.ensure_future(self._listen_on())
        await self._tried.wait()

    async def wait(self, heard: int, seconds: float) -> None:
        """Until more was heard than ``heard``, or the time is over."""
        if self.heard != heard:
            return
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(news)
        pause = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((news, pause), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            self._waiting.discard(news)

    async def close(self) -> None:
        """Stop listening, and wake who waits."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._tried.set()
        self._hear()

    async def _listen_on(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                connection = await self._connections.connect()
            except (psycopg.Error, StorageError, OSError) as error:  # a time-out is an OSError
                _log.warning("storage.not_listening", reason=self._connections.safe(error), retry_in=pause)
            else:
                pause = _FIRST_PAUSE
                await self._listen(connection)
            self._tried.set()
            await self._clock.sleep(pause * (0.5 + self._clock.random()))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _listen(self, connection: Connection) -> None:
        """Count notifications until the connection breaks."""
        try:
            with suppress(psycopg.Error, OSError):
                async with asyncio.timeout(self._connections.timeout):
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._connections.schema)))
                self._tried.set()
                self._hear()  # whatever was said while nobody listened
                while True:
                    async for _ in connection.notifies(timeout=_PROBE_EVERY):
                        self._hear()
                    async with asyncio.timeout(self._connections.timeout):
                        await connection.execute("SELECT 1")
        finally:
            await connection.close()

    def _hear(self) -> None:
        self.heard += 1
        for news in self._waiting:
            if not news.done():
                news.set_result(None)
