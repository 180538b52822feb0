"""Clocks that a test moves, so that nothing waits for real."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

START = 1_800_000_000.0
"""Wall-clock time at which every test clock starts: 2027-01-15 08:00 UTC."""

_T = TypeVar("_T")

_TURNS = 30
"""Loop turns given to woken tasks, so that they reach their next wait before time moves on."""


class ManualClock:
    """Time stands still until the test advances it; ``sleeps`` records what was asked for, ``chance`` is the dice."""

    def __init__(self, start: float = START) -> None:
        self.sleeps: list[float] = []
        self.chance = 0.5
        self._start = start
        self._elapsed = 0.0
        self._jumped = 0.0
        self._suspended = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._start + self._elapsed + self._jumped

    def monotonic(self) -> float:
        return self._elapsed

    def boottime(self) -> float:
        return self._elapsed + self._suspended

    def random(self) -> float:
        return self.chance

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; monotonic time doesn't notice."""
        self._jumped += seconds

    def stand_still(self, seconds: float) -> None:
        """Let this process be stopped for so long: time goes on, and sleepers wake late."""
        self._elapsed += seconds

    def suspend(self, seconds: float) -> None:
        """Let the machine be suspended for so long: neither monotonic time nor a sleeper notices."""
        self._jumped += seconds
        self._suspended += seconds

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let time pass: sleepers wake in the order they are due, those that sleep again within it too."""
        end = self._elapsed + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.cancelled():
                continue
            self._elapsed = max(due, self._elapsed)
            woken.set_result(None)
            await _settle()
        self._elapsed = max(end, self._elapsed)

    async def run(self, work: Coroutine[Any, Any, _T], turns: int = 50) -> _T:
        """Run work to its end; time moves on to the next sleeper whenever nothing happens for so many loop turns."""
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.done() and self._sleepers:
                await self.advance(max(0.0, self._sleepers[0][0] - self._elapsed))
        return task.result()


class AutoClock(ManualClock):
    """Sleeping moves time forward at once; ``sleeps`` tells what would have been waited."""

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._elapsed += max(seconds, 0.0)
        await asyncio.sleep(0)


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
