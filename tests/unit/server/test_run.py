from __future__ import annotations

import asyncio

import uvicorn

from ssl_cert_server.server.run import _Server, _survive
from tests.support.clock import AutoClock


async def test_a_background_task_that_fails_is_started_again_with_growing_pauses() -> None:
    clock = AutoClock()
    clock.chance = 0.0
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 10:
            raise ZeroDivisionError

    await _survive("work", work, clock)
    assert starts == 10
    assert clock.sleeps == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_a_background_task_that_ends_is_not_started_again() -> None:
    clock = AutoClock()
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1

    await _survive("work", work, clock)
    assert starts == 1


async def test_a_background_task_is_cancellable() -> None:
    task = asyncio.create_task(_survive("work", asyncio.Event().wait, AutoClock()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def test_the_first_signal_drains_and_the_second_ends() -> None:
    server = _Server(uvicorn.Config("unused:app", log_config=None))
    server.stop()
    assert (server.should_exit, server.force_exit) == (True, False)
    server.stop()
    assert (server.should_exit, server.force_exit) == (True, True)
