"""What came of calls, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ssl_cert_server.errors import StorageError


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(StorageError) as refusal:
        await call
    return str(refusal.value)


async def is_refused(call: Awaitable[object]) -> bool:
    try:
        await call
    except StorageError:
        return True
    return False


async def is_done(call: Awaitable[object]) -> bool:
    return not await is_refused(call)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.05)


async def more(acknowledged: list[int], count: int) -> None:
    """Until that many more came."""
    wanted = len(acknowledged) + count
    async with asyncio.timeout(60):
        while len(acknowledged) < wanted:  # noqa: ASYNC110 - it is one of many that write
            await asyncio.sleep(0.02)
