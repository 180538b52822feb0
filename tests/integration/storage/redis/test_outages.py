"""Redis gone, deaf, full, restarted, or slow; calls cancelled. Each call ends in time, and all recovers by itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import MAX_VALUE, Changes, Due, Lease, Storage
from ssl_cert_server.storage.redis import RedisSettings, RedisStorage
from ssl_cert_server.storage.redis.client import LISTENERS
from tests.integration.storage.redis.conftest import PATIENCE
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.relay import relay

HASTE = 5
"""Seconds that calls may take to a server that doesn't answer; they must not take them where it does."""


async def collected(keys: AsyncIterator[Any]) -> list[Any]:
    return [key async for key in keys]


CALLS: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "get": lambda storage: storage.get("key"),
    "put": lambda storage: storage.put("key", b"value"),
    "put much": lambda storage: storage.put("key", bytes(MAX_VALUE)),
    "delete": lambda storage: storage.delete("key"),
    "list": lambda storage: collected(storage.list()),
    "list a folder": lambda storage: collected(storage.list("_folder")),
    "acquire": lambda storage: storage.acquire("work", 30),
    "renew": lambda storage: storage.renew(Lease("work", 1), 30),
    "release": lambda storage: storage.release(Lease("work", 1)),
    "schedule": lambda storage: storage.schedule("work", [Due("key", 1.0)]),
    "unschedule": lambda storage: storage.unschedule("work", ["key"]),
    "scheduled": lambda storage: storage.scheduled("work", "key"),
    "claim": lambda storage: storage.claim("work", now=1.0, limit=1, seconds=1.0),
    "next_due": lambda storage: storage.next_due("work"),
    "list_due": lambda storage: collected(storage.list_due("work")),
    "index_complete": lambda storage: storage.index_complete(),
    "mark_index_complete": lambda storage: storage.mark_index_complete(),
    "announce": lambda storage: storage.announce(["key"]),
    "changes": lambda storage: storage.changes("1-1", 0),
    "check_writable": lambda storage: storage.check_writable(),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that a test may hurt; it keeps what it has over a restart."""
    with RedisServer(tmp_path_factory.mktemp("hurt"), {"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def storage(server: RedisServer, opened: Any) -> Iterator[RedisStorage]:
    server.resume()
    server.start()
    server.ask("FLUSHALL")
    yield opened(RedisSettings(addr=server.addr, timeout=PATIENCE, pool_size=4))
    server.resume()
    server.start()


@pytest.fixture
def hasty(server: RedisServer, storage: RedisStorage, opened: Any) -> RedisStorage:
    """Another instance, which has a connection for each of the calls."""
    hasty: RedisStorage = opened(RedisSettings(addr=server.addr, timeout=HASTE, pool_size=len(CALLS)))
    return hasty


async def until(condition: Callable[[], object]) -> None:
    """As wait_until, without holding up what runs beside."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.02)


def clients(server: RedisServer, kind: str = "connected") -> int:
    """How many are connected, the one that asks among them; or how many are ``blocked``."""
    return int(server.ask("INFO", "clients").split(f"{kind}_clients:".encode())[1].split()[0])


async def recovered(storage: Storage) -> None:
    """At once: nothing of an outage is left behind."""
    await storage.put("after", b"the outage")
    assert await storage.get("after") == b"the outage"


# --- gone, deaf


async def test_every_call_to_a_server_that_went_deaf_ends_in_time(server: RedisServer, hasty: RedisStorage) -> None:
    await asyncio.gather(*(hasty.put("key", b"old") for _ in CALLS))  # each call goes by a connection that is there
    await hasty.index_complete()
    server.pause()
    begun = time.monotonic()
    results = await asyncio.gather(*(call(hasty) for call in CALLS.values()), return_exceptions=True)
    took = time.monotonic() - begun
    server.resume()
    for name, result in zip(CALLS, results, strict=True):
        assert isinstance(result, StorageError), name
        assert f"no answer in {HASTE} s" in str(result), name
    assert took < 10 * HASTE
    for _ in CALLS:
        await recovered(hasty)


