"""Side by side, and never more at once than are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ssl_cert_server.server.upkeep.streams import batches, side_by_side

taken = 0


async def numbers(count: int) -> AsyncIterator[int]:
    global taken
    for number in range(count):
        taken = number
        yield number


async def test_everything_is_done_and_so_many_at_once() -> None:
    running, most, done = 0, 0, []

    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert taken <= number + 3, "no more is read ahead than is worked on"
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    await side_by_side(numbers(100), work, 3)
    assert (sorted(done), most) == ([*range(100)], 3)


async def test_the_first_failure_ends_it_and_is_raised_as_it_is() -> None:
    cause = KeyError("why")

    async def work(number: int) -> None:
        if number == 5:
            raise ValueError("five") from cause
        await asyncio.sleep(0)

    with pytest.raises(ValueError, match="five") as failure:
        await side_by_side(numbers(1000), work, 3)
    assert failure.value.__cause__ is cause
    assert taken < 20


async def test_batches() -> None:
    assert [batch async for batch in batches(numbers(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch async for batch in batches(numbers(0), 3)] == []
