"""One attempt: what is kept of it, in which order, whatever comes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import (
    AcmeError,
    BackingOff,
    BudgetSpent,
    CaProblem,
    CaUnreachable,
    ChallengeFailed,
    LeaseLost,
    PreflightFailed,
    ValidationFailed,
)
from ssl_cert_server.model import Certificate, OpenOrder, Permission, Subject
from ssl_cert_server.service.attempts import Attempts, Issued, Wanted
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.open_orders import OpenOrders
from ssl_cert_server.service.records import IssuedRecord, load_record
from ssl_cert_server.service.state import NameState, load_state
from ssl_cert_server.storage.leasing import LEASE_SECONDS, HeldLease, Term
from tests.support.clock import START, AutoClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key
from tests.support.leaves import HOUR, make_certificate
from tests.support.scripted_ca import DIRECTORY, ScriptedCa

SUBJECT = Subject("*.a.com", ("*.a.com", "a.com"))
NAME = "*.a.com"
ORDER = OpenOrder(DIRECTORY, "https://ca.test/order/7", "key")
NOTHING = NameState()
NOT_FOUND = ValidationFailed("a.com: nothing there", name="a.com", challenge="http-01", problem="connection")


class Room:
    """Attempts at one certificate for two names, under a lease that is held."""

    def __init__(self) -> None:
        self.clock = AutoClock()
        self.storage = FaultyStorage(self.clock)
        self.ca = ScriptedCa(self.clock)
        self.states = NameStates(self.storage, self.clock)
        self.attempts = Attempts(self.storage, self.states, self.ca, self.clock, deadline=300.0)
        self.lease: HeldLease | None = None
        self.subject = SUBJECT
        self.open_orders: list[int] = []
        """How many were kept, each time that one was about to be used."""

    async def make(self, state: NameState = NOTHING) -> Certificate:
        if self.lease is None:
            taken = await self.storage.acquire("certificates/*.a.com", 1e9)
            assert taken is not None
            self.lease = HeldLease(taken.name, taken.token, Term(self.clock))
        lease = self.lease
        wanted = Wanted(self.subject, Priority.HANDSHAKE)
        return (await self.attempts.make(wanted, state, lease, self._on_order)).certificate

    async def _on_order(self) -> None:
        self.open_orders.append(len((await self.state()).orders))

    async def fail(self, outcome: Exception | Certificate, state: NameState = NOTHING) -> NameState:
        self.ca.outcomes[NAME].append(outcome)
        with pytest.raises(BackingOff):
            await self.make(state)
        return await self.state()

    async def state(self) -> NameState:
        return await load_state(self.storage, SUBJECT.cert_key)


@pytest.fixture
def it() -> Room:
    return Room()


async def test_certificate_record_and_state_are_kept(it: Room) -> None:
    certificate = await it.make(NameState(failures=3, error="before", orders=(ORDER,)))
    assert it.ca.calls == [(NAME, ORDER)]
    assert await it.storage.get(SUBJECT.cert_key) == certificate.stored
    record = await load_record(it.storage, SUBJECT.cert_key, certificate.fingerprint)
    assert record == IssuedRecord.of_new(certificate, DIRECTORY, "http-01", it.clock.now(), None)
    assert await it.state() == NameState()


async def test_it_is_told_with_who_issued_and_how(it: Room) -> None:
    with capture_logs() as logs:
        certificate = await it.make()
    [issued] = [log for log in logs if log["event"] == "certificate.issued"]
    assert issued["name"] == NAME
    assert (issued["fingerprint"], issued["directory_url"]) == (certificate.fingerprint, DIRECTORY)
    assert issued["challenge"] == "http-01"
    assert_no_key(certificate.key_pem, logs)


async def test_a_record_that_cannot_be_written_leaves_certificate_and_order(it: Room) -> None:
    it.storage.break_down("put", key=f"_issued/{SUBJECT.cert_key}")
    made = await it.make()
    assert await it.storage.get(SUBJECT.cert_key) == made.stored
    assert (await it.state()).orders == (it.ca.orders[0],)


async def test_no_order_is_placed_under_a_lease_that_may_have_lapsed(it: Room) -> None:
    """A process that was stopped amid an attempt goes on where it was."""
    await it.make()
    it.ca.orders.clear()
    await it.clock.sleep(LEASE_SECONDS)
    with pytest.raises(LeaseLost, match="was not renewed"):
        await it.make()
    assert it.ca.orders == []
    assert (await it.state()).placing_at == it.clock.now()


async def test_a_certificate_without_one_of_the_names_is_refused(it: Room) -> None:
    state = await it.fail(make_certificate(NAME, start=START - HOUR, end=START + HOUR))
    assert state.failures == 1
    assert "a.com" in state.error
    assert await it.storage.get(SUBJECT.cert_key) is None


@pytest.mark.parametrize(
    "error", [NOT_FOUND, PreflightFailed("CAA forbids it"), ChallengeFailed("the provider refused")]
)
async def test_what_is_the_names_own_counts(it: Room, error: AcmeError) -> None:
    it.clock.chance = 0.0
    state = await it.fail(error, NameState(failures=1))
    assert (state.failures, state.retry_at, state.error) == (2, START + 600, str(error))


@pytest.mark.parametrize(("before", "wait"), [(0, 60), (1, 600), (2, 600), (9, 600)])
async def test_what_is_the_cas_own_does_not_count_and_waits_ten_minutes_at_most(
    it: Room, before: int, wait: float
) -> None:
    it.clock.chance = 0.0
    state = await it.fail(CaUnreachable("down"), NameState(failures=before, troubles=1))
    assert (state.failures, state.troubles, state.retry_at) == (before, 1, START + wait)


async def test_what_may_be_the_names_own_after_all_waits_longer_each_time(it: Room) -> None:
    """One that the CA always fails at was ordered every minute, for ever, at the cost of the others' orders."""
    it.clock.chance = 0.0
    state, waits = NOTHING, []
    for _ in range(5):
        state = await it.fail(CaProblem("oops", type="serverInternal", status=500), state)
        waits.append(state.retry_at - it.clock.now())
        it.clock.jump(waits[-1])
    assert waits == [60, 600, 6000, 6000, 6000]
    assert (state.failures, state.troubles) == (0, 5)
    await it.make(state)
    assert await it.state() == NOTHING


