"""Every instance hears of what the others, and commands, replaced."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.service.changes import ChangeWatch
from ssl_cert_server.service.news import NameChanges, News
from ssl_cert_server.storage.base import CHANGES_KEPT
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage


class Room:
    """A watch that notes what it hears, and reads it; ``in_use`` is what it reads after a reset."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.heard: list[str] = []
        self.news = News(self.storage, lambda key: [key])
        self.in_use: list[str] = []
        watch = ChangeWatch(self.storage, self.clock, news=self.news, on_change=self._hear, everything=self._reset)
        self._task = asyncio.create_task(watch.run())

    async def _hear(self, key: str) -> list[str]:
        await self.storage.get(key)
        self.heard.append(key)
        return [key]

    def _reset(self) -> list[str]:
        self.heard.append("everything")
        return self.in_use

    def make_unreadable(self, *keys: str) -> None:
        self.storage.broken = lambda operation, key: operation == "get" and key in keys

    async def told(self, cursor: str = "") -> NameChanges:
        return await self.news.since(cursor, 0)

    async def announce(self, *keys: str) -> None:
        await self.storage.announce(keys)
        await self.clock.advance(0)

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    await room.clock.advance(0)
    yield room
    await room.close()


async def test_what_is_announced_is_heard_at_once(it: Room) -> None:
    await it.announce("a.com", "b.com")
    await it.announce("a.com")
    assert it.heard == ["a.com", "b.com", "a.com"]


async def test_who_heard_nothing_for_long_hears_the_next(it: Room) -> None:
    for _ in range(10):
        await it.clock.advance(100)
    await it.announce("a.com")
    assert it.heard == ["a.com"]


async def test_who_missed_too_much_looks_at_everything(it: Room) -> None:
    await it.storage.announce([f"{number}.com" for number in range(3 * CHANGES_KEPT)])
    await it.clock.advance(0)
    assert it.heard == ["everything"]
    await it.announce("a.com")
    assert it.heard == ["everything", "a.com"]


async def test_after_a_reset_all_that_is_in_use_is_read(it: Room) -> None:
    it.in_use = ["a.com", "b.com"]
    await it.storage.announce([f"{number}.com" for number in range(3 * CHANGES_KEPT)])
    await it.clock.advance(0)
    assert it.heard == ["everything", "a.com", "b.com"]


async def test_while_announcements_can_not_be_read_they_are_tried_again(it: Room) -> None:
    it.storage.break_down("changes", times=2)
    with capture_logs() as logs:
        await it.announce("a.com")
        await it.announce("b.com")
        assert it.heard == ["a.com"]
        await it.clock.advance(10)
    assert it.heard == ["a.com", "b.com"]
    assert [(log["event"], log["again_in"]) for log in logs] == [
        ("changes.unreadable", 1.0),
        ("changes.unreadable", 2.0),
    ]


async def test_a_value_that_can_not_be_read_holds_up_no_other(it: Room) -> None:
    before = await it.told()
    it.make_unreadable("bad.com")
    with capture_logs() as logs:
        await it.announce("bad.com", "a.com")
        await it.clock.advance(3600)
        await it.announce("b.com", "bad.com")
    assert it.heard == ["a.com", "b.com"]
    assert [log["event"] for log in logs] == ["changes.value_unreadable"]
    assert set((await it.told(before.cursor)).names) == {"a.com", "b.com", "bad.com"}


async def test_nor_does_it_after_a_reset(it: Room) -> None:
    it.in_use = ["a.com", "bad.com", "b.com"]
    it.make_unreadable("bad.com")
    await it.announce(*(f"{number}.com" for number in range(3 * CHANGES_KEPT)))
    await it.announce("c.com")
    assert it.heard == ["everything", "a.com", "b.com", "c.com"]


async def test_it_is_tried_again_less_often_each_time_and_told_again_when_it_was_read(it: Room) -> None:
    attempts: list[float] = []

    def broken(operation: str, key: str) -> bool:
        if (operation, key) == ("get", "bad.com"):
            attempts.append(it.clock.monotonic())
            return True
        return False

    it.storage.broken = broken
    await it.announce("bad.com")
    await it.clock.advance(3600)
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert pauses[-1] == 300
    before = await it.told()
    it.storage.repair()
    await it.clock.advance(301)
    assert set(it.heard) == {"bad.com"}
    assert await it.told(before.cursor) == NameChanges((await it.told()).cursor, ("bad.com",))
    heard = [*it.heard]
    await it.clock.advance(3600)
    assert it.heard == heard


async def test_one_that_is_announced_again_is_read_at_once(it: Room) -> None:
    it.make_unreadable("bad.com")
    await it.announce("bad.com")
    await it.clock.advance(3600)
    it.storage.repair()
    await it.announce("bad.com")
    assert it.heard == ["bad.com"]
    await it.clock.advance(3600)
    assert it.heard == ["bad.com"]


async def test_very_many_that_can_not_be_read_hold_up_nothing_for_long(it: Room) -> None:
    bad = [f"{number}.bad" for number in range(95)]
    it.make_unreadable(*bad)
    await it.announce(*bad, "a.com")
    await it.clock.advance(3600)
    assert it.heard == ["a.com"]
    await it.announce("b.com")
    assert it.heard == ["a.com", "b.com"]


async def test_while_storage_is_away_what_was_announced_is_heard_again(it: Room) -> None:
    names = [f"{number}.com" for number in range(100)]
    before = await it.told()
    asked: list[str] = []

    def broken(operation: str, key: str) -> bool:
        asked.extend([key] * (operation == "get"))
        return operation == "get"

    it.storage.broken = broken
    await it.announce(*names)
    assert len(asked) == 10, "nobody asks on and on"
    assert (await it.told(before.cursor)).cursor == before.cursor, "it was not acted upon"
    it.storage.repair()
    await it.clock.advance(60)
    assert set(it.heard) == set(names)
    assert set((await it.told(before.cursor)).names) == set(names)


async def test_what_could_not_be_announced_again_is_tried_again(it: Room) -> None:
    before = await it.told()
    it.make_unreadable("bad.com")
    await it.announce("bad.com")
    it.storage.break_down("announce", times=2)
    await it.clock.advance(1)
    middle = await it.told()
    assert (await it.told(before.cursor)).names == ("bad.com",)
    await it.clock.advance(60)
    assert (await it.told(middle.cursor)).names == ("bad.com",)
