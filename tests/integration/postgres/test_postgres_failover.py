"""Synchronous replication: what was acknowledged is on the standby, and goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import Due, Lease
from ssl_cert_server.storage.postgres import PostgresSettings, PostgresStorage
from tests.integration.postgres.conftest import PostgresBackend
from tests.integration.postgres.outcome import is_done, more, refused, until
from tests.support.postgres_server import PostgresServer


@pytest.fixture
def standby(own_server: PostgresServer) -> Iterator[PostgresServer]:
    """It follows ``own_server``, whose commits wait for it."""
    with PostgresServer(follows=own_server) as standby:
        own_server.configure("synchronous_standby_names", "standby")
        yield standby


@pytest.fixture
async def instances(own_server: PostgresServer, standby: PostgresServer) -> AsyncIterator[list[PostgresStorage]]:
    """They know both servers, and which is the primary only when they ask."""
    look = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"

    async def following() -> bool:
        return bool(own_server.execute(look))

    await until(following)
    dsn = own_server.dsn(host="127.0.0.1,127.0.0.1", port=f"{standby.port},{own_server.port}")
    storages = [PostgresStorage(PostgresSettings(dsn, timeout=20), SystemClock()) for _ in range(2)]
    yield storages
    for storage in storages:
        await storage.close()


async def test_what_was_acknowledged_survives_a_failover_under_load(
    own_server: PostgresServer, standby: PostgresServer, instances: list[PostgresStorage]
) -> None:
    values: dict[str, bytes] = {}
    tokens: list[int] = []
    announced: list[str] = []
    stopping = asyncio.Event()
    first = await instances[0].acquire("held", 1000)
    cursor = (await instances[1].changes("", 0)).cursor

    async def write(storage: PostgresStorage, writer: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            key, value = f"key{writer}-{number}", b"%d" % number * 500
            try:
                await storage.put(key, value)
                values[key] = value
                await storage.schedule("work", [Due(key, float(number))])
                await storage.announce([key])
                announced.append(key)
                lease = await storage.acquire("shared", 0.0)
                if lease is not None:
                    tokens.append(lease.token)
            except StorageError:
                await asyncio.sleep(0.05)

    writers = [asyncio.ensure_future(write(storage, n)) for n, storage in enumerate(instances)]
    await more(tokens, 20)
    own_server.kill()
    standby.execute("SELECT pg_promote()")
    await more(tokens, 20)
    stopping.set()
    await asyncio.gather(*writers)

    for key, value in values.items():
        assert await instances[0].get(key) == value
    assert {entry.key async for entry in instances[0].list_due("work")} >= {*announced}
    assert len(tokens) == len({*tokens})
    told: set[str] = set()
    while (news := await instances[1].changes(cursor, 0)).keys:
        assert not news.reset
        told |= {*news.keys}
        cursor = news.cursor
    assert told >= {*announced}
    assert first is not None
    assert await instances[1].acquire("held", 30) is None, "who held a lease still holds it"
    await instances[0].put("key", b"value", lease=first)
    with pytest.raises(LeaseLost):
        await instances[0].put("key", b"value", lease=Lease("held", first.token - 1))


async def test_a_write_that_no_standby_confirms_is_not_acknowledged(
    own: PostgresBackend, own_server: PostgresServer
) -> None:
    storage = own.open(clock=SystemClock())
    hasty = own.open(own.settings(timeout=1), SystemClock())
    await storage.put("key", b"old")
    await until(lambda: is_done(hasty.put("key", b"old")))
    own_server.configure("synchronous_standby_names", "nobody")

    async def in_force() -> bool:
        return own_server.execute("SHOW synchronous_standby_names") == [("nobody",)]

    await until(in_force)
    assert "no answer in 1 s" in await refused(hasty.put("key", b"new"))
    assert "no answer in 1 s" in await refused(hasty.check_writable())
    writing = asyncio.ensure_future(storage.put("key", b"newer"))

    async def ended() -> bool:
        own_server.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        return writing.done()

    await until(ended)  # by an administrator, and the server calls the commit done
    assert "can't write key in PostgreSQL durably: no standby confirmed it" in await refused(writing)
    own_server.configure("synchronous_standby_names", "")
    await asyncio.gather(*(storage.put(f"key{number}", b"value") for number in range(10)))
