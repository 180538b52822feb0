"""Warnings: of everything that is about to expire and that somebody is served, once for all instances."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import BudgetSpent, CaProblem
from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.expiry import ExpiryWorker, ManagedExpiries
from ssl_cert_server.renewal.plan import EXPIRIES, PARKED, RENEWALS, Stored
from ssl_cert_server.renewal.stored import StoredCertificates
from ssl_cert_server.renewal.worker import RenewalWorker
from ssl_cert_server.service.policy import PolicyRules
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.storage.base import Due
from tests.support.clock import START
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.unit.renewal.support import Instance

REFUSED = CaProblem("the CA said no", type="rejectedIdentifier", status=403)
SPENT = BudgetSpent("no room for more new orders", 100, everyone=True)
BEGINS = 80 * DAY
"""The age from which a certificate of 90 days is worth a warning."""

MANAGED = "c.com"
"""The key of a managed certificate that could be a name's as well."""


class Room(Instance):
    """One instance, or a further one on the storage and clock of ``peer``: over ``*.com``, renewing if told to."""

    def __init__(self, peer: Room | None = None, *, manages: bool = True, renew_before: float | None = None) -> None:
        managed = [(r"x\.test", MANAGED)] if manages else []
        super().__init__(peer, PolicyRules(managed=managed, patterns=[r".+\.com"]), renew_before=renew_before)
        self.managed = ManagedCertificates(self.storage, self.clock, [MANAGED], on_replaced=lambda *_: None)

    async def put(self, name: str = "a.com", *, age: float = HOUR, planned: bool = True) -> Certificate:
        """Store a certificate of 90 days that is ``age`` seconds old, and plan it."""
        start = self.clock.now() - age
        certificate = make_certificate(name, start=start, end=start + 90 * DAY)
        await self.storage.put(name, certificate.stored)
        if planned:
            subject = Subject(name, (name,))
            await self.plan.add(Stored(subject, certificate, IssuedRecord(certificate.fingerprint)))
        return certificate

    async def start(self, *, renewing: bool = False) -> None:
        works = [
            ExpiryWorker(self.plan, self.found, self.storage, self.clock).run(),
            ManagedExpiries(self.managed.in_use, self.plan, self.storage, self.clock).run(),
        ]
        if renewing:
            works.append(RenewalWorker(self.plan, self.found, self.storage, self.clock).run())
        await self.begin(*works)

    def warning(self, key: str = "a.com") -> Due | None:
        """Give when a key's warning comes up."""
        return self.entry(EXPIRIES, key)

    async def to_the_end(self, key: str = "a.com") -> None:
        """Let the clock go on from one time at which it comes up to the next, until it doesn't any more."""
        for _ in range(30):
            entry = self.warning(key)
            if entry is None:
                return
            await self.later(max(entry.at - self.clock.now(), 60))
        raise AssertionError("it comes up for ever")


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


class Warnings:
    """What was logged since; in ``with``."""

    def __enter__(self) -> Warnings:
        self._capture = capture_logs()
        self._logs = self._capture.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.__exit__(None, None, None)

    @property
    def given(self) -> list[tuple[str, float]]:
        """Whom warnings were of, and the days left."""
        found = [log for log in self._logs if log["event"] == "renewal.expiring"]
        assert all(log["log_level"] == "error" for log in found)
        return [(log["cert_key"], log["days_left"]) for log in found]

    @property
    def remedies(self) -> set[str]:
        return {log["remedy"] for log in self._logs if log["event"] == "renewal.expiring"}

    def count(self, event: str) -> int:
        return len([log for log in self._logs if log["event"] == event])


DAYS_LEFT = [*(float(days) for days in range(10, 0, -1)), 0.5, 0.2, 0.0]


async def test_one_that_is_never_replaced_is_told_of_daily_and_until_it_expires(it: Room) -> None:
    await it.put()
    with Warnings() as warnings:
        await it.start()
        await it.later(BEGINS - 2 * HOUR)
        assert warnings.given == []
        await it.to_the_end()
    assert warnings.given == [("a.com", days) for days in DAYS_LEFT]
    assert warnings.remedies == {"ssl-cert-server why a.com"}


async def test_where_renewal_was_told_to_begin_later_so_do_warnings(it: Room) -> None:
    late = Room(it, renew_before=6 * DAY)
    await late.put()
    with Warnings() as warnings:
        await late.start(renewing=True)
        await late.later(84 * DAY)
        assert late.ca.calls == []
        assert warnings.given == []
        await late.later(DAY)
        assert len(late.ca.calls) == 1
    assert warnings.given == []
    await late.put()
    entry = late.warning()
    assert entry is not None
    assert entry.rank - entry.at == 2 * DAY
    await late.close()


