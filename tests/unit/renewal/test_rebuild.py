"""What is stored and not planned, or planned by a wrong clock, is planned anew; what is right is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.acme.ari import RenewalInfo
from ssl_cert_server.errors import CaUnreachable, StorageError
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.advice import AdviceWorker
from ssl_cert_server.renewal.expiry import ExpiryWorker
from ssl_cert_server.renewal.plan import EXPIRIES, PARKED, QUESTIONS, RENEWALS, STAPLES, Stored
from ssl_cert_server.renewal.rebuild import IndexRebuild
from ssl_cert_server.renewal.worker import RenewalWorker
from ssl_cert_server.service.records import IssuedRecord, load_record, save_record
from ssl_cert_server.storage.base import Due
from tests.support.clock import START
from tests.support.leaves import DAY, HOUR
from tests.support.ocsp_ca import OcspCa
from tests.support.scripted_ca import DIRECTORY
from tests.unit.renewal.support import Instance

CA = OcspCa()
AWAY = CaUnreachable("the certificate of the CA is expired")
QUEUES = (RENEWALS, PARKED, QUESTIONS, EXPIRIES, STAPLES)


class Adviser:
    """Counts questions, and says to come back after a day."""

    def __init__(self) -> None:
        self.asked = 0

    async def renewal_info(self, certificate: Certificate) -> RenewalInfo | None:
        self.asked += 1
        return RenewalInfo(certificate.not_before + 60 * DAY, certificate.not_before + 62 * DAY, retry_after=DAY)


class Room(Instance):
    """A whole instance as far as renewal goes, or a further one on the storage and clock of ``peer``."""

    def __init__(self, peer: Room | None = None) -> None:
        super().__init__(peer, sees=True)
        self.adviser: Adviser = peer.adviser if peer else Adviser()
        self.rebuild = IndexRebuild(self.plan, self.found, self.storage, self.clock)

    async def start(self) -> None:
        await self.begin(
            self.rebuild.run(),
            self.seen.run(self.found),
            RenewalWorker(self.plan, self.found, self.storage, self.clock).run(),
            ExpiryWorker(self.plan, self.found, self.storage, self.clock).run(),
            AdviceWorker(self.plan, self.found, {DIRECTORY: self.adviser}, self.storage, self.clock).run(),
        )

    async def put(self, name: str = "a.com", *, age: float = HOUR, lifetime: float = 90 * DAY) -> Stored:
        """Store a certificate that is ``age`` seconds old and has a responder, with its record."""
        start = self.clock.now() - age
        certificate = CA.leaf(name, start=start, end=start + lifetime)
        record = IssuedRecord(certificate.fingerprint, DIRECTORY, "dns-01")
        await self.storage.put(name, certificate.stored)
        await save_record(self.storage, name, record)
        return Stored(Subject(name, (name,)), certificate, record)

    def days(self, queue: str, key: str = "a.com") -> float:
        """Give in how many days an entry comes up."""
        entry = self.entry(queue, key)
        assert entry is not None, f"{key} is not in the queue {queue}"
        return (entry.at - self.clock.now()) / DAY

    def planned(self) -> dict[str, set[Due]]:
        return {queue: set(self.storage._queues[queue]) for queue in QUEUES}

    async def ahead(self, seconds: float, *, minutes: int = 2, on_right: Callable[[], None] = lambda: None) -> None:
        """Have the clock go ahead for some minutes."""
        self.clock.jump(seconds)
        await self.clock.advance(60 * minutes)
        self.clock.jump(-seconds)
        on_right()


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


class TestAClockThatWasAhead:
    """For two minutes; then it is right again."""

    @pytest.mark.parametrize("days", [85, 95, 365])
    @pytest.mark.parametrize("restarted", [False, True], ids=["went on", "restarted"])
    async def test_everything_is_planned_as_before(self, it: Room, days: int, restarted: bool) -> None:
        await it.put()
        await it.start()
        await it.clock.advance(60)
        it.ca.outcomes["a.com"] = [AWAY] * 1000
        await it.ahead(days * DAY, on_right=it.ca.outcomes.clear)
        went_on = it
        if restarted:
            went_on = Room(it)
            await it.close()
            it._tasks.clear()
            await went_on.start()
        await it.clock.advance(2 * 60)
        assert 59 < it.days(RENEWALS) < 63
        assert 79 < it.days(EXPIRIES) < 81
        assert it.days(QUESTIONS) < 1.1
        orders = len(it.ca.calls)
        await it.later(64 * DAY)
        assert len(it.ca.calls) == orders + 1
        if went_on is not it:
            await went_on.close()

    async def test_a_short_lived_one_is_renewed_in_time(self, it: Room) -> None:
        await it.put(lifetime=6 * DAY)
        await it.start()
        it.ca.outcomes["a.com"] = [AWAY] * 1000
        await it.ahead(5.5 * DAY, on_right=it.ca.outcomes.clear)
        await it.clock.advance(2 * 60)
        assert 4.4 < it.days(RENEWALS) < 4.5, "as late as advice is followed"

    async def test_what_was_issued_meanwhile_is_planned_by_its_lifetime(self, it: Room) -> None:
        await it.start()

        async def issue() -> None:
            await it.certificates.obtain("a.com", Subject("a.com", ("a.com",)))

        it.clock.jump(80 * DAY)
        it.ca.behind = 80 * DAY
        await issue()
        assert it.days(RENEWALS) == 1
        it.clock.jump(-80 * DAY)
        it.ca.behind = 0
        await it.clock.advance(2 * 60)
        assert 59 < it.days(RENEWALS) < 63

    async def test_a_cas_answer_is_asked_for_again_when_it_can_be(self, it: Room) -> None:
        stored = await it.put()
        await it.start()
        it.clock.jump(20 * DAY)
        await it.clock.advance(2 * HOUR)
        assert it.adviser.asked == 1
        it.clock.jump(-20 * DAY)
        await it.clock.advance(2 * 60)
        assert it.days(QUESTIONS) < 1 / 24
        await it.clock.advance(HOUR)
        assert it.adviser.asked == 2
        record = await load_record(it.storage, "a.com", stored.certificate.fingerprint)
        assert record.ask_at < it.clock.now() + DAY

    async def test_it_is_told_and_looked_into_twice(self, it: Room, peer: Room) -> None:
        await it.put()
        with capture_logs() as logs:
            await it.start()
            await peer.start()
            await it.ahead(365 * DAY)
            for _ in range(100):
                await it.clock.advance(120)
        told = [log for log in logs if log["event"] == "renewal.clock_was_ahead"]
        assert [log["hours"] for log in told] == [365 * 24, 365 * 24 - 1]
        assert all(log["log_level"] == "error" for log in told)

    async def test_what_has_to_wait_is_not_ordered_sooner(self, it: Room) -> None:
        await it.put(age=70 * DAY)
        it.ca.outcomes["a.com"] = [CaUnreachable("not now", retry_after=5 * DAY)] * 10
        await it.start()
        assert len(it.ca.calls) == 1
        await it.ahead(HOUR * 3)
        await it.clock.advance(10 * 60)
        assert len(it.ca.calls) == 1
        assert it.days(RENEWALS) > 4


class TestALostIndex:
    async def test_of_what_is_left_nothing_is_moved(self, it: Room) -> None:
        stored = await it.put("b.com")
        for one in (await it.put("a.com"), stored):
            await it.plan.add(one)
        await it.plan.park(Due("b.com", 0.0, stored.certificate.not_after))
        before = it.planned()
        it.clock.chance = 0.9
        it.storage.break_down("schedule", after=1)
        await it.rebuild.rebuild()
        assert it.planned() == before
        assert await it.storage.index_complete()

    @pytest.mark.parametrize("queue", [RENEWALS, QUESTIONS, EXPIRIES, STAPLES])
    async def test_what_is_lacking_is_planned(self, it: Room, queue: str) -> None:
        await it.plan.add(await it.put())
        before = it.planned()
        await it.storage.unschedule(queue, ["a.com"])
        await it.rebuild.rebuild()
        assert it.planned() == before

    async def test_what_was_planned_of_another_certificate_is_planned_anew(self, it: Room) -> None:
        await it.plan.add(await it.put(age=60 * DAY))
        await it.put()
        await it.rebuild.rebuild()
        assert it.days(RENEWALS) > 59
        assert it.days(EXPIRIES) > 79

    async def test_one_that_is_being_renewed_is_left_to_who_does_that(self, it: Room, peer: Room) -> None:
        await it.put(age=70 * DAY)
        it.ca.gate.clear()
        await it.start()
        assert it.ca.running == 1
        it.storage._index_complete = False
        entry = it.entry(RENEWALS, "a.com")
        await peer.rebuild.rebuild()
        assert it.entry(RENEWALS, "a.com") == entry
        it.ca.gate.set()
        await it.clock.advance(0)

    async def test_about_one_that_expired_nobody_is_asked_or_warned_again(self, it: Room) -> None:
        stored = await it.put(age=92 * DAY)
        await it.plan.renew_at(stored, START)
        await it.rebuild.rebuild()
        assert {queue for queue, entries in it.planned().items() if entries} == {RENEWALS}

    async def test_one_that_expired_long_ago_is_left_alone(self, it: Room) -> None:
        await it.put(age=98 * DAY)
        with capture_logs() as logs:
            await it.start()
        assert it.planned() == {queue: set() for queue in QUEUES}
        assert "renewal.given_up" not in [log["event"] for log in logs]

    async def test_a_ca_is_not_asked_before_it_said(self, it: Room, peer: Room) -> None:
        await it.put()
        await it.start()
        await it.clock.advance(HOUR)
        assert it.adviser.asked == 1
        await peer.start()
        for _ in range(10):
            it.storage._index_complete = False
            for queue in QUEUES:
                it.storage._queues[queue] = type(it.storage._queues[queue])()
            await it.clock.advance(2 * HOUR)
        assert it.adviser.asked == 1
        await it.clock.advance(6 * HOUR)
        assert it.adviser.asked == 2

    async def test_nor_where_the_index_says_so(self, it: Room) -> None:
        await it.put()
        await it.start()
        await it.clock.advance(HOUR)
        await it.plan.ask_at("a.com", it.clock.now())
        await it.clock.advance(60)
        assert it.adviser.asked == 1
        assert it.days(QUESTIONS) > 0.9

    async def test_one_instance_fills_it_for_all(self, it: Room, peer: Room) -> None:
        for number in range(5):
            await it.put(f"{number}.com")
        with capture_logs() as logs:
            for room in (it, peer):
                await room.start()
            await it.clock.advance(10)
        assert [log["certificates"] for log in logs if log["event"] == "renewal.index_rebuilt"] == [5]

    async def test_while_one_is_at_it_another_waits_and_takes_over_when_it_dies(self, it: Room, peer: Room) -> None:
        await it.put()
        lease = await it.storage.acquire("renewal-index", 30)
        assert lease is not None
        await it.start()
        await it.clock.advance(29)
        assert it.entry(RENEWALS, "a.com") is None
        await it.clock.advance(3)
        assert it.entry(RENEWALS, "a.com") is not None

    async def test_values_of_others_are_not_read(self, it: Room) -> None:
        await it.storage.put("session:1", b"somebody else's")
        await it.put()
        it.storage.break_down("get", key="session:1")
        await it.start()
        assert await it.storage.index_complete()
        assert it.entry(RENEWALS, "a.com") is not None

    async def test_what_one_can_not_read_another_may(
        self, it: Room, peer: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await it.put()

        async def find(cert_key: str) -> Stored | None:
            raise StorageError(f"can't open {cert_key}")

        monkeypatch.setattr(it.found, "find", find)
        await it.start()
        assert not await it.storage.index_complete()
        await peer.start()
        assert await it.storage.index_complete()
        assert it.entry(RENEWALS, "a.com") is not None


async def test_one_that_is_read_and_planned_too_late_is_planned_anew(it: Room) -> None:
    stored = await it.put()
    await it.start()
    await it.plan.renew_at(stored, START + 89 * DAY)
    await it.certificates.obtain("a.com", stored.subject)
    await it.clock.advance(0)
    assert it.days(RENEWALS) < 63
