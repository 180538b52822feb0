"""The only source of now, sleep and randomness, so that time is tested without waiting."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux alone has the former; macOS's monotonic clock goes on by itself."""


class Clock(Protocol):
    """What the rest of the package knows of time."""

    def now(self) -> float:
        """Wall-clock time, Unix seconds; may jump."""

    def monotonic(self) -> float:
        """Seconds since some fixed instant; never goes back."""

    def boottime(self) -> float:
        """As ``monotonic``, but it goes on while the machine is suspended, as the clocks of other machines do."""

    def random(self) -> float:
        """Uniform in [0, 1), for jitter; never for secrets."""

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellable."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        return time.clock_gettime(_BOOTTIME)

    def random(self) -> float:
        return random.random()  # noqa: S311 - spreads load, protects nothing

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