async def test_instances_warn_once_together(it: Room, peer: Room) -> None:
    await it.put()
    with Warnings() as warnings:
        await it.start()
        await peer.start()
        await it.to_the_end()
    assert warnings.given == [("a.com", days) for days in DAYS_LEFT]


async def test_one_that_is_renewed_in_time_is_no_matter(it: Room) -> None:
    await it.put()
    with Warnings() as warnings:
        await it.start(renewing=True)
        for _ in range(30):
            await it.later(10 * DAY)
    assert len(it.ca.calls) > 3
    assert warnings.given == []
    entry = it.warning()
    assert entry is not None
    assert entry.at > it.clock.now() + DAY


@pytest.mark.parametrize("outcome", [REFUSED, SPENT], ids=["refused", "parked"])
async def test_why_it_is_not_renewed_makes_no_difference(it: Room, outcome: Exception) -> None:
    await it.put()
    it.ca.outcomes["a.com"] = [outcome] * 1000
    with Warnings() as warnings:
        await it.start(renewing=True)
        await it.later(BEGINS - HOUR)
        assert it.entry(PARKED if outcome is SPENT else RENEWALS, "a.com")
        await it.later(2 * HOUR)
        await it.later(DAY + HOUR)
    assert [name for name, _ in warnings.given] == ["a.com"] * 2


async def test_renewal_goes_first_with_one_that_was_just_found(it: Room) -> None:
    await it.put("a.com", age=85 * DAY)
    await it.put("b.com", age=85 * DAY)
    it.ca.outcomes["b.com"] = [REFUSED] * 1000
    with Warnings() as warnings:
        await it.start(renewing=True)
        await it.later(HOUR - 60)
        assert warnings.given == []
        await it.later(120)
    assert warnings.given == [("b.com", 5.0)]


async def test_what_no_rule_covers_is_not_told_of_but_kept_in_mind(it: Room) -> None:
    certificate = make_certificate("other.net", start=START, end=START + 90 * DAY)
    await it.storage.put("other.net", certificate.stored)
    await it.plan.warn("other.net", certificate, START + BEGINS)
    with Warnings() as warnings:
        await it.start()
        await it.later(BEGINS + HOUR)
        assert it.warning("other.net") is not None
        await it.to_the_end("other.net")
    assert warnings.given == []


async def test_what_is_gone_is_forgotten(it: Room) -> None:
    await it.put("a.com")
    await it.put("b.com")
    await it.storage.delete("a.com")
    await it.found.take_out("b.com", await it.found.find("b.com"), EXPIRIES)
    assert it.warning("b.com") is None
    with Warnings() as warnings:
        await it.start()
        await it.to_the_end()
        await it.later(20 * DAY)
    assert warnings.given == []


async def test_one_that_was_replaced_by_hand_gets_a_time_of_its_own(it: Room) -> None:
    await it.put()
    await it.start()
    it.clock.jump(BEGINS - HOUR)
    await it.put(planned=False)
    with Warnings() as warnings:
        await it.later(2 * HOUR)
    assert warnings.given == []
    entry = it.warning()
    assert entry is not None
    assert entry.at - START == pytest.approx(2 * BEGINS - 2 * HOUR)


async def test_what_expired_long_ago_is_not_told_of(it: Room) -> None:
    await it.put("a.com", age=96 * DAY)
    await it.put("b.com", age=98 * DAY)
    with Warnings() as warnings:
        await it.start()
        await it.clock.advance(60)
    assert warnings.given == [("a.com", -6.0)]
    assert it.warning("a.com") is None
    assert it.warning("b.com") is None


@pytest.mark.parametrize("age", [90, 98])
async def test_what_another_instance_stores_meanwhile_is_warned_of(it: Room, age: int) -> None:
    await it.put(age=age * DAY)
    find = it.found.find

    async def then_replaced(cert_key: str) -> Stored | None:
        found = await find(cert_key)
        it.found.find = find  # type: ignore[method-assign]
        await it.put()
        return found

    it.found.find = then_replaced  # type: ignore[method-assign]
    await it.start()
    await it.later(HOUR)
    entry = it.warning()
    assert entry is not None
    assert entry.at > it.clock.now() + 70 * DAY


async def test_managed_ones_that_a_wrong_clock_planned_too_late_are_planned_anew(it: Room) -> None:
    certificate = await put_managed(it, age=HOUR)
    await it.managed.obtain("x.test", Subject(MANAGED))
    await it.storage.schedule(EXPIRIES, [Due(f"managed/{MANAGED}", START + 86 * DAY, certificate.not_after)])
    await it.start()
    entry = it.warning(f"managed/{MANAGED}")
    assert entry is not None
    assert entry.rank - entry.at == 10 * DAY


