"""An order that only one instance's memory holds: what a peer does that finds it announced in storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog

from ssl_cert_server.service.state import load_state
from ssl_cert_server.storage.memory import MemoryStorage
from tests.support.attempt_steps import NAME, Stepped, break_log
from tests.support.clock import ManualClock
from tests.support.fake_ca import FakeCa

LEASE = 31.0
EVERY = 5.0
"""Seconds between two requests for the name."""

BACK_OFFS = (60.0, 600.0)
"""Seconds for which the name backs off: after the first order whose fate is unknown, and after each later one."""


class Scene:
    """Two instances on one storage, and a CA. The first instance lost storage right after it placed an order."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.shared = MemoryStorage(self.clock)
        self.ca = FakeCa()
        self.holder, self.peer = (Stepped(self.shared, self.ca, self.clock) for _ in range(2))
        self.placed_at: list[float] = []

    def lose_at_order(self, instance: Stepped) -> None:
        """Have an instance's writes fail from its next new order on."""

        def refuses(what: str) -> bool:
            return instance.steps.taken[taken:].count("CA newOrder") > 0 and what != "announce"

        taken = len(instance.steps.taken)
        instance.storage.refuses = refuses

    def repair(self, instance: Stepped) -> None:
        instance.storage.refuses = lambda _: False

    async def ask(self, instance: Stepped, seconds: float) -> bool:
        """Ask an instance again and again; return whether there is a certificate in the end."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            certificate = await self.clock.run(instance.ask())
            new = len(self.ca.orders) - len(self.placed_at)
            self.placed_at += [self.clock.monotonic()] * new
            if certificate is not None:
                return True
            await self.clock.advance(EVERY)
        return False


@pytest.fixture
async def it(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    break_log()
    scene = Scene()
    yield scene
    for instance in (scene.holder, scene.peer):
        await instance.close()
    structlog.reset_defaults()


async def test_a_peer_places_no_order_while_the_holder_can_still_store_its_own(it: Scene) -> None:
    """Storage was away from both for longer than the back-off; the peer is asked in the very moment it is back."""
    it.lose_at_order(it.holder)
    assert not await it.ask(it.holder, EVERY)
    storing = asyncio.create_task(it.holder.states.run())
    await it.clock.advance(3600)
    it.repair(it.holder)
    assert await it.ask(it.peer, 600)
    storing.cancel()
    assert len(it.ca.orders) == 1
    assert (await load_state(it.shared, NAME)).orders == ()


async def test_a_peer_places_one_order_where_the_holder_cannot_store_its_own(it: Scene) -> None:
    it.lose_at_order(it.holder)
    assert not await it.ask(it.holder, EVERY)
    await it.clock.advance(LEASE)
    assert await it.ask(it.peer, 600)
    assert len(it.ca.orders) == 2
    assert it.placed_at[1] - it.placed_at[0] >= BACK_OFFS[0]
    it.repair(it.holder)
    storing = asyncio.create_task(it.holder.states.run())
    await it.clock.advance(60)
    storing.cancel()
    assert not it.holder.states.holds(NAME)
    assert (await load_state(it.shared, NAME)).orders == (), "the peer's success is not overwritten"


async def test_instances_that_lose_storage_at_each_order_place_one_in_each_back_off(it: Scene) -> None:
    """The worst case: no instance can store the order that it placed, and none knows of the others' orders."""
    instances = [it.holder]
    for orders in range(1, 6):
        it.lose_at_order(instances[-1])
        while len(it.placed_at) < orders:
            assert not await it.ask(instances[-1], EVERY)
        await it.clock.advance(LEASE)
        instances.append(Stepped(it.shared, it.ca, it.clock))
    await asyncio.gather(*(instance.close() for instance in instances[1:]))
    pauses = [later - earlier for earlier, later in zip(it.placed_at, it.placed_at[1:], strict=False)]
    assert pauses[0] >= BACK_OFFS[0]
    assert min(pauses[1:]) >= BACK_OFFS[1]
    assert max(pauses) < BACK_OFFS[1] + LEASE + 2 * EVERY, "the name is not blocked for longer"
