from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from ssl_cert_server.errors import (
    AcmeError,
    AskFailed,
    BackingOff,
    BudgetSpent,
    CaClosed,
    CaProblem,
    CaUnreachable,
    InvalidCertificate,
    LeaseLost,
    MalformedResponse,
    NotPermitted,
    OrderFailed,
    Overloaded,
    StorageError,
    Unavailable,
)
from ssl_cert_server.model import Certificate, OpenOrder, Permission, Subject
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service import issuance
from ssl_cert_server.service.attempts import ISSUANCE_DEADLINE, Attempts, Predecessor
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.issuance import _WAIT_DEADLINE, AcmeCertificates
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.service.state import NameState, load_state, save_state
from ssl_cert_server.service.turns import Turns
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.support.loop_time import LoopTime, settle
from tests.support.scripted_ca import DIRECTORY, ScriptedCa
from tests.support.upkeep import RecordingUpkeep

NAME = "a.com"
REFUSED = CaProblem("the CA said no", type="rejectedIdentifier", status=403)
BUSY = CaProblem("come back later", type="rateLimited", status=429, retry_after=10)
UNREACHABLE = CaUnreachable("connection refused")


LISTED = Permission.LISTED


class ScriptedGate:
    """Permits, or not, or has no verdict; ``asked`` are the names, and whether afresh."""

    def __init__(self) -> None:
        self.verdict: bool | Exception = True
        self.asked: list[tuple[str, bool]] = []

    async def permitted(self, name: str, *, fresh: bool = False) -> bool:
        self.asked.append((name, fresh))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


class Instance:
    """One instance of the server, as far as ACME certificates go."""

    def __init__(self, storage: FaultyStorage, ca: ScriptedCa, clock: ManualClock) -> None:
        self.upkeep = RecordingUpkeep()
        self.gate = ScriptedGate()
        self.turns = Turns(32, clock)
        self.states = NameStates(storage, clock)
        self.certificates = AcmeCertificates(
            storage,
            self.states,
            Attempts(storage, self.states, ca, clock, deadline=ISSUANCE_DEADLINE),
            self.turns,
            clock,
            ask=self.gate,
            upkeep=self.upkeep,
        )

    async def obtain(self, name: str = NAME, suffix: str = "", permission: Permission = LISTED) -> Certificate:
        return await self.certificates.obtain(name, Subject(name + suffix, (name,), permission=permission))

    async def renew(self, replaces: Certificate, name: str = NAME) -> Certificate:
        return await self.certificates.renew(Subject(name, (name,)), replaces.fingerprint)


