"""What was read before is served on while storage is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.memory import MemoryStorage
from ssl_cert_server.storage.mirror import MirroredStorage
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.loop_time import settle


class Room:
    """A storage that breaks, and its mirror, which outlives restarts."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.primary = FaultyStorage(self.clock)
        self.copy = FaultyStorage(self.clock)
        self.refused: set[str] = set()
        self.storage = MirroredStorage(self.primary, self.copy, self.clock, self._may_replace)
        self.asked = 0

    async def _may_replace(self, key: str, copy: bytes, value: bytes) -> bool:
        return key not in self.refused

    async def restart(self) -> None:
        await self.storage.close()
        self.storage = MirroredStorage(self.primary, self.copy, self.clock)

    async def read(self, *keys: str) -> None:
        for key in keys:
            await self.storage.get(key)
        await settle()

    def go_away(self) -> None:
        """Count who still asks."""

        def broken(operation: str, _: str) -> bool:
            self.asked += operation == "get"
            return True

        self.primary.broken = broken


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    yield room
    await room.storage.close()


async def test_what_was_read_is_given_while_storage_is_away_and_after_a_restart(it: Room) -> None:
    await it.primary.put("a.com", b"certificate")
    await it.primary.put("_local_ca/root", b"root")
    await it.read("a.com", "_local_ca/root")
    it.go_away()
    assert await it.storage.get("a.com") == b"certificate"
    await it.restart()
    assert await it.storage.get("a.com") == b"certificate"
    assert await it.storage.get("_local_ca/root") == b"root"


async def test_what_was_written_is_given_too(it: Room) -> None:
    await it.storage.put("a.com", b"old")
    await settle()
    await it.storage.put("a.com", b"new")
    await settle()
    it.go_away()
    assert await it.storage.get("a.com") == b"new"


async def test_what_was_never_read_is_not_there(it: Room) -> None:
    await it.primary.put("a.com", b"certificate")
    it.go_away()
    with pytest.raises(StorageError):
        await it.storage.get("a.com")


async def test_the_accounts_keys_and_what_is_worked_on_are_not_mirrored(it: Room) -> None:
    for key in ("acme_account+key", "_accounts/ca.key", "_state/a.com", "_challenges/http-01/token"):
        await it.storage.put(key, b"value")
        await it.read(key)
    assert [key async for key in it.copy.list()] == []
    assert [*it.copy._values] == []


async def test_what_was_removed_is_removed(it: Room) -> None:
    await it.storage.put("a.com", b"certificate")
    await it.storage.put("b.com", b"certificate")
    await settle()
    await it.storage.delete("a.com")
    await settle()
    it.go_away()
    with pytest.raises(StorageError):
        await it.storage.get("a.com")


async def test_what_storage_lacks_keeps_its_copy(it: Room) -> None:
    """It may have been restored from a backup; a removal is told otherwise."""
    await it.storage.put("b.com", b"certificate")
    await it.storage.put("_ocsp/b.com", b"staple")
    await settle()
    for key in ("b.com", "_ocsp/b.com"):
        await it.primary.delete(key)
        await it.read(key)
    assert await it.copy.get("b.com") == b"certificate"
    assert await it.copy.get("_ocsp/b.com") is None


async def test_another_value_takes_a_copys_place_only_where_that_is_agreed(it: Room) -> None:
    it.refused.add("a.com")
    for name in ("a.com", "b.com"):
        await it.copy.put(name, b"newer")
        await it.primary.put(name, b"older")
    await it.read("a.com", "b.com")
    assert await it.copy.get("a.com") == b"newer"
    assert await it.copy.get("b.com") == b"older"
    await it.storage.put("a.com", b"written here")
    await settle()
    assert await it.copy.get("a.com") == b"written here"


async def test_the_records_of_certificates_are_copied_and_never_given_from_there(it: Room) -> None:
    await it.storage.put("_issued/a.com", b"record")
    await settle()
    assert await it.copy.get("_issued/a.com") == b"record"
    it.go_away()
    with pytest.raises(StorageError):
        await it.storage.get("_issued/a.com")


