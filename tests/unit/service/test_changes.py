"""Every instance hears of what the others, and commands, replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.service.changes import ChangeWatch
from ssl_cert_server.service.news import News
from ssl_cert_server.storage.base import CHANGES_KEPT
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage


class Room:
    """A watch that notes what it hears; ``trouble`` is raised instead, once each."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.heard: list[str] = []
        self.trouble: list[Exception] = []
        self.news = News(self.storage, lambda key: [key])
        watch = ChangeWatch(self.storage, self.clock, news=self.news, on_change=self._hear, on_reset=self._reset)
        self._task = asyncio.create_task(watch.run())

    async def _hear(self, key: str) -> list[str]:
        if self.trouble:
            raise self.trouble.pop(0)
        self.heard.append(key)
        return [f"name of {key}"]

    async def _reset(self) -> None:
        self.heard.append("everything")

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


async def test_what_could_not_be_read_again_is_heard_again(it: Room) -> None:
    it.trouble = [StorageError("can't read"), StorageError("can't read")]
    with capture_logs() as logs:
        await it.announce("a.com")
        assert it.heard == []
        await it.clock.advance(10)
    assert it.heard == ["a.com"]
    assert [(log["event"], log["again_in"]) for log in logs] == [
        ("changes.unreadable", 1.0),
        ("changes.unreadable", 2.0),
    ]