class Fleet:
    """A storage, a CA, and the first instance on them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.ca = ScriptedCa(self.clock)
        self._instances: list[Instance] = []
        self.one = self.another()

    def another(self) -> Instance:
        instance = Instance(self.storage, self.ca, self.clock)
        self._instances.append(instance)
        return instance

    async def close(self) -> None:
        for instance in self._instances:
            await instance.certificates.close()

    async def state(self, cert_key: str = NAME) -> NameState:
        return await load_state(self.storage, cert_key)

    async def in_storage(self, name: str = NAME) -> Certificate | None:
        pem = await self.storage.get(name)
        return parse_certificate(pem) if pem else None

    async def put(self, *names: str, start: float = START - HOUR, end: float = START + 90 * DAY) -> Certificate:
        certificate = make_certificate(*names, start=start, end=end)
        await self.storage.put(names[0], certificate.stored)
        return certificate

    async def fail(self, error: Exception | Certificate, instance: Instance | None = None) -> BackingOff:
        self.ca.outcomes[NAME].append(error)
        with pytest.raises(BackingOff) as caught:
            await (instance or self.one).obtain()
        return caught.value


@pytest.fixture
async def it() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    yield fleet
    await fleet.close()


class TestFromStorage:
    """What is stored is answered without the CA."""

    async def test_a_usable_certificate_is_given_and_becomes_known(self, it: Fleet) -> None:
        certificate = await it.put(NAME)
        assert await it.one.obtain() == certificate
        assert it.ca.calls == []
        assert it.one.upkeep.read == [(NAME, certificate.fingerprint)]
        assert it.one.upkeep.written == []

    async def test_it_is_fresh_until_it_expires(self, it: Fleet) -> None:
        certificate = await it.put(NAME)
        assert it.one.certificates.fresh_until(certificate) == certificate.not_after

    async def test_an_expired_one_is_issued_anew(self, it: Fleet) -> None:
        await it.put(NAME, end=START)
        certificate = await it.one.obtain()
        assert await it.in_storage() == certificate
        assert it.one.upkeep.read == []

    async def test_one_that_is_not_valid_yet_is_given_as_our_clock_is_behind(self, it: Fleet) -> None:
        certificate = await it.put(NAME, start=START + 2 * DAY)
        assert await it.one.obtain() == certificate
        assert it.ca.calls == []
        assert it.one.upkeep.read == [(NAME, certificate.fingerprint)]

    @pytest.mark.parametrize(
        "stored", [b"", b"rubbish", b"-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----"]
    )
    async def test_an_unusable_one_is_issued_anew(self, it: Fleet, stored: bytes) -> None:
        await it.storage.put(NAME, stored)
        certificate = await it.one.obtain()
        assert await it.in_storage() == certificate

    async def test_one_for_another_name_is_not_given(self, it: Fleet) -> None:
        await it.storage.put(NAME, make_certificate("b.com").stored)
        assert (await it.one.obtain()).names == {NAME}

    async def test_one_whose_wildcard_covers_the_name_is_given(self, it: Fleet) -> None:
        wild = make_certificate("*.a.com")
        await it.storage.put("www.a.com", wild.stored)
        assert await it.one.obtain("www.a.com") == wild

    async def test_storage_that_cannot_be_read_means_no_call_to_the_ca(self, it: Fleet) -> None:
        it.storage.break_down("get")
        with pytest.raises(StorageError):
            await it.one.obtain()
        assert it.ca.calls == []


class TestOnTheFly:
    """One order per name, side by side with others."""

    async def test_it_is_stored_before_it_is_given(self, it: Fleet) -> None:
        certificate = await it.one.obtain()
        assert await it.in_storage() == certificate
        assert it.one.upkeep.written == [(NAME, certificate.fingerprint)]
        assert it.one.upkeep.read == [], "it was not read"
        assert await it.state() == NameState()

    async def test_one_that_is_not_valid_yet_is_taken_as_our_clock_is_behind(self, it: Fleet) -> None:
        given = make_certificate(NAME, start=START + 2 * DAY)
        it.ca.outcomes[NAME].append(given)
        assert await it.one.obtain() == given
        assert await it.in_storage() == given
        assert await it.state() == NameState()

    async def test_a_hundred_at_once_are_one_order(self, it: Fleet) -> None:
        certificates = await asyncio.gather(*(it.one.obtain() for _ in range(100)))
        assert len({certificate.fingerprint for certificate in certificates}) == 1
        assert it.ca.calls == [(NAME, None)]

    async def test_names_are_issued_for_side_by_side_up_to_32(self, it: Fleet) -> None:
        it.ca.gate.clear()
        asking = [asyncio.create_task(it.one.obtain(f"{number}.com")) for number in range(40)]
        await settle()
        assert it.ca.running == 32
        it.ca.gate.set()
        await asyncio.gather(*asking)
        assert it.ca.most_running == 32
        assert len(it.ca.calls) == 40

    async def test_names_that_a_peer_works_on_keep_no_others_from_being_issued_for(self, it: Fleet) -> None:
        held = [f"{number}.com" for number in range(32)]
        for name in held:
            assert await it.storage.acquire(f"certificates/{name}", 1e9)
        waiting = [asyncio.create_task(it.one.obtain(name)) for name in held]
        await settle()
        assert not it.ca.calls
        assert (await it.one.obtain("free.com")).names == {"free.com"}
        await it.one.certificates.close()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def test_a_wait_for_a_peer_ends_at_the_deadline(self, it: Fleet) -> None:
        time = LoopTime()
        assert await it.storage.acquire(f"certificates/{NAME}", 1e9)
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        await time.advance(_WAIT_DEADLINE - 1)
        assert not asking.done()
        await time.advance(1)
        with pytest.raises(Overloaded, match="not its turn within 600 s") as caught:
            await asking
        assert caught.value.retry_after > 0
        assert it.ca.calls == []
        assert (await it.state()).failures == 0, "it is no failure of the name"

    async def test_so_does_a_wait_for_a_slot_and_the_lease_is_given_back(self, it: Fleet) -> None:
        time = LoopTime()
        async with AsyncExitStack() as others:
            # An issuance ends before the wait for its slot does; so others keep taking the slots.
            for _ in range(32):
                await others.enter_async_context(it.one.turns.turn(Priority.HANDSHAKE, suspect=False))
            asking = asyncio.create_task(it.one.obtain())
            await settle()
            assert await it.storage.acquire(f"certificates/{NAME}", 30) is None
            await time.advance(_WAIT_DEADLINE)
            with pytest.raises(Overloaded):
                await asking
        assert it.ca.calls == []
        assert await it.storage.acquire(f"certificates/{NAME}", 30)

    async def test_an_issuance_under_way_is_not_ended_by_the_deadline_of_the_wait(
        self, it: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(issuance, "_WAIT_DEADLINE", 10.0)
        time = LoopTime()
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        await time.advance(100)
        assert not asking.done()
        it.ca.gate.set()
        assert (await asking).names == {NAME}

    async def test_too_many_waiting_are_refused(self, it: Fleet) -> None:
        it.ca.gate.clear()
        asking = [asyncio.create_task(it.one.obtain(f"{number}.com")) for number in range(1000)]
        await settle()
        with pytest.raises(Overloaded) as caught:
            await it.one.obtain("one-more.com")
        assert caught.value.retry_after > 0
        joined = asyncio.create_task(it.one.obtain("7.com"))
        await settle()
        assert not joined.done()
        await it.one.certificates.close()
        await asyncio.gather(*asking, joined, return_exceptions=True)
        assert len(it.ca.calls) == 32

    async def test_nothing_is_asked_of_the_ca_while_storage_cannot_be_written(self, it: Fleet) -> None:
        it.storage.break_down("check_writable")
        with pytest.raises(StorageError):
            await it.one.obtain()
        assert it.ca.calls == []
        it.storage.repair()
        assert (await it.one.obtain()).names == {NAME}

    async def test_the_order_is_kept_before_it_is_worked_on(self, it: Fleet) -> None:
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        assert (await it.state()).orders == (it.ca.orders[0],)
        it.ca.gate.set()
        await asking
        assert (await it.state()).orders == ()

    async def test_an_order_that_cannot_be_kept_is_not_worked_on(self, it: Fleet) -> None:
        it.storage.break_down("put")
        it.ca.gate.clear()
        with pytest.raises(StorageError):
            await it.one.obtain()


class TestFailures:
    """They are remembered, by the whole fleet, and the CA is left alone until then."""

    async def test_a_failure_tells_what_and_when_to_come_back(self, it: Fleet) -> None:
        error = await it.fail(REFUSED)
        assert str(error) == "a.com: failure 1 in a row: the CA said no"
        assert error.retry_after == 63  # a minute, and half of the tenth that is jitter
        assert isinstance(error.__cause__, CaProblem)
        assert it.one.upkeep.written == []

    async def test_until_then_the_ca_is_not_asked(self, it: Fleet) -> None:
        await it.fail(REFUSED)
        await it.clock.advance(40)
        with pytest.raises(BackingOff) as caught:
            await it.one.obtain()
        assert caught.value.retry_after == pytest.approx(23)
        assert str(caught.value) == "a.com: failure 1 in a row: the CA said no"
        assert len(it.ca.calls) == 1

    async def test_it_is_remembered_by_another_instance_on_the_same_storage(self, it: Fleet) -> None:
        await it.fail(REFUSED)
        with pytest.raises(BackingOff):
            await it.another().obtain()
        assert len(it.ca.calls) == 1

    async def test_failures_in_a_row_wait_longer_and_longer(self, it: Fleet) -> None:
        it.clock.chance = 0.0
        waits = []
        for _ in range(5):
            error = await it.fail(REFUSED, it.another())
            waits.append(error.retry_after)
            it.clock.jump(error.retry_after)
        assert waits == [60, 600, 6000, 86_400, 86_400]

    async def test_they_are_noted_with_their_time(self, it: Fleet) -> None:
        await it.clock.advance(5)
        await it.fail(REFUSED)
        assert await it.state() == NameState(
            failures=1,
            failed_at=START + 5,
            retry_at=START + 5 + 63,
            error="the CA said no",
            orders=(it.ca.orders[0],),
        )

    async def test_one_noted_by_a_clock_that_ran_ahead_holds_nothing_back(self, it: Fleet) -> None:
        it.clock.jump(100 * DAY)
        await it.fail(REFUSED)
        it.clock.jump(-100 * DAY)
        assert (await it.another().obtain()).names == {NAME}

    async def test_one_noted_at_this_very_moment_does(self, it: Fleet) -> None:
        await it.fail(REFUSED)
        assert (await it.state()).failed_at == it.clock.now()
        with pytest.raises(BackingOff):
            await it.another().obtain()

    async def test_they_are_kept_by_the_certificates_key(self, it: Fleet) -> None:
        it.ca.outcomes[NAME].append(REFUSED)
        with pytest.raises(BackingOff):
            await it.one.obtain(suffix="+rsa")
        assert (await it.state(f"{NAME}+rsa")).failures == 1
        assert await it.state() == NameState()
        with pytest.raises(BackingOff):
            await it.another().obtain(suffix="+rsa")
        assert (await it.another().obtain()).names == {NAME}, "one with an RSA key says nothing of ECDSA"

    async def test_success_forgets_them(self, it: Fleet) -> None:
        it.clock.jump((await it.fail(REFUSED)).retry_after)
        await it.one.obtain()
        assert await it.state() == NameState()

    async def test_retry_after_of_the_ca_is_obeyed(self, it: Fleet) -> None:
        limited = CaProblem("too many", type="rateLimited", status=429, retry_after=7200)
        assert (await it.fail(limited)).retry_after == 7200
        it.clock.jump(7199)
        with pytest.raises(BackingOff):
            await it.another().obtain()
        it.clock.jump(1)
        assert (await it.another().obtain()).names == {NAME}

    async def test_another_name_is_not_held_up(self, it: Fleet) -> None:
        await it.fail(REFUSED)
        assert (await it.one.obtain("b.com")).names == {"b.com"}

    @pytest.mark.parametrize(
        "given",
        [
            make_certificate("b.com"),
            make_certificate(NAME, start=START - 2 * DAY, end=START - DAY),
        ],
        ids=["for a wrong name", "expired"],
    )
    async def test_an_unusable_certificate_from_the_ca_is_a_failure(self, it: Fleet, given: Certificate) -> None:
        await it.fail(given)
        assert await it.in_storage() is None
        assert (await it.state()).failures == 1

    async def test_an_unreachable_ca_keeps_the_order_and_it_is_resumed(self, it: Fleet) -> None:
        error = await it.fail(UNREACHABLE)
        order = it.ca.orders[0]
        assert (await it.state()).orders == (order,)
        it.clock.jump(error.retry_after)
        assert (await it.another().obtain()).names == {NAME}
        assert it.ca.calls == [(NAME, None), (NAME, order)]
        assert len(it.ca.orders) == 1

    @pytest.mark.parametrize(
        "error", [MalformedResponse("not JSON"), AcmeError("too slow"), BUSY, REFUSED, RuntimeError("bug")]
    )
    async def test_so_does_whatever_does_not_end_it(self, it: Fleet, error: Exception) -> None:
        await it.fail(error)
        assert (await it.state()).orders == (it.ca.orders[0],)

    @pytest.mark.parametrize("error", [OrderFailed("the authorization is invalid"), InvalidCertificate("no pair")])
    async def test_what_ends_the_order_drops_it(self, it: Fleet, error: Exception) -> None:
        await it.fail(error)
        assert (await it.state()).orders == ()

    async def test_after_the_deadline_it_has_failed_and_the_order_is_kept(self, it: Fleet) -> None:
        time = LoopTime()
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        await time.advance(ISSUANCE_DEADLINE - 1)
        assert not asking.done()
        await time.advance(1)
        with pytest.raises(BackingOff, match="300 s"):
            await asking
        assert (await it.state()).orders == (it.ca.orders[0],)
        assert it.ca.running == 0

    async def test_a_failure_that_cannot_be_stored_is_remembered_in_memory(self, it: Fleet) -> None:
        it.ca.gate.clear()
        it.ca.outcomes[NAME].append(REFUSED)
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        it.storage.break_down("put", "check_writable")
        it.ca.gate.set()
        with pytest.raises(BackingOff, match="the CA said no"):
            await asking
        with pytest.raises(BackingOff, match="the CA said no"):
            await it.one.obtain()
        assert len(it.ca.calls) == 1


class TestStoringFails:
    """What the CA gave is written with patience; else the open order leads back to it."""

    async def test_it_is_tried_again(self, it: Fleet) -> None:
        it.storage.break_down("put", key=NAME, times=4)
        asking = asyncio.create_task(it.one.obtain())
        await it.clock.advance(14)
        assert not asking.done()
        await it.clock.advance(1)
        assert await it.in_storage() == await asking
        assert it.one.upkeep.written == [(NAME, (await asking).fingerprint)]
        assert len(it.ca.calls) == 1

    async def test_in_the_end_the_order_is_kept_and_resumed_without_a_new_one(self, it: Fleet) -> None:
        it.storage.break_down("put", key=NAME)
        asking = asyncio.create_task(it.one.obtain())
        await it.clock.advance(20)
        with pytest.raises(BackingOff, match="the disk is gone") as failure:
            await asking
        order = it.ca.orders[0]
        assert (await it.state()).orders == (order,)
        assert (await it.state()).failures == 0
        assert it.one.upkeep.written == []
        it.storage.repair()
        await it.clock.advance(failure.value.retry_after)
        assert (await it.another().obtain()).names == {NAME}
        assert it.ca.calls == [(NAME, None), (NAME, order)]
        assert len(it.ca.orders) == 1

    async def test_one_that_was_stored_is_given_next_time_though_the_state_stayed(self, it: Fleet) -> None:
        it.storage.break_down("delete")
        certificate = await it.one.obtain()
        assert it.one.upkeep.written == [(NAME, certificate.fingerprint)]
        assert await it.one.obtain() == await it.in_storage() == certificate
        assert len(it.ca.calls) == 1


class TestLeases:
    """One at a time over the whole fleet."""

    async def test_a_peer_that_was_faster_is_believed(self, it: Fleet) -> None:
        two = it.another()
        first, second = asyncio.create_task(it.one.obtain()), asyncio.create_task(two.obtain())
        await it.clock.advance(2)
        assert await first == await second
        assert len(it.ca.calls) == 1
        given = [(NAME, (await first).fingerprint)]
        assert sorted([two.upkeep.written, it.one.upkeep.written]) == sorted([two.upkeep.peers, it.one.upkeep.peers])
        assert two.upkeep.written + it.one.upkeep.written == given

    async def test_a_failure_of_a_peer_holds_for_those_who_waited(self, it: Fleet) -> None:
        it.ca.outcomes[NAME].append(REFUSED)
        tasks = [asyncio.create_task(instance.obtain()) for instance in (it.one, it.another())]
        await it.clock.advance(2)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [BackingOff, BackingOff]
        assert len(it.ca.calls) == 1

    async def test_a_lease_lost_midway_ends_the_work_and_writes_nothing(self, it: Fleet) -> None:
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        it.storage.steal(f"certificates/{NAME}")
        await it.clock.advance(10)
        with pytest.raises(LeaseLost):
            await asking
        assert it.ca.running == 0
        assert await it.in_storage() is None
        assert (await it.state()).failures == 0

    async def test_a_lease_lost_unnoticed_is_noticed_at_the_write(self, it: Fleet) -> None:
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        it.storage.steal(f"certificates/{NAME}")
        it.ca.gate.set()
        with pytest.raises(LeaseLost):
            await asking
        assert await it.in_storage() is None
        assert it.one.upkeep.written == []

    async def test_the_lease_is_kept_through_a_long_issuance(self, it: Fleet) -> None:
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await it.clock.advance(120)
        other = asyncio.create_task(it.another().obtain())
        await it.clock.advance(120)
        assert len(it.ca.calls) == 1
        it.ca.gate.set()
        await it.clock.advance(2)
        assert await asking == await other

    async def test_close_midway_keeps_the_order_and_frees_the_name(self, it: Fleet) -> None:
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        await it.one.certificates.close()
        with pytest.raises(Unavailable, match="the server is stopping"):
            await asking
        assert await it.state() == NameState(orders=(it.ca.orders[0],))
        it.ca.gate.set()
        assert (await it.another().obtain()).names == {NAME}
        assert it.ca.calls[1:] == [(NAME, it.ca.orders[0])]


class TestRenewal:
    """A successor takes the place of a certificate, and not a moment earlier."""

    async def test_it_replaces_the_certificate(self, it: Fleet) -> None:
        old = await it.put(NAME)
        new = await it.one.renew(old)
        assert new.fingerprint != old.fingerprint
        assert await it.in_storage() == new
        assert it.one.upkeep.written == [(NAME, new.fingerprint)]

    async def test_until_then_the_old_one_stays_in_use(self, it: Fleet) -> None:
        old = await it.put(NAME)
        it.ca.gate.clear()
        renewing = asyncio.create_task(it.one.renew(old))
        await settle()
        assert await it.in_storage() == old
        assert await it.one.obtain() == old
        it.ca.gate.set()
        assert await it.one.certificates.stored(Subject(NAME, (NAME,))) == old
        new = await renewing
        assert await it.one.obtain() == new

    async def test_a_failed_one_leaves_the_old_one_and_is_remembered(self, it: Fleet) -> None:
        old = await it.put(NAME)
        it.ca.outcomes[NAME].append(REFUSED)
        for _ in range(2):
            with pytest.raises(BackingOff):
                await it.one.renew(old)
        assert len(it.ca.calls) == 1
        assert await it.one.obtain() == old

    async def test_a_peer_that_was_faster_is_believed_and_the_old_one_no_longer_served(self, it: Fleet) -> None:
        old = await it.put(NAME)
        two = it.another()
        new = await two.renew(old)
        assert await it.one.renew(old) == new
        assert len(it.ca.calls) == 1
        assert it.one.upkeep.peers == [(NAME, new.fingerprint)]
        assert it.one.upkeep.read == [], "it is new, and planned by the peer"

    async def test_a_handshake_meanwhile_joins_it_where_the_old_one_expired(self, it: Fleet) -> None:
        old = await it.put(NAME, end=START + 10)
        it.clock.jump(10)
        it.ca.gate.clear()
        renewing = asyncio.create_task(it.one.renew(old))
        await settle()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        it.ca.gate.set()
        assert await renewing == await asking
        assert len(it.ca.calls) == 1

    async def test_of_a_certificate_that_is_gone_issues_one(self, it: Fleet) -> None:
        gone = make_certificate(NAME)
        assert await it.one.renew(gone) == await it.in_storage()


async def test_an_order_of_before_is_handed_to_the_ca_whatever_it_was(it: Fleet) -> None:
    """Whether it is of use is for the CA's own code to say: it may be another CA's."""
    await it.fail(UNREACHABLE)
    [kept] = (await it.state()).orders
    assert isinstance(kept, OpenOrder)
    it.clock.jump(DAY)
    await it.fail(UNREACHABLE)
    assert it.ca.calls[-1] == (NAME, kept)
    assert (await it.state()).orders == (kept,)


TROUBLE = [UNREACHABLE, MalformedResponse("not JSON"), CaProblem("down", type="serverInternal", status=503)]


class TestTroubleOfTheCa:
    """It is no fault of the name's, which comes back soon after the CA does."""

    @pytest.mark.parametrize("error", TROUBLE)
    async def test_it_is_not_counted(self, it: Fleet, error: Exception) -> None:
        told = await it.fail(error)
        assert str(told) == f"a.com: {error}"
        state = await it.state()
        assert (state.failures, state.failed_at, state.error) == (0, START, str(error))

    async def test_it_is_tried_again_after_a_minute_each_time(self, it: Fleet) -> None:
        it.clock.chance = 0.0
        for _ in range(5):
            error = await it.fail(UNREACHABLE, it.another())
            assert error.retry_after == 60
            it.clock.jump(error.retry_after)

    async def test_a_name_that_failed_before_waits_ten_minutes_and_never_more(self, it: Fleet) -> None:
        it.clock.chance = 0.0
        for failures in range(1, 4):
            it.clock.jump((await it.fail(REFUSED, it.another())).retry_after)
            error = await it.fail(UNREACHABLE, it.another())
            assert error.retry_after == 600
            assert (await it.state()).failures == failures
            it.clock.jump(error.retry_after)

    async def test_its_retry_after_is_obeyed(self, it: Fleet) -> None:
        busy = CaProblem("down", type="serverInternal", status=503, retry_after=7200)
        assert (await it.fail(busy)).retry_after == 7200

    async def test_an_issuance_that_takes_too_long_is_trouble(self, it: Fleet) -> None:
        time = LoopTime()
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        await time.advance(ISSUANCE_DEADLINE)
        with pytest.raises(BackingOff):
            await asking
        assert (await it.state()).failures == 0

    @pytest.mark.parametrize("error", [CaClosed("all are", 15), BudgetSpent("no room", 30, everyone=True)])
    async def test_where_no_ca_may_be_asked_nothing_is_held_back(self, it: Fleet, error: Unavailable) -> None:
        it.ca.outcomes[NAME].append(error)
        it.ca.gate.clear()
        asking = asyncio.create_task(it.one.obtain())
        await settle()
        it.ca.gate.set()
        with pytest.raises(type(error)) as caught:
            await asking
        assert caught.value is error
        kept = NameState(
            failed_at=START, error=str(error), orders=(it.ca.orders[0],), expected_at=START + error.retry_after
        )
        assert await it.state() == kept
        assert (await it.another().obtain()).names == {NAME}


