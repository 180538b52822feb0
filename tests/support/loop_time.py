"""The event loop's own clock, moved by a test: ``asyncio.timeout`` and ``call_later`` go by it."""

from __future__ import annotations

import asyncio

_TURNS = 20


class LoopTime:
    """Takes over the running loop's clock for as long as that loop lives."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._real = loop.time
        self._ahead = 0.0
        loop.time = self._time  # type: ignore[method-assign]

    async def advance(self, seconds: float) -> None:
        """Let time pass at once, and give what is due then a few turns of the loop."""
        self._ahead += seconds
        await settle()

    def _time(self) -> float:
        return self._real() + self._ahead


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