async def test_many_calls_at_once_to_a_deaf_server_all_end_in_time(server: RedisServer, hasty: RedisStorage) -> None:
    server.pause()
    begun = time.monotonic()
    results = await asyncio.gather(*(hasty.get("key") for _ in range(200)), return_exceptions=True)
    took = time.monotonic() - begun
    server.resume()
    assert all(isinstance(result, StorageError) for result in results)
    assert took < 10 * HASTE
    await recovered(hasty)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_every_call_to_a_server_that_is_gone_says_so(
    server: RedisServer, storage: RedisStorage, call: Callable[[Storage], Awaitable[object]]
) -> None:
    await storage.put("key", b"old")
    await storage.index_complete()
    server.stop()
    with pytest.raises(StorageError, match=r"in Redis at .*: Error 111 connecting to"):
        await call(storage)
    server.start()
    await recovered(storage)


async def test_a_restart_between_calls_is_not_even_noticed(server: RedisServer, storage: RedisStorage) -> None:
    await asyncio.gather(*(storage.put(f"key{number}", b"value") for number in range(20)))
    held = await storage.acquire("work", 30)
    server.kill()
    server.start()
    assert await storage.get("key7") == b"value"
    assert await storage.acquire("work", 30) is None
    await storage.put("key", b"under it", lease=held)


async def all_write(writes: Counter[str]) -> None:
    """Until each of the eight wrote some more."""
    writes.clear()
    await until(lambda: len(writes) == 8 and min(writes.values()) >= 3)


async def test_what_was_acknowledged_is_there_after_restarts_in_mid_use(
    server: RedisServer, storage: RedisStorage
) -> None:
    acknowledged: dict[str, bytes] = {}
    writes: Counter[str] = Counter()
    failures: list[StorageError] = []
    ended = asyncio.Event()

    async def use(number: int) -> None:
        key, turn = f"key{number}", 0
        while not ended.is_set():
            turn += 1
            try:
                await storage.put(key, b"%d" % turn * 2000)
                acknowledged[key] = b"%d" % turn * 2000
                writes[key] += 1
            except StorageError as failure:
                failures.append(failure)
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as users:
        for number in range(8):
            users.create_task(use(number))
        for _ in range(3):
            await all_write(writes)
            failures.clear()
            await asyncio.to_thread(server.kill)
            await until(lambda: failures)
            server.start()
        await all_write(writes)
        ended.set()
    for key, value in acknowledged.items():
        assert await storage.get(key) == value


async def test_one_who_waits_for_changes_is_told_of_an_outage_and_loses_no_news_by_it(
    server: RedisServer, storage: RedisStorage
) -> None:
    cursor = (await storage.changes("", 0)).cursor
    waiting = asyncio.ensure_future(storage.changes(cursor, 1000))
    await until(lambda: clients(server, "blocked") == 1)
    await asyncio.to_thread(server.stop)
    with pytest.raises(StorageError, match="wait for changes"):
        await waiting
    server.start()
    await storage.announce(["a.example"])
    assert (await storage.changes(cursor, 1000)).keys == ("a.example",)


async def test_the_index_is_not_known_to_be_complete_after_a_restart_that_may_have_lost_some(
    server: RedisServer, storage: RedisStorage
) -> None:
    assert not await storage.index_complete()
    await storage.mark_index_complete()
    assert await storage.index_complete()
    server.kill()
    server.start()
    assert not await storage.index_complete()
    await storage.mark_index_complete()
    assert await storage.index_complete()


async def test_a_rebuild_that_a_restart_interrupted_does_not_count(server: RedisServer, storage: RedisStorage) -> None:
    assert not await storage.index_complete()
    server.kill()
    server.start()
    await storage.mark_index_complete()
    assert not await storage.index_complete()


async def test_an_index_of_before_an_outage_is_not_marked_by_one_who_never_asked_about_it(
    server: RedisServer, storage: RedisStorage
) -> None:
    await storage.schedule("work", [Due("key", 1.0)])
    server.kill()
    server.start()
    server.ask("FLUSHALL")  # as where another server, without the last writes, took its place
    with pytest.raises(StorageError, match="nobody asked, before it was filled"):
        await storage.mark_index_complete()
    assert not await storage.index_complete()