class TestAsk:
    """Where the operator's endpoint decides, it does so before anything is issued."""

    async def test_what_it_permits_is_issued(self, it: Fleet) -> None:
        assert (await it.one.obtain(permission=Permission.ASK)).names == {NAME}
        assert it.one.gate.asked == [(NAME, False)]

    async def test_what_it_refuses_is_not(self, it: Fleet) -> None:
        it.one.gate.verdict = False
        with pytest.raises(NotPermitted, match=r"a\.com is not permitted here"):
            await it.one.obtain(permission=Permission.ASK)
        assert it.ca.calls == []

    async def test_without_a_verdict_nothing_is_issued_and_nothing_kept(self, it: Fleet) -> None:
        it.one.gate.verdict = AskFailed("no verdict", 1)
        with pytest.raises(AskFailed):
            await it.one.obtain(permission=Permission.ASK)
        assert it.ca.calls == []
        assert await it.state() == NameState()

    @pytest.mark.parametrize("permission", [Permission.LISTED, Permission.PATTERN])
    async def test_it_is_not_asked_about_what_is_permitted_anyway(self, it: Fleet, permission: Permission) -> None:
        await it.one.obtain(permission=permission)
        assert it.one.gate.asked == []

    async def test_what_is_stored_is_given_without_asking(self, it: Fleet) -> None:
        certificate = await it.put(NAME)
        it.one.gate.verdict = False
        assert await it.one.obtain(permission=Permission.ASK) == certificate
        assert it.one.gate.asked == []

    async def test_before_a_renewal_it_is_asked_afresh(self, it: Fleet) -> None:
        old = await it.put(NAME)
        subject = Subject(NAME, (NAME,), permission=Permission.ASK)
        assert await it.one.certificates.renew(subject, old.fingerprint) != old
        it.one.gate.verdict = False
        with pytest.raises(NotPermitted):
            await it.one.certificates.renew(subject, old.fingerprint)
        assert it.one.gate.asked == [(NAME, True)] * 2
        assert len(it.ca.calls) == 1


