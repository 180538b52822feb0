"""Turns: the urgent first, suspects never in the way, and no turn lost however its holder ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_cert_server.errors import Overloaded
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.turns import Turns
from tests.support.clock import ManualClock

HANDSHAKE, RENEWAL, EXPIRING = Priority.HANDSHAKE, Priority.RENEWAL, Priority.EXPIRING


class Party:
    """Tasks that want a turn; each notes in ``went`` that it had one, and keeps it until it is told to go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.went: list[str] = []
        self.refused: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def want(self, *names: str, priority: Priority = HANDSHAKE, suspect: bool = False) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._go(name, priority, suspect))
            await settle()

    async def _go(self, name: str, priority: Priority, suspect: bool) -> None:
        try:
            async with self.turns.turn(priority, suspect=suspect):
                self.went.append(name)
                await self._ends[name].wait()
        except Overloaded:
            self.refused.append(name)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await settle()

    def cancel(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def party(clock: ManualClock) -> AsyncIterator[Party]:
    party = Party(Turns(4, clock))
    yield party
    await party.stop()


async def test_a_turn_is_had_at_once_while_one_is_free(party: Party) -> None:
    await party.want("a", "b", "c", "d", "e")
    assert party.went == ["a", "b", "c", "d"]


async def test_the_most_urgent_goes_next_and_of_two_alike_the_first_that_came(party: Party) -> None:
    await party.want("1", "2", "3", "4")
    await party.want("renewal", "later renewal", priority=RENEWAL)
    await party.want("preload", priority=Priority.PRELOAD)
    await party.want("handshake", "later handshake", priority=HANDSHAKE)
    await party.want("expiring", priority=EXPIRING)
    order = ["expiring", "handshake", "later handshake", "preload", "renewal", "later renewal"]
    for number, name in enumerate(["1", "2", "3", "4", *order[:2]]):
        await party.end(name)
        assert party.went[4:] == order[: number + 1]


async def test_suspects_have_a_quarter_and_leave_the_rest_free(party: Party) -> None:
    await party.want("dead1", "dead2", "dead3", suspect=True, priority=EXPIRING)
    assert party.went == ["dead1"]
    await party.want("a", "b", "c", "d")
    assert party.went == ["dead1", "a", "b", "c"]
    await party.end("dead1")
    assert party.went[4:] == ["dead2"], "a suspect that is more urgent than those that wait"
    await party.end("dead2")
    assert party.went[5:] == ["dead3"]
    await party.end("dead3")
    assert party.went[6:] == ["d"]


async def test_even_of_few_slots_suspects_have_one(clock: ManualClock) -> None:
    party = Party(Turns(1, clock))
    await party.want("dead", suspect=True)
    assert party.went == ["dead"]
    await party.stop()


async def test_a_suspect_less_urgent_waits_though_its_lane_is_open(party: Party) -> None:
    await party.want("1", "2", "3", "4")
    await party.want("dead", suspect=True, priority=RENEWAL)
    await party.want("handshake", priority=HANDSHAKE)
    await party.end("1")
    assert party.went[4:] == ["handshake"]


async def test_who_fails_leaves_the_turn_to_the_next(party: Party, clock: ManualClock) -> None:
    turns = Turns(1, clock)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            async with asyncio.timeout(60), turns.turn(RENEWAL, suspect=False):
                raise ValueError("broken")


@pytest.mark.parametrize("suspect", [False, True])
async def test_a_waiter_that_leaves_is_forgotten(clock: ManualClock, suspect: bool) -> None:
    party = Party(Turns(1, clock))
    await party.want("a", "leaves", "stays", suspect=suspect)
    party.cancel("leaves")
    await settle()
    await party.end("a")
    assert party.went == ["a", "stays"]
    await party.stop()


async def test_a_waiter_cancelled_just_when_it_was_its_turn_passes_it_on(clock: ManualClock) -> None:
    party = Party(Turns(1, clock))
    await party.want("a", "unlucky", "next")
    party.cancel("a")
    await asyncio.sleep(0)  # `a` lets go: the turn is given, and not yet taken
    party.cancel("unlucky")
    await settle()
    assert party.went == ["a", "next"]
    await party.stop()


async def test_a_waiter_cancelled_just_before_its_turn_is_passed_over(clock: ManualClock) -> None:
    party = Party(Turns(1, clock))
    await party.want("a", "unlucky", "next")
    party.cancel("a", "unlucky")
    await settle()
    assert party.went == ["a", "next"]
    await party.stop()


async def test_too_many_that_wait_are_refused_with_a_time_to_come_back(clock: ManualClock) -> None:
    turns = Turns(1, clock, max_waiting=4)
    party = Party(turns)
    await party.want("a", "1", "2", "3", "4")
    with pytest.raises(Overloaded, match="4 issuances wait") as refusal:
        async with turns.turn(HANDSHAKE, suspect=False):
            pass
    assert refusal.value.retry_after == 45.0
    await party.end("a")
    await party.want("5")
    assert party.refused == []
    await party.stop()


async def test_visitors_without_end_keep_no_renewal_out(clock: ManualClock) -> None:
    party = Party(Turns(1, clock, max_waiting=2))
    await party.want("a", "b", "c", "one too many")
    await party.want("renewal", priority=RENEWAL)
    await party.want("expiring", priority=EXPIRING)
    assert party.refused == ["one too many"]
    await party.end("a")
    assert party.went == ["a", "expiring"]
    await party.stop()


async def test_who_leaves_makes_place_for_another(clock: ManualClock) -> None:
    party = Party(Turns(1, clock, max_waiting=2))
    await party.want("a", "leaves", "stays")
    party.cancel("leaves")
    await settle()
    await party.want("comes", "is one too many")
    assert party.refused == ["is one too many"]
    await party.stop()


async def test_suspects_that_wait_take_no_place_from_the_others(clock: ManualClock) -> None:
    party = Party(Turns(4, clock, max_waiting=8))
    await party.want(*(f"dead{number}" for number in range(10)), suspect=True)
    assert party.went == ["dead0"]
    assert party.refused == [f"dead{number}" for number in range(3, 10)]
    await party.want(*(f"good{number}" for number in range(11)))
    assert party.went == ["dead0", "good0", "good1", "good2"]
    assert len(party.refused) == 7
    await party.stop()


async def test_no_place_to_wait_is_needed_by_who_needn_t(clock: ManualClock) -> None:
    party = Party(Turns(2, clock, max_waiting=0))
    await party.want("a", "b", "c")
    assert party.went == ["a", "b"]
    assert party.refused == ["c"]
    await party.stop()


@settings(max_examples=60, deadline=None)
@given(slots=st.integers(1, 9), seed=st.integers(0, 2**32))
async def test_whatever_happens_no_turn_is_lost_or_given_twice(slots: int, seed: int) -> None:
    chance = random.Random(seed)
    turns = Turns(slots, ManualClock(), max_waiting=1000)
    going = {False: 0, True: 0}
    finished = 0

    async def visitor(suspect: bool) -> None:
        nonlocal finished
        async with turns.turn(chance.choice([*Priority]), suspect=suspect):
            going[suspect] += 1
            assert going[False] + going[True] <= slots
            assert going[True] <= max(1, slots // 4)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                if chance.random() < 0.2:
                    raise ValueError("failed")
            finally:
                going[suspect] -= 1
        finished += 1

    tasks = []
    for _ in range(80):
        tasks.append(asyncio.create_task(visitor(chance.random() < 0.4)))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [outcome for outcome in outcomes if isinstance(outcome, AssertionError)]
    assert finished == outcomes.count(None) > 0
    party = Party(turns)
    await party.want(*map(str, range(slots + 1)))
    assert len(party.went) == slots, "every turn came back"
    await party.stop()
