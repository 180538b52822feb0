"""What storage lost is written back, planned and announced: once, under its lease, and again after a failure."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.issuers.local_ca import ROOT_KEY
from ssl_cert_server.model import Certificate
from ssl_cert_server.renewal.plan import EXPIRIES, QUESTIONS, RENEWALS
from ssl_cert_server.renewal.write_back import CURSOR, WriteBack
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.records import IssuedRecord, load_record, save_record
from ssl_cert_server.service.retained import RetainedStorage, Retention
from ssl_cert_server.storage.base import Lease
from ssl_cert_server.storage.removals import load_removals, save_removals
from tests.support.clock import START
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, make_certificate
from tests.unit.renewal.support import COM, Instance

OLD = make_certificate("a.com", start=START - 2 * DAY)
NEW = make_certificate("a.com", start=START - DAY)
RECORD = IssuedRecord(NEW.fingerprint, "https://ca.test/dir", "dns-01")


class Room(Instance):
    """An instance with a mirror and a memory."""

    def __init__(self, peer: Room | None = None) -> None:
        super().__init__(peer)
        self.copies = FaultyStorage(self.clock)
        self.retention = Retention(self.storage, self.copies, self.clock, fixed={"shop", ROOT_KEY})
        self.memory: dict[str, bytes] = {}
        self.retention.held = self.memory.get
        self.work = WriteBack(
            self.retention,
            RetainedStorage(self.storage, self.retention),
            Policy(COM),
            self.plan,
            self.clock,
            others={"shop", ROOT_KEY},
            in_memory=lambda: self.memory,
            lease_of=lambda key: f"certificates/{key}",
        )

    async def hold(self, certificate: Certificate = NEW, key: str = "a.com") -> None:
        self.memory[key] = certificate.stored

    async def start(self) -> None:
        await self.begin(self.work.run())

    async def stop(self) -> None:
        await self.close()
        self._tasks.clear()

    async def stored(self, key: str = "a.com") -> bytes | None:
        return await self.storage.get(key)


@pytest.fixture
def it() -> Room:
    return Room()


async def test_it_is_stored_with_its_record_planned_and_announced(it: Room) -> None:
    await it.copies.put("a.com", NEW.stored)
    await save_record(it.copies, "a.com", RECORD)
    cursor = (await it.storage.changes("", 0)).cursor
    it.retention.lost.add("a.com")
    with capture_logs() as logs:
        await it.start()
        await it.clock.advance(1)
    assert await it.stored() == NEW.stored
    assert await load_record(it.storage, "a.com", NEW.fingerprint) == RECORD
    for queue in (RENEWALS, QUESTIONS, EXPIRIES):
        assert await it.storage.scheduled(queue, "a.com") is not None
    assert (await it.storage.changes(cursor, 0)).keys == ("a.com",)
    assert [log["event"] for log in logs if "written_back" in log["event"]] == ["certificate.written_back"]
    await it.stop()


async def test_it_is_planned_before_it_is_stored(it: Room) -> None:
    await it.hold()
    it.storage.break_down("put", key="a.com")
    with pytest.raises(StorageError):
        await it.work.mend("a.com")
    assert await it.storage.scheduled(RENEWALS, "a.com") is not None
    assert await it.storage.acquire("certificates/a.com", 1) is not None, "the lease is free again"


async def test_a_peer_finds_it_there_and_does_nothing(it: Room) -> None:
    peer = Room(it)
    await it.hold()
    await peer.hold()
    assert await it.work.mend("a.com")
    cursor = (await it.storage.changes("", 0)).cursor
    it.storage.break_down("put", "schedule")
    assert await peer.work.mend("a.com")
    assert (await it.storage.changes(cursor, 0)).keys == ()


async def test_where_somebody_holds_the_lease_it_is_tried_later(it: Room) -> None:
    await it.hold()
    lease = await it.storage.acquire("certificates/a.com", 3600)
    assert lease is not None
    it.retention.lost.add("a.com")
    await it.start()
    await it.clock.advance(30)
    assert await it.stored() is None
    await it.storage.release(lease)
    await it.clock.advance(30)
    assert await it.stored() == NEW.stored
    await it.stop()


async def test_after_a_failure_it_is_tried_again_less_and_less_often(it: Room) -> None:
    await it.hold()
    it.storage.break_down("acquire", "put")
    it.retention.lost.add("a.com")
    with capture_logs() as logs:
        await it.start()
        for _ in range(300):
            await it.clock.advance(1)
    failures = [log["again_in"] for log in logs if log["event"] == "write_back.failed"]
    assert failures[:4] == [1, 2, 4, 8]
    assert len(failures) < 12
    it.storage.repair()
    await it.clock.advance(120)
    assert await it.stored() == NEW.stored
    await it.stop()


async def test_after_a_sign_all_that_is_held_is_compared(it: Room) -> None:
    other = make_certificate("b.com")
    shop, root = make_certificate("shop.net"), make_certificate("root")
    await it.hold()
    await it.hold(shop, "shop")
    await it.hold(root, ROOT_KEY)
    await it.copies.put("b.com", other.stored)
    await it.start()
    await it.clock.advance(1)
    it.work.look_at_all()
    for _ in range(50):
        await it.clock.advance(0.1)
    found = {key: await it.stored(key) for key in ("a.com", "b.com", "shop", ROOT_KEY)}
    assert found == {"a.com": NEW.stored, "b.com": other.stored, "shop": shop.stored, ROOT_KEY: root.stored}
    await it.stop()


async def test_one_that_can_not_be_read_keeps_no_other_from_being_compared(it: Room) -> None:
    await it.hold(make_certificate("b.com"), "b.com")
    await it.hold()
    it.storage.break_down("get", key="b.com")
    it.work.look_at_all()
    await it.start()
    for _ in range(50):
        await it.clock.advance(0.1)
    assert await it.stored() == NEW.stored
    await it.stop()


async def test_a_look_that_failed_has_not_everything_compared(it: Room) -> None:
    for number in range(20):
        name = f"n{number}.com"
        await it.hold(make_certificate(name), name)
        await it.storage.put(name, it.memory[name])
    it.storage.break_down("get", "changes")
    with capture_logs() as logs:
        await it.start()
        await it.clock.advance(1)
        it.storage.repair()
        for _ in range(100):
            await it.clock.advance(1)
    events = {log["event"] for log in logs}
    assert "write_back.not_compared" in events
    assert "write_back.compared" not in events
    await it.stop()


async def test_a_comparison_that_failed_is_made_again(it: Room) -> None:
    await it.hold()
    it.work.look_at_all()
    it.storage.break_down("get")
    for number in range(20):
        it.memory[f"n{number}.com"] = b""
    await it.start()
    await it.clock.advance(1)
    it.storage.repair()
    with capture_logs() as logs:
        for _ in range(10):
            await it.clock.advance(1)
    assert [log["event"] for log in logs].count("write_back.compared") == 1
    await it.stop()


async def test_it_is_announced_though_its_lease_could_not_be_released(
    it: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(lease: Lease) -> None:
        raise StorageError(f"can't release {lease.name}")

    await it.hold()
    cursor = (await it.storage.changes("", 0)).cursor
    monkeypatch.setattr(it.storage, "release", fail)
    assert await it.work.mend("a.com")
    assert (await it.storage.changes(cursor, 0)).keys == ("a.com",)


async def test_one_of_a_name_that_is_not_permitted_is_left_alone(it: Room) -> None:
    await it.copies.put("a.net", make_certificate("a.net").stored)
    await it.work.mend("a.net")
    assert await it.stored("a.net") is None


async def test_one_that_does_not_cover_its_name_is_left_alone(it: Room) -> None:
    await it.copies.put("a.com", make_certificate("b.com").stored)
    await it.work.mend("a.com")
    assert await it.stored() is None


async def test_a_certificate_in_memory_that_storage_lacks_is_found_without_any_sign(it: Room) -> None:
    await it.hold()
    await it.start()
    for _ in range(100):
        await it.clock.advance(1)
    assert await it.stored() == NEW.stored
    await it.stop()


async def test_a_storage_that_went_back_while_no_server_ran_is_told_by_the_cursor_in_the_mirror(it: Room) -> None:
    await it.storage.put("a.com", NEW.stored)
    await it.copies.put("a.com", NEW.stored)
    await it.start()
    await it.clock.advance(1)
    await it.stop()
    assert await it.copies.get(CURSOR)
    await it.storage.delete("a.com")
    await it.copies.put(CURSOR, b"999999999")  # storage never told of that
    await it.start()
    await it.clock.advance(10)
    assert await it.stored() == NEW.stored
    assert await it.copies.get(CURSOR) != b"999999999"
    await it.stop()


@pytest.mark.parametrize("operation", ["put", "get"])
@pytest.mark.parametrize("saved", ["", "999999999"])
async def test_a_mirror_that_fails_does_not_have_all_compared_again_and_again(
    it: Room, operation: str, saved: str
) -> None:
    if saved:
        await it.copies.put(CURSOR, saved.encode())
    it.copies.break_down(operation, key=CURSOR)
    with capture_logs() as logs:
        await it.start()
        await it.clock.advance(600)
    await it.close()
    assert [log["event"] for log in logs].count("write_back.compared") <= 1
    assert "write_back.not_compared" not in [log["event"] for log in logs]


async def test_a_removed_one_that_a_backup_brought_back_is_removed_again_and_the_record_is_restored(it: Room) -> None:
    await save_removals(it.storage, "a.com", {OLD.fingerprint: START + 90 * DAY}, now=START)
    await it.retention.note_removal("a.com")
    await it.storage.delete("_removed/a.com")
    await it.storage.put("a.com", OLD.stored)
    cursor = (await it.storage.changes("", 0)).cursor
    await it.work.mend("a.com")
    assert await it.stored() is None
    assert OLD.fingerprint in await load_removals(it.storage, "a.com")
    assert (await it.storage.changes(cursor, 0)).keys == ("_removed/a.com", "a.com")


async def test_a_newer_one_takes_the_place_of_the_older(it: Room) -> None:
    await it.storage.put("a.com", OLD.stored)
    await it.hold()
    await it.work.mend("a.com")
    assert await it.stored() == NEW.stored


async def test_a_broken_one_is_logged_once_and_written_back(it: Room) -> None:
    await it.hold()
    await it.storage.put("a.com", b"rubbish")
    it.storage.break_down("put", key="a.com")
    with capture_logs() as logs:
        await it.start()
        for _ in range(200):
            await it.clock.advance(1)
        assert await it.stored() == b"rubbish"
        it.storage.repair()
        for _ in range(100):
            await it.clock.advance(1)
    assert await it.stored() == NEW.stored
    found = [log for log in logs if log["event"] == "certificate.unusable"]
    assert [(log["cert_key"], log["reason"]) for log in found] == [("a.com", "no private key in the PEM data")]
    assert [log["event"] for log in logs].count("certificate.written_back") == 1
    await it.stop()


async def test_a_broken_one_of_an_operators_is_not_written_over(it: Room) -> None:
    await it.hold(make_certificate("shop.net"), "shop")
    await it.storage.put("shop", b"rubbish")
    it.work.look_at_all()
    await it.start()
    for _ in range(100):
        await it.clock.advance(1)
    assert await it.stored("shop") == b"rubbish"
    await it.stop()


async def test_one_in_memory_whose_stored_value_can_not_be_read_is_logged_once_a_minute(it: Room) -> None:
    await it.hold()
    await it.storage.put("a.com", NEW.stored)
    it.storage.break_down("get", key="a.com")
    with capture_logs() as logs:
        await it.start()
        for _ in range(200):
            await it.clock.advance(1)
    found = [log["reason"] for log in logs if log["event"] == "storage.passed_over"]
    assert found == ["can't get a.com: the disk is gone"]
    await it.stop()
