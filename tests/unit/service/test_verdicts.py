"""What one instance was permitted by the endpoint of ``ask``, the others know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest

from ssl_cert_server.service.ask import Ask
from ssl_cert_server.service.verdicts import FOLDER, SharedVerdicts
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage


class Room:
    """Two instances with one storage, and an endpoint that answers ``status``."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.status = 200
        self.asked: list[str] = []
        self._stack = AsyncExitStack()

    async def open(self) -> Ask:
        http = await self._stack.enter_async_context(httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer)))
        ask = Ask(
            http,
            self.clock,
            url="http://ask.test/",
            allowed_ttl=3600.0,
            shared=SharedVerdicts(self.storage, self.clock),
        )
        self._stack.push_async_callback(ask.close)
        return ask

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.params["domain"])
        return httpx2.Response(self.status)

    async def kept(self) -> list[str]:
        return [key async for key in self.storage.list(FOLDER)]

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    yield room
    await room.close()


async def test_what_one_was_permitted_the_other_does_not_ask_about(it: Room) -> None:
    one, two = await it.open(), await it.open()
    assert await one.permitted("a.com")
    assert await two.permitted("a.com")
    assert it.asked == ["a.com"]


async def test_it_holds_no_longer_there_than_here(it: Room) -> None:
    one, two = await it.open(), await it.open()
    await one.permitted("a.com")
    await it.clock.advance(3000)
    await two.permitted("a.com")
    await it.clock.advance(430)
    it.status = 404
    assert not await two.permitted("a.com")
    assert it.asked == ["a.com", "a.com"]


async def test_refusals_fill_no_storage(it: Room) -> None:
    one = await it.open()
    it.status = 404
    for number in range(20):
        assert not await one.permitted(f"{number}.com")
    assert await it.kept() == []


async def test_what_is_refused_at_renewal_is_refused_everywhere(it: Room) -> None:
    one, two = await it.open(), await it.open()
    await one.permitted("a.com")
    it.status = 404
    assert not await one.permitted("a.com", fresh=True)
    assert not await two.permitted("a.com")
    assert await it.kept() == []


@pytest.mark.parametrize("operation", ["get", "put"])
async def test_without_storage_each_asks_for_itself(it: Room, operation: str) -> None:
    one, two = await it.open(), await it.open()
    it.storage.break_down(operation)
    assert await one.permitted("a.com")
    assert await two.permitted("a.com")
    assert it.asked == ["a.com", "a.com"]


async def test_the_sweep_forgets_what_is_over(it: Room) -> None:
    one = await it.open()
    await one.permitted("a.com")
    await it.storage.put(f"{FOLDER}/rubbish.com", b"rubbish")
    verdicts = SharedVerdicts(it.storage, it.clock)
    assert await verdicts.sweep() == 1
    await it.clock.advance(3600)
    assert await verdicts.sweep() == 1
    assert await it.kept() == []


async def test_the_sweep_passes_over_what_can_not_be_read(it: Room) -> None:
    for name in ("bad.com", "a.com", "b.com"):
        await it.storage.put(f"{FOLDER}/{name}", b"0")
    it.storage.break_down("get", key=f"{FOLDER}/bad.com")
    assert await SharedVerdicts(it.storage, it.clock).sweep() == 2
    assert await it.kept() == [f"{FOLDER}/bad.com"]
