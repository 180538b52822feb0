from __future__ import annotations

import asyncio
import random

import pytest

from ssl_cert_server.renewal.queue import DueQueue
from tests.support.clock import START, ManualClock


@pytest.fixture
def queue(clock: ManualClock) -> DueQueue:
    return DueQueue(clock)


async def _due(queue: DueQueue) -> list[str]:
    """Take out everything that is due now."""
    names: list[str] = []
    while True:
        task = asyncio.create_task(queue.next())
        for _ in range(5):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            return names
        names.append(task.result())


async def test_gives_names_in_the_order_they_are_due(queue: DueQueue) -> None:
    times = [START - 1 - number for number in range(100)]
    random.Random(7).shuffle(times)
    for at in times:
        queue.add(f"{START - at:.0f}", at)
    assert await _due(queue) == [f"{number}" for number in range(100, 0, -1)]


async def test_of_those_that_are_due_the_earliest_deadline_comes_first(queue: DueQueue) -> None:
    deadlines = [START + number for number in range(100)]
    random.Random(7).shuffle(deadlines)
    for number, deadline in enumerate(deadlines):
        queue.add(f"{deadline - START:.0f}", START - number, deadline)
    queue.add("not due", START + 1, START - 1)
    assert await _due(queue) == [f"{number}" for number in range(100)]


async def test_a_pressing_one_that_becomes_due_goes_before_those_that_wait(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("a.com", START, START + 100)
    queue.add("b.com", START, START + 200)
    queue.add("c.com", START + 10, START + 50)
    assert await queue.next() == "a.com"
    clock.jump(10)
    assert await _due(queue) == ["c.com", "b.com"]


async def test_adding_again_changes_the_deadline(queue: DueQueue) -> None:
    queue.add("a.com", START, START + 10)
    queue.add("b.com", START, START + 20)
    queue.add("a.com", START, START + 30)
    assert len(queue) == 2
    assert await _due(queue) == ["b.com", "a.com"]


async def test_what_was_removed_does_not_come_up(queue: DueQueue, clock: ManualClock) -> None:
    for name, at in (("a.com", START), ("b.com", START), ("later.com", START + 10)):
        queue.add(name, at)
    for name in ("a.com", "later.com", "unknown.com"):
        queue.remove(name)
    assert "a.com" not in queue
    clock.jump(20)
    assert await _due(queue) == ["b.com"]
    queue.add("a.com", START)
    assert await _due(queue) == ["a.com"]


async def test_waits_until_a_name_is_due(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("a.com", START + 150)
    task = asyncio.create_task(queue.next())
    await clock.advance(149)
    assert not task.done()
    await clock.advance(1)
    assert task.result() == "a.com"


async def test_a_name_comes_up_once(queue: DueQueue) -> None:
    queue.add("a.com", START)
    assert "a.com" in queue
    assert await _due(queue) == ["a.com"]
    assert "a.com" not in queue


async def test_adding_again_moves_a_name_to_later(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("a.com", START)
    queue.add("a.com", START + 100)
    assert await _due(queue) == []
    clock.jump(100)
    assert await _due(queue) == ["a.com"]
    clock.jump(1000)
    assert await _due(queue) == []


async def test_adding_again_moves_a_name_to_earlier(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("a.com", START + 100)
    queue.add("a.com", START)
    assert await _due(queue) == ["a.com"]
    clock.jump(100)
    assert await _due(queue) == []


async def test_adding_at_the_same_time_again_is_still_one(queue: DueQueue) -> None:
    for _ in range(3):
        queue.add("a.com", START)
    assert await _due(queue) == ["a.com"]
    queue.add("a.com", START)
    assert await _due(queue) == ["a.com"]


async def test_an_earlier_name_wakes_the_one_who_waits(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("late.com", START + 50)
    task = asyncio.create_task(queue.next())
    await clock.advance(10)
    queue.add("early.com", START + 20)
    await clock.advance(9)
    assert not task.done()
    await clock.advance(1)
    assert task.result() == "early.com"


async def test_a_name_due_at_once_needs_no_time_at_all(queue: DueQueue) -> None:
    task = asyncio.create_task(queue.next())
    await asyncio.sleep(0)
    queue.add("now.com", START)
    for _ in range(5):
        await asyncio.sleep(0)
    assert task.result() == "now.com"


@pytest.mark.parametrize("jump", [86_400.0, 365 * 86_400.0])
async def test_a_jump_of_the_wall_clock_is_noticed_within_a_minute(
    queue: DueQueue, clock: ManualClock, jump: float
) -> None:
    queue.add("a.com", START + 86_400)
    task = asyncio.create_task(queue.next())
    await clock.advance(1)
    clock.jump(jump)
    await clock.advance(60)
    assert task.result() == "a.com"


async def test_a_clock_set_back_makes_nothing_due(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("a.com", START + 30)
    task = asyncio.create_task(queue.next())
    await clock.advance(1)
    clock.jump(-1000)
    await clock.advance(100)
    assert not task.done()
    task.cancel()


async def test_waiting_costs_a_wake_up_a_minute(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("a.com", START + 1e6)
    task = asyncio.create_task(queue.next())
    await clock.advance(600)
    assert len(clock.sleeps) <= 11
    task.cancel()


async def test_to_be_told_the_same_again_and_again_takes_no_room(queue: DueQueue) -> None:
    """A CA is asked for each certificate several times a day, and mostly says what it said before."""
    for _ in range(1000):
        queue.add("a.com", START + 1e6, START + 2e6)
    assert len(queue._later) == 1


async def test_a_cancelled_wait_loses_no_name(queue: DueQueue, clock: ManualClock) -> None:
    queue.add("a.com", START + 10)
    task = asyncio.create_task(queue.next())
    await clock.advance(1)
    task.cancel()
    await clock.advance(10)
    assert task.cancelled()
    assert await _due(queue) == ["a.com"]
