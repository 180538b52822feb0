"""Marks of the hours in which something was planned: what a clock that was ahead leaves behind."""

from __future__ import annotations

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.renewal.clock_marks import CLOCK, ClockMarks
from ssl_cert_server.renewal.plan import RENEWALS, RenewalPlan
from ssl_cert_server.storage.base import Due
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, HOUR


class Fleet:
    """Two instances on one storage; the clock of one may be wrong."""

    def __init__(self) -> None:
        self.right, self.wrong = ManualClock(), ManualClock()
        self.storage = FaultyStorage(self.right)
        self.marks = ClockMarks(self.storage, self.right)
        self.their_marks = ClockMarks(self.storage, self.wrong)

    async def hours_ahead(self) -> list[float]:
        return sorted(round((mark.at - self.right.now()) / HOUR) for mark in await self.marks.ahead())


@pytest.fixture
def it() -> Fleet:
    return Fleet()


async def test_an_hour_is_marked_once(it: Fleet) -> None:
    it.storage.break_down("schedule", after=2)
    assert await it.marks.note() == START
    it.right.jump(HOUR - 1)
    assert await it.marks.note() == START + HOUR - 1
    it.right.jump(1)
    assert await it.marks.note() == START + HOUR


async def test_nothing_is_planned_where_that_can_not_be_kept(it: Fleet) -> None:
    plan = RenewalPlan(it.storage, it.right, None)
    it.storage.break_down("schedule", key=CLOCK)
    with pytest.raises(StorageError):
        await plan.put_off(Due("a.com", START), DAY)
    assert await it.storage.scheduled(RENEWALS, "a.com") is None


async def test_the_present_and_the_past_tell_nothing_and_the_past_is_removed(it: Fleet) -> None:
    for _ in range(10):
        await it.marks.note()
        assert await it.hours_ahead() == []
        it.right.jump(HOUR)
    assert len([mark async for mark in it.storage.list_due(CLOCK)]) == 3


@pytest.mark.parametrize(("ahead", "told"), [(600, []), (HOUR, []), (2 * HOUR, [2]), (365 * DAY, [365 * 24])])
async def test_a_clock_that_was_ahead_is_told_of_later(it: Fleet, ahead: float, told: list[float]) -> None:
    it.right.jump(ahead)
    await it.marks.note()
    it.right.jump(-ahead)
    await it.marks.note()
    assert await it.hours_ahead() == told


async def test_an_instance_with_a_right_clock_does_not_hide_what_another_did(it: Fleet) -> None:
    it.wrong.jump(30 * DAY)
    await it.marks.note()
    await it.their_marks.note()
    it.right.jump(HOUR)
    await it.marks.note()
    assert await it.hours_ahead() == [30 * 24 - 1]


async def test_what_one_does_that_is_still_wrong_is_looked_through_again(it: Fleet) -> None:
    it.wrong.jump(30 * DAY)
    await it.their_marks.note()
    await it.marks.looked_through(await it.marks.ahead())
    assert await it.marks.ahead() == []
    for clock in (it.right, it.wrong):
        clock.jump(HOUR - 60)
    await it.their_marks.note()
    assert await it.marks.ahead() == [], "it is the same hour still"
    for clock in (it.right, it.wrong):
        clock.jump(60)
    assert len(await it.marks.ahead()) == 1
    await it.marks.looked_through(await it.marks.ahead())
    assert [mark async for mark in it.storage.list_due(CLOCK)] == []
    await it.their_marks.note()
    assert await it.hours_ahead() == [30 * 24]


async def test_one_that_was_looked_through_by_a_wrong_clock_is_again(it: Fleet) -> None:
    it.wrong.jump(30 * DAY)
    mark = Due("999999", START + 60 * DAY)
    await it.storage.schedule(CLOCK, [mark])
    assert await it.their_marks.ahead() == [mark]
    await it.their_marks.looked_through([mark])
    assert await it.hours_ahead() == [60 * 24]
