from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import BudgetSpent, CaClosed, CaProblem, NotPermitted
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.renewal.plan import EXPIRIES, QUESTIONS, RENEWALS, RenewalPlan, Stored
from ssl_cert_server.renewal.rebuild import IndexRebuild
from ssl_cert_server.renewal.worker import RenewalWorker
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.policy import PolicyRules
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.storage.base import Due
from tests.support.clock import START
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.unit.renewal.support import Instance

REFUSED = CaProblem("the CA said no", type="rejectedIdentifier", status=403)
A = Subject("a.com", ("a.com",))
RENEWED_BY = 70 * DAY
"""By this age a certificate of 90 days is renewed, whatever the dice said."""


RULES = PolicyRules(managed=[(r"managed\.com", "managed.com")], patterns=[r".+\.com"])


class Room(Instance):
    """The worker over ``*.com`` names, and one stored certificate per call of :meth:`put`."""

    def __init__(self, peer: Room | None = None, *, renew_before: float | None = None) -> None:
        """Another instance on the storage of ``peer``, or the first one."""
        super().__init__(peer, RULES, renew_before=renew_before, sees=True)
        self.rebuild = IndexRebuild(self.plan, self.found, self.storage, self.clock)
        self._worker = RenewalWorker(self.plan, self.found, self.storage, self.clock)
        self._task: asyncio.Task[None] | None = None

    async def put(self, name: str, *, age: float = HOUR) -> Certificate:
        """Store a certificate of 90 days that is ``age`` seconds old."""
        start = self.clock.now() - age
        certificate = make_certificate(name, start=start, end=start + 90 * DAY)
        await self.storage.put(name, certificate.stored)
        return certificate

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self.clock.advance(0)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.rebuild.run())
            group.create_task(self.seen.run(self.found))
            group.create_task(self._worker.run())

    def planned(self) -> list[str]:
        """Give what comes up again, now or later, claimed or not."""
        return sorted(entry.key for entry in self.storage._queues[RENEWALS])

    async def advise(self, name: str, drawn: float) -> None:
        """Have the CA say when it wants a certificate renewed."""
        stored = await self.found.find(name)
        assert stored is not None
        stored = replace(stored, record=replace(stored.record, renew_at=drawn))
        await save_record(self.storage, name, stored.record)
        await self.plan.renew_at(stored, self.plan.due_at(stored))

    async def stored(self, name: str) -> Certificate:
        return parse_certificate(await self.storage.get(name) or b"")

    def asked(self) -> list[str]:
        return sorted(name for name, _ in self.ca.calls)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def die(self) -> None:
        """End as by kill -9: nothing is released, nothing planned."""
        assert self._task
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.certificates.close()
        self.storage._leases.clear()

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
    assert it.planned() == ["a.com", "b.com"]
    assert await it.storage.index_complete()


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
    await it.certificates.obtain("a.com", A)
    await it.later(RENEWED_BY)
    assert it.asked() == ["a.com", "a.com"]


async def test_the_configured_time_is_honoured(it: Room) -> None:
    plan = RenewalPlan(it.storage, it.clock, 10 * DAY)
    certificate = make_certificate("a.com", start=START, end=START + 90 * DAY)
    stored = Stored(A, certificate, IssuedRecord(certificate.fingerprint))
    assert 80 * DAY < plan.due_at(stored) - START < 81 * DAY


async def test_a_clock_far_ahead_costs_at_most_one_order_a_day(it: Room) -> None:
    it.ca.behind = 65 * DAY  # so that what it issues looks due at once
    await it.start()
    await it.certificates.obtain("a.com", A)
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
        await room.certificates.obtain("a.com", A)
    for _ in range(10 * 24):
        await it.later(HOUR)
        await it.clock.advance(2)  # whoever waited for the other's lease looks again
    # What one was given by storage, and not by the other, it may replace at once.
    assert 10 <= len(it.ca.calls) <= 12


@pytest.mark.parametrize(("lifetime", "rest"), [(90 * DAY, DAY), (6 * DAY, DAY), (2 * DAY, DAY / 2)])
async def test_a_new_certificate_is_never_due_at_once(it: Room, lifetime: float, rest: float) -> None:
    now = it.clock.now()
    certificate = make_certificate("a.com", start=now - lifetime + 60, end=now + 60)
    record = IssuedRecord.of_new(certificate, "", "", now, None)
    assert it.plan.due_at(Stored(A, certificate, record)) == now + rest


