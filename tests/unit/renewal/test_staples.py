"""OCSP by the eight rules: once for the fleet, from half-life, never hammered, the old word kept while it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import MalformedStaple, OcspError, ResponderUnreachable
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.ocsp.codec import CertIdHash, OcspStatus, Verdict
from ssl_cert_server.ocsp.responder import Word
from ssl_cert_server.ocsp.staples import Staple, load_staple, save_staple
from ssl_cert_server.renewal.plan import RENEWALS, STAPLES, Stored
from ssl_cert_server.renewal.staples import StapleWorker
from ssl_cert_server.renewal.worker import RenewalWorker
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.policy import PolicyRules
from ssl_cert_server.service.records import IssuedRecord, load_record, save_record
from ssl_cert_server.storage.base import Due
from tests.support.clock import START, ManualClock
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.support.ocsp_ca import OcspCa
from tests.support.scripted_ca import DIRECTORY
from tests.unit.renewal.support import Instance

CA = OcspCa()
RULES = PolicyRules(managed=[(r"shop\.net", "shop")], patterns=[r".+\.com"])
LIFE = 4 * DAY
GOOD, REVOKED, UNKNOWN = OcspStatus.GOOD, OcspStatus.REVOKED, OcspStatus.UNKNOWN
DOWN = ResponderUnreachable("down")

Says = OcspStatus | OcspError | None


class ScriptedResponder:
    """Says ``says`` of everything (None: what it said before); ``asked`` are the times and fingerprints."""

    def __init__(self, clock: ManualClock) -> None:
        self.says: Says = GOOD
        self.max_age = 0.0
        self.life = LIFE
        self.asked: list[tuple[float, str]] = []
        self.before: list[Staple] = []
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._clock = clock

    async def ask(self, certificate: Certificate, before: Staple) -> Word:
        now = self._clock.now()
        self.asked.append((now - START, certificate.fingerprint))
        self.before.append(before)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if isinstance(self.says, OcspError):
            raise self.says
        if self.says is None:
            return Word(None, before.response, before.algorithm, self.max_age, before.etag)
        verdict = Verdict(self.says, now, now + self.life)
        return Word(verdict, f"response {len(self.asked)}".encode(), CertIdHash.SHA1, self.max_age, '"tag"')

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]


class Room(Instance):
    """The worker of one instance, which knows names under ``.com`` and a managed ``shop``."""

    def __init__(self, peer: Room | None = None) -> None:
        super().__init__(peer, RULES)
        self.responder: ScriptedResponder = peer.responder if peer else ScriptedResponder(self.clock)
        self.renewals = RenewalWorker(self.plan, self.found, self.storage, self.clock)
        worker = StapleWorker(self.plan, self.found, self.responder, self.storage, self.clock)
        self._task = asyncio.create_task(worker.run())

    async def put(self, name: str = "a.com", certificate: Certificate | None = None) -> Certificate:
        """Store a certificate with its record, and have it planned."""
        certificate = certificate or CA.leaf(name)
        record = IssuedRecord(certificate.fingerprint, DIRECTORY, "http-01")
        await self.storage.put(name, certificate.stored)
        await save_record(self.storage, name, record)
        await self.plan.add(Stored(Subject(name, (name,)), certificate, record))
        await self.clock.advance(0)
        return certificate

    async def kept(self, cert_key: str = "a.com") -> Staple:
        return await load_staple(self.storage, cert_key)

    def renewal(self) -> Due:
        """Give when the usual name is renewed."""
        entry = self.entry(RENEWALS, "a.com")
        assert entry is not None
        return entry

    def due(self, queue: str = STAPLES, cert_key: str = "a.com") -> float | None:
        entry = self.entry(queue, cert_key)
        return None if entry is None else entry.at - START

    async def news(self, since: str) -> tuple[str, ...]:
        return (await self.storage.changes(since, 0)).keys

    async def cursor(self) -> str:
        return (await self.storage.changes("", 0)).cursor

    async def close(self) -> None:
        assert not self._task.done()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


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


async def test_a_new_certificate_has_its_staple_at_once_and_all_are_told(it: Room) -> None:
    cursor = await it.cursor()
    certificate = await it.put()
    staple = await it.kept()
    assert (staple.fingerprint, staple.status, staple.response) == (certificate.fingerprint, GOOD, b"response 1")
    assert (staple.this_update, staple.next_update) == (START, START + LIFE)
    assert (staple.etag, staple.algorithm, staple.failures) == ('"tag"', CertIdHash.SHA1, 0)
    assert await it.news(cursor) == ("_ocsp/a.com",)


async def test_one_without_a_url_costs_nothing(it: Room) -> None:
    await it.put("a.com", make_certificate("a.com"))
    assert it.due() is None
    await it.later(DAY)
    assert it.responder.asked == []


async def test_it_is_refreshed_from_half_life_with_dice(it: Room) -> None:
    await it.put()
    assert it.due() == pytest.approx(LIFE * 0.55)
    it.clock.chance = 0.0
    await it.later(LIFE * 0.55)
    assert it.responder.times == pytest.approx([0, LIFE * 0.55])
    assert it.due() == pytest.approx(LIFE * 0.55 + LIFE * 0.5)
    assert (await it.kept()).response == b"response 2"


async def test_what_http_says_of_caching_is_honoured(it: Room) -> None:
    it.responder.max_age = 0.7 * LIFE
    await it.put()
    assert it.due() == pytest.approx(0.7 * LIFE)


async def test_but_not_so_long_that_the_staple_would_expire(it: Room) -> None:
    it.responder.max_age = 100 * LIFE
    await it.put()
    assert it.due() == pytest.approx(0.75 * LIFE)


async def test_what_has_not_changed_is_kept_and_nobody_told(it: Room) -> None:
    await it.put()
    before = await it.kept()
    cursor = await it.cursor()
    it.responder.says = None
    await it.later(LIFE * 0.55)
    after = await it.kept()
    assert after == replace(before, refresh_at=after.refresh_at)
    assert after.refresh_at > before.refresh_at
    assert await it.news(cursor) == ()


async def test_a_responder_that_goes_on_giving_the_old_is_not_hammered(it: Room) -> None:
    await it.put()
    it.responder.says = None
    for _ in range(100):
        await it.later(LIFE / 100)
    assert 2 <= len(it.responder.asked) < 40
    gaps = [later - earlier for earlier, later in zip(it.responder.times, it.responder.times[1:], strict=False)]
    assert min(gaps) >= 10


async def test_one_fetch_serves_all_instances(it: Room, peer: Room) -> None:
    for number in range(20):
        await it.put(f"n{number}.com")
    await it.clock.advance(120)
    assert len(it.responder.asked) == 20


async def test_a_restart_asks_for_nothing_that_is_known(it: Room, peer: Room) -> None:
    await it.put()
    await it.plan.staple_at("a.com", it.clock.now())  # as a rebuilt index has it
    await it.clock.advance(60)
    assert len(it.responder.asked) == 1
    assert it.due() == pytest.approx(LIFE * 0.55)


async def test_so_many_are_asked_at_once(it: Room) -> None:
    it.responder.gate.clear()
    for number in range(30):
        await it.put(f"n{number}.com")
    assert it.responder.most_running == 8
    it.responder.gate.set()
    await it.clock.advance(60)
    assert len(it.responder.asked) == 30


class TestTrouble:
    """The responder is down, says nonsense, or knows nothing."""

    async def test_the_old_staple_is_kept_and_tried_again_for_longer_each_time(self, it: Room) -> None:
        await it.put()
        it.responder.says = DOWN
        await it.later(LIFE * 0.55)
        for _ in range(20):
            await it.later(400)
        staple = await it.kept()
        assert staple.response == b"response 1"
        assert staple.failures == len(it.responder.asked) - 1
        gaps = [later - earlier for earlier, later in zip(it.responder.times[1:], it.responder.times[2:], strict=False)]
        assert gaps == sorted(gaps)
        assert 60 <= gaps[0] <= 500
        assert len(it.responder.asked) < 10

    async def test_the_pause_is_an_hour_and_a_half_at_most_and_goes_on_after_a_restart(self, it: Room) -> None:
        it.responder.says = DOWN
        await it.put()
        for _ in range(40):
            await it.later(HOUR)
        pauses = [later - earlier for earlier, later in zip(it.responder.times, it.responder.times[1:], strict=False)]
        assert max(pauses) <= 2 * HOUR
        assert (await it.kept()).failures == len(it.responder.asked)

    async def test_what_the_responder_asks_for_is_honoured_with_a_cap(self, it: Room) -> None:
        it.responder.says = ResponderUnreachable("busy", retry_after=5000.0)
        await it.put()
        assert it.due() == 5000.0
        it.responder.says = ResponderUnreachable("busy", retry_after=1e9)
        await it.later(5000)
        due = it.due()
        assert due is not None
        assert due <= 5060 + DAY

    async def test_it_is_told_before_the_staple_expires(self, it: Room) -> None:
        await it.put()
        it.responder.says = DOWN
        with capture_logs() as logs:
            await it.later(LIFE * 0.6)
            assert {log["event"] for log in logs} == {"ocsp.failed"}
            await it.later(LIFE * 0.2)
        [expiring] = [log for log in logs if log["event"] == "ocsp.expiring"]
        assert expiring["log_level"] == "error"
        assert 15 < expiring["hours_left"] < 24
        assert expiring["reason"] == "down"

    async def test_a_dead_responder_is_left_alone_whoever_it_is_about(self, it: Room) -> None:
        it.responder.says = DOWN
        for number in range(200):
            await it.put(f"n{number}.com")
        await it.clock.advance(60)
        assert len(it.responder.asked) < 20
        it.responder.says = GOOD
        for _ in range(120):
            await it.later(60)
        assert len({fingerprint for _, fingerprint in it.responder.asked}) == 200
        assert (await it.kept("n199.com")).response

    async def test_one_that_stumbles_over_one_certificate_answers_the_others(self, it: Room) -> None:
        it.responder.says = MalformedStaple("garbage")
        await it.put("bad.com")
        it.responder.says = GOOD
        await it.put("good.com")
        assert (await it.kept("good.com")).response

    async def test_storage_that_fails_loses_nothing(self, it: Room) -> None:
        it.storage.break_down("put", key="_ocsp/a.com", times=1)
        await it.put()
        assert (await it.kept()).response == b""
        await it.later(100)
        assert (await it.kept()).response == b"response 2"

    async def test_a_bug_met_by_one_stops_nobody(self, it: Room) -> None:
        it.responder.says = GOOD
        broken = RuntimeError("bug")

        async def ask(certificate: Certificate, before: Staple) -> Word:
            raise broken

        usual, it.responder.ask = it.responder.ask, ask  # type: ignore[method-assign]
        with capture_logs() as logs:
            await it.put()
        assert [log["event"] for log in logs] == ["ocsp.crashed"]
        it.responder.ask = usual  # type: ignore[method-assign]
        await it.put("b.com")
        await it.later(700)
        assert (await it.kept()).response
        assert (await it.kept("b.com")).response

    async def test_unknown_takes_the_staple_away_and_is_asked_again_soon(self, it: Room) -> None:
        await it.put()
        cursor = await it.cursor()
        it.responder.says = UNKNOWN
        await it.later(LIFE * 0.55)
        staple = await it.kept()
        assert (staple.status, staple.response) == (UNKNOWN, b"")
        assert await it.news(cursor) == ("_ocsp/a.com",)
        it.responder.says = GOOD
        await it.later(200)
        assert (await it.kept()).response == b"response 3"


class TestRevoked:
    """The CA took a certificate back."""

    async def test_it_is_replaced_at_once_with_a_new_key(self, it: Room) -> None:
        renewing = asyncio.create_task(it.renewals.run())
        old = await it.put()
        cursor = await it.cursor()
        it.responder.says = REVOKED
        with capture_logs() as logs:
            await it.later(LIFE * 0.55)
            await it.clock.advance(60)
        assert "ocsp.revoked" in {log["event"] for log in logs if log["log_level"] == "error"}
        assert "_ocsp/a.com" in await it.news(cursor)
        new = await it.storage.get("a.com")
        assert new is not None
        assert new != old.stored
        assert old.key_pem not in new
        assert [(wanted.subject.names, wanted.priority) for wanted in it.ca.wanted] == [(("a.com",), Priority.EXPIRING)]
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing

    async def test_it_goes_before_whatever_else_is_due(self, it: Room) -> None:
        await it.put()
        it.responder.says = REVOKED
        await it.later(LIFE * 0.55)
        entry = it.renewal()
        assert entry.at <= it.clock.now()
        assert entry.rank == 0.0
        record = await load_record(it.storage, "a.com", (await it.kept()).fingerprint)
        assert record.revoked
        assert (await it.kept()).response == b""

    async def test_a_replacement_that_failed_waits_for_its_time(self, it: Room) -> None:
        await it.put()
        it.responder.says = REVOKED
        await it.later(LIFE * 0.55)
        await it.plan.put_off(it.renewal(), 30 * DAY)
        later = it.due(RENEWALS)
        await it.later(LIFE)
        assert len(it.responder.asked) >= 3
        assert it.due(RENEWALS) == later

    async def test_but_not_time_after_time(self, it: Room) -> None:
        old, certificate = CA.leaf("a.com"), CA.leaf("a.com")
        before = IssuedRecord.of_new(old, DIRECTORY, "http-01", START - HOUR, None)
        record = IssuedRecord.of_new(certificate, DIRECTORY, "http-01", START, before)
        assert not before.follows_young
        await it.storage.put("a.com", certificate.stored)
        await save_record(it.storage, "a.com", record)
        it.responder.says = REVOKED
        await it.plan.add(Stored(Subject("a.com", ("a.com",)), certificate, record))
        await it.clock.advance(0)
        assert it.due(RENEWALS) == DAY

    async def test_a_managed_one_is_told_to_whoever_keeps_it(self, it: Room) -> None:
        certificate = CA.leaf("shop.net")
        await it.storage.put("shop", certificate.stored)
        it.responder.says = REVOKED
        with capture_logs() as logs:
            await it.plan.staple_at("shop", START)
            await it.clock.advance(0)
        [log] = [log for log in logs if log["event"] == "ocsp.revoked"]
        assert log["remedy"] == "it is managed: put another certificate under shop"
        assert it.due(RENEWALS, "shop") is None


async def test_what_a_clock_that_was_ahead_planned_is_asked_for_again(it: Room) -> None:
    await it.put()
    asked = len(it.responder.asked)
    await save_staple(it.storage, "a.com", replace(await it.kept(), refresh_at=START + 95 * DAY))
    await it.plan.want_staple("a.com")
    await it.clock.advance(1)
    assert len(it.responder.asked) == asked + 1


async def test_the_staple_of_one_that_another_instance_stores_meanwhile_is_not_forgotten(it: Room) -> None:
    plain = make_certificate("a.com", start=START - HOUR, end=START + 90 * DAY)
    await it.storage.put("a.com", plain.stored)
    find = it.found.find

    async def then_replaced(cert_key: str) -> Stored | None:
        found = await find(cert_key)
        it.found.find = find  # type: ignore[method-assign]
        await it.storage.put("a.com", CA.leaf("a.com").stored)
        await it.plan.staple_at("a.com", START + HOUR)
        return found

    it.found.find = then_replaced  # type: ignore[method-assign]
    await it.plan.staple_at("a.com", START)
    await it.clock.advance(1)
    assert it.due() == HOUR


async def test_what_is_wanted_is_asked_for_at_once_but_not_twice_at_once(it: Room) -> None:
    certificate = CA.leaf("shop.net")
    await it.storage.put("shop", certificate.stored)
    it.responder.gate.clear()
    for _ in range(3):
        await it.plan.want_staple("shop")
        await it.clock.advance(1)
    assert it.responder.most_running == 1
    it.responder.gate.set()
    await it.clock.advance(1)
    await it.storage.put("shop", CA.leaf("shop.net").stored)  # an operator put another in its place
    await it.plan.want_staple("shop")
    await it.clock.advance(1)
    assert len(it.responder.asked) == 2


class TestWhatIsGone:
    """Certificates end, or another takes their place."""

    async def test_a_managed_certificate_has_a_staple(self, it: Room) -> None:
        certificate = CA.leaf("shop.net")
        await it.storage.put("shop", certificate.stored)
        await it.plan.staple_at("shop", START)
        await it.clock.advance(0)
        assert (await it.kept("shop")).response

    async def test_its_successor_is_asked_about_at_once_by_what_was_learned(self, it: Room) -> None:
        await it.put()
        new = await it.put()
        staple = await it.kept()
        assert (staple.fingerprint, staple.response) == (new.fingerprint, b"response 2")
        assert it.responder.before[1] == Staple(new.fingerprint, algorithm=CertIdHash.SHA1)

    @pytest.mark.parametrize("how", ["deleted", "expired", "without a URL", "no rule covers it"])
    async def test_nothing_is_kept_of_one_that_is_gone(self, it: Room, how: str) -> None:
        key = "a.org" if how == "no rule covers it" else "a.com"
        certificate = CA.leaf("a.com", end=START + 3 * DAY)
        await it.put("a.com", certificate)
        if how == "deleted":
            await it.storage.delete("a.com")
        elif how == "without a URL":
            await it.storage.put("a.com", make_certificate("a.com").stored)
        elif how == "no rule covers it":
            await it.storage.put(key, certificate.stored)
            await it.plan.staple_at(key, START)
        await it.later(3 * DAY)
        assert it.due(cert_key=key) is None
        assert await it.storage.get(f"_ocsp/{key}") is None
