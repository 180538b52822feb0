from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import BudgetSpent, CaClosed, CaProblem, Unavailable
from ssl_cert_server.model import Subject
from ssl_cert_server.renewal.preload import Preload
from ssl_cert_server.service.attempts import Attempts
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.turns import Turns
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import make_certificate
from tests.support.scripted_ca import ScriptedCa
from tests.support.upkeep import RecordingUpkeep

REFUSED = CaProblem("the CA said no", type="rejectedIdentifier", status=403)


class Room:
    """A preload of subjects, over a CA that does as the test says."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.ca = ScriptedCa(self.clock)
        states = NameStates(self.storage, self.clock)
        self.certificates = AcmeCertificates(
            self.storage,
            states,
            Attempts(self.storage, states, self.ca, self.clock, deadline=300.0),
            Turns(32, self.clock),
            self.clock,
            upkeep=RecordingUpkeep(),
        )
        self.task: asyncio.Task[None] | None = None

    async def start(self, *subjects: Subject) -> None:
        self.task = asyncio.create_task(Preload(subjects, self.certificates, self.clock).run())
        for _ in range(10):
            await self.clock.advance(0)

    @property
    def done(self) -> bool:
        assert self.task
        return self.task.done()

    def asked(self) -> list[str]:
        return sorted(name for name, _ in self.ca.calls)

    async def close(self) -> None:
        if self.task:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.certificates.close()


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    yield room
    await room.close()


def subjects(*names: str) -> list[Subject]:
    return [Subject(name, (name,)) for name in names]


async def test_everything_is_issued_and_then_it_ends(it: Room) -> None:
    wild = Subject("*.a.com+rsa", ("*.a.com", "a.com"))
    await it.start(*subjects("b.com", "192.0.2.1"), wild)
    assert it.done
    assert it.asked() == ["*.a.com", "192.0.2.1", "b.com"]
    assert {wanted.priority for wanted in it.ca.wanted} == {Priority.PRELOAD}
    for cert_key in ("b.com", "192.0.2.1", "*.a.com+rsa"):
        assert await it.storage.get(cert_key) is not None


async def test_what_is_stored_costs_no_order(it: Room) -> None:
    await it.storage.put("a.com", make_certificate("a.com").stored)
    await it.start(*subjects("a.com", "b.com"))
    assert it.done
    assert it.asked() == ["b.com"]


async def test_without_subjects_there_is_nothing_to_do(it: Room) -> None:
    await it.start()
    assert it.done
    assert it.clock.sleeps == []


async def test_a_few_are_issued_at_a_time(it: Room) -> None:
    it.ca.gate.clear()
    await it.start(*subjects(*(f"{number}.com" for number in range(20))))
    assert it.ca.running == 8
    it.ca.gate.set()
    for _ in range(10):
        await it.clock.advance(0)
    assert it.done
    assert (len(it.ca.calls), it.ca.most_running) == (20, 8)


async def test_one_that_fails_comes_back_after_its_back_off_and_holds_up_no_other(it: Room) -> None:
    it.ca.outcomes["bad.com"] = [REFUSED, REFUSED]
    with capture_logs() as logs:
        await it.start(*subjects("a.com", "bad.com", "c.com"))
    assert it.asked() == ["a.com", "bad.com", "c.com"]
    assert [log["name"] for log in logs if log["event"] == "preload.failed"] == ["bad.com"]
    assert not it.done
    await it.clock.advance(59)
    assert it.asked().count("bad.com") == 1
    await it.clock.advance(70)
    assert it.asked().count("bad.com") == 2
    await it.clock.advance(800)
    assert it.done
    assert it.asked() == ["a.com", "bad.com", "bad.com", "bad.com", "c.com"]


async def test_storage_that_fails_is_tried_again_after_a_minute(it: Room) -> None:
    it.storage.break_down("get")
    await it.start(*subjects("a.com"))
    assert not it.done
    it.storage.repair()
    await it.clock.advance(130)
    assert it.done
    assert it.asked() == ["a.com"]


@pytest.mark.parametrize(
    "error", [CaClosed("every CA failed lately", 300), BudgetSpent("no room for new orders", 300, everyone=True)]
)
async def test_while_there_is_no_room_for_anybody_nobody_is_tried(it: Room, error: Unavailable) -> None:
    names = [f"{number}.com" for number in range(30)]
    for name in names:
        it.ca.outcomes[name] = [error]
    await it.start(*subjects(*names))
    first = len(it.ca.calls)
    assert 0 < first <= 8
    await it.clock.advance(299)
    assert len(it.ca.calls) == first
    it.ca.outcomes.clear()
    for _ in range(40):
        await it.clock.advance(10)
    assert it.done
    assert len(set(it.asked())) == 30


async def test_no_room_for_one_keeps_no_other_waiting(it: Room) -> None:
    names = ("full.com", *(f"{number}.com" for number in range(20)))
    it.ca.outcomes["full.com"] = [BudgetSpent("no room for more of full.com", 1000, everyone=False)]
    await it.start(*subjects(*reversed(names)))
    assert len(set(it.asked())) == 21
    await it.clock.advance(990)
    assert it.asked().count("full.com") == 1
    await it.clock.advance(140)
    assert it.done


async def test_a_peer_that_was_faster_is_believed(it: Room) -> None:
    lease = await it.storage.acquire("certificates/a.com", 1e9)
    assert lease is not None
    await it.start(*subjects("a.com"))
    await it.storage.put("a.com", make_certificate("a.com").stored)
    await it.storage.release(lease)
    await it.clock.advance(2)
    assert it.done
    assert it.ca.calls == []
