from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from ssl_cert_server.errors import CaProblem
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.renewal.worker import RenewalSchedule, RenewalWorker
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.policy import Policy, PolicyRules
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.support.scripted_ca import ScriptedCa

REFUSED = CaProblem("the CA said no", type="rejectedIdentifier", status=403)
RENEWED_BY = 70 * DAY
"""By this age a certificate of 90 days is renewed, whatever the dice said."""


class Room:
    """The worker over ``*.com`` names, and one stored certificate per call of :meth:`put`."""

    def __init__(self, peer: Room | None = None) -> None:
        """Another instance on the storage of ``peer``, or the first one."""
        self.clock: ManualClock = peer.clock if peer else ManualClock()
        self.storage: FaultyStorage = peer.storage if peer else FaultyStorage(self.clock)
        self.ca: ScriptedCa = peer.ca if peer else ScriptedCa(self.clock)
        self.schedule = RenewalSchedule(self.clock, None)
        policy = Policy(PolicyRules(managed=[(r"managed\.com", "managed.com")], patterns=[r".+\.com"]))
        self.certificates = AcmeCertificates(
            self.storage, self.ca, self.clock, on_known=self.schedule.add, on_stored=self.schedule.add_new
        )
        self._worker = RenewalWorker(self.schedule, self.certificates, self.storage, policy, self.clock)
        self._task: asyncio.Task[None] | None = None

    async def put(self, name: str, *, age: float = HOUR) -> Certificate:
        """Store a certificate of 90 days that is ``age`` seconds old."""
        start = self.clock.now() - age
        certificate = make_certificate(name, start=start, end=start + 90 * DAY)
        await self.storage.put(name, certificate.stored)
        return certificate

    async def start(self) -> None:
        self._task = asyncio.create_task(self._worker.run())
        await self.clock.advance(0)

    async def later(self, seconds: float) -> None:
        """Let the wall clock go on, and a minute pass in which that is noticed."""
        self.clock.jump(seconds - 60)
        await self.clock.advance(60)

    async def stored(self, name: str) -> Certificate:
        return parse_certificate(await self.storage.get(name) or b"")

    def asked(self) -> list[str]:
        return sorted(name for name, _ in self.ca.calls)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.certificates.close()


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    yield room
    await room.close()


@pytest.fixture
async def peer(it: Room) -> AsyncIterator[Room]:
    room = Room(it)
    yield room
    await room.close()


async def test_what_is_stored_and_permitted_is_scheduled(it: Room) -> None:
    for name in ("a.com", "b.com", "not-permitted.net", "managed.com"):
        await it.put(name)
    await it.storage.put("acme_account+key", b"key")
    await it.storage.put("broken.com", b"rubbish")
    await it.start()
    names = ("a.com", "b.com", "not-permitted.net", "managed.com", "acme_account+key", "broken.com")
    assert [name for name in names if name in it.schedule.queue] == ["a.com", "b.com"]


async def test_nothing_is_renewed_before_it_is_due(it: Room) -> None:
    await it.put("a.com")
    await it.start()
    await it.later(59 * DAY)
    assert it.ca.calls == []


async def test_a_due_certificate_is_renewed_and_scheduled_again(it: Room) -> None:
    old = await it.put("a.com")
    await it.start()
    await it.later(RENEWED_BY)
    new = await it.stored("a.com")
    assert new.fingerprint != old.fingerprint
    assert it.asked() == ["a.com"]
    await it.later(RENEWED_BY)
    assert it.asked() == ["a.com", "a.com"]
    assert (await it.stored("a.com")).fingerprint != new.fingerprint


async def test_one_issued_on_the_fly_is_renewed_too(it: Room) -> None:
    await it.start()
    await it.certificates.obtain("a.com", "a.com")
    await it.later(RENEWED_BY)
    assert it.asked() == ["a.com", "a.com"]


async def test_the_configured_time_is_honoured(it: Room) -> None:
    schedule = RenewalSchedule(it.clock, 10 * DAY)
    certificate = make_certificate("a.com", start=START, end=START + 90 * DAY)
    schedule.add("a.com", certificate)
    taking = asyncio.create_task(schedule.queue.next())
    await it.later(79 * DAY)
    assert not taking.done()
    await it.later(2 * DAY)
    assert taking.result() == "a.com"