class TestWildcards:
    """What one certificate covers may be stored under another name yet."""

    wild = Subject("*.a.com", ("*.a.com", "a.com"))

    async def test_one_is_issued_for_all_its_names_and_read_for_each(self, it: Fleet) -> None:
        certificate = await it.one.certificates.obtain("www.a.com", self.wild)
        assert certificate.names == {"*.a.com", "a.com"}
        assert await it.in_storage("*.a.com") == certificate
        for name in ("a.com", "b.a.com"):
            assert await it.another().certificates.obtain(name, self.wild) == certificate
        assert it.ca.calls == [("*.a.com", None)]

    async def test_until_there_is_one_the_name_keeps_its_own(self, it: Fleet) -> None:
        own = await it.put("www.a.com")
        it.ca.gate.clear()
        assert await it.one.certificates.obtain("www.a.com", self.wild) == own
        await settle()
        assert [wanted.priority for wanted in it.ca.wanted] == [Priority.PRELOAD]
        it.ca.gate.set()
        await settle()
        certificate = await it.in_storage("*.a.com")
        assert certificate is not None
        assert await it.one.certificates.obtain("www.a.com", self.wild) == certificate
        assert len(it.ca.calls) == 1

    async def test_after_it_was_configured_away_it_serves_on(self, it: Fleet) -> None:
        certificate = await it.put("*.a.com")
        assert await it.one.obtain("www.a.com") == certificate
        await settle()
        assert it.ca.calls == [("www.a.com", None)]

    async def test_one_of_another_family_does_not_serve(self, it: Fleet) -> None:
        await it.put("*.a.com")
        assert (await it.one.obtain("www.a.com", suffix="+rsa")).names == {"www.a.com"}

    async def test_one_without_the_name_does_not_serve(self, it: Fleet) -> None:
        await it.put("*.a.com")
        assert (await it.one.obtain("a.com")).names == {"a.com"}
        assert await it.one.certificates.stored(self.wild) is None, "its apex is missing"

    async def test_while_one_answers_it_is_asked_before_another_is_issued(self, it: Fleet) -> None:
        """Else whoever goes from a wildcard to ask would have certificates issued that it never permitted."""
        await it.put("*.a.com")
        it.one.gate.verdict = False
        for name in ("x.a.com", "y.a.com"):
            with pytest.raises(NotPermitted):
                await it.one.obtain(name, permission=Permission.ASK)
        await settle()
        assert it.ca.calls == []
        assert it.one.gate.asked == [("x.a.com", False), ("y.a.com", False)]

    async def test_without_a_verdict_it_serves_on_and_nothing_is_issued(self, it: Fleet) -> None:
        certificate = await it.put("*.a.com")
        it.one.gate.verdict = AskFailed("no verdict", 1)
        assert await it.one.obtain("x.a.com", permission=Permission.ASK) == certificate
        await settle()
        assert it.ca.calls == []

    async def test_a_name_that_fails_is_tried_again_when_the_answer_was_used_for_an_hour(self, it: Fleet) -> None:
        own = await it.put("www.a.com")
        it.ca.outcomes["*.a.com"].append(REFUSED)
        for _ in range(2):
            assert await it.one.certificates.obtain("www.a.com", self.wild) == own
            await settle()
        assert len(it.ca.calls) == 1
        assert it.one.certificates.fresh_until(own) == START + HOUR
        assert it.one.certificates.fresh_until(make_certificate("*.a.com")) > START + DAY