async def test_a_server_that_still_loads_says_so(server: RedisServer, storage: RedisStorage) -> None:
    server.ask("DEBUG", "POPULATE", 200, "big", 1000)
    server.ask("CONFIG", "SET", "key-load-delay", 10_000, "loading-process-events-interval-bytes", 1024)
    loading = asyncio.create_task(asyncio.to_thread(server.ask, "DEBUG", "RELOAD", "NOFLUSH", "MERGE"))
    told = ""
    while not loading.done() and "loading" not in told:
        try:
            await storage.get("key")
        except StorageError as failure:
            told = str(failure)
    with suppress(Exception):
        await loading
    server.ask("CONFIG", "SET", "key-load-delay", 0)
    assert "it is still loading its data" in told
    await recovered(storage)


# --- refusals


async def test_a_full_server_refuses_writes_and_the_rest_goes_on(server: RedisServer, storage: RedisStorage) -> None:
    await storage.put("key", b"old")
    held = await storage.acquire("held", 30)
    assert held is not None
    await storage.schedule("work", [Due("key", 1.0)])
    server.ask("CONFIG", "SET", "maxmemory", 1000)
    try:
        for call in ("put", "put much", "acquire", "schedule", "announce", "check_writable"):
            with pytest.raises(StorageError, match="it is out of memory; raise maxmemory"):
                await CALLS[call](storage)
        assert await storage.get("key") == b"old"
        await storage.delete("key")
        await storage.release(held)
        assert await storage.next_due("work") == 1.0
    finally:
        server.ask("CONFIG", "SET", "maxmemory", 0)
    await recovered(storage)
    assert await storage.scheduled("work", "key") == Due("key", 1.0)


async def test_a_replica_is_told_to_be_one(server: RedisServer, storage: RedisStorage) -> None:
    server.ask("REPLICAOF", "127.0.0.1", free_port())
    try:
        with pytest.raises(StorageError, match="it is a replica"):
            await storage.put("key", b"value")
    finally:
        server.ask("REPLICAOF", "NO", "ONE")
    await recovered(storage)


async def test_a_server_that_wants_replicas_and_has_none_refuses(server: RedisServer, storage: RedisStorage) -> None:
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        with pytest.raises(StorageError, match="fewer replicas than its min-replicas-to-write"):
            await storage.put("key", b"value")
    finally:
        server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    await recovered(storage)


async def test_a_server_with_too_many_clients_says_so(server: RedisServer, storage: RedisStorage) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)  # the one client that there may be
    try:
        for limit, refused in ((b"1", True), (b"1000", False)):
            writer.write(b"CONFIG SET maxclients " + limit + b"\r\n")
            assert await reader.readline() == b"+OK\r\n"
            if refused:
                with pytest.raises(StorageError, match="max number of clients reached"):
                    await storage.get("key")
    finally:
        writer.close()
    await recovered(storage)


# --- cancelled, given up


async def test_cancelled_calls_leave_connections_that_can_be_used(storage: RedisStorage) -> None:
    """A reply that nobody read would be the next call's."""
    for number in range(40):
        await storage.put(f"key{number}", b"%d" % number)
    for turns in range(60):
        tasks = [asyncio.ensure_future(storage.get(f"key{number}")) for number in range(10)]
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        number = turns % 40
        assert await storage.get(f"key{number}") == b"%d" % number
    values = await asyncio.gather(*(storage.get(f"key{number}") for number in range(40)))
    assert values == [b"%d" % number for number in range(40)]


async def test_those_who_wait_for_changes_use_up_no_connection_that_others_need(
    server: RedisServer, storage: RedisStorage
) -> None:
    cursor = (await storage.changes("", 0)).cursor
    waiting = [asyncio.ensure_future(storage.changes(cursor, 1000)) for _ in range(50)]
    await until(lambda: clients(server, "blocked") == LISTENERS)
    for _ in range(20):
        await asyncio.gather(*(storage.get("key") for _ in range(10)))
    await until(lambda: clients(server) < 12)  # those of tests before this one may only be going
    for task in waiting[:25]:
        task.cancel()
    await storage.announce(["a.example"])
    for told in await asyncio.gather(*waiting[25:]):
        assert told.keys == ("a.example",)


async def test_a_wait_for_changes_ends_when_its_time_is_over(storage: RedisStorage) -> None:
    cursor = (await storage.changes("", 0)).cursor
    assert await storage.changes(cursor, 0.05) == Changes(cursor)


