"""Connections to the server: opened at first use, never kept when broken, and no call waits for ever."""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.postgres.schema import prepare_schema
from ssl_cert_server.storage.postgres.settings import PostgresSettings
from ssl_cert_server.storage.postgres.translate import NotReplicated, reason, translated

Row = tuple[Any, ...]

# Whoever asked for a connection is told why there is none; these would say it again for every attempt.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

GRACE = 2.0
"""Seconds that a call may take beyond its deadline, for taking back on the server what it asked for."""

_TRIES = 4
_RETRY = 0.05

# A statement would rather be refused than planned badly, were it not for statistics that lag behind: all that is asked
# is found by an index. "off" would let a crash lose what was acknowledged, which nobody who stores certificates wants.
_SESSION = """
SELECT set_config('search_path', %(schema)s, false), set_config('statement_timeout', %(limit)s, false),
    set_config('idle_in_transaction_session_timeout', %(limit)s, false), set_config('enable_seqscan', 'off', false),
    CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'local', false) END
"""


_TOO_LATE = "SC001"
"""What the function in_time raises."""


class Connection(AsyncConnection[TupleRow]):
    """A connection to a server whose clock is known."""

    unreplicated = False
    """Whether a commit came back before the standby had confirmed it."""
    ahead = 0.0
    """How far the server's clock is ahead of the loop's, or less, but never more."""


