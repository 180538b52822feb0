"""Work on many things, some of them side by side, in memory that doesn't grow with their number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")

SIDE_BY_SIDE = 16


async def side_by_side(
    items: AsyncIterator[_T], work: Callable[[_T], Awaitable[None]], limit: int = SIDE_BY_SIDE
) -> None:
    """Do the work for each item, ``limit`` at a time; the first failure ends it all, and is raised as it is."""
    slots = asyncio.Semaphore(limit)

    async def one(item: _T) -> None:
        try:
            await work(item)
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for item in items:
                await slots.acquire()
                group.create_task(one(item))
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__


async def batches(items: AsyncIterator[_T], size: int) -> AsyncIterator[list[_T]]:
    """Give the items in lists of at most ``size``."""
    batch: list[_T] = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
