"""States of names: in storage, and in memory where storage fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.model import Certificate, OpenOrder
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service import name_states
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.state import NameState, load_state, save_state
from ssl_cert_server.storage.base import Lease
from tests.support.certs import DAY, make_pair
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.loop_time import LoopTime

NAME = "a.com"
ORDER = OpenOrder("https://ca.test/directory", "https://ca.test/order/1", "key", placed_at=START)
FAILED = NameState(failures=1, failed_at=START, retry_at=START + 60, error="the CA said no", orders=(ORDER,))


def issued(start: float = START - DAY, end: float = START + 90 * DAY) -> Certificate:
    return parse_certificate(make_pair([NAME], start=start, end=end).stored)


class Room:
    """One instance's states, under a name's lease."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.states = NameStates(self.storage, self.clock)
        self.running = asyncio.create_task(self.states.run())

    async def lease(self, name: str = NAME) -> Lease:
        lease = await self.storage.acquire(f"certificates/{name}", 1e9)
        assert lease is not None
        return lease

    async def hold(self, state: NameState = FAILED, name: str = NAME, *, replaced: Certificate | None = None) -> None:
        """Have a state that can't be stored, and storage work again."""
        lease = await self.lease(name)
        self.storage.break_down("put")
        with pytest.raises(StorageError):
            await self.states.keep(name, state, lease, replaced)
        self.storage.repair()
        await self.storage.release(lease)

    async def succeed(self, certificate: Certificate) -> None:
        """Store a certificate as a peer does, which leaves no state behind."""
        lease = await self.lease()
        await self.storage.put(NAME, certificate.stored, lease=lease)
        await save_state(self.storage, NAME, NameState(), lease)
        await self.storage.release(lease)

    async def stored(self) -> NameState:
        return await load_state(self.storage, NAME)


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    yield room
    assert not room.running.done()
    room.running.cancel()


async def test_what_is_saved_is_loaded(it: Room) -> None:
    await it.states.save(NAME, FAILED, await it.lease())
    assert await it.states.load(NAME) == await it.stored() == FAILED
    assert not it.states.holds(NAME)


async def test_what_cannot_be_stored_counts_all_the_same(it: Room) -> None:
    await it.hold()
    assert it.states.holds(NAME)
    assert await it.states.load(NAME) == FAILED
    assert await it.stored() == NameState()


async def test_what_need_not_be_remembered_is_not_held(it: Room) -> None:
    lease = await it.lease()
    it.storage.break_down("put")
    with pytest.raises(StorageError):
        await it.states.save(NAME, FAILED, lease)
    assert not it.states.holds(NAME)


async def test_a_state_under_a_lost_lease_is_held(it: Room) -> None:
    lease = await it.lease()
    it.storage.steal(lease.name)
    with pytest.raises(LeaseLost):
        await it.states.keep(NAME, FAILED, lease)
    assert await it.states.load(NAME) == FAILED


async def test_a_write_that_was_cancelled_is_held(it: Room) -> None:
    class Stuck(FaultyStorage):
        async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
            await asyncio.Event().wait()

    states = NameStates(Stuck(it.clock), it.clock)
    writing = asyncio.create_task(states.keep(NAME, FAILED, await it.lease()))
    await it.clock.advance(0)
    writing.cancel()
    await asyncio.wait([writing])
    assert states.holds(NAME)


async def test_it_is_stored_once_that_works(it: Room) -> None:
    await it.hold()
    with capture_logs() as logs:
        await it.clock.advance(10)
    assert await it.stored() == FAILED
    assert not it.states.holds(NAME)
    assert [log["event"] for log in logs] == ["state.stored"]


async def test_storing_is_tried_ever_less_often(it: Room) -> None:
    await it.hold()
    it.storage.break_down("put")
    with capture_logs() as logs:
        await it.clock.advance(3600)
    # At most every 30 s: a peer that finds the order announced waits for longer than that.
    assert 3600 / 30 <= len([log for log in logs if log["event"] == "state.not_stored"]) < 200
    it.storage.repair()
    await it.clock.advance(120)
    assert await it.stored() == FAILED


