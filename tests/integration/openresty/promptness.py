"""What the plugin does within a second, on machines that may at times take longer for anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

SECOND = 1.0
_CHANGES = 5


async def within_a_second(change: Callable[[], None], in_use: Callable[[], Awaitable[bool]], *, rest: float = 0) -> int:
    """Make changes until one is in use after a second in which there were no visitors; give how many it took.

    A machine that is busy elsewhere may be late for some, and a plugin that is too slow is so for all of them. ``rest``
    seconds pass before each.
    """
    for number in range(1, _CHANGES + 1):
        await asyncio.sleep(rest)
        change()
        await asyncio.sleep(SECOND)
        if await in_use():
            return number
    raise AssertionError(f"none of {_CHANGES} changes was in use within a second")
