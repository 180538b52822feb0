"""A storage that lost what it had is not taken for one in which there is nothing yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import CHANGES_KEPT, Storage
from ssl_cert_server.storage.guarded import MARKS, GuardedStorage
from ssl_cert_server.storage.mirror import MirroredStorage
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.loop_time import settle

READS: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "a certificate": lambda storage: storage.get("gone.com"),
    "the predecessor's account": lambda storage: storage.get("acme_account+key"),
    "an account": lambda storage: storage.get("_accounts/ca.key"),
    "the local CA's root": lambda storage: storage.get("_local_ca/root"),
    "a staple": lambda storage: storage.get("_ocsp/a.com"),
    "an index that isn't complete": lambda storage: storage.index_complete(),
    "a cursor of before": lambda storage: storage.changes("12345", 0),
    "whether an order may be placed": lambda storage: storage.check_writable(),
}


@pytest.fixture
def primary() -> FaultyStorage:
    return FaultyStorage(ManualClock())


@pytest.fixture
def memory() -> FaultyStorage:
    return FaultyStorage(ManualClock())


async def start(primary: Storage, memory: Storage | None = None) -> GuardedStorage:
    """An instance, which asks for the present cursor first of all."""
    storage = GuardedStorage(primary, memory)
    await storage.changes("", 0)
    return storage


def empty(primary: FaultyStorage) -> dict[str, bytes]:
    """Have it come back with nothing; gives what it had."""
    before = {**primary._values}
    primary._values.clear()
    primary._announced.clear()
    return before


async def marks(storage: Storage) -> list[str]:
    return [key async for key in storage.list(MARKS)]


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_what_came_back_empty_says_nothing(
    read: Callable[[Storage], Awaitable[object]], primary: FaultyStorage
) -> None:
    await primary.put("a.com", b"certificate")
    storage = await start(primary)
    await read(storage)
    before = empty(primary)
    with pytest.raises(StorageError, match=r"is gone; restore it, or, where it is meant to be empty, remove"):
        await read(storage)
    primary._values.update(before)
    await read(storage)


async def test_it_is_told_once_and_when_it_is_over(primary: FaultyStorage) -> None:
    storage = await start(primary)
    before = empty(primary)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(StorageError):
                await storage.get("a.com")
        primary._values.update(before)
        for _ in range(3):
            await storage.get("a.com")
    assert [(log["event"], log["log_level"]) for log in logs] == [("storage.lost", "error"), ("storage.found", "info")]


async def test_another_deployments_storage_in_its_place_is_none_of_ours(primary: FaultyStorage) -> None:
    storage = await start(primary)
    empty(primary)
    await start(primary)
    with pytest.raises(StorageError):
        await storage.get("a.com")


async def test_what_is_found_costs_no_other_read(primary: FaultyStorage) -> None:
    storage = await start(primary)
    await primary.put("a.com", b"certificate")
    primary.broken = lambda _, key: key.startswith(MARKS)
    assert await storage.get("a.com") == b"certificate"
    assert await storage.get("_state/a.com") is None
    await primary.announce(["a.com"])
    assert (await storage.changes("0", 0)).keys == ("a.com",)


async def test_a_storage_of_before_is_marked_at_the_first_start_and_known_at_the_next(primary: FaultyStorage) -> None:
    await primary.put("a.com", b"certificate")
    await start(primary)
    first = await marks(primary)
    await start(primary)
    assert len(first) == 1
    assert await marks(primary) == first


async def test_instances_that_start_together_on_a_new_one_all_know_it(primary: FaultyStorage) -> None:
    barrier = asyncio.Barrier(5)

    class Slow(GuardedStorage):
        """Looks for a mark when the others have looked, too."""

        async def _known(self) -> str:
            known = await super()._known()
            if not known:
                await barrier.wait()
            return known

    instances = [Slow(primary) for _ in range(5)]
    await asyncio.gather(*(instance.changes("", 0) for instance in instances))
    assert len(await marks(primary)) == 5
    for instance in instances:
        await instance.check_writable()
        assert await instance.get("a.com") is None


async def test_a_storage_that_is_away_or_full_at_the_start_is_marked_later(primary: FaultyStorage) -> None:
    storage = GuardedStorage(primary)
    primary.break_down("get", "put", "list", "changes")
    with pytest.raises(StorageError):
        await storage.changes("", 0)
    primary.break_down("put")
    cursor = (await storage.changes("", 0)).cursor
    assert await storage.get("a.com") is None
    primary.repair()
    await storage.changes(cursor, 0)
    assert len(await marks(primary)) == 1


async def test_who_only_reads_makes_no_mark(primary: FaultyStorage) -> None:
    storage = GuardedStorage(primary)
    assert await storage.get("a.com") is None
    assert await marks(primary) == []


async def test_after_a_restart_it_is_known_by_what_the_mirror_remembers(
    primary: FaultyStorage, memory: FaultyStorage
) -> None:
    await start(primary, memory)
    before = empty(primary)
    for _ in range(2):
        with pytest.raises(StorageError):
            await start(primary, memory)
    assert await marks(primary) == []
    primary._values.update(before)
    await start(primary, memory)


async def test_where_it_is_meant_to_be_empty_the_mark_is_removed(primary: FaultyStorage, memory: FaultyStorage) -> None:
    await start(primary, memory)
    empty(primary)
    memory._values.clear()
    await start(primary, memory)
    assert await marks(primary) == await marks(memory)


async def test_a_mirror_that_can_not_be_read_harms_nobody_where_the_mark_is_there(
    primary: FaultyStorage, memory: FaultyStorage
) -> None:
    await start(primary)
    memory._values[f"{MARKS}/1"] = b""
    memory.break_down("list")
    storage = await start(primary, memory)
    assert await storage.get("a.com") is None
    empty(primary)
    with pytest.raises(StorageError):
        await start(primary, memory)


async def test_a_mirror_that_is_full_harms_nobody(primary: FaultyStorage, memory: FaultyStorage) -> None:
    memory.break_down("put")
    with capture_logs() as logs:
        storage = await start(primary, memory)
    assert [log["event"] for log in logs] == ["storage.not_mirrored"]
    assert await storage.get("a.com") is None


async def test_a_mirror_keeps_what_it_has_where_storage_came_back_empty(
    primary: FaultyStorage, memory: FaultyStorage
) -> None:
    clock = ManualClock()
    storage = MirroredStorage(GuardedStorage(primary, memory), memory, clock)
    cursor = (await storage.changes("", 0)).cursor
    await primary.announce(["a.com"] * 3 * CHANGES_KEPT)
    await storage.put("a.com", b"certificate")
    await settle()
    before = empty(primary)
    for _ in range(3):
        with pytest.raises(StorageError):
            await storage.changes(cursor, 0)
        assert await storage.get("a.com") == b"certificate"
        with pytest.raises(StorageError):
            await storage.get("new.com")
        await clock.advance(60)
    assert await memory.get("a.com") == b"certificate"
    primary._values.update(before)
    assert (await storage.changes(cursor, 0)).reset
    assert await storage.get("new.com") is None
    await storage.close()