async def test_a_clock_far_ahead_costs_at_most_one_order_a_day(it: Room) -> None:
    it.ca.behind = 65 * DAY  # so that what it issues looks due at once
    await it.start()
    await it.certificates.obtain("a.com", "a.com")
    await it.clock.advance(3600)
    assert it.asked() == ["a.com"]
    for _ in range(10 * 24):
        await it.later(HOUR)
    assert 10 <= len(it.ca.calls) <= 11


async def test_nor_do_two_instances_cost_more(it: Room, peer: Room) -> None:
    it.ca.behind = 65 * DAY
    await it.start()
    await peer.start()
    for room in (it, peer):
        await room.certificates.obtain("a.com", "a.com")
    for _ in range(10 * 24):
        await it.later(HOUR)
        await it.clock.advance(2)  # whoever waited for the other's lease looks again
    # What one was given by storage, and not by the other, it may replace at once.
    assert 10 <= len(it.ca.calls) <= 12


@pytest.mark.parametrize(("lifetime", "rest"), [(90 * DAY, DAY), (6 * DAY, DAY), (2 * DAY, DAY / 2)])
async def test_a_new_certificate_is_never_due_at_once(it: Room, lifetime: float, rest: float) -> None:
    now = it.clock.now()
    it.schedule.add_new("a.com", make_certificate("a.com", start=now - lifetime + 60, end=now + 60))
    taking = asyncio.create_task(it.schedule.queue.next())
    await it.later(rest - 60)
    assert not taking.done()
    await it.later(120)
    assert taking.result() == "a.com"


async def test_a_new_certificate_is_due_when_any_would_be(it: Room) -> None:
    it.schedule.add_new("a.com", make_certificate("a.com", start=START, end=START + 90 * DAY))
    taking = asyncio.create_task(it.schedule.queue.next())
    await it.later(59 * DAY)
    assert not taking.done()
    await it.later(5 * DAY)
    assert taking.result() == "a.com"


async def test_reading_a_new_certificate_later_does_not_make_it_due(it: Room) -> None:
    new = make_certificate("a.com", start=START - 89 * DAY, end=START + DAY)
    it.schedule.add_new("a.com", new)
    it.schedule.add("a.com", new)
    taking = asyncio.create_task(it.schedule.queue.next())
    await it.later(23 * HOUR)
    assert not taking.done()
    taking.cancel()


async def test_a_renewal_that_gives_back_the_same_certificate_is_tried_again(it: Room) -> None:
    """It joined a request's flight, which found the certificate back in its place."""
    old = await it.put("a.com")
    await it.start()
    await it.storage.delete("a.com")
    lease = await it.storage.acquire("certificates/a.com", 1e9)
    assert lease
    asking = asyncio.create_task(it.certificates.obtain("a.com", "a.com"))
    await it.clock.advance(0)
    await it.storage.put("a.com", old.stored)
    await it.later(RENEWED_BY)
    assert "a.com" not in it.schedule.queue, "it is being renewed"
    await it.storage.release(lease)
    await it.clock.advance(2)
    assert await asking == old
    assert it.ca.calls == []
    assert "a.com" in it.schedule.queue
    await it.clock.advance(50)
    assert it.ca.calls == []
    await it.clock.advance(20)
    assert it.asked() == ["a.com"]
    assert (await it.stored("a.com")).fingerprint != old.fingerprint


async def test_a_failing_name_does_not_stop_the_others(it: Room) -> None:
    for name in ("a.com", "bad.com", "c.com"):
        await it.put(name, age=RENEWED_BY)
    it.ca.outcomes["bad.com"] = [REFUSED] * 3
    await it.start()
    assert it.asked() == ["a.com", "bad.com", "c.com"]
    assert (await it.stored("c.com")).not_before > START - DAY


async def test_a_failing_name_comes_back_after_its_back_off(it: Room) -> None:
    await it.put("bad.com", age=RENEWED_BY)
    it.ca.outcomes["bad.com"] = [REFUSED] * 2
    await it.start()
    await it.clock.advance(62)
    assert len(it.ca.calls) == 1
    await it.clock.advance(8)
    assert len(it.ca.calls) == 2
    await it.later(590)
    assert len(it.ca.calls) == 2
    await it.later(200)
    assert len(it.ca.calls) == 3
    assert (await it.stored("bad.com")).not_before > START - DAY