async def test_a_copy_that_is_gone_is_written_again_once_that_was_noticed(it: Room) -> None:
    await it.storage.put("a.com", b"certificate")
    await settle()
    await it.copy.delete("a.com")
    assert await it.storage.lacks("a.com")
    await it.read("a.com")
    assert await it.copy.get("a.com") == b"certificate"
    assert not await it.storage.lacks("a.com")


async def test_reads_do_not_wait_for_storage_that_is_away(it: Room) -> None:
    await it.storage.put("a.com", b"certificate")
    await settle()
    it.go_away()
    with capture_logs() as logs:
        for _ in range(100):
            assert await it.storage.get("a.com") == b"certificate"
        assert it.asked == 1
        for _ in range(300):
            await it.clock.advance(1)
            await it.storage.get("a.com")
    assert 10 < it.asked < 25
    it.primary.repair()
    with capture_logs() as later:
        await it.clock.advance(31)
        await it.storage.get("a.com")
    assert [log["event"] for log in [*logs, *later]] == ["storage.away", "storage.back"]
    assert logs[0]["remedy"].startswith("see that the storage runs and can be reached")


async def test_what_changed_meanwhile_is_read_when_storage_is_back(it: Room) -> None:
    await it.storage.put("a.com", b"old")
    await settle()
    it.go_away()
    await it.storage.get("a.com")
    it.primary.repair()
    await it.primary.put("a.com", b"new")
    await it.clock.advance(31)
    assert await it.storage.get("a.com") == b"new"
    await settle()
    assert await it.copy.get("a.com") == b"new"


async def test_everything_else_needs_the_storage(it: Room) -> None:
    it.primary.break_down("put", "schedule", "claim", "check_writable")
    with pytest.raises(StorageError):
        await it.storage.put("a.com", b"")
    with pytest.raises(StorageError):
        await it.storage.claim("work", now=0, limit=1, seconds=1)
    with pytest.raises(StorageError):
        await it.storage.check_writable()


async def test_a_mirror_that_is_full_harms_nobody(it: Room) -> None:
    await it.primary.put("a.com", b"certificate")
    it.copy.break_down("put")
    with capture_logs() as logs:
        await it.read("a.com")
        assert await it.storage.get("a.com") == b"certificate"
        for number in range(50):
            await it.primary.put(f"{number}.com", b"certificate")
            await it.read(f"{number}.com")
    assert [log["event"] for log in logs] == ["storage.not_mirrored"], "once a minute"
    it.copy.repair()
    await it.read("a.com")
    assert await it.copy.get("a.com") == b"certificate"


async def test_what_did_not_change_is_written_once(it: Room) -> None:
    await it.primary.put("a.com", b"certificate")
    for _ in range(5):
        await it.read("a.com")
    await it.restart()
    it.copy.break_down("put")
    with capture_logs() as logs:
        await it.read("a.com")
    assert logs == []


async def test_what_takes_long_is_not_waited_for_where_it_was_read_before(it: Room) -> None:
    """As after a restart while storage is deaf: nobody has found out yet that it is away."""
    names = [f"{number}.com" for number in range(40)]
    for name in names:
        await it.copy.put(name, b"certificate")
    deaf = it.primary.hang()
    reads = [asyncio.create_task(it.storage.get(name)) for name in names]
    await it.clock.advance(1)
    assert all(read.done() for read in reads)
    assert {await read for read in reads} == {b"certificate"}
    unknown = asyncio.create_task(it.storage.get("unknown.com"))
    await it.clock.advance(10)
    assert not unknown.done()
    deaf.set_result(None)
    assert await unknown is None


async def test_reads_that_go_on_are_bounded(it: Room) -> None:
    deaf = it.primary.hang()
    for number in range(300):
        await it.copy.put(f"{number}.com", b"certificate")
        reading = asyncio.create_task(it.storage.get(f"{number}.com"))
        await it.clock.advance(1)
        assert await reading == b"certificate"
    assert it.primary.hanging == 100
    deaf.set_result(None)


