"""What storage lost is served from memory and from the mirror, and found to be written back."""

from __future__ import annotations

import asyncio

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.issuers.local_ca import ROOT_KEY
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.service.retained import RetainedStorage, Retention
from ssl_cert_server.service.retention import Action
from ssl_cert_server.storage.mirror import MirroredStorage
from ssl_cert_server.storage.removals import load_removals, save_removals
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, make_certificate

OLD = make_certificate("a.com", start=START - 2 * DAY)
NEW = make_certificate("a.com", start=START - DAY)
EXPIRED = make_certificate("a.com", start=START - 3 * DAY, end=START - DAY)
UNTIL = START + 90 * DAY


class Room:
    """A storage, a mirror, and a memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.primary, self.copies = FaultyStorage(self.clock), FaultyStorage(self.clock)
        self.retention = Retention(self.primary, self.copies, self.clock, fixed={"shop", ROOT_KEY})
        self.storage = RetainedStorage(self.primary, self.retention)
        self.memory: dict[str, bytes] = {}
        self.retention.held = self.memory.get

    def lost(self) -> list[str]:
        return [*self.retention.lost._keys]

    async def action(self, key: str = "a.com") -> Action | None:
        finding = await self.retention.examine(key)
        return finding.action if finding else None

    async def remove(self, fingerprint: str, *, announced: bool = True) -> None:
        await save_removals(self.primary, "a.com", {fingerprint: UNTIL}, now=START)
        await self.primary.delete("a.com")
        if announced:
            await self.retention.note_removal("a.com")


@pytest.fixture
def it() -> Room:
    return Room()


@pytest.mark.parametrize("place", ["memory", "mirror"])
async def test_what_is_missing_is_given_from_elsewhere_and_queued(it: Room, place: str) -> None:
    if place == "memory":
        it.memory["a.com"] = OLD.stored
    else:
        await it.copies.put("a.com", OLD.stored)
    assert await it.storage.get("a.com") == OLD.stored
    assert it.lost() == ["a.com"]
    assert await it.action() is Action.RESTORE


@pytest.mark.parametrize("place", ["memory", "mirror"])
async def test_of_an_older_and_a_newer_one_the_newer_is_given(it: Room, place: str) -> None:
    await it.primary.put("a.com", OLD.stored)
    if place == "memory":
        it.memory["a.com"] = NEW.stored
    else:
        await it.copies.put("a.com", NEW.stored)
    assert await it.storage.get("a.com") == NEW.stored
    assert await it.action() is Action.RESTORE


async def test_a_newer_one_in_storage_is_given_and_nothing_is_lost(it: Room) -> None:
    await it.primary.put("a.com", NEW.stored)
    it.memory["a.com"] = OLD.stored
    await it.copies.put("a.com", OLD.stored)
    assert await it.storage.get("a.com") == NEW.stored
    assert it.lost() == []


async def test_what_is_in_order_costs_no_further_read_of_storage(it: Room) -> None:
    await it.primary.put("a.com", OLD.stored)
    it.memory["a.com"] = OLD.stored
    read: list[str] = []

    def note(operation: str, key: str) -> bool:
        read.append(f"{operation} {key}")
        return False

    it.primary.broken = note
    await it.storage.get("a.com")
    await it.storage.get("unknown.com")
    assert read == ["get a.com", "get unknown.com"]


async def test_an_expired_one_is_not_given(it: Room) -> None:
    await it.copies.put("a.com", EXPIRED.stored)
    assert await it.storage.get("a.com") is None
    assert it.lost() == []


@pytest.mark.parametrize("key", ["a.com", ROOT_KEY])
@pytest.mark.parametrize("place", ["memory", "mirror"])
async def test_what_can_not_be_parsed_is_passed_over_and_mended(it: Room, place: str, key: str) -> None:
    await it.primary.put(key, b"rubbish")
    if place == "memory":
        it.memory[key] = OLD.stored
    else:
        await it.copies.put(key, OLD.stored)
    if (key, place) != (ROOT_KEY, "memory"):  # the local CA does not read the root that it has in memory
        assert await it.storage.get(key) == OLD.stored
        assert it.lost() == [key]
    finding = await it.retention.examine(key)
    assert finding is not None
    assert (finding.action, finding.value) == (Action.RESTORE, OLD.stored)
    assert finding.broken == "no private key in the PEM data"


async def test_an_operators_that_can_not_be_parsed_is_left_to_the_operator(it: Room) -> None:
    await it.primary.put("shop", b"rubbish")
    it.memory["shop"] = OLD.stored
    await it.copies.put("shop", OLD.stored)
    assert await it.storage.get("shop") == b"rubbish"
    assert await it.action("shop") is None


async def test_one_that_was_removed_does_not_replace_a_broken_one(it: Room) -> None:
    it.memory["a.com"] = OLD.stored
    await it.remove(OLD.fingerprint)
    await it.primary.put("a.com", b"rubbish")
    assert await it.action() is None


@pytest.mark.parametrize("key", ["a.com", "shop", ROOT_KEY])
async def test_what_can_not_be_parsed_never_takes_the_place_of_a_good_copy(it: Room, key: str) -> None:
    assert not await it.retention.may_replace(key, OLD.stored, b"rubbish")
    assert await it.retention.may_replace(key, b"rubbish", OLD.stored)


async def test_a_removed_one_is_not_given_whoever_holds_it(it: Room) -> None:
    it.memory["a.com"] = OLD.stored
    await it.copies.put("a.com", OLD.stored)
    await it.remove(OLD.fingerprint)
    assert await it.storage.get("a.com") is None
    assert await it.copies.get("a.com") is None
    assert await load_removals(it.copies, "a.com") == {OLD.fingerprint: UNTIL}


async def test_a_removal_that_was_not_heard_is_found_in_storage(it: Room) -> None:
    it.memory["a.com"] = OLD.stored
    await it.copies.put("a.com", OLD.stored)
    await it.remove(OLD.fingerprint, announced=False)
    assert await it.storage.get("a.com") is None
    assert await it.copies.get("a.com") is None
    assert it.lost() == []
    assert await it.action() is None


async def test_a_removed_one_that_a_backup_brought_back_is_neither_given_nor_left(it: Room) -> None:
    await it.remove(OLD.fingerprint)
    await it.primary.delete("_removed/a.com")
    await it.primary.put("a.com", OLD.stored)
    assert await it.storage.get("a.com") is None
    assert await it.action() is Action.REMOVE


async def test_the_mirror_remembers_removals_over_a_restart(it: Room) -> None:
    await it.remove(OLD.fingerprint)
    await it.primary.delete("_removed/a.com")
    await it.primary.put("a.com", OLD.stored)
    restarted = Retention(it.primary, it.copies, it.clock)
    await restarted.load()
    assert await RetainedStorage(it.primary, restarted).get("a.com") is None
    assert restarted.removed_keys() == ["a.com"]


@pytest.mark.parametrize("place", ["memory", "mirror"])
async def test_whether_a_missing_one_was_removed_has_to_be_read(it: Room, place: str) -> None:
    if place == "memory":
        it.memory["a.com"] = OLD.stored
    else:
        await it.copies.put("a.com", OLD.stored)
    it.primary.break_down("get", key="_removed/a.com")
    with pytest.raises(StorageError):
        await it.storage.get("a.com")


async def test_a_removed_one_is_not_given_by_the_mirror_while_storage_is_away(it: Room) -> None:
    await it.remove(OLD.fingerprint)
    await it.copies.put("a.com", OLD.stored)  # by a read that was under way
    it.primary.break_down("get")
    mirrored = MirroredStorage(it.primary, it.copies, it.clock)
    with pytest.raises(StorageError):
        await RetainedStorage(mirrored, it.retention).get("a.com")


async def test_what_is_stored_is_given_while_it_can_not_be_compared(it: Room) -> None:
    await it.primary.put("a.com", OLD.stored)
    it.memory["a.com"] = NEW.stored
    it.primary.break_down("get", key="_removed/a.com")
    assert await it.storage.get("a.com") == OLD.stored


async def test_a_mirror_that_hangs_keeps_nobody_from_what_is_stored(it: Room) -> None:
    await it.primary.put("a.com", OLD.stored)
    it.copies.hang()
    reading = asyncio.ensure_future(it.storage.get("a.com"))
    await it.clock.advance(0.3)
    assert reading.done()
    assert await reading == OLD.stored
    assert it.copies.hanging == 0


async def test_the_mirror_forgets_removals_that_have_expired(it: Room) -> None:
    await it.remove(OLD.fingerprint)
    await save_removals(it.copies, "b.com", {"other": START + DAY}, now=START)
    it.clock.jump(2 * DAY)
    restarted = Retention(it.primary, it.copies, it.clock)
    await restarted.load()
    assert [key async for key in it.copies.list("_removed")] == ["_removed/a.com"]
    assert restarted.removed_keys() == ["a.com"]


async def test_its_successor_is_given(it: Room) -> None:
    await it.remove(OLD.fingerprint)
    await it.primary.put("a.com", NEW.stored)
    assert await it.storage.get("a.com") == NEW.stored


@pytest.mark.parametrize("place", ["storage", "mirror"])
async def test_one_that_its_ca_revoked_is_not_written_back(it: Room, place: str) -> None:
    it.memory["a.com"] = OLD.stored
    record = IssuedRecord(OLD.fingerprint, revoked=True)
    await save_record(it.primary if place == "storage" else it.copies, "a.com", record)
    assert await it.action() is None
    assert await it.storage.get("a.com") is None


async def test_a_successor_that_its_ca_backdates_further_is_left_alone(it: Room) -> None:
    it.memory["a.com"] = NEW.stored
    await it.primary.put("a.com", OLD.stored)
    await save_record(it.primary, "a.com", IssuedRecord(OLD.fingerprint, replaces=NEW.fingerprint))
    assert await it.storage.get("a.com") == OLD.stored
    assert await it.action() is None


async def test_the_record_of_what_is_held_comes_from_the_mirror(it: Room) -> None:
    record = IssuedRecord(OLD.fingerprint, "https://ca.test/dir", "dns-01")
    await it.copies.put("a.com", OLD.stored)
    await save_record(it.copies, "a.com", record)
    finding = await it.retention.examine("a.com")
    assert finding is not None
    assert finding.record == record


async def test_an_operators_is_right_however_old_and_a_missing_one_is_written_back(it: Room) -> None:
    it.memory["shop"] = NEW.stored
    await it.copies.put("shop", NEW.stored)
    await it.primary.put("shop", OLD.stored)
    assert await it.storage.get("shop") == OLD.stored
    assert await it.action("shop") is None
    await it.primary.delete("shop")
    assert await it.action("shop") is Action.RESTORE
    assert await it.storage.get("shop") == NEW.stored
    assert it.lost() == [], "an operator may have removed it: it is written back after a sign that storage went back"


async def test_the_local_cas_root_is_kept(it: Room) -> None:
    await it.copies.put(ROOT_KEY, OLD.stored)
    assert await it.storage.get(ROOT_KEY) == OLD.stored
    assert it.lost() == [ROOT_KEY]


async def test_what_holds_no_certificate_is_left_alone(it: Room) -> None:
    for key in ("acme_account+key", "_issued/a.com", "_state/a.com"):
        await it.copies.put(key, b"copy")
        assert await it.storage.get(key) is None


async def test_a_copy_gives_way_to_what_is_newer_only(it: Room) -> None:
    assert await it.retention.may_replace("a.com", OLD.stored, NEW.stored)
    assert await it.retention.may_replace("a.com", EXPIRED.stored, OLD.stored)
    assert await it.retention.may_replace("a.com", b"rubbish", OLD.stored)
    assert await it.retention.may_replace("shop", NEW.stored, OLD.stored)
    assert it.lost() == []
    assert not await it.retention.may_replace("a.com", OLD.stored, b"rubbish")
    assert not await it.retention.may_replace("a.com", NEW.stored, OLD.stored)
    assert it.lost() == ["a.com"]
