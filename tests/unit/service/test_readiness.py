from __future__ import annotations

import asyncio

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.service.readiness import Readiness
from ssl_cert_server.storage.write_watch import WriteWatch
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage


class CountedStorage(FaultyStorage):
    """Counts how often it was checked."""

    checks = 0

    async def check_writable(self) -> None:
        self.checks += 1
        await asyncio.sleep(0)
        await super().check_writable()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_tells_why_storage_refuses_and_that_it_works_again(clock: ManualClock) -> None:
    storage = FaultyStorage(clock)
    readiness = Readiness(WriteWatch(storage, clock), clock)
    assert await readiness.trouble() is None
    storage.break_down("check_writable")
    await clock.advance(2)
    assert "the disk is gone" in (await readiness.trouble() or "")
    storage.repair()
    await clock.advance(2)
    assert await readiness.trouble() is None


async def test_tells_what_else_keeps_orders_from_being_placed(clock: ManualClock) -> None:
    async def check() -> None:
        raise StorageError("the budget can't be read")

    readiness = Readiness(WriteWatch(FaultyStorage(clock), clock), clock, check)
    assert await readiness.trouble() == "the budget can't be read"


async def test_checks_at_most_every_two_seconds_however_many_ask(clock: ManualClock) -> None:
    storage = CountedStorage(clock)
    readiness = Readiness(WriteWatch(storage, clock), clock)
    await asyncio.gather(*(readiness.trouble() for _ in range(100)))
    await clock.advance(1.9)
    await readiness.trouble()
    assert storage.checks == 1
    await clock.advance(0.1)
    await readiness.trouble()
    assert storage.checks == 2


async def test_trouble_is_remembered_as_long(clock: ManualClock) -> None:
    storage = CountedStorage(clock)
    readiness = Readiness(WriteWatch(storage, clock), clock)
    storage.break_down("check_writable")
    assert await readiness.trouble() is not None
    storage.repair()
    assert await readiness.trouble() is not None
    assert storage.checks == 1
