"""The event loop's own clock, moved by a test: ``asyncio.timeout`` and ``call_later`` go by it.

Besides, it moves only where the loop has nothing to do but to wait for a timer: what a machine that is busy elsewhere
takes for the test itself doesn't count.
"""

from __future__ import annotations

import asyncio
from typing import Any

_TURNS = 20


class LoopTime:
    """Takes over the running loop's clock for as long as that loop lives."""

    def __init__(self) -> None:
        loop: Any = asyncio.get_running_loop()
        self._now: float = loop.time()
        self._select = loop._selector.select
        loop._selector.select = self._wait
        loop.time = lambda: self._now

    async def advance(self, seconds: float) -> None:
        """Let time pass at once, and give what is due then a few turns of the loop."""
        self._now += seconds
        await settle()

    def _wait(self, timeout: float | None = None) -> Any:
        events = self._select(timeout)
        if timeout and not events:
            self._now += timeout
        return events


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
