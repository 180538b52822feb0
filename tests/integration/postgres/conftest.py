"""One PostgreSQL for all these tests, and a schema for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.postgres import PostgresSettings, PostgresStorage
from tests.support.clock import ManualClock
from tests.support.postgres_server import PostgresServer


class PostgresBackend:
    """A schema in the server; every ``open`` is another instance of ours on it."""

    shared = True

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.schema = server.new_schema()
        self._clock = ManualClock()
        self._opened = AsyncExitStack()

    def settings(self, *, pool_size: int = 4, timeout: float = 30) -> PostgresSettings:
        return PostgresSettings(self.server.dsn(), schema=self.schema, pool_size=pool_size, timeout=timeout)

    def open(self, settings: PostgresSettings | None = None, clock: Clock | None = None) -> PostgresStorage:
        """Another instance, with a clock that stands still unless one is given."""
        storage = PostgresStorage(settings or self.settings(), clock or self._clock)
        self._opened.push_async_callback(storage.close)
        return storage

    async def let_pass(self, seconds: float) -> None:
        """Time goes on: the instances' clocks, and the server's, whose leases grow older."""
        await self._clock.advance(seconds)
        self.server.execute(
            f"UPDATE {self.schema}.leases SET until = until - make_interval(secs => %s)",
            [seconds],
        )

    async def close(self) -> None:
        await self._opened.aclose()
        self.server.drop_schema(self.schema)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may stop and kill."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def own(own_server: PostgresServer) -> AsyncIterator[PostgresBackend]:
    """A schema in it."""
    backend = PostgresBackend(own_server)
    yield backend
    await backend.close()


@pytest.fixture
async def backend(server: PostgresServer) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(server)
    yield backend
    await backend.close()


@pytest.fixture
def storage(backend: PostgresBackend) -> PostgresStorage:
    return backend.open()


@pytest.fixture
def peer(backend: PostgresBackend, storage: PostgresStorage) -> PostgresStorage:
    """Another instance on the same data, opened after ``storage``."""
    return backend.open()