async def test_one_that_can_not_be_read_is_looked_at_again_and_keeps_no_other_back(it: Room) -> None:
    for name in ("a.com", "b.com"):
        await it.put(name, age=85 * DAY)
    it.storage.break_down("get", key="a.com", times=1)
    with Warnings() as warnings:
        await it.start()
        await it.later(HOUR + 60)
        assert warnings.given == [("b.com", 5.0)]
        assert warnings.count("renewal.expiry_unknown") == 1
        await it.later(HOUR + 60)
    assert warnings.given == [("b.com", 5.0), ("a.com", 4.9)]


async def test_a_bug_met_by_one_does_not_end_the_worker(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await it.put(age=85 * DAY)
    with Warnings() as warnings:
        await it.start()
        with monkeypatch.context() as patch:
            patch.setattr(StoredCertificates, "find", lambda *_: 1 / 0)
            await it.later(HOUR + 60)
        assert warnings.count("renewal.expiry_crashed") == 1
        await it.later(HOUR + 60)
    assert warnings.given == [("a.com", 4.9)]


async def test_an_issuance_that_could_not_be_planned_whole_is_planned_again(it: Room) -> None:
    """The renewal's own entry is written last, as the one from before it comes up by itself."""
    it.storage.break_down("schedule", key=EXPIRIES, times=1)
    await it.start(renewing=True)
    await it.certificates.obtain("a.com", Subject("a.com", ("a.com",)))
    assert it.warning() is None
    await it.later(HOUR + 60)
    assert it.warning() is not None
    assert len(it.ca.calls) == 1


async def put_managed(it: Room, *, age: float) -> Certificate:
    return await it.put(MANAGED, age=age, planned=False)


async def test_a_managed_certificate_in_use_is_told_of_once_for_all_instances(it: Room, peer: Room) -> None:
    await put_managed(it, age=HOUR)
    with Warnings() as warnings:
        for room in (it, peer):
            await room.start()
            await room.managed.obtain("x.test", Subject(MANAGED))
        await it.later(1.2 * HOUR)
        await it.clock.advance(1.2 * HOUR)
        await it.to_the_end(f"managed/{MANAGED}")
        await it.clock.advance(2 * HOUR)
    assert warnings.given == [(MANAGED, days) for days in DAYS_LEFT]
    assert warnings.remedies == {"put its successor there"}


async def test_one_that_nobody_asks_for_is_not(it: Room) -> None:
    await put_managed(it, age=85 * DAY)
    with Warnings() as warnings:
        await it.start()
        await it.clock.advance(3 * HOUR)
    assert warnings.given == []


async def test_its_successor_ends_the_warnings_and_has_its_own(it: Room) -> None:
    await put_managed(it, age=85 * DAY)
    await it.managed.obtain("x.test", Subject(MANAGED))
    with Warnings() as warnings:
        await it.start()
        await it.clock.advance(HOUR + 60)
        assert warnings.given == [(MANAGED, 5.0)]
        new = await put_managed(it, age=HOUR)
        await it.managed.refresh(MANAGED)
        await it.clock.advance(1.2 * HOUR)
        await it.later(DAY)
    assert len(warnings.given) == 1
    assert it.warning(f"managed/{MANAGED}") == Due(f"managed/{MANAGED}", new.not_after - 10 * DAY, new.not_after)


async def test_of_a_broken_successor_the_last_good_one_counts(it: Room) -> None:
    await put_managed(it, age=HOUR)
    await it.managed.obtain("x.test", Subject(MANAGED))
    with Warnings() as warnings:
        await it.start()
        await it.storage.put(MANAGED, b"rubbish")
        await it.to_the_end(f"managed/{MANAGED}")
    assert warnings.given == [(MANAGED, days) for days in DAYS_LEFT]


async def test_one_that_is_not_managed_any_more_is_not_told_of(it: Room) -> None:
    certificate = await put_managed(it, age=85 * DAY)
    await it.plan.warn(f"managed/{MANAGED}", certificate, START)
    with Warnings() as warnings:
        room = Room(it, manages=False)
        await room.start()
        await room.to_the_end(f"managed/{MANAGED}")
    assert warnings.given == []
    await room.close()


async def test_a_name_with_the_same_key_is_another_matter(it: Room) -> None:
    managed = await put_managed(it, age=85 * DAY)
    await it.plan.warn(f"managed/{MANAGED}", managed, START)
    await it.found.take_out(MANAGED, None, EXPIRIES)
    assert it.warning(f"managed/{MANAGED}") is not None


async def test_managed_ones_are_scheduled_when_the_index_can_be_written_again(it: Room) -> None:
    await put_managed(it, age=HOUR)
    await it.managed.obtain("x.test", Subject(MANAGED))
    it.storage.break_down("schedule", key=EXPIRIES, times=1)
    with Warnings() as warnings:
        await it.start()
    assert warnings.count("renewal.not_scheduled") == 1
    assert it.warning(f"managed/{MANAGED}") is None
    await it.clock.advance(1.2 * HOUR)
    assert it.warning(f"managed/{MANAGED}") is not None