async def test_a_new_certificate_is_due_when_any_would_be(it: Room) -> None:
    certificate = make_certificate("a.com", start=START, end=START + 90 * DAY)
    record = IssuedRecord.of_new(certificate, "", "", START, None)
    assert 60 * DAY <= it.plan.due_at(Stored(A, certificate, record)) - START <= 63 * DAY


async def test_one_that_was_put_there_by_hand_is_planned_when_it_is_read(it: Room) -> None:
    await it.start()
    await it.put("a.com")
    assert it.planned() == []
    await it.certificates.obtain("a.com", A)
    await it.clock.advance(0)
    assert it.planned() == ["a.com"]


async def test_one_that_was_put_in_the_place_of_a_planned_one_is_planned_anew(it: Room) -> None:
    await it.put("a.com")
    await it.start()
    await it.put("a.com", age=60 * DAY)
    await it.certificates.obtain("a.com", A)
    await it.clock.advance(0)
    [entry] = it.storage._queues[RENEWALS]
    assert entry.at - START < 3 * DAY


async def test_reading_one_that_is_planned_does_not_move_its_time(it: Room) -> None:
    await it.put("a.com")
    await it.start()
    before = await it.storage.scheduled(RENEWALS, "a.com")
    it.clock.chance = 0.99
    await it.certificates.obtain("a.com", A)
    await it.clock.advance(0)
    assert await it.storage.scheduled(RENEWALS, "a.com") == before


async def test_a_server_that_died_before_it_could_plan_is_made_up_for(it: Room) -> None:
    await it.rebuild.rebuild()
    it.storage.break_down("schedule", times=1, after=1)  # that it is expected is kept
    await it.certificates.obtain("a.com", A)
    assert [entry.at for entry in it.storage._queues[RENEWALS]] == [START + HOUR]
    await it.start()
    await it.later(HOUR + 60)
    assert len(it.ca.calls) == 1, "it is planned, not renewed"
    [entry] = it.storage._queues[RENEWALS]
    assert 60 * DAY <= entry.at - START <= 63 * DAY


async def test_what_could_not_be_announced_is_announced_later(it: Room) -> None:
    await it.rebuild.rebuild()
    it.storage.break_down("announce", times=1)
    await it.certificates.obtain("a.com", A)
    cursor = (await it.storage.changes("", 0.0)).cursor
    await it.start()
    await it.later(600)
    assert (await it.storage.changes(cursor, 0.0)).keys == ("a.com",)
    assert len(it.ca.calls) == 1
    [entry] = it.storage._queues[RENEWALS]
    assert entry.at - START >= 60 * DAY, "it is planned again"


async def test_a_server_that_died_before_it_could_store_costs_a_look(it: Room) -> None:
    await it.rebuild.rebuild()
    await it.plan.expect("a.com")
    await it.start()
    await it.later(HOUR + 60)
    assert it.planned() == []
    assert it.ca.calls == []


@pytest.mark.parametrize("expired", [False, True])
async def test_what_another_instance_stores_meanwhile_stays_planned(it: Room, peer: Room, expired: bool) -> None:
    """Else nobody would renew it, nor warn of it."""
    await it.rebuild.rebuild()
    if expired:
        await it.put("a.com", age=98 * DAY)
    await it.plan.expect("a.com")
    await it.storage.schedule(EXPIRIES, [Due("a.com", START + DAY)])
    find = it.found.find

    async def then_issued(cert_key: str) -> Stored | None:
        found = await find(cert_key)
        if not it.ca.calls:
            await peer.certificates.obtain("a.com", A)
        return found

    it.found.find = then_issued  # type: ignore[method-assign]
    await it.start()
    await it.later(HOUR + 60)
    assert len(it.ca.calls) == 1
    for queue in (RENEWALS, EXPIRIES, QUESTIONS):
        assert it.entry(queue, "a.com") is not None
    await it.later(RENEWED_BY)
    assert len(it.ca.calls) == 2


async def test_while_another_instance_issues_nothing_is_taken_out(it: Room, peer: Room) -> None:
    await it.rebuild.rebuild()
    it.ca.gate.clear()
    issuing = asyncio.create_task(peer.certificates.obtain("a.com", A))
    await it.clock.advance(0)
    await it.start()
    await it.later(HOUR + 60)
    assert it.planned() == ["a.com"]
    it.ca.gate.set()
    await issuing
    assert it.planned() == ["a.com"]


