"""Real servers for the tests of the Redis backend, and the backend as the contract's suite wants it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.redis import RedisSettings, RedisStorage
from tests.support.redis_server import RedisServer, make_cluster

DAY = 86_400
PATIENCE = 30
"""Seconds that a call may take where it has to succeed."""


class RedisBackend:
    """One database; every ``open`` is another instance of the server on it."""

    shared = True

    def __init__(self, settings: RedisSettings, servers: list[RedisServer]) -> None:
        self._settings = settings
        self._servers = servers
        self._opened = AsyncExitStack()

    def open(self) -> Storage:
        storage = RedisStorage(self._settings, SystemClock())
        self._opened.push_async_callback(storage.close)
        return storage

    async def let_pass(self, seconds: float) -> None:
        """Leases are timed by the server's clock, which no test can move: so they grow older at once."""
        for server in self._servers:
            for lease in names(server, f"{self._settings.prefix} lease "):
                age(server, lease, seconds)

    async def close(self) -> None:
        await self._opened.aclose()


def names(server: RedisServer, start: str = "") -> list[bytes]:
    """All that begin so, of those this node has."""
    return sorted(name for name in server.ask("KEYS", "*") if name.startswith(start.encode()))


def age(server: RedisServer, lease: bytes, seconds: float) -> None:
    """Have a lease's record be older by ``seconds``."""
    server.ask("HINCRBY", lease, "until", -int(seconds * 1_000_000))
    left = server.ask("PTTL", lease) - int(seconds * 1000)
    server.ask("PEXPIRE", lease, max(left, 0))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    folder = tmp_path_factory.mktemp("cluster")
    nodes = [RedisServer(folder / str(number), {"cluster-enabled": "yes"}) for number in range(3)]
    try:
        for node in nodes:
            node.start()
        make_cluster(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.close()


@pytest.fixture
def settings(redis_server: RedisServer) -> RedisSettings:
    """Those of an empty database."""
    redis_server.ask("FLUSHALL")
    return RedisSettings(addr=redis_server.addr, timeout=PATIENCE)


@pytest.fixture(params=["one server", "prefix", "cluster"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[RedisBackend]:
    backend = make_backend(request)
    yield backend
    await backend.close()


_numbers = itertools.count()


def make_backend(request: pytest.FixtureRequest) -> RedisBackend:
    if request.param == "cluster":
        nodes: list[RedisServer] = request.getfixturevalue("cluster")
        addr = ",".join(node.addr for node in nodes)
        # Other tags, other slots, other nodes.
        settings = RedisSettings(addr=addr, cluster=True, prefix=f"{{t{next(_numbers)}}}:", timeout=PATIENCE)
        return RedisBackend(settings, nodes)
    server: RedisServer = request.getfixturevalue("redis_server")
    if request.param == "prefix":
        settings = RedisSettings(addr=server.addr, prefix=f"[a-z]*\\?{next(_numbers)}:", timeout=PATIENCE)
        return RedisBackend(settings, [server])
    server.ask("FLUSHALL")
    return RedisBackend(RedisSettings(addr=server.addr, timeout=PATIENCE), [server])


@pytest.fixture
def storage(backend: RedisBackend) -> Storage:
    return backend.open()


@pytest.fixture
def peer(backend: RedisBackend, storage: Storage) -> Storage:
    """Another instance on the same data, opened after ``storage``."""
    return backend.open()


@pytest.fixture
async def opened() -> AsyncIterator[Any]:
    """Opens storages with settings of a test's own, and closes them at its end."""
    stack = AsyncExitStack()

    def opened(settings: RedisSettings) -> RedisStorage:
        storage = RedisStorage(settings, SystemClock())
        stack.push_async_callback(storage.close)
        return storage

    yield opened
    await stack.aclose()