async def test_a_bug_met_by_one_name_does_not_end_the_worker(it: Room) -> None:
    await it.put("bad.com", age=RENEWED_BY)
    it.ca.outcomes["bad.com"] = [ZeroDivisionError("a bug")]
    await it.start()
    assert it.running
    await it.clock.advance(120)
    assert len(it.ca.calls) == 2
    assert "bad.com" in it.schedule.queue


async def test_storage_failing_at_a_renewal_is_tried_again(it: Room) -> None:
    await it.put("a.com", age=RENEWED_BY)
    it.storage.break_down("check_writable", times=1)
    await it.start()
    assert it.ca.calls == []
    await it.clock.advance(120)
    assert it.asked() == ["a.com"]


async def test_a_name_is_given_up_seven_days_after_its_certificate_expired(it: Room) -> None:
    await it.put("gone.com", age=RENEWED_BY)
    it.ca.outcomes["gone.com"] = [REFUSED] * 100
    await it.start()
    for _ in range(24):
        await it.later(1.2 * DAY)
    calls = len(it.ca.calls)
    assert calls > 20
    assert "gone.com" not in it.schedule.queue
    await it.later(30 * DAY)
    assert len(it.ca.calls) == calls
    assert it.running


async def test_until_then_it_is_tried_even_though_it_expired(it: Room) -> None:
    await it.put("a.com", age=89 * DAY)
    it.ca.outcomes["a.com"] = [REFUSED] * 5
    await it.start()
    for _ in range(6):
        await it.later(1.2 * DAY)
    assert (await it.stored("a.com")).not_after > it.clock.now()


async def test_one_given_up_is_scheduled_again_once_it_is_issued(it: Room) -> None:
    await it.put("gone.com", age=RENEWED_BY)
    it.ca.outcomes["gone.com"] = [REFUSED] * 100
    await it.start()
    for _ in range(24):
        await it.later(1.2 * DAY)
    assert "gone.com" not in it.schedule.queue
    it.ca.outcomes["gone.com"] = []
    await it.later(2 * DAY)
    await it.certificates.obtain("gone.com", "gone.com")
    assert "gone.com" in it.schedule.queue


async def test_a_scan_that_fails_is_made_again(it: Room) -> None:
    await it.put("a.com")
    it.storage.break_down("list")
    await it.start()
    assert "a.com" not in it.schedule.queue
    it.storage.repair()
    await it.clock.advance(60)
    assert "a.com" in it.schedule.queue


async def test_one_unreadable_certificate_does_not_keep_others_from_renewal(it: Room) -> None:
    for name in ("a.com", "bad.com", "c.com"):
        await it.put(name)
    it.storage.break_down("get", key="bad.com")
    await it.start()
    assert "a.com" in it.schedule.queue
    assert "c.com" in it.schedule.queue
    assert "bad.com" not in it.schedule.queue
    it.storage.repair()
    await it.clock.advance(60)
    assert "bad.com" in it.schedule.queue


async def test_a_few_at_a_time_are_renewed(it: Room) -> None:
    for number in range(20):
        await it.put(f"{number}.com", age=RENEWED_BY)
    it.ca.gate.clear()
    await it.start()
    assert it.ca.running == 8
    it.ca.gate.set()
    await it.clock.advance(1)
    await it.clock.advance(1)
    assert len(set(it.asked())) == 20
    assert it.ca.most_running == 8


async def test_reading_a_known_certificate_again_does_not_move_its_time(it: Room) -> None:
    certificate = await it.put("a.com")
    it.schedule.add("a.com", certificate)
    it.clock.chance = 0.99
    it.schedule.add("a.com", certificate)
    taking = asyncio.create_task(it.schedule.queue.next())
    await it.later(61.6 * DAY)
    assert taking.result() == "a.com"


async def test_a_certificate_renewed_by_a_peer_is_not_renewed_again(it: Room) -> None:
    await it.put("a.com", age=HOUR)
    await it.start()
    it.clock.jump(50 * DAY)
    newer = await it.put("a.com")
    await it.later(20 * DAY)
    assert it.ca.calls == []
    assert await it.stored("a.com") == newer
    assert "a.com" in it.schedule.queue