async def test_an_order_whose_challenge_failed_is_not_gone_on_with(it: Room) -> None:
    assert (await it.fail(NOT_FOUND)).orders == ()


async def test_one_that_was_not_begun_is(it: Room) -> None:
    assert (await it.fail(PreflightFailed("CAA forbids it"), NameState(orders=(ORDER,)))).orders == (ORDER,)


async def test_a_lease_lost_amid_storing_is_not_tried_again(it: Room) -> None:
    await it.make()
    it.storage.steal("certificates/*.a.com")
    before = [*it.clock.sleeps]
    with pytest.raises(LeaseLost):
        await it.make(NameState(orders=(ORDER,)))
    assert it.clock.sleeps == before


class TestNoRoom:
    """No CA may be asked: that is kept for who asks why, and holds nothing back."""

    spent = BudgetSpent("a.com: no room for more new orders; again in 36 s", 36.0, everyone=True)

    async def wait(self, it: Room, state: NameState = NOTHING) -> NameState:
        it.ca.outcomes[NAME].append(self.spent)
        with pytest.raises(BudgetSpent):
            await it.make(state)
        return await it.state()

    async def test_it_is_noted_and_not_counted(self, it: Room) -> None:
        noted = await self.wait(it)
        assert (noted.failures, noted.retry_at, noted.failed_at) == (0, 0.0, START)
        assert noted.error == str(self.spent)

    async def test_it_is_noted_once_a_minute(self, it: Room) -> None:
        noted = await self.wait(it)
        it.clock.jump(60)
        assert (await self.wait(it, noted)).failed_at == START
        it.clock.jump(1)
        assert (await self.wait(it, noted)).failed_at == START + 61

    async def test_the_words_of_a_failure_stay(self, it: Room) -> None:
        failed = await it.fail(CaProblem("no", type="rejectedIdentifier", status=403))
        it.clock.jump(3600)
        assert (await self.wait(it, failed)).error == "no"


# --- names that strangers make up

NOT_HERE = PreflightFailed("a.com: its addresses are not this server's")


async def test_an_order_is_announced_before_it_is_kept_or_gone_on_with(it: Room) -> None:
    await it.make()
    assert it.open_orders == [0]
    await it.make(NameState(orders=(ORDER,)))
    assert it.open_orders[1] == 0, "before anything is done"


class NobodyAsked:
    """No CA comes to hear of it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def issue(self, wanted: Wanted, orders: OpenOrders) -> Issued:
        raise self._error


async def _kept(it: Room, permission: Permission, error: Exception, state: NameState, times: int) -> list[bool]:
    """Tell of each of so many failures, of as many names, whether it is kept."""
    it.subject = replace(SUBJECT, permission=permission)
    it.attempts = Attempts(it.storage, it.states, NobodyAsked(error), it.clock, deadline=300.0)
    kept = []
    for _ in range(times):
        with pytest.raises(BackingOff):
            await it.make(state)
        kept.append(await it.state() != NOTHING)
        await it.storage.delete(f"_state/{SUBJECT.cert_key}")
    return kept


async def test_failures_before_any_order_are_kept_of_a_hundred_names_an_hour(it: Room) -> None:
    assert await _kept(it, Permission.PATTERN, NOT_HERE, NOTHING, 150) == [True] * 100 + [False] * 50
    assert it.open_orders == []


@pytest.mark.parametrize(
    ("permission", "error", "state"),
    [
        (Permission.LISTED, NOT_HERE, NOTHING),
        (Permission.ASK, NOT_HERE, NOTHING),
        (Permission.PATTERN, NOT_FOUND, NOTHING),
        (Permission.PATTERN, NOT_HERE, NameState(failures=1, error="before")),
        (Permission.PATTERN, NOT_HERE, NameState(orders=(ORDER,))),
    ],
)
async def test_all_other_failures_are_kept(
    it: Room, permission: Permission, error: Exception, state: NameState
) -> None:
    assert all(await _kept(it, permission, error, state, 120))
