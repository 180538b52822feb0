"""A lease that could not be released doesn't keep its own instance out."""

from __future__ import annotations

import pytest

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage import own_leases
from ssl_cert_server.storage.base import Lease
from ssl_cert_server.storage.own_leases import OwnLeases
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage

NAME = "certificates/a.com"


class Shared(FaultyStorage):
    """Storage whose ``release`` can break, too."""

    async def release(self, lease: Lease) -> None:
        if self.broken("release", lease.name):
            raise StorageError(f"can't release {lease.name}")
        await super().release(lease)


class Room:
    """One instance of several on a storage."""

    def __init__(self) -> None:
        self.shared = Shared(ManualClock())
        self.storage = OwnLeases(self.shared)

    async def lease(self, name: str = NAME) -> Lease:
        lease = await self.storage.acquire(name, 30.0)
        assert lease is not None
        return lease

    async def leave(self, name: str = NAME) -> Lease:
        """Take a lease that can't be released."""
        lease = await self.lease(name)
        self.shared.break_down("release")
        with pytest.raises(StorageError):
            await self.storage.release(lease)
        self.shared.repair()
        return lease


@pytest.fixture
def it() -> Room:
    return Room()


async def test_a_lease_that_could_not_be_released_is_taken_again(it: Room) -> None:
    left = await it.leave()
    assert await OwnLeases(it.shared).acquire(NAME, 30.0) is None, "a peer waits until it lapses"
    lease = await it.lease()
    assert lease.token > left.token
    with pytest.raises(LeaseLost):
        await it.storage.put("a.com", b"late", lease=left)
    await it.storage.put("a.com", b"in time", lease=lease)


async def test_a_lease_in_use_excludes_its_own_instance(it: Room) -> None:
    await it.leave()
    await it.lease()
    assert await it.storage.acquire(NAME, 30.0) is None


async def test_a_lease_that_a_peer_took_over_stays_with_the_peer(it: Room) -> None:
    await it.leave()
    it.shared.steal(NAME)
    assert await it.storage.acquire(NAME, 30.0) is None


async def test_it_is_taken_once_storage_works_again(it: Room) -> None:
    await it.leave()
    it.shared.break_down("release")
    for _ in range(3):
        with pytest.raises(StorageError):
            await it.storage.acquire(NAME, 30.0)
    it.shared.repair()
    await it.lease()


async def test_memory_is_bounded(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_leases, "_MOST_LEFT", 3)
    for number in range(5):
        await it.leave(f"certificates/n{number}.com")
    assert [*it.storage._left] == [f"certificates/n{number}.com" for number in (2, 3, 4)]
