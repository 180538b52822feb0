"""Writes that failed last: nothing is begun until one of their kind works."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage import write_failures
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

    async def fail(self, operation: str, key: str) -> None:
        """Have a write of a key fail."""
        match operation:
            case "put":
                write: Awaitable[object] = self.storage.put(key, b"{}")
            case "schedule":
                write = self.storage.schedule("renewal", [Due(key, 1.0)])
            case _:
                write = self.storage.acquire(key, 30.0)
        with pytest.raises(StorageError):
            await write

    def count(self, operation: str, *, broken: str) -> list[str]:
        """Break an operation on one key; return the keys that it is called with, as they come."""
        keys: list[str] = []

        def decide(called: str, key: str) -> bool:
            if called == operation:
                keys.append(key)
            return (called, key) == (operation, broken)

        self.inner.broken = decide
        return keys

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


SINGLE = [("put", "_state/bad.com"), ("acquire", "certificates/bad.com"), ("put", "bad.com")]


@pytest.mark.parametrize(("operation", "key"), SINGLE)
async def test_a_single_key_that_cannot_be_written_holds_up_nothing_else(it: Room, operation: str, key: str) -> None:
    it.inner.break_down(operation, key=key)
    await it.fail(operation, key)
    assert not await it.writable(), "nobody knows yet that it is this key alone"
    await it.clock.advance(1)
    assert await it.writable()
    for _ in range(50):
        await it.fail(operation, key)
        assert await it.writable()
        await it.storage.rehearse_order()
        await it.clock.advance(0.3)


async def test_so_does_a_single_due_entry(it: Room) -> None:
    class OneFails(FaultyStorage):
        async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
            if [entry.key for entry in entries] == ["bad.com"]:
                raise StorageError("can't schedule bad.com")
            await super().schedule(queue, entries)

    it.storage = WriteWatch(OneFails(it.clock), it.clock)
    await it.fail("schedule", "bad.com")
    await it.clock.advance(1)
    assert await it.writable()
    for _ in range(50):
        await it.fail("schedule", "bad.com")
        assert await it.writable()
        await it.clock.advance(0.3)


async def test_a_single_key_does_not_hide_that_its_whole_kind_fails(it: Room) -> None:
    it.inner.break_down("put", key="_state/bad.com")
    await it.fail("put", "_state/bad.com")
    await it.clock.advance(1)
    assert await it.writable()
    it.inner.break_down("put")
    await it.clock.advance(1)
    await it.fail("put", "_state/bad.com")
    assert not await it.writable()
    it.inner.break_down("put", key="_state/bad.com")
    await it.clock.advance(1)
    assert await it.writable()


async def test_a_single_key_that_works_again_counts_for_its_kind(it: Room) -> None:
    it.inner.break_down("put", key="_state/bad.com")
    await it.fail("put", "_state/bad.com")
    await it.clock.advance(1)
    assert await it.writable()
    it.inner.repair()
    await it.storage.put("_state/bad.com", b"{}")
    it.inner.break_down("put")
    await it.fail("put", "_state/bad.com")
    assert not await it.writable()


async def test_a_single_key_costs_one_probe_a_second(it: Room) -> None:
    keys = it.count("put", broken="_state/bad.com")
    await it.fail("put", "_state/bad.com")
    for _ in range(100):
        await it.clock.advance(0.1)
        await it.writable()
        await it.fail("put", "_state/bad.com")
    assert 5 <= keys.count("_state/~probe") <= 11


async def test_single_keys_are_logged_once_each(it: Room) -> None:
    it.inner.break_down("put", key="_state/bad.com")
    with capture_logs() as logs:
        await it.fail("put", "_state/bad.com")
        await it.clock.advance(1)
        await it.writable()
        for _ in range(10):
            await it.fail("put", "_state/bad.com")
    assert [log["event"] for log in logs] == ["storage.write_failed", "storage.write_works", "storage.key_not_written"]
    assert logs[-1]["storage_key"] == "_state/bad.com"


async def test_single_keys_in_memory_are_bounded(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_failures, "_MOST_SINGLE", 3)
    it.inner.break_down("put")
    for number in range(10):
        await it.fail("put", f"_state/n{number}.com")
    failures = it.storage._failures
    assert [len(failure.keys) for failure in failures.failing.values()] == [3]
    it.inner.repair()
    for _ in range(3):
        await it.storage.put("_state/good.com", b"{}")
        it.inner.break_down("put", times=1)
        await it.fail("put", f"_state/{it.clock.now()}.com")
        await it.clock.advance(1)
    await it.storage.put("_state/good.com", b"{}")
    assert len(failures._single) == 3


async def test_a_lease_that_a_peer_holds_does_not_end_a_failure(it: Room) -> None:
    await it.inner.acquire("certificates/held.com", 30.0)
    it.inner.break_down("acquire", times=1)
    await it.fail("acquire", "certificates/a.com")
    assert await it.storage.acquire("certificates/held.com", 30.0) is None
    assert not await it.writable()
    await it.storage.acquire("certificates/b.com", 30.0)
    assert await it.writable()


async def test_a_probe_for_leases_is_not_held_up_by_a_peers(it: Room) -> None:
    await it.inner.acquire("certificates/~probe", 30.0)
    it.inner.break_down("acquire", times=1)
    await it.fail("acquire", "certificates/a.com")
    await it.clock.advance(1)
    assert await it.writable()
    assert it.storage._failures.failing == {}
    assert [name for name in it.inner._leases if "probe" in name] == ["certificates/~probe"]
