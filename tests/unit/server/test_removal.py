"""Removing a certificate: recorded, deleted and announced, and its predecessor isn't brought back either."""

from __future__ import annotations

import asyncio

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.server import removal
from ssl_cert_server.server.removal import remove_certificate, remove_stored
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.service.retained import RetainedStorage, Retention
from ssl_cert_server.storage.leasing import leased
from ssl_cert_server.storage.removals import load_removals
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, make_certificate
from tests.support.loop_time import settle

OLD = make_certificate("a.com", start=START - 2 * DAY)
NEW = make_certificate("a.com", start=START - DAY)
RECORD = IssuedRecord(NEW.fingerprint, replaces=OLD.fingerprint)
LEASE = "certificates/a.com"


class Room:
    """A storage, and a certificate in it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)

    async def remove(self) -> None:
        await remove_certificate(self.storage, "a.com", NEW, RECORD, self.clock, lease_name=LEASE)

    async def remove_stored(self) -> str:
        return await remove_stored(self.storage, "a.com", self.clock, lease_name=LEASE)


@pytest.fixture
def it() -> Room:
    return Room()


async def test_it_is_recorded_deleted_and_announced(it: Room) -> None:
    await it.storage.put("a.com", NEW.stored)
    cursor = (await it.storage.changes("", 0)).cursor
    await it.remove()
    assert await it.storage.get("a.com") is None
    assert await load_removals(it.storage, "a.com") == dict.fromkeys((OLD.fingerprint, NEW.fingerprint), NEW.not_after)
    assert (await it.storage.changes(cursor, 0)).keys == ("_removed/a.com", "a.com")


async def test_a_successor_that_took_its_place_stays(it: Room) -> None:
    successor = make_certificate("a.com", start=START)
    await it.storage.put("a.com", successor.stored)
    await it.remove()
    assert await it.storage.get("a.com") == successor.stored


async def test_it_is_recorded_before_it_is_deleted(it: Room) -> None:
    await it.storage.put("a.com", NEW.stored)
    it.storage.break_down("delete")
    with pytest.raises(StorageError):
        await it.remove()
    assert NEW.fingerprint in await load_removals(it.storage, "a.com")


async def test_an_instance_that_missed_the_last_renewal_does_not_bring_the_predecessor_back(it: Room) -> None:
    await it.storage.put("a.com", NEW.stored)
    copies = FaultyStorage(it.clock)
    await copies.put("a.com", OLD.stored)
    await it.remove()
    retention = Retention(it.storage, copies, it.clock)
    assert await RetainedStorage(it.storage, retention).get("a.com") is None
    assert await retention.examine("a.com") is None


async def test_of_a_certificate_that_is_just_being_renewed_the_renewed_one_is_removed(it: Room) -> None:
    await it.storage.put("a.com", OLD.stored)
    async with leased(it.storage, LEASE, it.clock) as lease:
        removing = asyncio.ensure_future(it.remove_stored())
        await settle()
        await it.storage.put("a.com", NEW.stored, lease=lease)
        await save_record(it.storage, "a.com", RECORD, lease)
    await it.clock.advance(2)
    assert await removing == NEW.fingerprint
    assert await it.storage.get("a.com") is None
    assert set(await load_removals(it.storage, "a.com")) == {OLD.fingerprint, NEW.fingerprint}


@pytest.mark.parametrize("value", [b"rubbish", NEW.key_pem, b"\xff"])
async def test_a_value_that_is_no_certificate_is_removed(it: Room, value: bytes) -> None:
    await it.storage.put("a.com", value)
    cursor = (await it.storage.changes("", 0)).cursor
    assert await it.remove_stored() == ""
    assert await it.storage.get("a.com") is None
    assert "a.com" in (await it.storage.changes(cursor, 0)).keys


async def test_a_lease_that_is_held_for_long_is_named(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "PATIENCE", 0.05)
    await it.storage.put("a.com", NEW.stored)
    async with leased(it.storage, LEASE, it.clock):
        with pytest.raises(StorageError, match=r"a server has held .* try again later"):
            await it.remove_stored()
    assert await it.storage.get("a.com") == NEW.stored


async def test_the_wait_for_the_lease_alone_is_bounded(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "PATIENCE", 0.05)
    async with removal.exclusively(it.storage, LEASE, it.clock):
        await asyncio.sleep(0.2)
    with pytest.raises(TimeoutError):
        async with removal.exclusively(it.storage, LEASE, it.clock):
            raise TimeoutError
