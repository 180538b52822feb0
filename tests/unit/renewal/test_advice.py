"""ARI: the CA says when, and whatever it says or doesn't, the schedule stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import httpx2
import pytest
from structlog.testing import capture_logs

from ssl_cert_server.acme.ari import RenewalInfo
from ssl_cert_server.errors import CaProblem, CaUnreachable, MalformedResponse
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.advice import AdviceWorker
from ssl_cert_server.renewal.plan import QUESTIONS, RENEWALS, Stored
from ssl_cert_server.service.records import IssuedRecord, load_record, save_record
from tests.support.clock import START, ManualClock
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.support.loop_time import LoopTime, settle
from tests.support.scripted_ca import DIRECTORY
from tests.unit.renewal.support import Instance

A = Subject("a.com", ("a.com",))
SIX_HOURS = 6 * HOUR
FIRST = 1800.0
"""When a certificate is first asked for, with the dice at one half."""

WINDOW = RenewalInfo(START + 20 * DAY, START + 22 * DAY, retry_after=SIX_HOURS)
PAST = RenewalInfo(START - 2 * DAY, START - DAY, retry_after=SIX_HOURS)

Answer = RenewalInfo | Exception | None


class Adviser:
    """Says ``answer``; ``asked`` are the times and fingerprints. While ``gate`` is clear, it says nothing."""

    def __init__(self, clock: ManualClock) -> None:
        self.answer: Answer = WINDOW
        self.asked: list[tuple[float, str]] = []
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._clock = clock

    async def renewal_info(self, certificate: Certificate) -> RenewalInfo | None:
        self.asked.append((self._clock.now() - START, certificate.fingerprint))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Room(Instance):
    """The worker of one instance; further ones share storage, clock and CA."""

    def __init__(self, peer: Room | None = None) -> None:
        super().__init__(peer)
        self.adviser: Adviser = peer.adviser if peer else Adviser(self.clock)
        worker = AdviceWorker(self.plan, self.found, {DIRECTORY: self.adviser}, self.storage, self.clock)
        self._task = asyncio.create_task(worker.run())

    async def put(
        self, name: str = "a.com", *, end: float = START + 90 * DAY, directory_url: str = DIRECTORY
    ) -> Certificate:
        """Store a certificate with its record, and have it scheduled."""
        certificate = make_certificate(name, start=START - HOUR, end=end)
        await self.storage.put(name, certificate.stored)
        record = IssuedRecord(certificate.fingerprint, directory_url, "dns-01")
        await self.keep(record, name)
        await self.plan.add(Stored(Subject(name, (name,)), certificate, record))
        return certificate

    async def keep(self, record: IssuedRecord, name: str = "a.com") -> None:
        await save_record(self.storage, name, record)

    async def record(self, certificate: Certificate) -> IssuedRecord:
        return await load_record(self.storage, "a.com", certificate.fingerprint)

    def due(self, cert_key: str = "a.com") -> float:
        """Give the time at which a certificate is renewed, in seconds from the start."""
        return self._at(RENEWALS, cert_key)

    def asks_at(self, cert_key: str = "a.com") -> float:
        return self._at(QUESTIONS, cert_key)

    def _at(self, queue: str, cert_key: str) -> float:
        entry = self.entry(queue, cert_key)
        assert entry is not None
        return entry.at - START

    @property
    def running(self) -> bool:
        return not self._task.done()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    yield room
    assert room.running
    await room.close()


@pytest.fixture
async def peer(it: Room) -> AsyncIterator[Room]:
    room = Room(it)
    yield room
    await room.close()


async def test_it_is_asked_within_the_hour_and_a_time_in_the_window_drawn(it: Room) -> None:
    certificate = await it.put()
    usual = it.due()
    await it.later(FIRST - 60)
    assert it.adviser.asked == []
    assert it.due() == usual
    await it.later(120)
    assert [fingerprint for _, fingerprint in it.adviser.asked] == [certificate.fingerprint]
    assert it.due() == 21 * DAY


async def test_what_it_said_is_kept_beside_what_was_known(it: Room) -> None:
    certificate = await it.put()
    await it.later(FIRST)
    assert await it.record(certificate) == IssuedRecord(
        certificate.fingerprint,
        DIRECTORY,
        "dns-01",
        WINDOW.start,
        WINDOW.end,
        START + 21 * DAY,
        START + FIRST + SIX_HOURS,
    )


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.999])
async def test_the_draw_is_uniform_in_the_window(it: Room, chance: float) -> None:
    await it.put()
    it.clock.chance = chance
    await it.later(HOUR)
    assert it.due() == pytest.approx(20 * DAY + chance * 2 * DAY)


@pytest.mark.parametrize(
    ("said", "after"), [(0.0, 60.0), (1.0, 60.0), (600.0, 600.0), (SIX_HOURS, SIX_HOURS), (DAY, DAY), (1e12, DAY)]
)
async def test_it_is_asked_again_when_it_said_within_reason(it: Room, said: float, after: float) -> None:
    await it.put()
    it.adviser.answer = replace(WINDOW, retry_after=said)
    await it.later(FIRST)
    assert it.asks_at() == FIRST + after
    await it.later(after)
    assert len(it.adviser.asked) == 2


async def test_the_draw_stays_while_the_window_does(it: Room) -> None:
    await it.put()
    await it.later(FIRST)
    it.clock.chance = 0.9
    await it.later(SIX_HOURS)
    assert len(it.adviser.asked) == 2
    assert it.due() == 21 * DAY
    await it.later(SIX_HOURS + 60)
    assert len(it.adviser.asked) == 3
    assert it.due() == 21 * DAY


async def test_a_window_that_moved_is_drawn_from_anew(it: Room) -> None:
    await it.put()
    await it.later(FIRST)
    it.adviser.answer = RenewalInfo(START + 5 * DAY, START + 6 * DAY, retry_after=SIX_HOURS)
    await it.later(SIX_HOURS)
    assert it.due() == 5.5 * DAY


async def test_a_window_in_the_past_renews_at_once_and_is_told(it: Room) -> None:
    await it.put()
    it.adviser.answer = PAST
    with capture_logs() as logs:
        await it.later(FIRST)
    assert it.due() < 0
    assert [(log["event"], log["cert_key"]) for log in logs] == [("renewal.emergency", "a.com")]


async def test_a_window_that_has_begun_is_no_emergency(it: Room) -> None:
    await it.put()
    it.adviser.answer = RenewalInfo(START - DAY, START + DAY, retry_after=SIX_HOURS)
    with capture_logs() as logs:
        await it.later(FIRST)
    assert it.due() == 0
    assert logs == []


async def test_a_window_that_leaves_no_time_is_not_followed(it: Room) -> None:
    await it.put()
    it.adviser.answer = RenewalInfo(START + 89 * DAY, START + 200 * DAY, retry_after=SIX_HOURS)
    await it.later(FIRST)
    assert 74 * DAY < it.due() < 76 * DAY


@pytest.mark.parametrize(
    "answer",
    [
        CaUnreachable("connection refused"),
        MalformedResponse("the window ends before it starts"),
        CaProblem("no such certificate", type="malformed", status=404),
        replace(WINDOW, retry_after=None),
    ],
    ids=lambda answer: type(answer).__name__,
)
async def test_without_usable_advice_the_schedule_stands_and_it_is_asked_after_six_hours(
    it: Room, answer: Answer
) -> None:
    await it.put()
    usual = it.due()
    it.adviser.answer = answer
    with capture_logs() as logs:
        await it.later(FIRST)
    assert [log["event"] for log in logs] == ["renewal.advice_failed"]
    assert it.due() == usual
    assert it.asks_at() == FIRST + SIX_HOURS
    it.adviser.answer = WINDOW
    await it.later(SIX_HOURS)
    assert it.due() == 21 * DAY


@pytest.mark.parametrize("answer", [ZeroDivisionError("a bug"), httpx2.InvalidURL("a bug")])
async def test_a_bug_met_by_one_does_not_end_the_worker(it: Room, answer: Exception) -> None:
    await it.put()
    it.adviser.answer = answer
    with capture_logs() as logs:
        await it.later(FIRST)
    assert [log["event"] for log in logs] == ["renewal.advice_crashed"]
    assert it.asks_at() == FIRST + SIX_HOURS
    it.adviser.answer = WINDOW
    await it.later(SIX_HOURS)
    assert it.due() == 21 * DAY


async def test_what_it_said_before_holds_while_it_fails(it: Room) -> None:
    certificate = await it.put()
    await it.later(FIRST)
    it.adviser.answer = CaUnreachable("connection refused")
    await it.later(SIX_HOURS)
    assert it.due() == 21 * DAY
    record = await it.record(certificate)
    assert (record.window_start, record.window_end) == (WINDOW.start, WINDOW.end)


async def test_a_ca_that_gives_no_advice_changes_nothing(it: Room) -> None:
    await it.put()
    usual = it.due()
    it.adviser.answer = None
    with capture_logs() as logs:
        await it.later(FIRST)
    assert (it.due(), it.asks_at()) == (usual, FIRST + SIX_HOURS)
    assert logs == []


async def test_an_answer_that_does_not_come_is_given_up(it: Room) -> None:
    time = LoopTime()
    await it.put()
    it.adviser.gate.clear()
    await it.later(FIRST)
    assert it.adviser.running == 1
    with capture_logs() as logs:
        await time.advance(60)
    assert it.adviser.running == 0
    assert [log["reason"] for log in logs] == ["no advice within 60 s"]
    assert it.asks_at() == FIRST + SIX_HOURS
    assert await it.storage.acquire("certificates/a.com", 1) is not None


@pytest.mark.parametrize("operation", ["get", "put"])
async def test_storage_that_fails_is_no_trouble(it: Room, operation: str) -> None:
    await it.put()
    usual = it.due()
    it.storage.break_down(operation)
    with capture_logs() as logs:
        await it.later(FIRST)
    assert [log["event"] for log in logs] == ["renewal.advice_failed"]
    assert it.due() == usual
    it.storage.repair()
    await it.later(SIX_HOURS)
    assert it.due() == 21 * DAY


async def test_of_one_from_before_the_only_ca_is_asked_and_known_to_have_issued_it(it: Room) -> None:
    """Else what was taken over would miss every emergency until its first renewal."""
    certificate = await it.put(directory_url="")
    await it.later(FIRST)
    assert [fingerprint for _, fingerprint in it.adviser.asked] == [certificate.fingerprint]
    record = await it.record(certificate)
    assert (record.directory_url, record.window_start) == (DIRECTORY, WINDOW.start)


async def test_a_ca_that_does_not_know_it_did_not_issue_it(it: Room) -> None:
    it.adviser.answer = CaProblem("no such certificate", type="malformed", status=404)
    certificate = await it.put(directory_url="")
    await it.later(FIRST)
    assert (await it.record(certificate)).directory_url == ""


async def test_what_is_kept_of_a_successor_is_not_overwritten(it: Room) -> None:
    await it.put()
    it.adviser.gate.clear()
    await it.later(FIRST)
    successor = await it.put(end=START + 91 * DAY)
    it.adviser.gate.set()
    await it.clock.advance(0)
    assert await it.record(successor) == IssuedRecord(successor.fingerprint, DIRECTORY, "dns-01")


async def test_while_it_is_being_renewed_nothing_is_written(it: Room) -> None:
    certificate = await it.put()
    lease = await it.storage.acquire("certificates/a.com", 1e9)
    assert lease is not None
    await it.later(FIRST)
    assert (await it.record(certificate)).window_start == 0
    assert it.asks_at() == FIRST + 90, "the claim lapses"


async def test_only_the_ca_that_issued_is_asked(it: Room) -> None:
    await it.put(directory_url="https://other.example/dir")
    await it.later(FIRST)
    assert it.adviser.asked == []
    assert it.asks_at() == FIRST + SIX_HOURS


async def test_one_that_expired_is_not_asked_for(it: Room) -> None:
    await it.put(end=START + 1000)
    with capture_logs() as logs:
        await it.later(FIRST)
    assert it.adviser.asked == []
    assert logs == []


async def test_one_that_was_removed_is_not_asked_for(it: Room) -> None:
    await it.put()
    await it.storage.delete("a.com")
    await it.later(FIRST)
    assert it.adviser.asked == []
    assert it.storage._queues[QUESTIONS].get("a.com") is None


async def test_nor_one_that_was_forgotten(it: Room) -> None:
    await it.put()
    await it.found.take_out("a.com", await it.found.find("a.com"), QUESTIONS)
    await it.later(FIRST)
    assert it.adviser.asked == []


async def test_one_that_another_instance_stores_meanwhile_is_asked_for(it: Room, peer: Room) -> None:
    await it.put(end=START + 1000)
    find = it.found.find

    async def then_replaced(cert_key: str) -> Stored | None:
        found = await find(cert_key)
        it.found.find = find  # type: ignore[method-assign]
        await peer.put()
        return found

    it.found.find = then_replaced  # type: ignore[method-assign]
    await it.plan.ask_at("a.com", START + FIRST)
    await it.later(FIRST + 60)
    assert it.storage._queues[QUESTIONS].get("a.com") is not None
    await it.later(HOUR)
    assert len(it.adviser.asked) == 1


async def test_advice_about_one_that_was_replaced_meanwhile_is_not_followed(it: Room) -> None:
    await it.put()
    it.adviser.gate.clear()
    await it.later(FIRST)
    successor = make_certificate("a.com", start=START, end=START + 90 * DAY)
    await it.storage.put("a.com", successor.stored)
    await it.plan.stored(A, successor, IssuedRecord.of_new(successor, DIRECTORY, "", START, None))
    due, asks_at = it.due(), it.asks_at()
    it.adviser.gate.set()
    await it.clock.advance(0)
    assert (it.due(), it.asks_at()) == (due, asks_at)


class TestPeers:
    """One instance asks for all."""

    async def test_what_one_was_told_holds_for_all(self, it: Room, peer: Room) -> None:
        await it.put()
        it.clock.chance = 0.75
        await it.later(FIRST)
        assert len(it.adviser.asked) == 1
        assert it.due() == peer.due() == 21.5 * DAY

    async def test_while_one_asks_no_other_does(self, it: Room, peer: Room) -> None:
        await it.put()
        it.adviser.gate.clear()
        await it.later(FIRST)
        await it.clock.advance(50)
        assert len(it.adviser.asked) == 1
        it.adviser.gate.set()
        await it.clock.advance(100)
        assert len(it.adviser.asked) == 1
        assert it.due() == peer.due() == 21 * DAY

    async def test_an_answer_of_a_clock_that_ran_ahead_is_asked_for_again(self, it: Room) -> None:
        certificate = await it.put()
        record = IssuedRecord(
            certificate.fingerprint, DIRECTORY, "dns-01", WINDOW.start, WINDOW.end, WINDOW.start, START + 400 * DAY
        )
        await it.keep(record)
        await it.later(FIRST)
        assert len(it.adviser.asked) == 1
        assert (await it.record(certificate)).ask_at == START + FIRST + SIX_HOURS


async def test_a_few_are_asked_for_at_a_time(it: Room) -> None:
    it.adviser.gate.clear()
    for number in range(20):
        await it.put(f"{number}.com")
    await it.later(FIRST)
    assert it.adviser.running == 8
    it.adviser.gate.set()
    for _ in range(5):
        await it.clock.advance(1)
    assert len({fingerprint for _, fingerprint in it.adviser.asked}) == 20
    assert it.adviser.most_running == 8


async def test_one_that_fails_keeps_no_other_from_advice(it: Room) -> None:
    await it.put("bad.com")
    await it.put("a.com")
    it.storage.break_down("get", key="_issued/bad.com")
    await it.later(FIRST)
    await settle()
    assert it.due() == 21 * DAY
