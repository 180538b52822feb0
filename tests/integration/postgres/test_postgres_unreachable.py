"""A server that can't be reached, won't have us, or goes away: every call ends, tells why, and later ones recover."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable

import pytest

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Due, Lease
from ssl_cert_server.storage.postgres import PostgresSettings, PostgresStorage
from tests.integration.postgres.conftest import PostgresBackend
from tests.integration.postgres.outcome import is_done, is_refused, more, refused, until
from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer

SECRET = "p4ss/w0rd@secret"
WAITED_FOR = 60
"""Seconds; the timeout where nothing is to be waited for."""

DEAF = 5
"""Seconds; the timeout where it is waited out: before and after, calls have to be done within it."""


async def every_call(storage: PostgresStorage) -> list[object]:
    """Make each call there is, all at once, and give what came of them."""

    async def over(iterator: AsyncIterator[object]) -> list[object]:
        return [one async for one in iterator]

    lease = Lease("work", 1)
    calls: list[Awaitable[object]] = [
        storage.get("key"),
        storage.put("key", b"value"),
        storage.put("key", b"value", lease=lease),
        storage.delete("other"),
        storage.delete("other", lease=lease),
        over(storage.list()),
        storage.acquire("other-work", 30),
        storage.renew(lease, 30),
        storage.release(lease),
        storage.schedule("work", [Due("a", 1.0)]),
        storage.unschedule("work", ["b"]),
        storage.scheduled("work", "a"),
        storage.claim("work", now=0.0, limit=1, seconds=1),
        storage.next_due("work"),
        over(storage.list_due("work")),
        storage.announce(["key"]),
        storage.changes("", 0),
        storage.changes("1", 1),
        storage.check_writable(),
    ]
    return await asyncio.gather(*calls, return_exceptions=True)


# --- it won't have us


@pytest.mark.parametrize("aside", [False, True], ids=["in the dsn", "beside it"])
async def test_a_wrong_password_is_told_and_not_shown(server: PostgresServer, aside: bool) -> None:
    dsn = server.dsn() if aside else server.dsn(password=SECRET)
    settings = PostgresSettings(dsn, password=SECRET if aside else None, timeout=WAITED_FOR)
    storage = PostgresStorage(settings, SystemClock())
    began = time.monotonic()
    message = await refused(storage.get("key"))
    assert "can't read key in PostgreSQL" in message
    assert "password authentication failed" in message
    assert time.monotonic() - began < WAITED_FOR / 2, "that needs no waiting"
    for told in (message, repr(settings), repr(storage)):
        assert SECRET not in told
        assert server.password not in told
    await storage.close()


async def test_a_database_that_is_missing_is_told(server: PostgresServer) -> None:
    storage = PostgresStorage(PostgresSettings(server.dsn(dbname="nowhere")), SystemClock())
    assert 'database "nowhere" does not exist' in await refused(storage.put("key", b""))
    await storage.close()


@pytest.mark.parametrize("dsn", [f"postgresql://me:{SECRET}@host/x", f"host=x pasword={SECRET}", f"{SECRET}", "host"])
def test_a_dsn_that_makes_no_sense_is_refused_without_being_shown(dsn: str) -> None:
    with pytest.raises(StorageError, match="dsn") as refusal:
        PostgresStorage(PostgresSettings(dsn), SystemClock())
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize("settings", [{"schema": "Bad-Name"}, {"schema": "pg_x"}, {"pool_size": 0}, {"timeout": 0.0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(StorageError):
        PostgresStorage(PostgresSettings("host=127.0.0.1", **settings), SystemClock())  # type: ignore[arg-type]  # that is the point


async def test_a_role_needs_no_more_than_a_schema_of_its_own(server: PostgresServer) -> None:
    server.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    dsn = server.dsn(user="plain", password="plain")
    storage = PostgresStorage(PostgresSettings(dsn, schema="plain_one"), SystemClock())
    assert "permission denied" in await refused(storage.get("key"))
    server.execute("CREATE SCHEMA plain_one AUTHORIZATION plain")
    results = await every_call(storage)
    assert [result for result in results if isinstance(result, StorageError) and "the lease" not in str(result)] == []
    await storage.close()
    server.drop_schema("plain_one")
    server.execute("DROP ROLE plain")


# --- it is not there


async def test_nothing_is_connected_to_before_the_first_call_and_all_fails_at_once_without_a_server() -> None:
    dsn = f"postgresql://me@127.0.0.1:{free_port()}/x"
    storage = PostgresStorage(PostgresSettings(dsn, timeout=WAITED_FOR), SystemClock())
    began = time.monotonic()
    results = await every_call(storage)
    assert all(isinstance(result, StorageError) for result in results), results
    assert "refused" in str(results[0])
    assert time.monotonic() - began < WAITED_FOR / 2
    await storage.close()


async def test_a_closed_storage_says_so(storage: PostgresStorage) -> None:
    await storage.put("key", b"value")
    await storage.close()
    await storage.close()
    results = await every_call(storage)
    assert all("closed" in str(result) for result in results), results


async def test_close_wakes_who_waits_for_news(storage: PostgresStorage) -> None:
    cursor = (await storage.changes("", 0)).cursor
    waiting = asyncio.ensure_future(storage.changes(cursor, 1000))
    await asyncio.sleep(0.1)
    await storage.close()
    assert "closed" in await refused(waiting)


async def test_calls_recover_when_the_server_comes_back(own: PostgresBackend, own_server: PostgresServer) -> None:
    storage = own.open(clock=SystemClock())
    await asyncio.gather(*(storage.put(f"key{number}", b"value") for number in range(20)))
    own_server.stop()
    assert await refused(storage.get("key1"))
    own_server.start()
    assert await asyncio.gather(*(storage.get(f"key{number}") for number in range(20))) == [b"value"] * 20


async def test_what_was_acknowledged_survives_kills_under_load(
    own: PostgresBackend, own_server: PostgresServer
) -> None:
    storages = [own.open(clock=SystemClock()) for _ in range(2)]
    written: dict[str, set[bytes]] = {}
    scheduled: dict[str, float] = {}
    tokens: list[int] = []
    stopping = asyncio.Event()

    async def write(storage: PostgresStorage, writer: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            key, value = f"key{writer}-{number % 7}", b"%d" % number * 500
            maybe = written.setdefault(key, {b""})
            maybe.add(value)
            try:
                await storage.put(key, value)
                written[key] = {value}
                await storage.schedule("work", [Due(key, float(number))])
                scheduled[key] = float(number)
                lease = await storage.acquire(f"work{writer}", 0.0)
                if lease is not None and writer == 0:
                    tokens.append(lease.token)
            except StorageError:
                await asyncio.sleep(0.05)

    writers = [asyncio.ensure_future(write(storage, n * 2 + m)) for n, storage in enumerate(storages) for m in (0, 1)]
    for _ in range(3):
        await more(tokens, 4)
        await asyncio.to_thread(own_server.kill)
        await asyncio.sleep(0.2)
        own_server.start()  # by the main thread, which it dies with
    await more(tokens, 4)
    stopping.set()
    await asyncio.gather(*writers)
    reader = own.open()
    for key, values in written.items():
        assert (await reader.get(key) or b"") in values, key
    for key, at in scheduled.items():
        entry = await reader.scheduled("work", key)
        assert entry is not None
        assert entry.at >= at
    assert len(tokens) >= 16
    assert tokens == sorted(set(tokens))
    assert (await reader.acquire("work0", 30) or Lease("", 0)).token > tokens[-1]


# --- it goes deaf


async def test_every_call_ends_though_the_server_is_deaf(own: PostgresBackend, own_server: PostgresServer) -> None:
    storage = own.open(own.settings(timeout=DEAF, pool_size=3), SystemClock())
    await asyncio.gather(*(storage.put("key", b"old") for _ in range(10)))
    own_server.pause()
    try:
        began = time.monotonic()
        results = await every_call(storage)
        took = time.monotonic() - began
    finally:
        own_server.resume()
    assert all(isinstance(result, StorageError) for result in results), results
    assert took < 60, "the deadline, the time to take it back, and a slow machine"
    assert "no answer" in str(results[0])
    for _ in range(3):
        await storage.put("key", b"new")
        assert await storage.get("key") == b"new"


async def test_close_ends_though_the_server_is_deaf(own: PostgresBackend, own_server: PostgresServer) -> None:
    storage = own.open(own.settings(timeout=DEAF, pool_size=3), SystemClock())
    cursor = (await storage.changes("", 0)).cursor
    await storage.acquire("work", 1000)
    own_server.pause()
    try:
        calls = [storage.get("key") for _ in range(5)] + [storage.changes(cursor, 1000)]
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await storage.close()
        took = time.monotonic() - began
        results = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        own_server.resume()
    assert took < 60
    assert all(isinstance(result, StorageError) for result in results), results


async def test_what_was_given_up_does_not_land_later(own: PostgresBackend, own_server: PostgresServer) -> None:
    storage = own.open(own.settings(timeout=DEAF), SystemClock())
    await asyncio.gather(*(storage.put(f"key{number}", b"old") for number in range(4)))
    await storage.schedule("work", [Due("entry", 1.0)])
    own_server.pause()
    try:
        calls: list[Awaitable[None]] = [storage.put("key0", b"late"), storage.delete("key1")]
        calls += [storage.schedule("work", [Due("entry", 2.0)])]
        results = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        own_server.resume()
    assert all(isinstance(result, StorageError) for result in results)
    await asyncio.sleep(0.5)
    assert await storage.get("key0") == b"old"
    assert await storage.get("key1") == b"old"
    assert await storage.scheduled("work", "entry") == Due("entry", 1.0)


# --- it can't write


async def test_a_server_that_only_reads_is_told_and_is_read(own: PostgresBackend, own_server: PostgresServer) -> None:
    storage = own.open(clock=SystemClock())
    await storage.put("key", b"value")
    own_server.configure("default_transaction_read_only", "on")
    await until(lambda: is_refused(storage.check_writable()))
    for call in (storage.put("key", b"new"), storage.check_writable(), storage.acquire("work", 30)):
        assert "read-only" in await refused(call)
    assert await storage.get("key") == b"value"
    assert await own.open().get("key") == b"value", "a new instance reads, too"
    own_server.configure("default_transaction_read_only", "off")
    await until(lambda: is_done(storage.check_writable()))
    await storage.put("key", b"new")


async def test_files_that_can_grow_no_more_are_told_and_the_rest_is_kept() -> None:
    with PostgresServer(largest_file=17 * 1024 * 1024) as server:
        backend = PostgresBackend(server)
        storage = backend.open(clock=SystemClock())
        kept = 0
        while kept < 10 and await is_done(storage.put(f"_big/{kept}", os.urandom(4_000_000))):
            kept += 1
        assert 0 < kept < 10
        message = await refused(storage.put(f"_big/{kept}", os.urandom(4_000_000)))
        assert message.startswith(f"can't write _big/{kept} in PostgreSQL: could not extend file")
        for number in range(kept):
            assert len(await storage.get(f"_big/{number}") or b"") == 4_000_000
        assert await storage.get(f"_big/{kept}") is None
        await storage.put("small", b"one")
        await backend.close()