async def test_what_a_dead_instance_was_renewing_is_taken_up_by_another(it: Room, peer: Room) -> None:
    await it.put("a.com", age=RENEWED_BY)
    it.ca.gate.clear()
    await it.start()
    assert it.ca.running == 1
    await it.die()
    it.ca.gate.set()
    await peer.start()
    await it.clock.advance(89)
    assert len(it.ca.calls) == 1
    await it.clock.advance(2)
    assert len(it.ca.calls) == 2
    assert (await it.stored("a.com")).not_before > START - DAY


async def test_while_it_is_worked_on_nobody_else_takes_it(it: Room, peer: Room) -> None:
    await it.put("a.com", age=RENEWED_BY)
    it.ca.gate.clear()
    await it.start()
    await peer.start()
    for _ in range(20):
        await it.clock.advance(60)
    it.ca.gate.set()
    await it.clock.advance(100)
    assert len(it.ca.calls) == 1
    [entry] = it.storage._queues[RENEWALS]
    assert entry.at > START + 60 * DAY


async def test_two_instances_share_the_work(it: Room, peer: Room) -> None:
    for number in range(40):
        await it.put(f"{number}.com", age=RENEWED_BY)
    it.ca.gate.clear()
    await it.start()
    await peer.start()
    assert it.ca.running == 16
    it.ca.gate.set()
    for _ in range(5):
        await it.clock.advance(1)
    assert it.asked() == sorted(f"{number}.com" for number in range(40))


async def test_an_index_that_was_lost_is_made_anew(it: Room) -> None:
    await it.put("a.com")
    await it.start()
    it.storage._queues.clear()
    it.storage._index_complete = False
    await it.clock.advance(91)
    assert it.planned() == ["a.com"]


async def test_an_index_that_can_not_be_read_is_looked_at_again(it: Room) -> None:
    await it.put("a.com", age=RENEWED_BY)
    it.storage.break_down("claim", key="renewal", times=3)
    with capture_logs() as logs:
        await it.start()
        await it.clock.advance(60)
    assert [log["queue"] for log in logs if log["event"] == "renewal.index_unreadable"] == ["renewal"] * 3
    assert it.asked() == ["a.com"]


async def test_a_renewal_that_gives_back_the_same_certificate_is_tried_again(it: Room) -> None:
    """It joined a request's flight, which found the certificate back in its place."""
    old = await it.put("a.com")
    await it.start()
    await it.storage.delete("a.com")
    lease = await it.storage.acquire("certificates/a.com", 1e9)
    assert lease
    asking = asyncio.create_task(it.certificates.obtain("a.com", A))
    await it.clock.advance(0)
    await it.storage.put("a.com", old.stored)
    await it.later(RENEWED_BY)
    await it.storage.release(lease)
    await it.clock.advance(2)
    assert await asking == old
    assert it.ca.calls == []
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
    assert "bad.com" in it.planned()


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
    assert "gone.com" not in it.planned()
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
    assert "gone.com" not in it.planned()
    it.ca.outcomes["gone.com"] = []
    await it.later(2 * DAY)
    await it.certificates.obtain("gone.com", Subject("gone.com", ("gone.com",)))
    assert "gone.com" in it.planned()


async def test_a_scan_that_fails_is_made_again(it: Room) -> None:
    await it.put("a.com")
    it.storage.break_down("list")
    await it.start()
    assert "a.com" not in it.planned()
    it.storage.repair()
    await it.clock.advance(91)
    assert "a.com" in it.planned()


async def test_one_unreadable_certificate_does_not_keep_others_from_renewal(it: Room) -> None:
    for name in ("a.com", "bad.com", "c.com"):
        await it.put(name)
    it.storage.break_down("get", key="bad.com")
    await it.start()
    assert "a.com" in it.planned()
    assert "c.com" in it.planned()
    assert "bad.com" not in it.planned()
    it.storage.repair()
    await it.clock.advance(60)
    assert "bad.com" in it.planned()


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


async def test_a_certificate_renewed_by_a_peer_is_not_renewed_again(it: Room) -> None:
    await it.put("a.com", age=HOUR)
    await it.start()
    it.clock.jump(50 * DAY)
    newer = await it.put("a.com")
    await it.later(20 * DAY)
    assert it.ca.calls == []
    assert await it.stored("a.com") == newer
    assert "a.com" in it.planned()