async def test_a_state_that_can_not_be_stored_keeps_no_other_from_it(it: Room) -> None:
    class OneFails(FaultyStorage):
        async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
            if self.all_fail or key == "_state/bad.com":
                raise StorageError(f"can't write {key}")
            await super().put(key, value, lease=lease)

        all_fail = True

    storage = OneFails(it.clock)
    states = NameStates(storage, it.clock)
    for name in ("bad.com", NAME):
        lease = await storage.acquire(f"certificates/{name}", 1e9)
        assert lease is not None
        with pytest.raises(StorageError):
            await states.keep(name, FAILED, lease)
        await storage.release(lease)
    storage.all_fail = False
    running = asyncio.create_task(states.run())
    await it.clock.advance(60)
    running.cancel()
    assert await load_state(storage, NAME) == FAILED
    assert states.holds("bad.com")


async def test_what_is_held_is_stored_at_the_end(it: Room) -> None:
    await it.hold()
    await it.states.close()
    assert await it.stored() == FAILED
    assert not it.states.holds(NAME)


async def test_what_is_lost_at_the_end_is_logged(it: Room) -> None:
    await it.hold()
    it.storage.break_down("put")
    with capture_logs() as logs:
        await it.clock.run(it.states.close())
    assert [(log["event"], log["held"]) for log in logs][-1] == ("state.lost", 1)


async def test_the_end_waits_a_moment_for_a_peer(it: Room) -> None:
    await it.hold()
    lease = await it.lease()
    closing = asyncio.create_task(it.states.close())
    await it.clock.advance(0.5)
    assert not closing.done()
    await it.storage.release(lease)
    await it.clock.advance(0.5)
    assert closing.done()
    assert await it.stored() == FAILED


