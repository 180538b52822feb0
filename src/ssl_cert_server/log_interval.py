"""A limit on how often the same thing is logged."""

from __future__ import annotations

import asyncio

LOG_INTERVAL = 60.0
"""Seconds."""


class LogInterval:
    """Lets one log line through in each :data:`LOG_INTERVAL`, by the event loop's clock."""

    def __init__(self) -> None:
        self._quiet_until = float("-inf")

    def over(self) -> bool:
        """Return whether a line may be logged now, and begin the next interval where it may."""
        now = asyncio.get_running_loop().time()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + LOG_INTERVAL
        return True


class ReasonInterval:
    """Lets a reason through where it differs from the last one, and the same one once in each interval."""

    def __init__(self) -> None:
        self._reason = ""
        self._interval = LogInterval()

    def over(self, reason: str) -> bool:
        """Return whether ``reason`` may be logged now, and begin the next interval where it may."""
        if reason != self._reason:
            self._reason, self._interval = reason, LogInterval()
        return self._interval.over()
