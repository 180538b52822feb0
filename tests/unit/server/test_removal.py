"""Removing a certificate: recorded, deleted and announced, and its predecessor isn't brought back either."""

from __future__ import annotations

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.server.removal import remove_certificate
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.service.retained import RetainedStorage, Retention
from ssl_cert_server.storage.removals import load_removals
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, make_certificate

OLD = make_certificate("a.com", start=START - 2 * DAY)
NEW = make_certificate("a.com", start=START - DAY)
RECORD = IssuedRecord(NEW.fingerprint, replaces=OLD.fingerprint)


class Room:
    """A storage, and a certificate in it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)

    async def remove(self) -> None:
        await remove_certificate(self.storage, "a.com", NEW, RECORD, self.clock, lease_name="certificates/a.com")


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