async def test_the_most_pressing_is_renewed_first_and_told_to_be(it: Room) -> None:
    ages = {"a.com": 70, "b.com": 85, "c.com": 65, "d.com": 89}
    for name, age in ages.items():
        await it.put(name, age=age * DAY)
    await it.rebuild.rebuild()
    await it.start()
    assert [name for name, _ in it.ca.calls] == ["d.com", "b.com", "a.com", "c.com"]
    assert [wanted.priority for wanted in it.ca.wanted] == [Priority.EXPIRING] * 2 + [Priority.RENEWAL] * 2


async def test_where_certificates_are_renewed_late_none_is_pressing_as_soon_as_it_is_due() -> None:
    room = Room(renew_before=9 * DAY)
    try:
        for name, age in {"a.com": 82, "b.com": 88}.items():
            await room.put(name, age=age * DAY)
        await room.rebuild.rebuild()
        await room.start()
        asked = {wanted.subject.names[0]: wanted.priority for wanted in room.ca.wanted}
        assert asked == {"a.com": Priority.RENEWAL, "b.com": Priority.EXPIRING}
    finally:
        await room.close()


async def test_names_that_fail_slowly_leave_room_to_the_living(it: Room) -> None:
    dead = [f"dead{number}.com" for number in range(20)]
    for name in dead:
        await it.put(name, age=80 * DAY)
        it.ca.outcomes[name] += [REFUSED] * 100
    await it.rebuild.rebuild()
    await it.start()
    await it.clock.advance(1)
    assert {name for name, _ in it.ca.calls} == {*dead}, "each is tried once as any other"
    it.ca.calls.clear()
    it.ca.gate.clear()  # from now on each takes for ever
    await it.later(2 * HOUR)
    assert it.ca.running == 2
    await it.put("living.com", age=RENEWED_BY)
    living = await it.found.find("living.com")
    assert living is not None
    await it.plan.add(living)
    await it.later(HOUR)
    assert "living.com" in it.asked()
    assert it.ca.running == 3


async def test_a_fault_of_storage_makes_no_name_a_suspect(it: Room) -> None:
    names = [f"n{number}.com" for number in range(6)]
    for name in names:
        await it.put(name, age=80 * DAY)
    await it.rebuild.rebuild()
    it.storage.broken = lambda operation, key: operation == "put" and key in names
    await it.start()
    await it.clock.advance(60)
    assert sorted(it.asked()) == names
    it.storage.repair()
    it.ca.gate.clear()
    await it.clock.advance(200)
    assert it.ca.running == len(names)


async def test_a_name_that_recovers_is_as_any_other(it: Room) -> None:
    await it.put("a.com", age=80 * DAY)
    it.ca.outcomes["a.com"] += [REFUSED]
    await it.rebuild.rebuild()
    await it.start()
    await it.later(HOUR)
    assert len(it.ca.calls) == 2
    assert "a.com" not in it._worker._suspects


CLOSED = CaClosed("every CA failed lately", 100)
SPENT = BudgetSpent("no room for more new orders", 100, everyone=True)


async def test_while_no_ca_can_be_asked_nobody_is_tried(it: Room) -> None:
    for number in range(30):
        await it.put(f"{number}.com", age=RENEWED_BY)
        it.ca.outcomes[f"{number}.com"] = [CLOSED] * 3
    with capture_logs() as logs:
        await it.start()
        first = len(it.ca.calls)
        assert 0 < first <= 9, "those that were under way, and one that had its turn already"
        await it.clock.advance(98)
        assert len(it.ca.calls) == first
    assert len([log for log in logs if log["event"] == "renewal.paused"]) == 1
    it.ca.outcomes.clear()
    for _ in range(30):
        await it.clock.advance(1)
    assert len(set(it.asked())) == 30
    assert not [log for log in logs if log["event"] == "certificate.failed"]


async def test_a_long_pause_is_looked_into_every_five_minutes(it: Room) -> None:
    for number in range(20):
        await it.put(f"{number}.com", age=RENEWED_BY)
        it.ca.outcomes[f"{number}.com"] = [CaClosed("every CA failed lately", DAY)]
    await it.start()
    first = len(it.ca.calls)
    assert first < 10
    await it.clock.advance(299)
    assert len(it.ca.calls) == first
    await it.clock.advance(2)
    assert first < len(it.ca.calls) < 20