async def test_what_was_given_and_is_another_by_now_is_announced_when_storage_answers(it: Room) -> None:
    """It may have been replaced before, while nobody here used it: then no announcement of that comes any more."""
    for name in ("same.com", "old.com", "gone.com"):
        await it.copy.put(name, b"certificate")
    await it.primary.put("same.com", b"certificate")
    await it.primary.put("old.com", b"new")
    cursor = (await it.storage.changes("", 0)).cursor
    it.go_away()
    await it.read("same.com", "old.com", "gone.com")
    it.primary.repair()
    await it.storage.changes(cursor, 0)
    await settle()
    assert set((await it.storage.changes(cursor, 0)).keys) == {"old.com", "gone.com"}
    assert await it.copy.get("old.com") == b"new"
    assert await it.copy.get("gone.com") == b"certificate"


async def test_what_came_late_and_is_another_than_was_given_is_announced(it: Room) -> None:
    await it.copy.put("a.com", b"old")
    await it.primary.put("a.com", b"new")
    cursor = (await it.storage.changes("", 0)).cursor
    slow = it.primary.hang()
    reading = asyncio.create_task(it.storage.get("a.com"))
    await it.clock.advance(1)
    assert await reading == b"old"
    slow.set_result(None)
    await settle()
    assert (await it.storage.changes(cursor, 0)).keys == ("a.com",)


async def test_what_is_compared_and_can_not_be_read_is_compared_later(it: Room) -> None:
    for name in ("a.com", "b.com"):
        await it.copy.put(name, b"old")
        await it.primary.put(name, b"new")
    cursor = (await it.storage.changes("", 0)).cursor
    it.go_away()
    await it.read("a.com", "b.com")
    it.primary.break_down("get", key="a.com")
    for _ in range(3):
        await it.storage.changes(cursor, 0)
        await settle()
    assert (await it.storage.changes(cursor, 0)).keys == ("b.com",)
    it.primary.repair()
    await it.storage.changes(cursor, 0)
    await settle()
    assert set((await it.storage.changes(cursor, 0)).keys) == {"a.com", "b.com"}


async def test_what_is_worked_on_is_waited_for(it: Room) -> None:
    """An old value would have a certificate ordered that another instance just got."""
    await it.copy.put("a.com", b"old")
    await it.primary.put("a.com", b"new")
    lease = await it.storage.acquire("certificates/a.com", 30)
    assert lease is not None
    slow = it.primary.hang()
    reading = asyncio.create_task(it.storage.get("a.com"))
    await it.clock.advance(3)
    assert not reading.done()
    slow.set_result(None)
    assert await reading == b"new"
    await it.storage.release(lease)


@pytest.mark.parametrize("sign", ["acquire", "changes"])
async def test_once_storage_answered_it_is_read_there(it: Room, sign: str) -> None:
    await it.storage.put("a.com", b"old")
    await settle()
    it.go_away()
    assert await it.storage.get("a.com") == b"old"
    it.primary.repair()
    await it.primary.put("a.com", b"new")
    if sign == "acquire":
        await it.storage.acquire("certificates/a.com", 30)
    else:
        await it.storage.changes("", 0)
    assert await it.storage.get("a.com") == b"new"


async def test_who_leaves_takes_the_reading_along(it: Room) -> None:
    it.primary.hang()
    reading = asyncio.create_task(it.storage.get("a.com"))
    await it.clock.advance(1)
    assert it.primary.hanging == 1
    reading.cancel()
    await settle()
    assert it.primary.hanging == 0


async def test_memory_is_the_smallest_pair() -> None:
    clock = ManualClock()
    storage = MirroredStorage(MemoryStorage(clock), MemoryStorage(clock), clock)
    await storage.put("a.com", b"1")
    assert await storage.get("a.com") == b"1"
    await storage.close()