async def test_what_was_given_up_does_not_undo_what_came_after_it(
    server: RedisServer, storage: RedisStorage, opened: Any
) -> None:
    """The network holds a write back until long after its caller gave it up, and wrote anew."""
    port = free_port()
    gate = asyncio.Event()

    held_back: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held_back.append(await reader.read(100_000))
        await gate.wait()
        writer.close()

    await storage.put("key", b"script is known")
    await storage.delete("key")
    await storage.schedule("work", [Due("key", 1.0)])
    listening = await asyncio.start_server(keep, "127.0.0.1", port)
    slow = opened(RedisSettings(addr=f"127.0.0.1:{port}", timeout=HASTE))
    calls = (slow.put("key", b"late"), slow.delete("other"), slow.schedule("work", [Due("key", 2.0)]))
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert "no answer" in str(result)
    gate.set()
    listening.close()
    await listening.wait_closed()
    way = await relay(f"127.0.0.1:{port}", server.addr)
    await slow.put("key", b"later")
    await slow.put("other", b"later")
    await slow.schedule("work", [Due("key", 3.0)])
    for late in held_back:
        assert b"EVALSHA" in late
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(late)
        assert await reader.readline() == b"$8\r\n"
        assert await reader.readline() == b"given up\r\n"
        writer.close()
        await writer.wait_closed()
    assert await slow.get("key") == b"later"
    assert await slow.get("other") == b"later"
    assert await slow.scheduled("work", "key") == Due("key", 3.0)
    await slow.close()
    way.close()


async def test_a_lease_whose_acquiring_was_cancelled_is_free_once_the_instance_is_closed(
    server: RedisServer, storage: RedisStorage, opened: Any
) -> None:
    other = opened(RedisSettings(addr=server.addr))
    await storage.get("key")
    server.pause()
    task = asyncio.ensure_future(storage.acquire("work", 1_000_000))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.resume()
    await storage.close()
    assert await other.acquire("work", 30) is not None


async def test_a_lease_that_was_taken_after_nobody_waited_for_it_is_free_for_its_own_instance_alone(
    server: RedisServer, hasty: RedisStorage, opened: Any
) -> None:
    other = opened(RedisSettings(addr=server.addr))
    await hasty.acquire("another", 30)  # by a connection that is there, and by a script that the server knows
    server.pause()
    with pytest.raises(StorageError, match="no answer"):
        await hasty.acquire("work", 1_000_000)
    server.resume()
    await until(lambda: bool(server.ask("HGET", " lease work", "token")))
    assert await other.acquire("work", 30) is None
    taken = await hasty.acquire("work", 30)
    assert taken is not None
    assert await hasty.acquire("work", 30) is None
    await hasty.release(taken)
    assert await other.acquire("work", 30) is not None
    assert await hasty.acquire("work", 30) is None


# --- closing


async def test_after_close_every_call_is_refused_and_closing_again_does_nothing(storage: RedisStorage) -> None:
    await storage.put("key", b"value")
    await storage.index_complete()
    await storage.close()
    for call in CALLS.values():
        with pytest.raises(StorageError, match="the storage is closed"):
            await call(storage)
    await storage.close()


async def test_closing_ends_those_who_wait_and_leaves_no_connection(server: RedisServer, storage: RedisStorage) -> None:
    cursor = (await storage.changes("", 0)).cursor
    waiting = asyncio.ensure_future(storage.changes(cursor, 1000))
    await asyncio.sleep(0.1)
    await storage.close()
    with pytest.raises(StorageError):
        await waiting
    await until(lambda: clients(server) == 1)


async def test_closing_while_the_server_is_deaf_ends_in_time(server: RedisServer, hasty: RedisStorage) -> None:
    await hasty.acquire("work", 30)
    server.pause()
    begun = time.monotonic()
    await hasty.close()
    assert time.monotonic() - begun < 10 * HASTE


async def test_a_lost_lease_is_not_taken_back_by_its_closing_holder(
    server: RedisServer, storage: RedisStorage, opened: Any, tmp_path: Path
) -> None:
    peer = opened(RedisSettings(addr=server.addr))
    lost = await storage.acquire("work", 30)
    assert lost is not None
    server.ask("HSET", " lease work", "until", 0)
    held = await peer.acquire("work", 30)
    await storage.close()
    await peer.renew(held, 30)
    with pytest.raises(LeaseLost):
        await peer.renew(lost, 30)
