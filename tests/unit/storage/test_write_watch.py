"""Writes that failed last: nothing is begun until one of their kind works."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import Due
from ssl_cert_server.storage.write_watch import WriteWatch
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage


class Room:
    """A storage that is watched."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.inner = FaultyStorage(self.clock)
        self.storage = WriteWatch(self.inner, self.clock)

    async def write(self, operation: str) -> None:
        """Do the operation as the server would."""
        match operation:
            case "put":
                await self.storage.put("_challenges/http-01/token", b"{}")
            case "delete":
                await self.storage.delete("_challenges/http-01/token")
            case "schedule":
                await self.storage.schedule("advice", [Due("a.com", 1.0)])
            case "acquire":
                await self.storage.acquire("certificates/a.com", 30.0)

    async def writable(self) -> bool:
        try:
            await self.storage.check_writable()
        except StorageError:
            return False
        return True


@pytest.fixture
def it() -> Room:
    return Room()


@pytest.mark.parametrize("operation", ["put", "delete", "schedule", "acquire"])
async def test_after_a_write_failed_nothing_is_writable_until_one_of_its_kind_works(it: Room, operation: str) -> None:
    assert await it.writable()
    it.inner.break_down(operation)
    with pytest.raises(StorageError):
        await it.write(operation)
    for _ in range(3):
        assert not await it.writable()
        await it.clock.advance(5)
    it.inner.repair()
    assert await it.writable()


async def test_a_write_of_the_servers_own_is_enough(it: Room) -> None:
    it.inner.break_down("put", times=1)
    with pytest.raises(StorageError):
        await it.write("put")
    assert not await it.writable()
    await it.write("put")
    assert await it.writable()


async def test_another_folder_or_queue_is_another_kind(it: Room) -> None:
    it.inner.break_down("put", key="_state/a.com")
    with pytest.raises(StorageError):
        await it.storage.put("_state/a.com", b"{}")
    await it.write("put")
    assert not await it.writable()
    await it.storage.put("_state/b.com", b"{}")
    assert await it.writable()


async def test_a_lease_that_a_peer_took_over_is_no_failure(it: Room) -> None:
    lease = await it.storage.acquire("certificates/a.com", 30.0)
    assert lease is not None
    it.inner.steal(lease.name)
    with pytest.raises(LeaseLost):
        await it.storage.put("a.com", b"", lease=lease)
    assert await it.writable()


async def test_probes_come_once_a_second_however_many_ask(it: Room) -> None:
    it.inner.break_down("put")
    with pytest.raises(StorageError):
        await it.write("put")
    calls = 0

    def broken(operation: str, _: str) -> bool:
        nonlocal calls
        calls += operation == "put"
        return operation == "put"

    it.inner.broken = broken
    for _ in range(100):
        assert not await it.writable()
    assert calls == 0
    await it.clock.advance(1)
    for _ in range(100):
        assert not await it.writable()
    assert calls == 1


async def test_a_failure_and_its_end_are_logged_once(it: Room) -> None:
    it.inner.break_down("put", times=3)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(StorageError):
                await it.write("put")
        await it.write("put")
        await it.write("put")
    assert [(log["event"], log["kind"], log["place"]) for log in logs] == [
        ("storage.write_failed", "value", "_challenges"),
        ("storage.write_works", "value", "_challenges"),
    ]


async def test_a_probe_that_can_be_written_and_not_removed_does_not_end_a_failure(it: Room) -> None:
    it.inner.break_down("delete")
    with capture_logs() as logs:
        with pytest.raises(StorageError):
            await it.write("delete")
        for _ in range(5):
            await it.clock.advance(5)
            assert not await it.writable()
    assert [log["event"] for log in logs] == ["storage.write_failed"]


@pytest.mark.parametrize("operation", ["put", "delete", "schedule", "acquire", "check_writable"])
async def test_a_rehearsal_finds_what_an_order_would_meet(it: Room, operation: str) -> None:
    await it.storage.rehearse_order()
    it.inner.break_down(operation)
    with pytest.raises(StorageError):
        await it.storage.rehearse_order()
    assert operation == "check_writable" or not await it.writable()
    it.inner.repair()
    await it.clock.advance(1)
    await it.storage.rehearse_order()


@pytest.mark.parametrize("key", ["_state/~probe", "_issued/~probe"])
async def test_a_rehearsal_writes_into_every_folder_of_an_order(it: Room, key: str) -> None:
    it.inner.break_down("put", key=key)
    with pytest.raises(StorageError, match=key):
        await it.storage.rehearse_order()


async def test_a_rehearsal_leaves_nothing_behind(it: Room) -> None:
    await it.storage.rehearse_order()
    assert it.inner._values == {}
    assert it.inner._leases == {}
    assert [entry async for entry in it.inner.list_due("renewal")] == []