class TestCutShort:
    """A crash between the certificate's write and what follows it."""

    async def crashed(self, it: Fleet) -> Certificate:
        """Store what an order gave, with that order still open."""
        certificate = await it.put(NAME)
        lease = await it.storage.acquire("test", 1e9)
        assert lease is not None
        order = OpenOrder(DIRECTORY, "https://ca.test/order/7", certificate.key_pem.decode())
        await save_state(it.storage, NAME, NameState(orders=(order,)), lease)
        return certificate

    async def test_a_renewal_places_an_order_of_its_own_and_knows_who_issued(self, it: Fleet) -> None:
        old = await self.crashed(it)
        assert await it.one.renew(old) != old
        assert it.ca.calls == [(NAME, None)]
        assert it.ca.wanted[0].predecessor == Predecessor(old, IssuedRecord(old.fingerprint, DIRECTORY))

    async def test_an_order_for_something_else_stays(self, it: Fleet) -> None:
        old = await it.put(NAME)
        lease = await it.storage.acquire("test", 1e9)
        assert lease is not None
        order = OpenOrder(DIRECTORY, "https://ca.test/order/7", "another key")
        await save_state(it.storage, NAME, NameState(orders=(order,)), lease)
        await it.one.renew(old)
        assert it.ca.calls == [(NAME, order)]