async def test_the_end_does_not_wait_for_a_storage_that_does_not_answer(
    it: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(FaultyStorage):
        async def acquire(self, name: str, seconds: float) -> Lease | None:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(name_states, "_LAST_TRY", 0.01)
    lease = await it.lease()
    states = NameStates(stuck := Stuck(it.clock), it.clock)
    stuck.break_down("put")
    with pytest.raises(StorageError):
        await states.keep(NAME, FAILED, lease)
    await states.close()


async def test_a_name_that_somebody_works_on_is_left_to_them(it: Room) -> None:
    await it.hold()
    lease = await it.lease()
    await it.clock.advance(60)
    assert it.states.holds(NAME)
    await it.storage.release(lease)
    await it.clock.advance(60)
    assert await it.stored() == FAILED


async def test_what_a_peer_stored_later_stays_with_the_order_of_both(it: Room) -> None:
    await it.hold()
    elsewhere = OpenOrder("https://ca-2.test/directory", "https://ca-2.test/order/1", "key", placed_at=START + 5)
    later = replace(FAILED, failures=7, failed_at=START + 5, orders=(elsewhere,))
    await save_state(it.storage, NAME, later, lease := await it.lease())
    await it.storage.release(lease)
    merged = await it.states.load(NAME)
    assert merged == replace(later, orders=(ORDER, elsewhere))
    await it.clock.advance(10)
    assert await it.stored() == merged


async def test_an_order_that_a_peer_is_placing_stays_announced(it: Room) -> None:
    await it.hold()
    await save_state(it.storage, NAME, NameState(placing_at=START + 5), lease := await it.lease())
    await it.storage.release(lease)
    assert (await it.states.load(NAME)).placing_at == START + 5


async def test_the_announcement_of_an_order_that_is_known_by_now_ends(it: Room) -> None:
    await save_state(it.storage, NAME, NameState(placing_at=START - 1), lease := await it.lease())
    await it.storage.release(lease)
    await it.hold(replace(FAILED, placing_at=0.0))
    assert await it.states.load(NAME) == FAILED


async def test_memory_is_bounded_and_no_order_is_placed_beyond(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_states, "_MOST_HELD", 3)
    for number in range(3):
        it.states.check_room()
        await it.hold(replace(FAILED, orders=()), f"n{number}.com")
    with pytest.raises(StorageError, match="3 names wait"):
        it.states.check_room()
    await it.hold(replace(FAILED, orders=()), "one-too-many.com")
    assert not it.states.holds("one-too-many.com")
    await it.hold(FAILED, "with-an-order.com")
    assert it.states.holds("with-an-order.com")


async def test_a_state_that_can_never_be_stored_holds_up_no_other(it: Room) -> None:
    await it.hold(FAILED, "stuck.com")
    await it.hold()
    it.storage.break_down("put", key="_state/stuck.com")
    await it.clock.advance(120)
    assert await it.stored() == FAILED
    assert it.states.holds("stuck.com")


async def test_what_is_held_is_stored_before_the_end(it: Room) -> None:
    await it.hold()
    await it.states.close()
    assert await it.stored() == FAILED


async def test_storage_that_gives_no_answer_does_not_hold_up_the_end(it: Room) -> None:
    await it.hold()
    it.storage.hang()
    LoopTime()
    await it.states.close()
    assert it.states.holds(NAME)


@pytest.mark.parametrize("asked", [False, True], ids=["in the background", "at the next attempt"])
@pytest.mark.parametrize("renewal", [False, True], ids=["new", "renewal"])
async def test_a_peers_success_is_not_overwritten(it: Room, renewal: bool, asked: bool) -> None:
    before = issued(START - 60 * DAY)
    if renewal:
        await it.succeed(before)
    await it.hold(replaced=before if renewal else None)
    await it.succeed(issued())
    if asked:
        assert await it.states.load(NAME) == NameState()
    await it.clock.advance(60)
    assert await it.stored() == NameState()
    assert not it.states.holds(NAME)
    assert await it.states.load(NAME) == NameState()


async def test_a_failure_that_a_peer_stored_after_its_success_stays(it: Room) -> None:
    await it.hold()
    await it.succeed(issued())
    later = NameState(failures=1, failed_at=START - 5, retry_at=START + 55, error="by a clock that is behind")
    await save_state(it.storage, NAME, later, lease := await it.lease())
    await it.storage.release(lease)
    await it.clock.advance(60)
    assert await it.stored() == later


BEFORE = issued(START - 60 * DAY, START + 30 * DAY)
NO_SUCCESS = {
    "the one that was to be replaced": BEFORE,
    "an older one, from a backup": issued(START - 90 * DAY, START + DAY),
    "an expired one": issued(START - 30 * DAY, START - DAY),
    "none, from a backup": None,
}


@pytest.mark.parametrize("certificate", NO_SUCCESS.values(), ids=[*NO_SUCCESS])
async def test_what_is_no_success_drops_no_order(it: Room, certificate: Certificate | None) -> None:
    await it.hold(replaced=BEFORE)
    if certificate is not None:
        await it.storage.put(NAME, certificate.stored)
    assert await it.states.load(NAME) == FAILED
    await it.clock.advance(60)
    assert await it.stored() == FAILED


async def test_a_certificate_that_cannot_be_parsed_is_no_success(it: Room) -> None:
    await it.hold()
    await it.storage.put(NAME, b"broken")
    await it.clock.advance(60)
    assert await it.stored() == FAILED


@pytest.mark.parametrize("key", ["a.com+rsa", "*.a.com", "*.a.com+rsa"])
async def test_states_are_held_by_certificate(it: Room, key: str) -> None:
    """What a peer stored under another key of the same name says nothing about this one."""
    await it.hold(name=key)
    await it.succeed(issued())
    assert await it.states.load(key) == FAILED
    assert await it.states.load(NAME) == NameState()
    await it.clock.advance(60)
    assert await load_state(it.storage, key) == FAILED


async def test_several_states_that_can_never_be_stored_hold_up_no_other(it: Room) -> None:
    stuck = [f"stuck{number}.com" for number in range(6)]
    for name in (*stuck, NAME):
        await it.hold(name=name)
    it.storage.broken = lambda operation, key: operation == "put" and "stuck" in key
    await it.clock.advance(40)
    assert await it.stored() == FAILED
    assert all(map(it.states.holds, stuck))