class Connections:
    """The pool of one instance."""

    def __init__(self, settings: PostgresSettings, clock: Clock, *, create: bool = True) -> None:
        self.timeout = settings.timeout
        self._conninfo = settings.conninfo()
        self._secrets = settings.secrets()
        self.schema = settings.schema
        self._create = create
        self._clock = clock
        self._size = settings.pool_size
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._closed = False
        self._lent = 0
        self._why: Exception = PoolClosed()
        self._refusals: set[asyncio.Future[Exception]] = set()
        self._returning: set[asyncio.Task[None]] = set()

    async def fetch(self, doing: str, statement: LiteralString, values: Mapping[str, object]) -> list[Row]:
        """Run one statement, which is a transaction of its own, and give its rows.

        :raises StorageError: it could not be run, or not in time.
        """
        with translated(doing, self.timeout, self._secrets):
            # The inner deadline lets the server be asked to stop. Where it doesn't answer that, the outer one ends it.
            async with asyncio.timeout(self.timeout + GRACE), asyncio.timeout(self.timeout) as deadline:
                by = deadline.when() or 0.0
                return await self._retried(statement, values, by)

    async def connect(self) -> Connection:
        """Open a connection beside the pool's.

        :raises psycopg.Error, TimeoutError, StorageError: it can't be had.
        """
        async with asyncio.timeout(self.timeout):
            connection = await Connection.connect(self._conninfo, autocommit=True, prepare_threshold=None)
            try:
                await self._prepare(connection)
            except BaseException:
                await connection.close()
                raise
            return connection

    def safe(self, error: Exception) -> str:
        """Give an error's reason as a log may have it."""
        return reason(error, self._secrets)

    async def close(self) -> None:
        """Close all connections; calls that go on fail."""
        self._closed = True
        if self._pool is not None:
            await self._pool.close(timeout=GRACE)

    async def _prepare(self, connection: Connection) -> None:
        connection.add_notice_handler(lambda notice: _heed(connection, notice))
        limit = str(round(self.timeout * 1000))
        await connection.execute(_SESSION, {"schema": self.schema, "limit": limit})
        await prepare_schema(connection, self.schema, create=self._create)
        await _compare_clocks(connection)

    async def _retried(self, statement: LiteralString, values: Mapping[str, object], by: float) -> list[Row]:
        for attempt in range(1, _TRIES):
            try:
                return await self._run(statement, values, by)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                # The server undid it, so that it can be done again.
                await self._clock.sleep(_RETRY * 2**attempt * self._clock.random())
        return await self._run(statement, values, by)

    async def _run(self, statement: LiteralString, values: Mapping[str, object], by: float) -> list[Row]:
        async with self._lending() as connection:
            try:
                return await _execute(connection, statement, values, by)
            except psycopg.Error as error:
                if error.sqlstate != _TOO_LATE:
                    raise
            # Nothing was done, and there is time left here: the server's clock was set forward, or this machine stood
            # still. What else is in the pool finds out in the same way.
            await _compare_clocks(connection)
            return await _execute(connection, statement, values, by)

    # --- the pool

    @asynccontextmanager
    async def _lending(self) -> AsyncIterator[Connection]:
        pool = await self._opened()
        connection = await self._usable(pool)
        self._lent += 1
        try:
            yield connection
        except errors.ReadOnlySqlTransaction:
            await connection.close()  # it is the primary no more: the next connection asks for the one that is
            raise
        finally:
            self._lent -= 1
            await self._give_back(pool, connection)

    async def _opened(self) -> AsyncConnectionPool[Connection]:
        if self._closed:
            raise PoolClosed
        if self._pool is None:
            # No retries of its own: it is the callers that try again, and each is told why it can't be served.
            self._pool = AsyncConnectionPool(
                connection_class=self._remembering_class(),
                min_size=0,
                max_size=self._size,
                open=False,
                timeout=self.timeout + GRACE,
                reconnect_timeout=0,
                reconnect_failed=lambda _: self._tell(),
                name="storage",
            )
        await self._pool.open()
        return self._pool

    def _remembering_class(self) -> type[Connection]:
        """Give the pool a way to connect that remembers why it failed; by itself it only logs it."""
        connections = self

        class Remembering(Connection):
            @classmethod
            async def connect(cls, *_: object, **__: object) -> Connection:  # type: ignore[override]  # we know better
                try:
                    return await connections.connect()
                except Exception as error:
                    connections._why = error
                    raise

        return Remembering

    def _tell(self) -> None:
        """Tell those who wait for a connection that there is none; by itself the pool would let them wait."""
        if self._lent:
            return  # they get one of those, in a moment
        for refusal in self._refusals:
            if not refusal.done():
                refusal.set_result(self._why)

    async def _usable(self, pool: AsyncConnectionPool[Connection]) -> Connection:
        while True:
            connection = await self._next(pool)
            if not _has_news(connection):
                return connection
            await connection.close()
            await self._give_back(pool, connection)

    async def _next(self, pool: AsyncConnectionPool[Connection]) -> Connection:
        refusal: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._refusals.add(refusal)
        getting = asyncio.ensure_future(pool.getconn())
        try:
            await asyncio.wait((getting, refusal), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                raise refusal.result()
            return getting.result()
        except BaseException:
            getting.add_done_callback(lambda got: self._put_back(pool, got))
            getting.cancel()
            raise
        finally:
            self._refusals.discard(refusal)

    def _put_back(self, pool: AsyncConnectionPool[Connection], got: asyncio.Future[Connection]) -> None:
        """Return a connection that came when nobody wanted it any more."""
        if not got.cancelled() and got.exception() is None:
            self._give_back(pool, got.result())

    def _give_back(self, pool: AsyncConnectionPool[Connection], connection: Connection) -> asyncio.Future[None]:
        """Return a connection, though the caller be cancelled meanwhile."""
        returning = asyncio.ensure_future(pool.putconn(connection))
        self._returning.add(returning)
        returning.add_done_callback(self._returning.discard)
        return asyncio.shield(returning)


async def _execute(
    connection: Connection, statement: LiteralString, values: Mapping[str, object], by: float
) -> list[Row]:
    connection.unreplicated = False
    cursor = await connection.execute(statement, {**values, "by": by + connection.ahead}, binary=True)
    rows = await cursor.fetchall() if cursor.description is not None else []
    if connection.unreplicated:
        raise NotReplicated
    return rows


async def _compare_clocks(connection: Connection) -> None:
    cursor = await connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    ((now,),) = await cursor.fetchall()
    connection.ahead = now - asyncio.get_running_loop().time()


def _heed(connection: Connection, notice: errors.Diagnostic) -> None:
    if notice.source_function == "SyncRepWaitForLSN":  # the words are translated, and share their code with others
        connection.unreplicated = True


def _has_news(connection: Connection) -> bool:
    """Tell whether the server said something while nobody asked: most likely its farewell."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