class TestUrgency:
    """Who comes later may be more urgent."""

    async def test_a_visitor_has_more_of_the_budget_than_the_preload_it_joined(self, it: Fleet) -> None:
        subject = Subject(NAME, (NAME,))
        it.ca.outcomes[NAME].append(BudgetSpent("no room", 30, everyone=True))
        it.ca.gate.clear()
        preload = asyncio.create_task(it.one.certificates.obtain(NAME, subject, Priority.PRELOAD))
        await settle()
        visitor = asyncio.create_task(it.one.obtain())
        await settle()
        it.ca.gate.set()
        with pytest.raises(BudgetSpent):
            await preload
        assert (await visitor).names == {NAME}
        assert [wanted.priority for wanted in it.ca.wanted] == [Priority.PRELOAD, Priority.HANDSHAKE]


class TestPredecessor:
    """A renewal says what it replaces, with what is known of it."""

    async def test_a_renewal_knows_who_issued_and_how(self, it: Fleet) -> None:
        old = await it.one.obtain()
        await it.one.renew(old)
        assert [wanted.predecessor for wanted in it.ca.wanted] == [
            None,
            Predecessor(old, IssuedRecord.of_new(old, DIRECTORY, "http-01", START, None)),
        ]

    async def test_of_one_of_before_nothing_is_known(self, it: Fleet) -> None:
        old = await it.put(NAME)
        await it.one.renew(old)
        assert it.ca.wanted[0].predecessor == Predecessor(old, IssuedRecord(old.fingerprint))

    async def test_one_that_expired_is_one_still(self, it: Fleet) -> None:
        """CAs exempt the very set of names of any earlier certificate from most limits."""
        old = await it.put(NAME, end=START)
        await it.one.obtain(NAME)
        assert it.ca.wanted[0].predecessor == Predecessor(old, IssuedRecord(old.fingerprint))

    async def test_the_priority_is_told(self, it: Fleet) -> None:
        subject = Subject(NAME, (NAME,))
        old = await it.one.certificates.obtain(NAME, subject, Priority.PRELOAD)
        old = await it.one.certificates.renew(subject, old.fingerprint)
        await it.one.certificates.renew(subject, old.fingerprint, Priority.EXPIRING)
        await it.one.obtain("b.com")
        assert [wanted.priority for wanted in it.ca.wanted] == [
            Priority.PRELOAD,
            Priority.RENEWAL,
            Priority.EXPIRING,
            Priority.HANDSHAKE,
        ]

    async def test_names_that_failed_before_leave_turns_to_the_others(self, it: Fleet) -> None:
        names = [f"{number}.com" for number in range(10)]
        for name in names:
            it.ca.outcomes[name].append(REFUSED)
            with pytest.raises(BackingOff):
                await it.one.obtain(name)
        it.clock.jump(120)
        it.ca.gate.clear()
        waiting = [asyncio.create_task(it.one.obtain(name)) for name in names]
        await settle()
        assert it.ca.running == 8, "a quarter of the turns"
        others = [asyncio.create_task(it.one.obtain(f"other-{number}.com")) for number in range(24)]
        await settle()
        assert it.ca.running == 32
        it.ca.gate.set()
        await asyncio.gather(*waiting, *others)
