"""An event loop whose time jumps to whatever comes next: nothing waits, and all runs in order."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

START = 1_800_000_000.0
"""Wall-clock time at which a simulation begins (Unix seconds)."""


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would wait, time moves on instead."""

    elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and for nothing that time would bring")
        self.elapsed += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its :meth:`time` is that of the simulation; ``asyncio.sleep`` and ``asyncio.timeout`` go by it."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed


class VirtualClock:
    """A :class:`~ssl_cert_server.clock.Clock` on the running virtual loop; the dice are thrown from a seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return START + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    def boottime(self) -> float:
        return self._loop.time()

    def random(self) -> float:
        return self._dice.random()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run_virtually(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end, in the time that the computing takes."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