async def test_while_the_budget_is_spent_what_needs_it_waits_and_the_rest_goes_on(it: Room) -> None:
    for number in range(20):
        await it.put(f"{number}.com", age=RENEWED_BY + number)
        it.ca.outcomes[f"{number}.com"] = [SPENT] * 9
    for number in range(20):
        await it.put(f"free{number}.com", age=RENEWED_BY)
    with capture_logs() as logs:
        await it.start()
        for _ in range(20):
            await it.clock.advance(1)
    assert sorted(it.asked()) == sorted([f"{number}.com" for number in range(20)] + [f"free{n}.com" for n in range(20)])
    assert len([log for log in logs if log["event"] == "renewal.parked"]) == 1
    await it.clock.advance(110)
    assert [name for name, _ in it.ca.calls[40:]] == ["19.com"], (
        "the one that expires first, to see whether there is room"
    )


async def test_where_there_is_room_again_all_that_waited_are_renewed(it: Room) -> None:
    names = [f"{number}.com" for number in range(20)]
    for number, name in enumerate(names):
        await it.put(name, age=RENEWED_BY + number)
        it.ca.outcomes[name] = [SPENT]
    await it.start()
    await it.clock.advance(99)
    assert len(it.ca.calls) == 20
    for _ in range(40):
        await it.clock.advance(1)
    assert [name for name, _ in it.ca.calls[20:]] == names[::-1], "the one that expires first goes first"


async def test_no_room_for_one_name_keeps_no_other_waiting(it: Room) -> None:
    await it.put("full.com", age=RENEWED_BY)
    it.ca.outcomes["full.com"] = [BudgetSpent("no room for more of full.com", 1000, everyone=False)]
    await it.start()
    others = [f"{number}.com" for number in range(20)]
    for name in others:
        await it.put(name, age=RENEWED_BY)
        await it.certificates.obtain(name, Subject(name, (name,)))
    for _ in range(5):
        await it.clock.advance(1)
    assert it.asked() == sorted([*others, "full.com"])
    await it.clock.advance(990)
    assert len(it.ca.calls) == 21
    await it.clock.advance(110)
    assert it.asked().count("full.com") == 2


async def test_what_is_not_permitted_any_more_is_looked_at_once_a_day(it: Room) -> None:
    await it.put("a.com", age=RENEWED_BY)
    it.ca.outcomes["a.com"] = [NotPermitted("a.com is not permitted here")]
    with capture_logs() as logs:
        await it.start()
        await it.later(DAY - 60)
    assert [log["name"] for log in logs if log["event"] == "renewal.not_permitted"] == ["a.com"]
    assert len(it.ca.calls) == 1
    await it.later(DAY / 10 + 120)
    assert len(it.ca.calls) == 2


async def test_advice_moves_a_renewal(it: Room) -> None:
    await it.put("a.com")
    await it.start()
    await it.advise("a.com", START + 20 * DAY)
    await it.later(20 * DAY - 60)
    assert it.ca.calls == []
    await it.later(120)
    assert it.asked() == ["a.com"]


async def test_advice_about_what_is_being_renewed_makes_no_second_one(it: Room) -> None:
    await it.put("a.com", age=RENEWED_BY)
    it.ca.gate.clear()
    await it.start()
    await it.advise("a.com", START)
    await it.clock.advance(10)
    it.ca.gate.set()
    await it.clock.advance(10)
    assert len(it.ca.calls) == 1


async def test_advice_does_not_make_a_new_certificate_due_at_once(it: Room) -> None:
    """Else a CA whose window always lies in the past would be asked for one certificate after the other."""
    now, before = START, None
    for rest in (HOUR, DAY, HOUR):
        certificate = make_certificate("a.com", start=now, end=now + 90 * DAY)
        before = IssuedRecord.of_new(certificate, "", "", now, before)
        due = it.plan.due_at(Stored(A, certificate, replace(before, renew_at=now - DAY)))
        assert due == now + rest
        it.clock.jump(due - now)
        now = due


async def test_what_no_rule_covers_any_more_is_kept_in_mind(it: Room) -> None:
    await it.storage.put("other.net", make_certificate("other.net", start=START, end=START + 20 * DAY).stored)
    await it.storage.schedule(RENEWALS, [Due("other.net", START, START + 20 * DAY)])
    await it.start()
    assert [entry.at - START for entry in it.storage._queues[RENEWALS]] == [pytest.approx(7.35 * DAY)]
    for _ in range(5):
        await it.later(7.5 * DAY)
    assert it.planned() == []
    assert it.ca.calls == []
